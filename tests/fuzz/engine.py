"""The fuzzer itself: keep the inputs that reach something new, change them by chance, and tell of what breaks."""

import _thread
import faulthandler
import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import psutil

from .guidance import Arcs
from .inputs import Input, write
from .mutation import Edit, Mutator

WITHIN = 20.0  # seconds for one input; the slowest takes a tenth of one, on a machine that does nothing else
_LONG = 1000  # inputs with nothing new
_SMALLER_WITHIN = 15.0  # seconds to make one finding smaller
_MOST_KEPT, _LATEST = 3000, 8  # inputs in a corpus; those that came last
_REPLAYED, _ROUNDS = 60, 8  # inputs of the search for leaks, and how often they are run
_PER_INPUT = 16 * 1024  # bytes that each may cost, by chance of malloc


class Target(Protocol):
    """What is fuzzed. `run` tells how many packets it were and what happened; it and `check` raise what is broken."""

    name: str
    seeds: list[Input]
    words: Sequence[bytes]
    edits: Sequence[Edit]
    gentle: Sequence[Edit]

    def run(self, given: Input) -> tuple[int, set[Hashable]]: ...
    def check(self) -> None: ...
    def renew(self) -> None: ...
    def close(self) -> None: ...


class Hang(Exception):
    """An input took longer than any should."""


class Leak(AssertionError):
    """Something of each input stays in memory."""


@dataclass(frozen=True)
class Finding:
    """An input that broke a promise. `place` tells one broken promise from another."""

    target: str
    given: Input
    place: str
    report: str = field(repr=False)

    @property
    def line(self) -> str:
        return write(self.target, self.given)


