"""The quickstart's device as a whole process: register, connect, ten messages, from exec to exit."""

import os
import re
import sys
from pathlib import Path

from benchmarks import programs, setting
from benchmarks.figures import Aim, Figure, Line, Samples, alternate
from dpsx_helpers import certificates
from dpsx_helpers.emulator import Emulator

NAME = "device"
TITLE = "The quickstart's device program"
ROUNDS = 10
NEEDS: tuple[str, ...] = ()

_REGISTRATION_ID, _PASS_PHRASE, _MESSAGES = "Python-device-01", "1234", 10
_AIM = 0.3  # seconds beyond the floor


def measure(rounds: int) -> list[Line]:
    """Notebook 04's own program in a file, with notebook 02's certificate (RSA 4096, encrypted key)."""
    with setting.folder() as folder, setting.emulator(folder / "emulator") as running:
        program = setting.device_program()
        (folder / "device.py").write_text(program, encoding="utf-8")
        (folder / "imports.py").write_text(setting.imports_of(program), encoding="utf-8")
        environment = _six_variables(running, folder)

        def whole() -> float:
            ran = programs.run([sys.executable, str(folder / "device.py")], environment, folder)
            _look(ran.printed)
            return ran.seconds

        def imports() -> float:
            return programs.run([sys.executable, str(folder / "imports.py")], environment, folder).seconds

        ours, alone = map(Samples.of, alternate(rounds, whole, imports))
        stored = len(running.messages(_REGISTRATION_ID))
    if stored != (rounds + 1) * _MESSAGES:
        raise RuntimeError(f"{rounds + 1} runs, and the hub has stored {stored} messages")
    return figures(ours, alone)


def figures(ours: Samples, imports: Samples) -> list[Line]:
    """From the seconds of the whole process, and of one that only imports."""
    least = Samples.of(value + setting.FLOOR for value in imports.values)
    return [
        Figure(
            "register, connect and ten messages, whole process",
            "s",
            ours,
            "the program's imports alone + 2.0 s",
            least,
            "difference",
            Aim(setting.FLOOR + _AIM, words=f"{setting.FLOOR} s + {_AIM} s"),
        ),
        Figure("of that, Python and what the program imports", "s", imports),
    ]


def _six_variables(running: Emulator, folder: Path) -> dict[str, str]:
    """Enroll the device; what its program reads from the environment, and whom it is to trust."""
    pair = certificates.create(_REGISTRATION_ID, _PASS_PHRASE, folder)
    setting.enroll(running, [setting.Device(_REGISTRATION_ID, pair.certificate_file, pair.key_file)])
    seen = running.overview
    return {
        "PATH": os.environ["PATH"],
        "SSL_CERT_FILE": str(seen.bundle_file),
        "PROVISIONING_HOST": seen.host,
        "PROVISIONING_IDSCOPE": seen.id_scope,
        "DPS_X509_REGISTRATION_ID": _REGISTRATION_ID,
        "X509_CERT_FILE": str(pair.certificate_file),
        "X509_KEY_FILE": str(pair.key_file),
        "PASS_PHRASE": _PASS_PHRASE,
    }


def _look(printed: str) -> None:
    acknowledged = re.findall(r"^done sending message #\d+$", printed, re.MULTILINE)
    if len(acknowledged) != _MESSAGES:
        raise RuntimeError(f"the program has ended with {len(acknowledged)} messages acknowledged:\n{printed}")
