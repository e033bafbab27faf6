"""What a device's packets do: each goes to the rules, its records to the store, its answers back. No sockets.

The caller feeds in the bytes that came, lets the store commit, and only then sends what waits in `outbox`: nothing is
acknowledged that is not stored. One INFO line is logged for each step of the protocol but pings: `<` came in, `>` goes
out; a refusal is a WARNING with its reason and remedy, which Azure does not tell the device. What a device does after
its CONNECT is in `dps_peer` and `hub_peer`.
"""

import logging
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from dpsx_helpers.certificates import CertificateError, Description, describe
from dpsx_helpers.emulator import dps, hub, mqtt, refusals, topics
from dpsx_helpers.emulator.dps_peer import DpsPeer
from dpsx_helpers.emulator.faults import Stage
from dpsx_helpers.emulator.hub_peer import HubPeer
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.services import Services

LINE_LOG = logging.getLogger("dpsx_helpers.emulator.mqtt")
MOST_WAITING = 1 << 20  # bytes of answers; a device that does not read them is not answered any further
MOST_AT_ONCE = 250  # packets handled before the other connections have their turn


class _Peer(Protocol):
    """A device that was let in, by DPS or by a hub."""

    key: tuple[str, ...]
    name: str
    log: logging.Logger
    session_present: bool

    def joined(self) -> None: ...
    def heard(self) -> None: ...
    def subscribe(self, packet: mqtt.Subscribe) -> list[int]: ...
    def subscribed(self) -> None: ...
    def unsubscribe(self, packet: mqtt.Unsubscribe) -> None: ...
    def publish(self, packet: mqtt.Publish) -> None: ...
    def acknowledged(self, packet: mqtt.PubAck) -> None: ...
    def left(self, *, in_order: bool) -> None: ...


