"""The quickstart's device as a whole process: register, connect, ten messages, from exec to exit."""

import os
import re
import sys
from functools import partial
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
        one_root = {**environment, "SSL_CERT_FILE": str(running.overview.ca_file)}
        (folder / "nothing.py").touch()

        def run(name: str, environment: dict[str, str] = environment) -> float:
            ran = programs.run([sys.executable, str(folder / name)], environment, folder)
            if name == "device.py":
                _look(ran.printed)
            return ran.seconds

        works = [partial(run, name) for name in ("device.py", "imports.py", "nothing.py")]
        measured = alternate(rounds, *works, partial(run, "device.py", one_root))
        stored = len(running.messages(_REGISTRATION_ID))
    if stored != 2 * (rounds + 1) * _MESSAGES:
        raise RuntimeError(f"{2 * (rounds + 1)} runs, and the hub has stored {stored} messages")
    return figures(*map(Samples.of, measured))


def figures(ours: Samples, imports: Samples, nothing: Samples, one_root: Samples) -> list[Line]:
    """From the seconds of the whole process, of one that imports and no more, of one that does nothing, and of the
    whole process with one CA to trust.
    """
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
        Figure(
            "what the program imports, for the most part the SDK", "s", imports, "Python alone", nothing, "difference"
        ),
        Figure(
            "the whole process with all the roots that a computer trusts",
            "s",
            ours,
            "the same, trusting the emulator's CA alone",
            one_root,
            "difference",
        ),
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
