"""Sockets, timers and the life of the process. No rules: `sessions` and `service_api` ask those."""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import sqlite3
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

import certifi
from filelock import FileLock, Timeout
from tornado.web import Application

from dpsx_helpers.emulator import doors, dps, https, places, running, service_api, tls, trouble
from dpsx_helpers.emulator.addresses import Bound, bind
from dpsx_helpers.emulator.data_plane import Access, Control
from dpsx_helpers.emulator.limits import Limits
from dpsx_helpers.emulator.listener import Listener
from dpsx_helpers.emulator.options import EndedError, Options, StartError, TakenMeanwhileError
from dpsx_helpers.emulator.running import Running
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.store import DATABASE, Store, StoreError, read_fact

LOG = logging.getLogger("dpsx_helpers.emulator")
_FAULTS = ("asyncio", "tornado.application", "tornado.general")  # loggers that tell of faults of our own
_ENDING = (signal.SIGTERM, signal.SIGINT)
_LOOK_EVERY = 2.0  # seconds: whether the state directory is still there


def serve(options: Options) -> None:
    """Run the emulator until it is told to stop. Raises StartError when it cannot start, EndedError when it cannot go
    on.
    """
    wait = running.LOCK_WAIT if options.started_by == "run" else running.LOCK_WAIT_OF_NOTEBOOK
    with _state_directory(options.state_dir, wait), contextlib.ExitStack() as open_things:
        before = read_fact(options.state_dir / DATABASE, "host")
        bound = open_things.enter_context(contextlib.closing(bind(options, before)))
        with _kept_in(options.state_dir):
            store = open_things.enter_context(_open_store(options.state_dir))
            facts = _facts(store, options, bound)
            _log_to(options)
        while not _served(options, facts, store, bound):
            bound.close()
            bound = open_things.enter_context(contextlib.closing(bind(options)))
            with _kept_in(options.state_dir):
                facts = _facts(store, options, bound)


@contextlib.contextmanager
def _kept_in(directory: Path) -> Iterator[None]:
    """What is written at a start, before anybody is served: StartError where it cannot be."""
    try:
        yield
    except sqlite3.Error as error:
        reason = trouble.why(directory / DATABASE, error)
    except OSError as error:
        reason = trouble.why(Path(error.filename or directory), error)
    else:
        return
    raise StartError(f"{reason[:1].upper()}{reason[1:]} and start again, or name another --state-dir.")


def _served(options: Options, facts: Running, store: Store, bound: Bound) -> bool:
    """Serve there to the end. False when another program was the first to listen, and the next address will do."""
    files = tls.Files(options.state_dir)
    with _kept_in(options.state_dir):
        _prepare(files, bound.host)
        tls.write_bundle(files, _trusted_before(store, options.state_dir), certifi.where())
        facts.write(options.state_dir)
    try:
        asyncio.run(_Emulator(options, facts, files, store).run(bound))
    except TakenMeanwhileError as error:
        if not options.next_free_host:
            raise
        LOG.info("= %s The next address is tried.", error)
        return False
    finally:
        running.remove(options.state_dir, facts)
    return True


