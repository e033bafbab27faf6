"""What a running emulator leaves in its state directory, so that others can find it: `running.json` and a lock.

The lock tells whether the process lives; the file tells where it listens. A process id alone tells neither: it may be
a zombie's, or by now somebody else's.
"""

import errno
import json
import os
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpsx_helpers import given_files
from dpsx_helpers.emulator import tls, trouble
from dpsx_helpers.emulator.tls import Files, write_private
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.joining import endpoint

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl


def this_machine() -> str:
    """What tells this machine, since it was started, from every other; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Seconds that a start waits for the lock: for a probe by somebody else, which takes far less; for one that is stopping.
LOCK_WAIT, LOCK_WAIT_OF_NOTEBOOK = 0.5, 15.0


@dataclass(frozen=True, slots=True)
class Running:
    """Where the emulator listens, and what opens it. Keys are base64, `token` is for its own control requests.

    `ws_port` is None when no WebSocket is served.
    """

    id_scope: str
    host: str
    mqtt_port: int
    https_port: int
    ws_port: int | None
    hubs: dict[str, str]
    pid: int
    started_by: str
    dps_key: str = field(repr=False)
    hub_key: str = field(repr=False)
    token: str = field(repr=False)
    machine: str = field(repr=False, default_factory=this_machine)

    @property
    def endpoint(self) -> str:
        """`host:port` of the HTTPS data planes, an IPv6 host in brackets; 443 goes without saying."""
        return endpoint(self.host, self.https_port)

    @property
    def dps_connection_string(self) -> str:
        return f"HostName={self.endpoint};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey={self.dps_key}"

    @property
    def iothub_connection_string(self) -> str:
        return f"HostName={self.endpoint};SharedAccessKeyName=iothubowner;SharedAccessKey={self.hub_key}"

    def environment(self, files: Files) -> dict[str, str]:
        """The variables that point unmodified clients at this emulator."""
        return {
            "PROVISIONING_HOST": self.host,
            "PROVISIONING_IDSCOPE": self.id_scope,
            "SSL_CERT_FILE": str(files.bundle),
            "NODE_EXTRA_CA_CERTS": str(files.ca),
            "REQUESTS_CA_BUNDLE": str(files.bundle),
            "DPS_CONNECTION_STRING": self.dps_connection_string,
            "IOTHUB_CONNECTION_STRING": self.iothub_connection_string,
        }

    def overview(self, files: Files) -> str:
        """What the portal's Overview would show, one fact a line."""
        hubs = ", ".join(self.hubs.values()) or "none"
        websocket = f"port {self.ws_port}, path /$iothub/websocket" if self.ws_port else "not served"
        return "\n".join(
            [
                f"ID scope                {self.id_scope}",
                f"Global device endpoint  {self.host} (MQTT over TLS, port {self.mqtt_port})",
                f"Service endpoint        {self.endpoint} (HTTPS, for DPS and hub)",
                f"Linked IoT hubs         {hubs}",
                f"MQTT over WebSocket     {websocket}",
                f"CA certificate          {files.ca}",
            ]
        )

    def write(self, state_dir: Path) -> None:
        write_private(_file(state_dir), json.dumps(asdict(self), indent=1).encode())


def lock_of(state_dir: Path) -> FileLock:
    """The lock that a running emulator holds as long as it lives. The system frees it however the process ends."""
    return FileLock(lock_file(state_dir), mode=0o600, thread_local=False)


def lock_file(state_dir: Path) -> Path:
    return state_dir / "emulator.lock"


def is_held(state_dir: Path) -> bool:
    """Whether an emulator lives on this state directory. Raises LearnerError when it cannot be looked into."""
    try:
        if not lock_file(state_dir).exists():
            return False
        _check_owner(state_dir)
        return _is_taken(state_dir)
    except FileNotFoundError:  # deleted in this moment
        return False
    except OSError as error:
        if error.errno in (errno.EROFS, errno.ENOSPC):
            reason = trouble.why(state_dir, error)
            raise LearnerError(
                f"{reason[:1].upper()}{reason[1:]}, or name another folder with DPSX_WORK_DIR or --state-dir."
            ) from None
        raise LearnerError(
            f"The state directory {state_dir} cannot be read ({error.strerror}): name another with --state-dir, or ask "
            "as the user whose it is."
        ) from None


