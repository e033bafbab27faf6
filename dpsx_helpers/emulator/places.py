"""How many connections there may be at once, and who has to make room for a newcomer.

Every connection takes a descriptor, of which a process has a limited number. Without a limit of our own connections
would take those that the database, the log and everybody else need. No I/O, the time is an argument.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Guest = TypeVar("Guest")

RESERVE = 40  # descriptors: some twenty for files, database and listening sockets, the rest for what is just closing
MOST_DEVICES, MOST_CLIENTS = 9_500, 500  # connections, where there are descriptors for them
DESCRIPTORS = RESERVE + MOST_DEVICES + MOST_CLIENTS  # macOS allows 10,240
FEWEST = 4  # connections of each kind, however few descriptors there are
TELL_AGAIN = 60.0  # seconds


def share(descriptors: int) -> tuple[int, int]:
    """How many connections devices may have, and how many the clients of the service side, with these descriptors."""
    left = max(descriptors - RESERVE, 0)
    clients = min(max(left // 4, FEWEST), MOST_CLIENTS)
    return min(max(left - clients, FEWEST), MOST_DEVICES), clients


class Seldom:
    """Something that may happen very often, and is told at once, and then once a minute at most."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def due(self, now: float) -> bool:
        """Whether to tell it at `now` (seconds); if so, that counts as told."""
        if now < self._next:
            return False
        self._next = now + TELL_AGAIN
        return True


class Places(Generic[Guest]):
    """At most `most` connections.

    When all places are taken, the one that waits longest has to go (`dismiss`) for the next who comes. One waits until
    it has shown what it is: those that say nothing, or drip, make room for a device instead of shutting it out. When
    nobody waits, who comes is turned away. Both are counted.
    """

    def __init__(self, most: int, dismiss: Callable[[Guest], None]) -> None:
        self.most = most
        self.dismissed = self.turned_away = 0
        self._dismiss = dismiss
        self._guests: set[Guest] = set()
        self._waiting: dict[Guest, None] = {}  # the longest first
        self._coming = 0

    def __len__(self) -> int:
        return len(self._guests) + self._coming

    def take(self) -> bool:
        """Whether who comes gets a place. If so, `enter` or `give_up` has to follow."""
        if len(self) >= self.most:
            longest = next(iter(self._waiting), None)
            if longest is None:
                self.turned_away += 1
                return False
            self.dismissed += 1
            self.leave(longest)
            self._dismiss(longest)
        self._coming += 1
        return True

    def enter(self, guest: Guest) -> None:
        """Who took a place is there, and waits."""
        self._coming -= 1
        self._guests.add(guest)
        self._waiting[guest] = None

    def give_up(self) -> None:
        """Who took a place has not come after all."""
        self._coming -= 1

    def settle(self, guest: Guest) -> None:
        """It does not have to make room any more."""
        self._waiting.pop(guest, None)

    def wait(self, guest: Guest) -> None:
        """It waits again, from now on."""
        if guest in self._guests:
            self._waiting[guest] = None

    def leave(self, guest: Guest) -> None:
        """It is gone, however it went. To say so again does nothing."""
        self._guests.discard(guest)
        self._waiting.pop(guest, None)
