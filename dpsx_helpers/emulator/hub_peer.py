"""A device on its connection to a hub: telemetry, twin, cloud-to-device messages, direct methods."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from dpsx_helpers.emulator import commands, hub, identity, mqtt, refusals, topics, twin
from dpsx_helpers.emulator.faults import Stage
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.methods import MAX_PAYLOAD, Call
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.topics import Subscription
from dpsx_helpers.emulator.twin import Twin

if TYPE_CHECKING:
    from dpsx_helpers.emulator.sessions import Conversation


class HubPeer:
    """A device that a hub let in. `connect` is its CONNECT."""

    log = logging.getLogger("dpsx_helpers.emulator.hub")

    def __init__(self, conversation: "Conversation", session: hub.Session, connect: mqtt.Connect) -> None:
        self.key: tuple[str, ...] = ("hub", session.hub, session.device_id)
        self.name = session.device_id
        self._conversation = conversation
        self._services = conversation.services
        self._session = session
        self._clean = connect.clean_session
        self._will = connect.will
        self._subscriptions: dict[Subscription, int] = {}
        self._commands_from = 0
        self._in_flight: dict[int, int] = {}  # packet identifier -> number of the message
        self._packet_ids = (number % 65_535 + 1 for number in count())
        self._calls: dict[str, tuple[Callable[[int, bytes], None], Callable[[], None]]] = {}
        device = self._device()
        self.session_present = not self._clean and (device.c2d_qos is not None or bool(device.kept))

    # --- what the connection tells ---

    def joined(self) -> None:
        """Take up the subscriptions that a CleanSession of 0 has kept.

        All of them: Microsoft's Python client subscribes once, and trusts in that when it connects again
        (https://github.com/Azure/iotedge/pull/5048).
        """
        services, device = self._services, self._device()
        services.come_online(self._session.hub, self.name, self)
        device = identity.touched(device, services.stamp())
        services.store.put_device(device)
        if self._clean:
            services.keep_subscriptions(device, None, [])
            return
        self._subscriptions = {Subscription[name]: 0 for name in device.kept}
        if device.c2d_qos is not None:
            self._subscriptions[Subscription.COMMANDS] = device.c2d_qos
        self.subscribed()

    def heard(self) -> None:
        fault = self._services.fault(Stage.HUB_PACKET, self.name)
        refused = self._services.injected(fault) if fault else None
        if refused is not None:
            raise refused

    def subscribe(self, packet: mqtt.Subscribe) -> list[int]:
        """With CleanSession 1 a device gets the cloud-to-device messages that come from now on, with 0 also what waits:
        https://learn.microsoft.com/dotnet/api/microsoft.azure.devices.client.iothubclientmqttsettings.cleansession
        """
        granted = hub.subscribe(self._session, packet)
        before = set(self._subscriptions)
        self._subscriptions |= dict(granted)
        if self._clean and Subscription.COMMANDS in set(self._subscriptions) - before:
            waiting = self._services.pending(self._session.hub, self.name)
            self._commands_from = waiting[-1].number if waiting else 0
        self._keep()
        return [qos for _, qos in granted]

    def _keep(self) -> None:
        if not self._clean:
            others = sorted(one.name for one in self._subscriptions if one is not Subscription.COMMANDS)
            self._services.keep_subscriptions(self._device(), self._subscriptions.get(Subscription.COMMANDS), others)

    def subscribed(self) -> None:
        """The CONNACK or SUBACK goes first, then what was waiting for the subscription."""
        self.deliver()
        if Subscription.METHODS in self._subscriptions:
            self._services.takes_methods()

    def unsubscribe(self, packet: mqtt.Unsubscribe) -> None:
        for topic in packet.filters:
            subscription = topics.parse_subscription(topic, self.name)
            if subscription is not None:
                self._subscriptions.pop(subscription, None)
        self._keep()

    def left(self, *, in_order: bool) -> None:
        services = self._services
        services.go_offline(self._session.hub, self.name, self)
        for _, lost in list(self._calls.values()):
            lost()
        device, stamp = services.store.device(self._session.hub, self.name), services.stamp()
        if device is None or device.generation_id != self._session.generation_id:
            return  # it was deleted, and perhaps made anew
        services.store.put_device(identity.touched(device, stamp))
        if self._will is not None and not in_order and not services.stopping:
            services.store.add_message(hub.last_words(self._session, self._will, stamp.text))
            self.log.info("%s = the Will of %s is stored", self._conversation.label, self.name)

    # --- what the device sends ---

    def publish(self, packet: mqtt.Publish) -> None:
        request = hub.check_publish(self._session, packet, topics.parse_hub(packet.topic))
        match request:
            case topics.Telemetry():
                services = self._services
                services.store.add_message(hub.receive(self._session, packet, request, services.time()))
                self._conversation.stored += 1
                if services.bodies:
                    self.log.info("%s < message%s", self._conversation.label, services.body(packet.payload))
                self._acknowledge(packet)
            case topics.TwinGet():
                self._acknowledge(packet)
                self._get_twin(request)
            case topics.TwinPatch():
                self._acknowledge(packet)
                self._report(request, packet.payload)
            case topics.MethodAnswer():
                hub.check_size(self._session, len(packet.payload), MAX_PAYLOAD)
                self._acknowledge(packet)
                self._answered(request, packet.payload)

    def _acknowledge(self, packet: mqtt.Publish) -> None:
        if packet.packet_id is not None:
            self._conversation.send(mqtt.puback(packet.packet_id))

    def _get_twin(self, request: topics.TwinGet) -> None:
        current = self._twin()
        self.log.info("%s < GET twin of %s", self._conversation.label, self.name)
        body = json.dumps(twin.for_device(current), separators=(",", ":")).encode()
        self._answer_twin(topics.twin_answer(200, request.request_id), 200, body)

    def _report(self, request: topics.TwinPatch, payload: bytes) -> None:
        services = self._services
        current = self._twin()
        self.log.info(
            "%s < PATCH reported properties of %s%s", self._conversation.label, self.name, services.body(payload)
        )
        try:
            changed = twin.report(current, payload, services.stamp())
        except Refused as refused:
            self._conversation.warn(refused)
            status = refused.refusal.status
            self._answer_twin(topics.twin_answer(status, request.request_id), status)
            return
        services.store.put_twin(self._device(), changed)
        self._answer_twin(topics.twin_answer(204, request.request_id, changed.reported.version), 204)

    def _answer_twin(self, topic: str, status: int, body: bytes = b"") -> None:
        """Who has not subscribed to the answers gets none."""
        if Subscription.TWIN not in self._subscriptions:
            self.log.info(
                "%s = %s has not subscribed to $iothub/twin/res/#: no answer", self._conversation.label, self.name
            )
            return
        self.log.info("%s > twin %d%s", self._conversation.label, status, self._services.body(body))
        self._conversation.send(mqtt.publish(topic, body))

    def _answered(self, request: topics.MethodAnswer, payload: bytes) -> None:
        call = self._calls.pop(request.request_id, None)
        late = "" if call else ", which nobody waits for any more"
        self.log.info(
            "%s < answer %d to method call %.100r%s%s",
            self._conversation.label, request.status, request.request_id, late, self._services.body(payload),
        )  # fmt: skip
        if call:
            call[0](request.status, payload)

    # --- what the hub sends ---

    def deliver(self) -> None:
        """Send the cloud-to-device messages that wait, if the device has subscribed to them."""
        qos = self._subscriptions.get(Subscription.COMMANDS)
        if qos is None or self._conversation.closing:
            return
        services, sent = self._services, set(self._in_flight.values())
        for command in services.pending(self._session.hub, self.name):
            if command.number in sent or command.number <= self._commands_from:
                continue
            if commands.given_up(command):
                self.log.info("= message %s is given up after %d deliveries", command.message_id, command.deliveries)
                services.store.delete_command(command.number)
                continue
            packet_id = self._send_command(command, qos)
            if packet_id is None:
                services.store.delete_command(command.number)
            else:
                self._in_flight[packet_id] = command.number
                services.store.put_command(replace(command, deliveries=command.deliveries + 1))

    def _send_command(self, command: commands.Command, qos: int) -> int | None:
        """The packet identifier that the device has to acknowledge, None at QoS 0."""
        packet_id = next(number for number in self._packet_ids if number not in self._in_flight) if qos else None
        self.log.info(
            "%s > message %s to %s%s",
            self._conversation.label, command.message_id, self.name, self._services.body(command.body),
        )  # fmt: skip
        again = bool(command.deliveries and packet_id)
        self._conversation.send(mqtt.publish(commands.topic(command), command.body, packet_id, dup=again))
        return packet_id

    def acknowledged(self, packet: mqtt.PubAck) -> None:
        number = self._in_flight.pop(packet.packet_id, None)
        if number is not None:
            self._services.store.delete_command(number)
            self.log.info("%s < %s has acknowledged a message", self._conversation.label, self.name)

    def forget_commands(self) -> None:
        """The queue was purged: what is acknowledged from now on is no longer there."""
        self._in_flight.clear()

    def tell_desired(self, patch: dict[str, Any]) -> None:
        """A change of the desired properties, for a device that has subscribed to it. It is not kept for others."""
        if Subscription.DESIRED not in self._subscriptions or self._conversation.closing:
            return
        body = json.dumps(patch, separators=(",", ":")).encode()
        self.log.info(
            "%s > desired properties, version %d%s",
            self._conversation.label, patch["$version"], self._services.body(body),
        )  # fmt: skip
        self._conversation.send(mqtt.publish(topics.desired_changed(patch["$version"]), body))

    def call(self, call: Call, answered: Callable[[int, bytes], None], lost: Callable[[], None]) -> str | None:
        """Send a direct method; the ID of the call, None when the device does not listen to any."""
        if Subscription.METHODS not in self._subscriptions or self._conversation.closing:
            return None
        request_id = self._services.stamp().guid.replace("-", "")[:12]
        self._calls[request_id] = (answered, lost)
        self.log.info(
            "%s > method %s to %s%s",
            self._conversation.label, call.name, self.name, self._services.body(call.payload),
        )  # fmt: skip
        self._conversation.send(mqtt.publish(topics.method(call.name, request_id), call.payload))
        return request_id

    def forget_call(self, request_id: str) -> None:
        self._calls.pop(request_id, None)

    def _twin(self) -> Twin:
        current = self._services.store.twin(self._session.hub, self.name)
        if current is None:  # deleted in this very turn
            raise Refused(refusals.REMOVED, device=self.name)
        return current

    def _device(self) -> Device:
        device = self._services.store.device(self._session.hub, self.name)
        if device is None:  # deleted in this very turn
            raise Refused(refusals.REMOVED, device=self.name)
        return device
