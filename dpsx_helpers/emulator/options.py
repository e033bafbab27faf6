"""What `run` can be asked for, and how it says that it cannot start."""

from dataclasses import dataclass, field
from pathlib import Path

from dpsx_helpers.emulator import dps, refusals
from dpsx_helpers.emulator.refusals import Refusal

CONNECT_WITHIN = 60.0  # seconds


class StartError(Exception):
    """The emulator cannot start. One sentence: what is wrong, where, what to do."""


class TakenMeanwhileError(StartError):
    """Another program began to listen on an address between our `bind` and our `listen`."""


class EndedError(StartError):
    """The emulator has had to end: what it keeps is damaged, or not there any more."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a client may take, however slowly it speaks or reads; who is not done by then is closed.

    A device for its TLS handshake and its CONNECT (`connect`). A client of the service side for its handshake, silence
    between two requests and the head of one (`head`), for its body (`body`), and to read the answer (`answer`, and as
    many again for each 60 MB of it).
    """

    connect: float = CONNECT_WITHIN
    head: float = 120.0
    body: float = 60.0
    answer: float = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `run` was asked for. A port of 0 means any; `https_port` None means 8443 or, when it is taken, any.

    `ws_port` None means 443, or no WebSocket when that cannot be bound; `websocket` False means none at all.
    """

    state_dir: Path
    host: str = "127.0.0.1"
    next_free_host: bool = False
    mqtt_port: int = 8883
    https_port: int | None = None
    id_scope: str | None = None
    ws_port: int | None = None
    websocket: bool = True
    hubs: int = 1
    progress: dps.Progress = field(default_factory=dps.Progress)
    not_enrolled: Refusal = refusals.NOT_ENROLLED
    rate_limit: bool = False
    log_bodies: bool = False
    idle_hours: float = 0.0
    allow_network: bool = False
    started_by: str = "run"
    deadlines: Deadlines = field(default_factory=Deadlines)
