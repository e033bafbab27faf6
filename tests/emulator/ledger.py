"""What clients know for certain, held against what an emulator has after it was killed. No I/O."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

GONE = -1  # the step of a thing that is to be deleted


@dataclass(frozen=True)
class State:
    """One thing in a registry as an answer showed it.

    `step` counts the changes that its client has asked for, `version` and `etag` are the service's own, `born` is what
    stays the same as long as it is the same thing, `document` is all the rest.
    """

    step: int
    version: Any
    etag: str
    born: str = ""
    document: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass
class Record:
    """A thing that one client alone changes, one change after the other. `known` None: it is not there."""

    name: str
    known: State | None = None
    asked: int | None = None  # the step that was asked for and is not acknowledged

    def acknowledged(self, state: State | None) -> None:
        self.known, self.asked = state, None

    def problems(self, seen: State | None) -> list[str]:
        """What is wrong with the state that was found; from then on that one is known."""
        asked, known = self.asked, self.known
        right = seen == known or (asked is not None and self._is_next(seen, asked))
        self.acknowledged(seen)
        return [] if right else [f"{self.name}: acknowledged was {known}, in flight step {asked}, found is {seen}"]

    def _is_next(self, seen: State | None, asked: int) -> bool:
        known = self.known
        if seen is None or asked == GONE:
            return seen is None and asked == GONE
        if known is None:
            return seen.step == asked
        newer = seen.version > known.version and seen.etag != known.etag
        return seen.step == asked and newer and seen.born == known.born


@dataclass
class Post:
    """Messages of one sender. Each may be stored once for every time it was sent, and has to be if acknowledged."""

    name: str
    sent: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)

    def problems(self, stored: Iterable[str]) -> list[str]:
        found = Counter(stored)
        return [
            *(f"{self.name}: {body!r} was acknowledged and is lost" for body in sorted(self.acknowledged - set(found))),
            *(
                f"{self.name}: {body!r} was sent {self.sent[body]} times and is stored {count} times"
                for body, count in sorted(found.items())
                if count > self.sent[body]
            ),
        ]


def twice(names: Iterable[str]) -> list[str]:
    """The names that occur more than once, whatever their case."""
    return sorted(name for name, count in Counter(name.lower() for name in names).items() if count > 1)


def membership(what: str, found: Iterable[str], records: Iterable[Record]) -> list[str]:
    """What is wrong with a list of everything there is, beside records that are settled."""
    listed, known = list(found), {record.name for record in records if record.known is not None}
    return [
        *(f"{what} {name} is there twice" for name in twice(listed)),
        *(f"{what} {name} is not in the list of all" for name in sorted(known - set(listed))),
        *(f"{what} {name} is in the list of all, and should not be" for name in sorted(set(listed) - known)),
    ]
