"""The rate limits of DPS, as an option: sliding windows over the requests of late. No I/O, the time is an argument.

https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits
"""

from collections import defaultdict, deque
from math import ceil

MINUTE = (1000, 60.0)  # registrations, or operations of the data plane: so many in so many seconds
POLLS = (5, 10.0)  # polls of one device
_DEVICES = 10_000  # devices whose windows are kept before the idle ones are swept out


class Window:
    """One limit: at most `count` requests in any `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count, self._seconds = count, seconds
        self._times: deque[float] = deque()

    def wait(self, now: float) -> int | None:
        """None when a request at `now` (seconds) may pass, and it counts; else the whole seconds until one may."""
        while self._times and self._times[-1] > now:  # before the clock was set back: not to be waited for until then
            self._times.pop()
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        if len(self._times) < self._count:
            self._times.append(now)
            return None
        return max(1, ceil(self._times[0] + self._seconds - now))

    def idle(self, now: float) -> bool:
        return not self._times or not now - self._seconds < self._times[-1] <= now


class Limits:
    """The windows of one DPS."""

    def __init__(self) -> None:
        self._registrations, self._operations = Window(*MINUTE), Window(*MINUTE)
        self._polls: defaultdict[str, Window] = defaultdict(lambda: Window(*POLLS))

    def register(self, now: float) -> int | None:
        return self._registrations.wait(now)

    def operation(self, now: float) -> int | None:
        return self._operations.wait(now)

    def poll(self, registration_id: str, now: float) -> int | None:
        if len(self._polls) > _DEVICES:
            for name in [name for name, window in self._polls.items() if window.idle(now)]:
                del self._polls[name]
        return self._polls[registration_id.lower()].wait(now)
