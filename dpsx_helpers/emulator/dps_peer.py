"""A device on its connection to DPS: register and poll."""

import json
import logging
from typing import TYPE_CHECKING

from dpsx_helpers.emulator import dps, limits, mqtt, refusals, topics
from dpsx_helpers.emulator.attestation import Session
from dpsx_helpers.emulator.faults import Fault, Stage
from dpsx_helpers.emulator.records import Registration
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.stamps import Stamp

if TYPE_CHECKING:
    from dpsx_helpers.emulator.sessions import Conversation

_COMPACT = json.JSONEncoder(separators=(",", ":"))


class DpsPeer:
    """A device that DPS let in."""

    log = logging.getLogger("dpsx_helpers.emulator.dps")
    session_present = False  # https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps

    def __init__(self, conversation: "Conversation", session: Session) -> None:
        # One key for each connection: after a refusal the Python SDK stays connected, and a second try from the same
        # program would for ever throw out, and be thrown out by, the first.
        self.key: tuple[str, ...] = ("dps", conversation.label, session.registration_id.lower())
        self.name = session.registration_id
        self._conversation = conversation
        self._services = conversation.services
        self._session = session
        self._subscribed = False

    def joined(self) -> None:
        """DPS keeps no session: there is nothing to take up again."""

    def heard(self) -> None:
        """No fault acts on every packet to DPS."""

    def subscribe(self, packet: mqtt.Subscribe) -> list[int]:
        codes = dps.subscribe(self._session, packet, topics.DPS_RESPONSES)
        self._subscribed = True
        return codes

    def subscribed(self) -> None:
        """Nothing waits to be answered."""

    def unsubscribe(self, packet: mqtt.Unsubscribe) -> None:
        if topics.DPS_RESPONSES in packet.filters:
            self._subscribed = False

    def acknowledged(self, packet: mqtt.PubAck) -> None:
        """Answers are sent at QoS 0: there is nothing to acknowledge, and no harm in it."""

    def left(self, *, in_order: bool) -> None:
        """A registration goes on without its device."""

    def publish(self, packet: mqtt.Publish) -> None:
        conversation = self._conversation
        dps.check_publish(self._session, packet, subscribed=self._subscribed)
        request = topics.parse_dps(packet.topic)
        if request is None:
            raise Refused(refusals.UNKNOWN_TOPIC, device=self.name, topic=packet.topic)
        verb = "register" if isinstance(request, topics.Register) else "poll"
        self.log.info("%s < %s %s%s", conversation.label, verb, self.name, self._services.body(packet.payload))
        fault = self._services.fault(Stage.REGISTER, self.name) if verb == "register" else None
        if fault is not None and fault.kind == "silence":
            self.log.warning("%s = nothing is answered: the fault silence is switched on", conversation.label)
            return
        if packet.packet_id is not None:  # before the answer: the C# client waits for them in this order
            conversation.send(mqtt.puback(packet.packet_id))
        answer = self._answer(request, packet.payload, fault)
        topic = topics.dps_response(answer.status, request.request_id, answer.retry_after)
        conversation.send(mqtt.publish(topic, _COMPACT.encode(answer.body).encode()))

    def _answer(self, request: topics.Register | topics.Poll, body: bytes, fault: Fault | None) -> dps.Answer:
        services, stamp = self._services, self._services.stamp()
        before = services.store.registration(self._session.registration_id)
        try:
            self._check_limits(request, stamp)
            if isinstance(request, topics.Register):
                outcome = self._register(body, before, fault, stamp)
            else:
                known = services.known(self._session.registration_id)
                outcome = dps.poll(self._session, request.operation_id, known, before, services.dps, stamp)
        except Refused as refused:
            row = refused.refusal
            if row.answer is not Answer.RESPONSE:
                raise
            self._conversation.warn(refused)
            wait = fault.retry_after if fault and row.status in (429, 500) else refused.retry_after
            return dps.Answer(row.status, refusals.dps_error(row, stamp.guid, stamp.text), wait)
        return self._kept(outcome, before, stamp)

    def _check_limits(self, request: topics.Register | topics.Poll, stamp: Stamp) -> None:
        if self._services.limits is None:
            return
        now = stamp.now.timestamp()
        if isinstance(request, topics.Register):
            wait, limit = self._services.limits.register(now), limits.MINUTE
        else:
            wait, limit = self._services.limits.poll(self.name, now), limits.POLLS
        if wait is not None:
            words = f"{limit[0]} in {limit[1]:g} s"
            raise Refused(refusals.THROTTLED, retry_after=wait, registration_id=self.name, limit=words)

    def _register(self, body: bytes, before: Registration | None, fault: Fault | None, stamp: Stamp) -> dps.Outcome:
        services = self._services
        refused = services.injected(fault) if fault else None
        if refused is not None and refused.refusal.answer is not Answer.REGISTRATION:
            raise refused
        hold = fault.seconds if fault and fault.kind == "slow" else 0.0
        known = services.known(self._session.registration_id)
        outcome = dps.register(self._session, body, known, before, services.dps, stamp, hold)
        if refused is not None:
            return dps.disabled(outcome.registration, before, services.dps, refused)
        return outcome

    def _kept(self, outcome: dps.Outcome, before: Registration | None, stamp: Stamp) -> dps.Answer:
        """Store what a request has changed; its answer."""
        services, label = self._services, self._conversation.label
        fault = services.fault(Stage.SETTLE, self.name) if outcome.assignment else None
        refused = services.injected(fault) if fault else None
        if refused is not None:
            outcome = dps.failed(outcome, before, refused, services.dps, stamp)
        if outcome.registration != before:  # most polls only ask for what is stored already
            services.store.put_registration(outcome.registration)
        if outcome.assignment:
            wanted = outcome.assignment
            services.provision(wanted, stamp)
            hub_name = services.dps.hubs[wanted.hub]
            how = outcome.registration.substatus
            self.log.info(
                "%s = %s is assigned to hub %s as device %s (%s)", label, self.name, hub_name, wanted.device_id, how
            )
        if outcome.refused:
            self._conversation.warn(outcome.refused)
        answer = outcome.answer
        wait = f", retry-after {answer.retry_after} s" if answer.retry_after else ""
        self.log.info("%s > %d %s%s", label, answer.status, answer.body["status"], wait)
        return answer