@contextlib.contextmanager
def _state_directory(directory: Path, wait: float) -> Iterator[None]:
    """Make the directory, see to it that nobody else can put files there, and hold its lock within `wait` seconds."""
    lock: FileLock = running.lock_of(directory)
    with _kept_in(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        running.keep_others_out(directory)
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise StartError(_already_running(directory)) from None
        running.tidy(directory)
    try:
        yield
    finally:
        lock.release()


def _already_running(directory: Path) -> str:
    other = running.read(directory)
    who = f"process {other.pid} at {other.host}" if other else "another process"
    return f"An emulator is already running on {directory} ({who}): use it, stop it, or name another --state-dir."


@contextlib.contextmanager
def _open_store(directory: Path) -> Iterator[Store]:
    try:
        store = Store(directory / DATABASE)
    except StoreError as error:
        raise StartError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    try:
        yield store
    finally:
        with contextlib.suppress(sqlite3.Error):  # what cannot be stored any more was not acknowledged
            store.close()


def _prepare(files: tls.Files, host: str) -> None:
    try:
        tls.prepare(files, host, datetime.now(UTC))
    except (ValueError, TypeError):
        raise StartError(
            f"The emulator's CA in {files.directory} cannot be used: delete {files.ca.name} and {files.ca_key.name} "
            "there (devices then have to trust the new one), and start again."
        ) from None


# --- what is known before anybody connects ---------------------------------------------------------------------------


def _facts(store: Store, options: Options, bound: Bound) -> Running:
    """ID scope and keys as they have always been on this state directory; addresses and token of this run."""
    known = store.fact("id_scope")
    if options.id_scope and known and options.id_scope != known:
        raise StartError(
            f"The state in {options.state_dir} belongs to ID scope {known}, not {options.id_scope}: leave --id-scope "
            "out, or name another --state-dir."
        )
    scope = known or options.id_scope or f"0ne{secrets.token_hex(4).upper()}"
    keys = {name: store.fact(name) or b64encode(secrets.token_bytes(32)).decode() for name in ("dps_key", "hub_key")}
    for name, value in {"id_scope": scope, "host": bound.host, **keys}.items():
        store.put_fact(name, value)
    store.commit()
    return Running(
        id_scope=scope,
        host=bound.host,
        mqtt_port=bound.mqtt.getsockname()[1],
        https_port=bound.https.getsockname()[1],
        ws_port=bound.ws.getsockname()[1] if bound.ws else None,
        hubs=dict([("hub-1", bound.host), ("hub-2", "localhost")][: options.hubs]),
        pid=os.getpid(),
        started_by=options.started_by,
        token=secrets.token_urlsafe(32),
        **keys,
    )


def _trusted_before(store: Store, state_dir: Path) -> list[str]:
    """The bundles that the environment names, and those that it named before it named our own."""
    named = [os.environ.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    ours = [path for path in named if path and Path(path).parent == state_dir]
    earlier = (store.fact("trusted_before") or "").split(os.pathsep) if ours else []
    trusted = list(dict.fromkeys(path for path in [*earlier, *named] if path and path not in ours))
    store.put_fact("trusted_before", os.pathsep.join(trusted))
    store.commit()
    return trusted


class _PrivateLog(RotatingFileHandler):
    """A log that stays its owner's when it begins anew, too. Lines for which there is no room are left out, and it says
    how many.
    """

    _missing = 0

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Whether it is full: judged by what is in it, without formatting each line twice."""
        return self.stream is not None and self.stream.tell() >= self.maxBytes

    def _open(self) -> TextIOWrapper:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT, 0o600))
        if self._missing:
            _cut_off_half_a_line(Path(self.baseFilename))
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        if missing := self._missing:
            said = "= %d line(s) are missing here, for which there was no room"
            self._put(logging.LogRecord(LOG.name, logging.WARNING, __file__, 0, said, (missing,), None))
            if self._missing > missing:  # nor was there room for that
                return
            self._missing = 0
        self._put(record)

    def _put(self, record: logging.LogRecord) -> None:
        """As the classes above do, each of which calls the next, and the last of them locks what is locked."""
        try:
            if self.shouldRollover(record):
                self.doRollover()
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(self.format(record) + self.terminator)
            self.stream.flush()
        except Exception:  # noqa: BLE001 - as in logging: no fault of a log is one of who writes to it
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """No traceback on standard error for a line that cannot be written, and no end of the emulator."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
            return
        self._missing += 1
        stream, self.stream = self.stream, None
        with contextlib.suppress(OSError):  # what it still holds cannot be written either
            if stream is not None:
                stream.close()


def _cut_off_half_a_line(path: Path) -> None:
    with open(path, "rb+") as file:
        start = max(0, file.seek(0, os.SEEK_END) - (1 << 16))
        file.seek(start)
        file.truncate(start + file.read().rfind(b"\n") + 1)


class _Lines(logging.Formatter):
    """Time of day, level, service (the last part of the logger's name), message.

    Put together here, because a registration takes twelve lines: the time is written anew once a second.
    """

    _second, _clock = -1, ""

    def usesTime(self) -> bool:
        return False

    def formatMessage(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._clock = second, time.strftime("%H:%M:%S", time.localtime(second))
        service = record.name.rpartition(".")[2]
        return f"{self._clock}.{int(record.msecs):03d} {record.levelname:<7} {service:<7} {record.message}"


class _Terminal(logging.StreamHandler[TextIO]):
    """Standard error, which may lead to a file on a full disk, or to a terminal that is closed by now."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def _log_to(options: Options) -> None:
    """Everything to the log file; to standard error too, unless a notebook started this process."""
    path = options.state_dir / "emulator.log"
    handlers: list[logging.Handler] = [_PrivateLog(path, maxBytes=5_000_000, backupCount=1, encoding="utf-8")]
    if options.started_by == "run":
        handlers.append(_Terminal())
    formatter = _Lines()
    for handler in handlers:
        handler.setFormatter(formatter)
        for logger in (LOG, *map(logging.getLogger, _FAULTS)):
            logger.addHandler(handler)
            logger.propagate = False
    LOG.setLevel(logging.INFO)
    # What no line of ours shows need not be found out for each: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _spare_the_collector() -> None:
    """What is there at the start stays: the garbage collector need not look at it, nor so often at thousands of
    connections. https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


# --- the life of the process -----------------------------------------------------------------------------------------


class _Emulator:
    """One run: listen, serve, stop."""

    def __init__(self, options: Options, facts: Running, files: tls.Files, store: Store) -> None:
        self._options = options
        self._facts = facts
        self._files = files
        service = dps.Service(facts.id_scope, facts.hubs, options.progress, options.not_enrolled)
        limits = Limits() if options.rate_limit else None
        self._services = Services(store, service, limits=limits, bodies=options.log_bodies)
        self._services.trouble.give_up = self._give_up
        self._lock = trouble.identity(running.lock_file(options.state_dir))
        self._gave_up = ""
        self._stop = asyncio.Event()
        self._last_activity = 0.0

    async def run(self, bound: Bound) -> None:
        loop = asyncio.get_running_loop()
        self._catch_signals(loop)
        self._active()
        most_devices, most_clients = places.share(doors.descriptors())
        listener = Listener(
            self._services,
            tls.server_context(self._files),
            self._active,
            connect_within=self._options.deadlines.connect,
            most=most_devices,
        )
        clients = https.Clients(most_clients)
        service = https.server_of(self._application(clients), self._options.deadlines)
        try:
            for sock in bound.sockets:
                sock.listen(doors.BACKLOG)
                self._allow_a_restart(sock)
        except OSError as error:  # somebody listened between our bind and now
            host, why = self._facts.host, error.strerror
            raise TakenMeanwhileError(f"A port on {host} was taken just now ({why}): try again.") from None
        entrances = [listener.door(bound.mqtt)]
        if bound.ws:
            entrances.append(listener.door(bound.ws, websocket=True))
        entrances.append(clients.door(bound.https, service, https.server_context(self._files)))
        for door in entrances:
            door.open()
        if self._options.hubs == 2 and self._facts.host != "127.0.0.1":
            LOG.warning(
                "= the hub localhost leads to 127.0.0.1 and not to %s: listen there to use it", self._facts.host
            )
        _spare_the_collector()
        LOG.info("= ready at %s, ID scope %s", self._facts.host, self._facts.id_scope)
        if self._options.allow_network:
            LOG.warning(
                "= %s is open to everybody who can reach that address. TLS keeps what is said from others, and without "
                "a key nobody can change anything, but anybody can try: use a network that you trust, never a public "
                "one, and stop when the lesson ends",
                self._facts.host,
            )
        if self._options.started_by == "run":
            sys.stdout.write(self._facts.overview(self._files) + "\n")
            sys.stdout.flush()
        await self._until_told(listener)
        if self._gave_up:
            LOG.error("! %s", self._gave_up)
        for number in _ENDING:  # a second one must not kill what is tidying up
            signal.signal(number, signal.SIG_IGN)
        # Who looks for an emulator from now on is not led to this one.
        running.remove(self._options.state_dir, self._facts)
        LOG.info("= stopping")
        for door in entrances:
            await door.close()
        await service.close_all_connections()
        await listener.close()
        if self._gave_up:
            raise EndedError(self._gave_up)

    def _give_up(self, reason: str) -> None:
        """End, since nothing that comes from now on would be kept."""
        if not self._gave_up:
            self._gave_up = f"The emulator has ended: {reason}, or name another --state-dir."
        self._stop.set()

    def _look_around(self) -> None:
        """Whether what others find us by is still there; on a quiet day nothing else would tell."""
        directory = self._options.state_dir
        if gone := self._services.store.gone():
            self._services.trouble.met(trouble.GoneError(gone))
        elif trouble.identity(running.lock_file(directory)) != self._lock:
            self._give_up(f"{running.lock_file(directory)} was deleted or moved while it ran: start it again")
        elif not running.is_told(directory):
            with contextlib.suppress(OSError):  # no room, perhaps: the next time, then
                self._facts.write(directory)
                LOG.warning("= running.json was deleted while the emulator ran, and is there again")

    @staticmethod
    def _allow_a_restart(listening: socket.socket) -> None:
        """Connections inherit this, so that those which linger after our end do not keep the port from the next start.

        Set before `listen` it would let a second emulator bind the port in that moment. Set later, the first to come
        would not have it: devices whose emulator was stopped are at the door when it is back.
        """
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)

    def _application(self, clients: https.Clients) -> Application:
        facts = self._facts
        hosts = (facts.host, "localhost")
        names = frozenset(
            name.lower() for host in hosts for name in (host, f"{host}:{facts.https_port}", facts.endpoint)
        )
        access = Access(names, {"provisioningserviceowner": facts.dps_key}, {"iothubowner": facts.hub_key}, facts.token)
        control = Control(
            stop=self._stop.set,
            active=self._active,
            busy=clients.busy,
            answer_within=self._options.deadlines.answer,
        )
        return service_api.application(self._services, access, control)

    def _catch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in _ENDING:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop.set))

    def _active(self) -> None:
        self._last_activity = asyncio.get_running_loop().time()

    async def _until_told(self, listener: Listener) -> None:
        """Wait for a signal, a stop request, or the end of the idle time."""
        idle = self._options.idle_hours * 3600
        loop = asyncio.get_running_loop()
        while True:
            if listener.open:
                self._active()
            left = self._last_activity + idle - loop.time() if idle else None
            if left is not None and left <= 0:
                LOG.info("= nobody has connected for %g hours", self._options.idle_hours)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK_EVERY if left is None else min(left, _LOOK_EVERY))
                return
            self._look_around()
