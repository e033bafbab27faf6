"""A whole run: all targets in turn, then the sockets; or one input again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import COMMAND

from .devices import ACT, Mqtt, WebSockets
from .engine import Finding, Fuzzer, Target, Watchdog, describe
from .inputs import Input, read
from .records import Tls
from .sockets import Broken, SocketRun
from .texts import Json, Topics

#: Target, and how many inputs in turn. The first three are about packets and records, and count as those.
TURNS: dict[str, tuple[Callable[[], Target], int]] = {
    "mqtt": (Mqtt, 40),
    "websocket": (WebSockets, 20),
    "tls": (Tls, 10),
    "topics": (Topics, 20),
    "json": (Json, 2),
}
COUNTED = ("mqtt", "websocket", "tls")
_TOLD_EVERY = 1.7  # so much later than the line before comes the next


class Campaign:
    """The targets in memory. `say` gets lines for who watches."""

    def __init__(
        self, seed: object, *, guided: bool = True, only: str | None = None, say: Callable[[str], object] = print
    ) -> None:
        self._watchdog = Watchdog()
        chosen = {name: turn for name, turn in TURNS.items() if only in (None, name)}
        self._turns = [(Fuzzer(made(), seed, self._watchdog, guided=guided), turn) for made, turn in chosen.values()]
        self._say = say

    @property
    def fuzzers(self) -> list[Fuzzer]:
        return [fuzzer for fuzzer, _ in self._turns]

    @property
    def packets(self) -> int:
        return sum(fuzzer.packets for fuzzer in self.fuzzers if fuzzer.target.name in COUNTED)

    @property
    def corpus(self) -> list[Input]:
        """What was kept of MQTT, without what the service side does in it."""
        kept = next((fuzzer.corpus for fuzzer in self.fuzzers if fuzzer.target.name == "mqtt"), [])
        return [tuple(piece for piece in given if not piece.startswith(ACT)) for given in kept]

    def run(self, *, packets: int | None = None, seconds: float | None = None) -> list[Finding]:
        """Go on until so many packets and records went in, or so many seconds are over; then look for leaks."""
        began = time.monotonic()
        told = 5.0
        spent = dict.fromkeys(self.fuzzers, 0.0)
        while (packets is None or self.packets < packets) and (seconds is None or time.monotonic() - began < seconds):
            for fuzzer, turn in self._turns:
                start = time.monotonic()
                for _ in range(turn):
                    fuzzer.step()
                    if seconds is not None and time.monotonic() - began > seconds:
                        break
                spent[fuzzer] += time.monotonic() - start
            if time.monotonic() - began > told:
                told *= _TOLD_EVERY
                self._tell(spent, time.monotonic() - began)
        self._tell(spent, time.monotonic() - began)
        for fuzzer in self.fuzzers:
            if fuzzer.target.name in COUNTED and fuzzer.corpus and not fuzzer.findings:  # the others keep nothing
                fuzzer.look_for_leaks()
        return [found for fuzzer in self.fuzzers for found in fuzzer.findings.values()]

    def _tell(self, spent: dict[Fuzzer, float], seconds: float) -> None:
        self._say(f"after {seconds:,.0f} s, {self.packets:,} packets and records:")
        for fuzzer, took in spent.items():
            self._say("  " + describe(fuzzer, took))

    def close(self) -> None:
        for fuzzer in self.fuzzers:
            fuzzer.target.close()
        self._watchdog.close()


def on_sockets(
    seed: object,
    corpus: list[Input],
    *,
    packets: int | None = None,
    seconds: float | None = None,
    say: Callable[[str], object] = print,
    program: Sequence[str] = COMMAND,
) -> str:
    """The half with a real process. "" or what it found broken."""
    broken = ""
    with TemporaryDirectory() as folder:
        run = SocketRun(Path(folder), seed, corpus, program=program)
        try:
            run.run(packets=packets, seconds=seconds, say=say)
        except* Broken as group:
            broken = str(_first(group))
        finally:
            run.close()
    if run.summary:
        say(f"on sockets: {run.summary}")
    return broken


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def replay(line: str, say: Callable[[str], object] = print) -> bool:
    """Run one input again. Whether it still breaks something. Raises ValueError for what is no finding."""
    name, given = read(line)
    if name not in TURNS:
        raise ValueError(f"{name!r} is none of {', '.join(TURNS)}")
    watchdog = Watchdog()
    target = TURNS[name][0]()
    fuzzer = Fuzzer(target, 0, watchdog)
    try:
        found, _ = fuzzer.attempt(given)
        if found is None:
            fuzzer.corpus = [given]
            found = fuzzer.look_for_leaks()
    finally:
        target.close()
        watchdog.close()
    say(found.report if found else "It breaks nothing.")
    return found is not None
