"""What a device's packets do: each goes to the rules, its records to the store, its answers back. No sockets.

The caller feeds in the bytes that came, lets the store commit, and only then sends what waits in `outbox`: nothing is
acknowledged that is not stored. One INFO line is logged for each step of the protocol: `<` came in, `>` goes out; a
refusal is a WARNING with its reason and remedy, which Azure does not tell the device.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4

from dpsx_helpers.certificates import CertificateError, Description, describe
from dpsx_helpers.emulator import dps, hub, mqtt, refusals, topics
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.store import Store

DPS_LOG = logging.getLogger("dpsx_helpers.emulator.dps")
HUB_LOG = logging.getLogger("dpsx_helpers.emulator.hub")
LINE_LOG = logging.getLogger("dpsx_helpers.emulator.mqtt")


class Services:
    """DPS and its linked hubs: their records, and which devices are connected right now."""

    def __init__(
        self,
        store: Store,
        service: dps.Service,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_guid: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self.store = store
        self.dps = service
        self._clock = clock
        self._new_guid = new_guid
        self._connected: dict[tuple[str, ...], Conversation] = {}

    def stamp(self) -> Stamp:
        return Stamp(self._clock(), self._new_guid())

    def hub_at(self, host: str) -> str | None:
        """The identity of the linked hub that has this address now."""
        return next((key for key, address in self.dps.hubs.items() if address.lower() == host.lower()), None)

    def is_connected(self, key: tuple[str, ...]) -> bool:
        return key in self._connected

    def join(self, key: tuple[str, ...], conversation: "Conversation") -> None:
        """Note a connection under its device; an older one of the same device has to go."""
        older = self._connected.pop(key, None)
        if older is not None:
            older.refuse(Refused(refusals.EVICTED, device=key[-1]))
        self._connected[key] = conversation

    def leave(self, key: tuple[str, ...], conversation: "Conversation") -> None:
        if self._connected.get(key) is conversation:
            del self._connected[key]

    def drop(self, key: tuple[str, ...]) -> None:
        """Close the connection of a device whose identity is gone."""
        conversation = self._connected.pop(key, None)
        if conversation is not None:
            conversation.refuse(Refused(refusals.REMOVED, device=key[-1]))

    def reset(self) -> None:
        """Forget enrollments, registrations, devices and messages; keep ID scope, CA and keys."""
        self.store.clear()
        for key in list(self._connected):
            self.drop(key)


class _Peer(Protocol):
    """A device that was let in, by DPS or by a hub."""

    key: tuple[str, ...]
    name: str
    log: logging.Logger

    def subscribe(self, packet: mqtt.Subscribe) -> list[int]: ...
    def unsubscribe(self, packet: mqtt.Unsubscribe) -> None: ...
    def publish(self, packet: mqtt.Publish) -> None: ...


class Conversation:
    """One connection, from its first byte after the TLS handshake to its end.

    `outbox` holds what may be sent after the next commit; `closing` says that the connection has to end after that.
    `changed` is called whenever either gets something new.
    """

    def __init__(
        self, services: Services, label: str, certificate: Callable[[], bytes | None], changed: Callable[[], None]
    ) -> None:
        self.services = services
        self.label = label
        self.outbox = bytearray()
        self.closing = False
        self.keep_alive = 0
        self.stored = 0
        self._mqtt = mqtt.Connection()
        self._certificate = certificate
        self._changed = changed
        self._peer: _Peer | None = None

    @property
    def connected(self) -> bool:
        """Whether a CONNECT was accepted."""
        return self._peer is not None

    @property
    def name(self) -> str:
        return self._peer.name if self._peer else "a client that has not connected"

    def receive(self, data: bytes) -> None:
        """Take bytes as they come. Never raises for what a client sends."""
        try:
            for packet in self._mqtt.receive(data):
                self._handle(packet)
                if self.closing:
                    return
        except mqtt.UnsupportedProtocol as violation:
            self.refuse(Refused(refusals.OTHER_PROTOCOL_VERSION, violation=str(violation)))
        except mqtt.ProtocolViolation as violation:
            self.refuse(Refused(refusals.PROTOCOL, violation=str(violation)))
        except Refused as refused:
            self.refuse(refused)

    def send(self, packet: bytes) -> None:
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
            self._peer.log.info("%s = %s has gone", self.label, self.name)

    def committed(self) -> None:
        """What was handled since the last commit is stored: say so, once for all messages of this turn."""
        if self.stored:
            HUB_LOG.info("%s < %s: %d message(s) stored and acknowledged", self.label, self.name, self.stored)
            self.stored = 0

    def warn(self, refused: Refused) -> None:
        row = refused.refusal
        what = f"CONNACK {row.status}" if row.answer is Answer.CONNACK else "connection closed"
        if row.answer in (Answer.RESPONSE, Answer.REGISTRATION):
            what = f"{row.status} {row.code or ''} {row.text}".replace("  ", " ")
        log = self._peer.log if self._peer else LINE_LOG
        log.warning("%s > %s: %s. Remedy: %s.", self.label, what, refused.reason, row.hint)

    def _handle(self, packet: mqtt.Packet) -> None:
        match packet:
            case mqtt.Connect():
                self._connect(packet)
            case mqtt.Publish() if self._peer:
                self._peer.publish(packet)
            case mqtt.Subscribe() if self._peer:
                codes = self._peer.subscribe(packet)
                self._peer.log.info("%s < SUBSCRIBE %s", self.label, ", ".join(topic for topic, _ in packet.filters))
                self.send(mqtt.suback(packet.packet_id, codes))
            case mqtt.Unsubscribe() if self._peer:
                self._peer.unsubscribe(packet)
                self.send(mqtt.unsuback(packet.packet_id))
            case mqtt.PingReq():
                self.send(mqtt.pingresp())
            case mqtt.Disconnect():
                self.close()

    def _connect(self, packet: mqtt.Connect) -> None:
        login = topics.parse_login(packet.username)
        if login is None:
            raise Refused(refusals.BAD_LOGIN, username=packet.username or "")
        certificate = self._describe(packet.client_id)
        peer: _Peer
        if isinstance(login, topics.DpsLogin):
            peer = _DpsPeer(self, dps.admit(packet, login, certificate, self.services.dps.id_scope))
        else:
            peer = self._admit_to_hub(packet, login, certificate)
        self._peer = peer
        self.keep_alive = packet.keep_alive
        peer.log.info("%s < CONNECT %s (api-version %s)", self.label, peer.name, login.api_version)
        peer.log.info("%s > CONNACK 0", self.label)
        self.services.join(peer.key, self)
        self.send(mqtt.connack(mqtt.CONNECTION_ACCEPTED))

    def _describe(self, client_id: str) -> Description | None:
        der = self._certificate()
        try:
            return None if der is None else describe(der)
        except CertificateError:
            raise Refused(refusals.UNREADABLE_CERTIFICATE, device=client_id) from None

    def _admit_to_hub(
        self, packet: mqtt.Connect, login: topics.HubLogin, certificate: Description | None
    ) -> "_HubPeer":
        services = self.services
        device = services.store.device(services.hub_at(login.host) or "", login.device_id)
        session = hub.admit(packet, login, certificate, device, services.dps.hubs)
        if device is not None:
            services.store.put_device(hub.touched(device, services.stamp()))
        return _HubPeer(self, session)


class _DpsPeer:
    """A device on its connection to DPS."""

    log = DPS_LOG

    def __init__(self, conversation: Conversation, session: dps.Session) -> None:
        # With the certificate in it: a stranger who merely claims the name evicts nobody.
        self.key: tuple[str, ...] = ("dps", session.certificate.thumbprint_sha256, session.registration_id.lower())
        self.name = session.registration_id
        self._conversation = conversation
        self._session = session
        self._subscribed = False

    def subscribe(self, packet: mqtt.Subscribe) -> list[int]:
        codes = dps.subscribe(self._session, packet, topics.DPS_RESPONSES)
        self._subscribed = True
        return codes

    def unsubscribe(self, packet: mqtt.Unsubscribe) -> None:
        if topics.DPS_RESPONSES in packet.filters:
            self._subscribed = False

    def publish(self, packet: mqtt.Publish) -> None:
        conversation = self._conversation
        dps.check_publish(self._session, packet, subscribed=self._subscribed)
        request = topics.parse_dps(packet.topic)
        if request is None:
            raise Refused(refusals.UNKNOWN_TOPIC, device=self.name, topic=packet.topic)
        verb = "register" if isinstance(request, topics.Register) else "poll"
        self.log.info("%s < %s %s", conversation.label, verb, self.name)
        if packet.packet_id is not None:  # before the answer: the C# client waits for them in this order
            conversation.send(mqtt.puback(packet.packet_id))
        answer = self._answer(request, packet.payload)
        topic = topics.dps_response(answer.status, request.request_id, answer.retry_after)
        conversation.send(mqtt.publish(topic, json.dumps(answer.body, separators=(",", ":")).encode()))

    def _answer(self, request: topics.Register | topics.Poll, body: bytes) -> dps.Answer:
        services, stamp = self._conversation.services, self._conversation.services.stamp()
        enrollment = services.store.enrollment(self._session.registration_id)
        registration = services.store.registration(self._session.registration_id)
        try:
            if isinstance(request, topics.Register):
                outcome = dps.register(self._session, body, enrollment, registration, services.dps, stamp)
            else:
                outcome = dps.poll(self._session, request.operation_id, enrollment, registration, services.dps, stamp)
        except Refused as refused:
            self._conversation.warn(refused)
            return dps.Answer(refused.refusal.status, refusals.dps_error(refused.refusal, stamp.guid, stamp.text))
        self._keep(outcome, stamp)
        return outcome.answer

    def _keep(self, outcome: dps.Outcome, stamp: Stamp) -> None:
        store, label, log = self._conversation.services.store, self._conversation.label, self.log
        store.put_registration(outcome.registration)
        if outcome.assignment:
            wanted = outcome.assignment
            store.put_device(hub.provision(store.device(wanted.hub, wanted.device_id), wanted, stamp))
            hub_name = self._conversation.services.dps.hubs[wanted.hub]
            log.info("%s = %s is assigned to hub %s as device %s", label, self.name, hub_name, wanted.device_id)
        if outcome.refused:
            self._conversation.warn(outcome.refused)
        answer = outcome.answer
        wait = f", retry-after {answer.retry_after} s" if answer.retry_after else ""
        log.info("%s > %d %s%s", label, answer.status, answer.body["status"], wait)


class _HubPeer:
    """A device on its connection to a hub."""

    log = HUB_LOG

    def __init__(self, conversation: Conversation, session: hub.Session) -> None:
        self.key: tuple[str, ...] = ("hub", session.hub, session.device_id)
        self.name = session.device_id
        self._conversation = conversation
        self._session = session

    def subscribe(self, packet: mqtt.Subscribe) -> list[int]:
        return hub.subscribe(self._session, packet)

    def unsubscribe(self, packet: mqtt.Unsubscribe) -> None:
        """There is nothing to undo, since nothing can be subscribed to."""

    def publish(self, packet: mqtt.Publish) -> None:
        services = self._conversation.services
        services.store.add_message(hub.receive(self._session, packet, services.stamp()))
        self._conversation.stored += 1
        if packet.packet_id is not None:
            self._conversation.send(mqtt.puback(packet.packet_id))
