"""Listening to the device SDK's own log without changing what its user sees of it.

Every logger of the SDK is put at DEBUG while somebody listens, and a filter at its front takes each record and lets
through only what its old level let through: handlers, levels of parents and propagation stay as they are.
How loggers, levels and filters work together: https://docs.python.org/3/howto/logging.html#logging-flow
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import azure.iot.device.aio  # noqa: F401  (its modules create the loggers that are listened to)

Listener = Callable[[logging.LogRecord], None]
_SDK = "azure.iot.device."


class _Tap(logging.Filter):
    """The filter at the front of each logger, and what those loggers were before."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()
        self._quiet = 0
        self._before: dict[logging.Logger, _Settings] = {}

    def add(self, listener: Listener, quiet: bool) -> None:
        with self._lock:
            self._quiet += quiet
            if not self._listeners:
                self._open()
            self._listeners = (*self._listeners, listener)

    def remove(self, listener: Listener, quiet: bool) -> None:
        with self._lock:
            self._quiet -= quiet
            self._listeners = tuple(one for one in self._listeners if one != listener)
            if not self._listeners:
                self._close()

    def filter(self, record: logging.LogRecord) -> bool:
        for listener in self._listeners:
            listener(record)
        if self._quiet and not logging.getLogger(record.name).hasHandlers():
            return False
        return self._passed_before(record)

    def _open(self) -> None:
        for logger in _loggers():
            self._before[logger] = _Settings(logger.level, logger.disabled)
            logger.filters.insert(0, self)  # ahead of the learner's own, which may reject a record
            logger.disabled = False
            logger.setLevel(logging.DEBUG)

    def _close(self) -> None:
        for logger, before in self._before.items():
            logger.removeFilter(self)
            logger.disabled = logger.disabled or before.disabled
            if logger.level == logging.DEBUG:  # else somebody has set another level meanwhile, which stays
                logger.setLevel(before.level)
        self._before = {}

    def _passed_before(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        if logger in self._before and self._before[logger].disabled:
            return False
        while logger is not None:
            before = self._before.get(logger)
            raised = before is not None and logger.level == logging.DEBUG
            level = before.level if before is not None and raised else logger.level
            if level:
                return record.levelno >= level
            logger = logger.parent
        return True


@dataclass(frozen=True)
class _Settings:
    level: int
    disabled: bool


def _loggers() -> list[logging.Logger]:
    """The loggers that the SDK and paho write to. Their parents are left alone, so that a logger that is
    created later takes over the learner's level.
    """
    found = [logging.getLogger("paho")]
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if name.startswith(_SDK) and isinstance(logger, logging.Logger):
            found.append(logger)
    return found


_TAP = _Tap()


@contextmanager
def listening(listener: Listener, *, quiet: bool = False) -> Iterator[None]:
    """Hand each record of the SDK's loggers, from DEBUG up, to `listener` while the block runs. `quiet`: what no
    handler was set up for, and Python would print as a last resort (tracebacks among it), is not printed.

    `listener` is called in the SDK's threads and must neither raise nor log. After `logging.disable` there is nothing
    to hear.
    """
    _TAP.add(listener, quiet)
    try:
        yield
    finally:
        _TAP.remove(listener, quiet)
