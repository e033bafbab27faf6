"""Key, certificate and encrypted PEM as notebook 02 makes them, beside the quickstart's `openssl req`.

An RSA key is found by trying random numbers until two are prime, so the time that it takes is a matter of luck: one key
of 4096 bits may take ten times as long as the next. A few rounds cannot tell two programs apart that each draw keys of
their own. What dpsx adds can be told exactly: within one call, all of it is set beside the part that is key generation,
so that both have had the same luck.
"""

import time
from pathlib import Path
from unittest import mock

from benchmarks import machine, programs, setting
from benchmarks.figures import Aim, Figure, Line, NotMeasured, Samples, alternate
from dpsx_helpers import certificates
from dpsx_helpers.certificate_making import PrivateKey, new_key

NAME = "certificate"
TITLE = "Certificate and key"
ROUNDS = 40
NEEDS = ("openssl",)

_REGISTRATION_ID, _PASS_PHRASE = "Python-device-01", "1234"
_AIM = 1.05  # times the generation of the key


def measure(rounds: int) -> list[Line]:
    """RSA 4096 as the tutorial makes it, and by the quickstart's command."""
    openssl = machine.program("openssl")
    with setting.folder() as folder:

        def ours() -> tuple[float, float]:
            return create(folder)

        def theirs() -> tuple[float, float]:
            return _openssl(openssl, folder) if openssl else 0.0, 0.0

        made, command = alternate(rounds, ours, theirs)
    return figures(made, [seconds for seconds, _ in command] if openssl else [])


def create(folder: Path) -> tuple[float, float]:
    """Seconds of `certificates.create` with what the tutorial asks for, and of its key generation within."""
    spent: list[float] = []

    def timed(key_type: str) -> PrivateKey:
        began = time.perf_counter()
        key = new_key(key_type)
        spent.append(time.perf_counter() - began)
        return key

    with mock.patch.object(certificates, "new_key", timed):
        began = time.perf_counter()
        certificates.create(_REGISTRATION_ID, _PASS_PHRASE, folder, existing="replace")
        whole = time.perf_counter() - began
    (generation,) = spent
    return whole, generation


def figures(made: list[tuple[float, float]], command: list[float]) -> list[Line]:
    """From the pairs of `create`, and the seconds of the quickstart's command (none when it is not there)."""
    whole = Samples.of(seconds for seconds, _ in made)
    generation = Samples.of(seconds for _, seconds in made)
    lines: list[Line] = [
        Figure(
            "RSA 4096 key, certificate and encrypted PEM in process",
            "s",
            whole,
            "the key generation in the same call",
            generation,
            aim=Aim(_AIM, of="comparison"),
        ),
        Figure("of that, all but the key generation", "s", Samples.of(all_ - key for all_, key in made)),
    ]
    work = "the same beside `openssl req` of the quickstart"
    if not command:
        return [*lines, NotMeasured(work, "openssl is not installed")]
    note = "each draws keys of its own, so the ratio of a round is a matter of luck"
    return [*lines, Figure(work, "s", whole, "openssl req", Samples.of(command), note=note)]


def _openssl(path: str, folder: Path) -> float:
    """Seconds of the quickstart's line, as a process; the pass phrase is given, where the quickstart types it.

    https://learn.microsoft.com/azure/iot-dps/quick-create-simulated-device-x509
    """
    line = "req -outform PEM -x509 -sha256 -newkey rsa:4096 -days 365 -extensions usr_cert"
    files = ["-keyout", str(folder / "openssl.key.pem"), "-out", str(folder / "openssl.pem")]
    command = [path, *line.split(), *files, "-subj", f"/CN={_REGISTRATION_ID}", "-passout", f"pass:{_PASS_PHRASE}"]
    return programs.run(command).seconds