class Watchdog:
    """Interrupts an input that takes too long; ends the process, with the input named, where not even that helps."""

    def __init__(self, within: float = WITHIN) -> None:
        self._within = within
        self._doing: tuple[float, str, Input] | None = None
        self._interrupted = False
        self._over = threading.Event()
        self._handler = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what is in its background ignore it
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def over(self, target: str, given: Input) -> Iterator[None]:
        self._interrupted = False
        self._doing = (time.monotonic(), target, given)
        try:
            yield
        except KeyboardInterrupt:
            if not self._interrupted:
                raise
            raise Hang(f"longer than {self._within:g} s") from None
        finally:
            self._doing = None

    def close(self) -> None:
        self._over.set()
        signal.signal(signal.SIGINT, self._handler)

    def _watch(self) -> None:
        while not self._over.wait(min(0.5, self._within / 2)):
            doing = self._doing
            if doing is None:
                continue
            began, target, given = doing
            took = time.monotonic() - began
            if took > 2 * self._within + 10:
                print(f"\nHANG, and it cannot be interrupted: {write(target, given)}", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(70)
            if took > self._within and not self._interrupted:
                self._interrupted = True
                _thread.interrupt_main()


class Fuzzer:
    """One target with its corpus. Without `guided` the seeds stay the whole corpus."""

    def __init__(
        self, target: Target, seed: object, watchdog: Watchdog, *, guided: bool = True, smaller: bool = True
    ) -> None:
        self.target = target
        self._guided = guided
        self._smaller = smaller
        self.inputs = self.packets = self._last_new = 0
        self.outcomes: set[Hashable] = set()
        self.corpus: list[Input] = []
        self.findings: dict[str, Finding] = {}
        self._chance = random.Random(f"{seed} {target.name}")
        self._mutate = Mutator(self._chance, target.words, target.edits, target.gentle)
        self._picked: list[int] = []
        self.arcs = Arcs()
        self._watchdog = watchdog
        self._planned: list[Input] = list(target.seeds)

    def step(self) -> None:
        """One input: a seed first, changed ones from then on."""
        seed = bool(self._planned)
        given = self._planned.pop(0) if seed else self._mutate(self._pick(), self._chance.choice(self.corpus))
        found, new = self.attempt(given)
        if found is not None:
            self._keep(found)
            if seed and not self.corpus:
                self.corpus.append(given)
                self._picked.append(0)
            return
        if (new and self._guided and len(self.corpus) < _MOST_KEPT) or seed:
            self.corpus.append(given)
            self._picked.append(0)

    def _pick(self) -> Input:
        """One of the latest, or the one of any two that has had fewer turns."""
        if self._chance.random() < 0.3:
            return self._chance.choice(self.corpus[-_LATEST:])
        first, second = self._chance.randrange(len(self.corpus)), self._chance.randrange(len(self.corpus))
        at = min(first, second, key=lambda one: self._picked[one])
        self._picked[at] += 1
        return self.corpus[at]

    def attempt(self, given: Input) -> tuple[Finding | None, bool]:
        """Run it. What it broke, and whether it reached something new."""
        self.inputs += 1
        try:
            with self._watchdog.over(self.target.name, given):
                with self.arcs.recording() if self._looks() else nullcontext():
                    packets, features = self.target.run(given)
                self.target.check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            return self._finding(given, error), False
        self.packets += packets
        new = bool(features - self.outcomes) or self.arcs.fresh > 0
        self.outcomes |= features
        self._last_new = self.inputs if new else self._last_new
        return None, new

    def _looks(self) -> bool:
        """Looking takes as long as the rest: where nothing new has come for long, two of three inputs go without."""
        self.arcs.fresh = 0
        return self.inputs - self._last_new < _LONG or self.inputs % 3 == 0

    def _finding(self, given: Input, error: Exception) -> Finding:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
        if isinstance(error, Hang):  # wherever it happened to be interrupted
            place = "Hang"
        report = "".join(traceback.format_exception(error))
        self.target.renew()
        return Finding(self.target.name, given, place, report)

    def _keep(self, found: Finding) -> None:
        if found.place not in self.findings:
            hopeless = not self._smaller or found.place == "Hang"
            self.findings[found.place] = found if hopeless else self.smaller(found)

    def smaller(self, found: Finding) -> Finding:
        """The same finding with fewer pieces, then with fewer bytes, as far as some seconds go."""
        before, until = (self.inputs, self.packets), time.monotonic() + _SMALLER_WITHIN
        best, given = found, list(found.given)

        def breaks(shorter: Sequence[bytes]) -> bool:
            nonlocal best, given
            again = self.attempt(tuple(shorter))[0]
            if again is None or again.place != found.place:
                return False
            best, given = again, list(again.given)
            return True

        size = max(1, len(given) // 2)
        while size:
            at = 0
            while at < len(given) and time.monotonic() < until:
                if not breaks(given[:at] + given[at + size :]):
                    at += size
            size //= 2
        for piece in range(len(given)):
            size = max(1, len(given[piece]) // 2)
            while size:
                at = 0
                while at < len(given[piece]) and time.monotonic() < until:
                    shorter = given[piece][:at] + given[piece][at + size :]
                    if not breaks([*given[:piece], shorter, *given[piece + 1 :]]):
                        at += size
                size //= 2
        self.inputs, self.packets = before
        return best

    def look_for_leaks(self) -> Finding | None:
        """Run some of the corpus again and again: when all caches are full, nothing may be left of an input.

        What Python counts is exact but for caches, which fill in some rounds and not in all: no round is free of what
        each input leaves. What C libraries hold shows in the memory of the process, where the bound leaves room for
        what malloc keeps.
        """
        chosen = self._chance.sample(self.corpus, min(len(self.corpus), _REPLAYED))
        rounds = -(-_REPLAYED // max(1, len(chosen)))
        process, marks = psutil.Process(), []
        for _ in range(_ROUNDS):
            for given in chosen * rounds:
                self.target.run(given)
                self.target.check()
            gc.collect()
            marks.append((sys.getallocatedblocks(), process.memory_info().rss))
        runs = len(chosen) * rounds
        blocks = min(after[0] - before[0] for before, after in pairwise(marks[1:]))
        grown = min(after[1] - before[1] for before, after in pairwise(marks[1:]))
        if blocks < runs // 2 and grown < runs * _PER_INPUT:
            return None
        leak = Leak(f"{runs} inputs leave {blocks} blocks of Python's and {grown} bytes in all, each time they are run")
        found = Finding(self.target.name, chosen[0], "Leak", f"Leak: {leak}\n")
        self.findings.setdefault("Leak", found)
        return found


def describe(fuzzer: Fuzzer, seconds: float) -> str:
    """How far it has come, on one line."""
    return (
        f"{fuzzer.target.name:<10} {fuzzer.inputs:>9,} inputs {fuzzer.packets:>10,} packets or records "
        f"{len(fuzzer.arcs.seen):>6,} arcs {len(fuzzer.outcomes):>4} outcomes {len(fuzzer.corpus):>5,} kept "
        f"{fuzzer.inputs / max(seconds, 0.001):>6,.0f} inputs/s {len(fuzzer.findings):>3} found"
    )