def _is_taken(state_dir: Path) -> bool:
    """Whether the lock is. Where the system has shared locks, who looks takes such a one: two who look at the same
    moment must not take each other for an emulator, whose facts, if it was killed, may still be there.
    """
    if fcntl is not None:
        descriptor = os.open(lock_file(state_dir), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.ENOSYS:  # a file system without it, on which filelock has another way
                raise
        finally:
            os.close(descriptor)
    try:
        with lock_of(state_dir).acquire(timeout=0):
            return False
    except Timeout:
        return True


def keep_others_out(state_dir: Path) -> None:
    """Take from others the right to put files into the directory, which a umask of 0002 gives to a whole group.

    Raises LearnerError when it is not this user's to protect, OSError when that fails.
    """
    _check_owner(state_dir)
    if os.name == "posix":
        mode = state_dir.stat().st_mode
        if mode & 0o022:
            state_dir.chmod(mode & 0o7755)


def _check_owner(state_dir: Path) -> None:
    """Its owner decides where its files lead and which CA is trusted: that may be this user or root, nobody else."""
    if os.name == "posix":
        owner, user = state_dir.stat().st_uid, os.geteuid()
        if user != 0 and owner not in (0, user):
            raise LearnerError(
                f"The state directory {state_dir} belongs to another user of this machine, whose emulator it would "
                "lead to: name one of your own with --state-dir or DPSX_WORK_DIR."
            )


def read(state_dir: Path) -> Running | None:
    """The emulator that runs on this state directory; None when none does, or when it is only just starting.

    Raises LearnerError when it cannot be reached from here: for another user's, another machine's, or that of another
    version.
    """
    if not is_held(state_dir):
        return None
    try:
        told = given_files.read_json(_file(state_dir))
    except (OSError, ValueError):
        return None
    facts = _understood(state_dir, told)
    here = this_machine()
    if facts.host.startswith("127.") and facts.machine and here and facts.machine != here:
        raise LearnerError(
            f"The emulator of {state_dir} runs on another machine, which shares this folder: stop it there, or set "
            "DPSX_WORK_DIR to a folder of this machine."
        )
    return facts


def _understood(state_dir: Path, told: Any) -> Running:
    """What the file says, however much more a later version has put into it."""
    try:
        known = {one.name for one in fields(Running)}
        facts = Running(**{name: value for name, value in told.items() if name in known})
        texts = (facts.id_scope, facts.host, facts.dps_key, facts.hub_key, facts.token, *facts.hubs.values())
        numbers = (facts.mqtt_port, facts.https_port, facts.pid, facts.ws_port or 0)
        if {*map(type, texts)} != {str} or {*map(type, numbers)} != {int}:
            raise TypeError
    except (TypeError, AttributeError):
        pid = told.get("pid") if isinstance(told, dict) else None
        raise LearnerError(
            f"The emulator that runs on {state_dir} (process {pid if isinstance(pid, int) else 'unknown'}) was started "
            "by another version of this program: end that process, and run this again."
        ) from None
    return facts


def none_there(state_dir: Path) -> str:
    """What to say to whoever wants one that runs."""
    return (
        f"No emulator is running on {state_dir}: start it with "
        f"`python -m dpsx_helpers.emulator run --state-dir {state_dir}`, or run the notebook's first cells."
    )


def remove(state_dir: Path, facts: Running | None = None) -> None:
    """Remove the file; only if it says that, when `facts` are given: another emulator may have come to that place."""
    if facts is not None:
        try:
            if given_files.read_json(_file(state_dir)) != asdict(facts):
                return
        except (OSError, ValueError):
            return
    _file(state_dir).unlink(missing_ok=True)


def is_told(state_dir: Path) -> bool:
    """Whether there is such a file."""
    return _file(state_dir).exists()


def tidy(state_dir: Path) -> None:
    """Delete what one that was killed has left: nobody may take its facts for those of whoever holds the lock now."""
    remove(state_dir)
    tls.tidy(state_dir, _file(state_dir).name, *Files(state_dir).names)


def _file(state_dir: Path) -> Path:
    return state_dir / "running.json"