class Conversation:
    """One connection, from its first byte after the TLS handshake to its end.

    `certificates` gives those that the client sent, its own first, as DER. `outbox` holds what may be sent after the
    next commit; `closing` says that the connection has to end after that. `changed` is called whenever either gets
    something new. `halted`: so much waits in `outbox`, or so much was handled, that nothing more is before `resume`.
    `packets` counts those that have come.
    """

    def __init__(
        self,
        services: Services,
        label: str,
        certificates: Callable[[], tuple[bytes, ...]],
        changed: Callable[[], None],
    ) -> None:
        self.services = services
        self.label = label
        self.outbox = bytearray()
        self.closing = False
        self.halted = False
        self.keep_alive = 0
        self.stored = 0
        self.packets = 0
        self._mqtt = mqtt.Connection()
        self._certificates = certificates
        self._changed = changed
        self._peer: _Peer | None = None
        self._asked = ""  # the ID in its CONNECT, if it was let in or not
        self._in_order = False

    @property
    def connected(self) -> bool:
        """Whether a CONNECT was accepted."""
        return self._peer is not None

    @property
    def name(self) -> str:
        return self._peer.name if self._peer else "a client that has not connected"

    def receive(self, data: bytes) -> None:
        """Take bytes as they come. Never raises for what a client sends. Who is closed is not heard any more."""
        if self.closing:
            return
        if self.halted:
            self._mqtt.feed(data)
            return
        last = self.packets + MOST_AT_ONCE
        try:
            for packet in self._mqtt.receive(data):
                self.packets += 1
                self._handle(packet)
                self.halted = len(self.outbox) > MOST_WAITING or self.packets >= last
                if self.halted:
                    self._changed()  # which has it resumed
                if self.closing or self.halted:
                    return
        except mqtt.UnsupportedProtocol as violation:
            self.refuse(Refused(refusals.OTHER_PROTOCOL_VERSION, violation=str(violation)))
        except mqtt.ProtocolViolation as violation:
            self.refuse(Refused(refusals.PROTOCOL, violation=str(violation)))
        except Refused as refused:
            self.refuse(refused)

    def resume(self) -> None:
        """Go on with what has come, now that the outbox is empty."""
        self.halted = False
        self.receive(b"")

    def send(self, packet: bytes) -> None:
        if self.closing:
            return
        self.outbox += packet
        self._changed()

    def refuse(self, refused: Refused) -> None:
        """End the connection for the reason given, with a CONNACK where the refusal is one."""
        if self.closing:
            return
        self.warn(refused)
        if refused.refusal.answer is Answer.CONNACK:
            self.outbox += mqtt.connack(refused.refusal.status)
        self.close()

    def close(self) -> None:
        self.closing = True
        self._changed()

    def ended(self) -> None:
        """The connection is gone, however it went."""
        self.closing = True
        if self._peer:
            self.services.leave(self._peer.key, self)
            how = "" if self._in_order else " without a DISCONNECT"
            self._peer.log.info("%s = %s has gone%s", self.label, self.name, how)
            self._peer.left(in_order=self._in_order)
        # Both lead to the connection, whose memory is to be free now, and not when Python looks for cycles.
        self._changed, self._certificates = lambda: None, tuple

    def committed(self) -> None:
        """What was handled since the last commit is stored: say so, once for all messages of this turn."""
        if self.stored and self._peer:
            self._peer.log.info("%s < %s: %d message(s) stored and acknowledged", self.label, self.name, self.stored)
            self.stored = 0

    def warn(self, refused: Refused) -> None:
        row = refused.refusal
        what = f"CONNACK {row.status}" if row.answer is Answer.CONNACK else "connection closed"
        if row.answer is Answer.UPGRADE:
            what = "WebSocket closed" if self._peer else "WebSocket refused"
        if row.answer in (Answer.RESPONSE, Answer.REGISTRATION, Answer.TWIN):
            what = f"{row.status} {row.code or ''} {row.text}".replace("  ", " ").rstrip(".")
        self.services.note_mistake(self._asked, refused)
        log = self._peer.log if self._peer else LINE_LOG
        log.warning("%s > %s: %s. Remedy: %s.", self.label, what, refused.reason, row.hint)

    def _handle(self, packet: mqtt.Packet) -> None:
        peer = self._peer
        if isinstance(packet, mqtt.Connect):
            self._connect(packet)
            return
        if peer is None:  # cannot be: the connection takes nothing else before a CONNECT
            raise mqtt.ProtocolViolation("a packet came before the CONNECT")
        peer.heard()
        match packet:
            case mqtt.Publish():
                peer.publish(packet)
            case mqtt.PubAck():
                peer.acknowledged(packet)
            case mqtt.Subscribe():
                codes = peer.subscribe(packet)
                peer.log.info("%s < SUBSCRIBE %s", self.label, _shown([topic for topic, _ in packet.filters]))
                peer.log.info("%s > SUBACK %s", self.label, _shown([str(code) for code in codes]))
                self.send(mqtt.suback(packet.packet_id, codes))
                peer.subscribed()
            case mqtt.Unsubscribe():
                peer.unsubscribe(packet)
                peer.log.info("%s < UNSUBSCRIBE %s", self.label, _shown([repr(topic) for topic in packet.filters]))
                peer.log.info("%s > UNSUBACK", self.label)
                self.send(mqtt.unsuback(packet.packet_id))
            case mqtt.PingReq():
                self.send(mqtt.pingresp())  # no line: those of many devices would push all else out of the log
            case mqtt.Disconnect():
                peer.log.info("%s < DISCONNECT", self.label)
                self._in_order = True
                self.close()

    def _connect(self, packet: mqtt.Connect) -> None:
        login = topics.parse_login(packet.username)
        if login is None:
            raise Refused(refusals.BAD_LOGIN, username=packet.username or "")
        self._asked = login.registration_id if isinstance(login, topics.DpsLogin) else login.device_id
        certificate, sent = self._certificates_of(packet.client_id)
        peer: _Peer
        if isinstance(login, topics.DpsLogin):
            self._meet(Stage.DPS_CONNECT, login.registration_id)
            peer = DpsPeer(weakref.proxy(self), dps.admit(packet, login, certificate, self.services.dps.id_scope, sent))
        else:
            self._meet(Stage.HUB_CONNECT, login.device_id)
            peer = self._admit_to_hub(packet, login, certificate)
        self._peer = peer
        self.keep_alive = packet.keep_alive
        peer.log.info("%s < CONNECT %s (api-version %s)", self.label, peer.name, login.api_version)
        kept = ", session present" if peer.session_present else ""
        peer.log.info("%s > CONNACK 0%s", self.label, kept)
        self.services.join(peer.key, self)
        self.send(mqtt.connack(mqtt.CONNECTION_ACCEPTED, session_present=peer.session_present))
        peer.joined()

    def _meet(self, stage: Stage, device: str) -> None:
        """Raise the fault that acts now, if there is one."""
        fault = self.services.fault(stage, device)
        if fault is not None and (refused := self.services.injected(fault)) is not None:
            raise refused

    def _certificates_of(self, client_id: str) -> tuple[Description | None, tuple[bytes, ...]]:
        """The client's certificate, and the others that it sent."""
        own, *others = self._certificates() or (None,)
        try:
            return (None if own is None else _described(own)), tuple(der for der in others if der)
        except CertificateError:
            raise Refused(refusals.UNREADABLE_CERTIFICATE, device=client_id) from None

    def _admit_to_hub(self, packet: mqtt.Connect, login: topics.HubLogin, certificate: Description | None) -> HubPeer:
        services, stamp = self.services, self.services.stamp()
        device = services.store.device(services.hub_at(login.host) or "", login.device_id)
        session = hub.admit(packet, login, certificate, device, services.dps.hubs, stamp.now.timestamp())
        return HubPeer(weakref.proxy(self), session, packet)


@lru_cache(maxsize=128)
def _described(certificate: bytes) -> Description:
    """A device shows the same certificate to DPS, to its hub, and each time that it connects again."""
    return describe(certificate)


def _shown(texts: list[str]) -> str:
    """The first few of them, each cut short: a packet may hold thousands."""
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return ", ".join(text[:100] for text in texts[:5]) + more
