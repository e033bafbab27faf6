"""The emulator's own requests, for whoever can read its state directory: they are no part of Azure."""

from base64 import b64decode
from dataclasses import asdict
from typing import Any

from dpsx_helpers.emulator import classroom, dps, hub, refusals
from dpsx_helpers.emulator.data_plane import LOG, Handler
from dpsx_helpers.emulator.faults import KINDS, Fault, names_a_device, unfit
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.refusals import Refused

_MOST_MESSAGES, _MOST_BYTES = 1000, 4 << 20  # in one answer, which is made in memory while everybody waits


class _ControlHandler(Handler):
    logged = False

    def authorize(self) -> None:
        if not self.by_owner():
            raise Refused(refusals.CONTROL_UNAUTHORIZED, path=self.request.path)


class Ping(_ControlHandler):
    """Whether it is there."""

    def post(self) -> None:
        self.answer({"done": "ping"})


class Stop(_ControlHandler):
    """End the process."""

    def post(self) -> None:
        self.answer({"done": "stop"})
        self.control.stop()


class Reset(_ControlHandler):
    """Forget everything but ID scope, CA, keys and students; or all of one device."""

    def post(self) -> None:
        document = self.document()
        device = document.get("device") if isinstance(document, dict) else None
        if device is None:
            self.services.reset()
            LOG.info("= reset: all that DPS and hubs kept is gone, and so are the faults")
        elif not isinstance(device, str) or not names_a_device(device):
            raise self.bad_request("device is not a registration ID")
        else:
            self.services.forget(device)
            LOG.info("= reset of %.128s: what DPS and hubs kept of it is gone, and so are the faults for it", device)
        self.answer({"done": "reset"})


class _OwnHandler(_ControlHandler):
    """What a student may ask for their own device, too."""

    def authorize(self) -> None:
        if self._named_student(self.request.headers.get("Authorization", "")):
            Handler.authorize(self)
        else:
            super().authorize()


class Send(_OwnHandler):
    """Send a cloud-to-device message: Azure's service side takes them over AMQP only."""

    for_students = frozenset({"POST"})

    def post(self) -> None:
        document = self.document()
        name = document.get("deviceId") if isinstance(document, dict) else None
        try:
            body = b64decode(document["body"], validate=True)
        except (KeyError, TypeError, ValueError):
            raise self.bad_request("the body is not an object with deviceId and body, which is base64") from None
        if not isinstance(name, str):
            raise self.bad_request("deviceId is not a text")
        if not self.sees(name):
            raise self.not_yours(f"the deviceId {name!r}")
        command = self.services.send_command(self._device(name), body, document)
        self.answer({"messageId": command.message_id, "deviceId": name, "enqueuedTimeUtc": command.enqueued})

    def _device(self, name: str) -> Device:
        for one in () if not name.isprintable() else self.services.dps.hubs:
            device = self.services.store.device(one, name)
            if device is not None:
                return device
        raise Refused(refusals.DEVICE_NOT_FOUND, device_id=name)


class Messages(_OwnHandler):
    """The last messages of a student's own device, which on Azure they would read from the hub's event endpoint."""

    for_students = frozenset({"GET"})

    def get(self) -> None:
        name = self.student.registration_id if self.student else self.get_query_argument("device", "")
        stored = self.services.store.messages(name, _MOST_MESSAGES, _MOST_BYTES)
        self.answer([hub.message_document(message) for message in stored])


class Students(_ControlHandler):
    """Who is in the class, and more of them. The answers hold their keys."""

    def get(self) -> None:
        self.answer([asdict(student) for student in self.services.store.students()])

    def post(self) -> None:
        document = self.document()
        names = document.get("registrationIds") if isinstance(document, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.bad_request("registrationIds is not a list of texts")
        unfit = [name for name in names if not dps.REGISTRATION_ID.fullmatch(name)]
        if unfit:
            raise self.bad_request(f"{unfit[0][:100]!r} is no registration ID")
        admitted = classroom.admit(self.services, names)
        LOG.info("= %d student(s) may join", len(admitted))
        self.answer([asdict(student) for student in admitted])


class OneStudent(_ControlHandler):
    """One student."""

    def delete(self, name: str) -> None:
        if not name.isprintable() or not classroom.dismiss(self.services, name):
            raise Refused(refusals.NO_STUDENT, registration_id=name)
        LOG.info("= %.128s is no student any more, and what they had made is gone", name)
        self.answer(None, 204)


class Board(_ControlHandler):
    """How far every student is."""

    def get(self) -> None:
        self.answer(classroom.board(self.services))


class Faults(_ControlHandler):
    """The faults that are on: show, switch one on, clear all."""

    def get(self) -> None:
        self.answer([asdict(fault) for fault in self.services.faults()])

    def post(self) -> None:
        try:
            fault = Fault(**self.document())
            why = unfit(fault)
        except TypeError:
            raise self.bad_request("the body is not an object with the fields of a fault") from None
        if why:
            raise self.bad_request(why)
        self.services.switch_on(fault)
        whose = fault.device or "every device"
        LOG.warning("= fault %s is on for %s: %s", fault.kind, whose, KINDS[fault.kind].what)
        self.answer({"done": "fault"})

    def delete(self) -> None:
        self.services.clear_faults()
        LOG.info("= all faults are off")
        self.answer({"done": "clear"})


ROUTES: list[tuple[str, type[Handler], dict[str, Any]]] = [
    (r"/emulator/ping", Ping, {}),
    (r"/emulator/stop", Stop, {}),
    (r"/emulator/reset", Reset, {}),
    (r"/emulator/send", Send, {}),
    (r"/emulator/faults", Faults, {}),
    (r"/emulator/messages", Messages, {}),
    (r"/emulator/students", Students, {}),
    (r"/emulator/students/([^/]+)", OneStudent, {}),
    (r"/emulator/board", Board, {}),
]
