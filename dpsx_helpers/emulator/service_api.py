"""The HTTPS data planes: enrollments of DPS, devices of the hub, and the emulator's own control requests.

DPS: https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment
IoT Hub: https://learn.microsoft.com/rest/api/iothub/service/devices
"""

import hmac
import json
import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tornado.web import Application, RequestHandler

from dpsx_helpers.emulator import documents, enrollment, hub, refusals, sas
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.sessions import Services

LOG = logging.getLogger("dpsx_helpers.emulator.service")
DPS_API_VERSIONS = frozenset(
    {"2018-11-01", "2019-03-31", "2020-03-01", "2021-06-01", "2021-10-01", "2025-07-01-preview"}
)
HUB_API_VERSIONS = frozenset({"2018-06-30", "2020-05-31-preview", "2020-09-30", "2021-04-12", "2024-03-31"})
# The Azure CLI wraps the query once more: {"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}.
_ENROLLMENT_QUERY = re.compile(r"(\{.*'query': ')?\s*select\s+\*(\s+from\s+enrollments)?\s*;?\s*('\})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Access:
    """What the data planes check: their own names, the keys of their policies (base64), the control token."""

    names: frozenset[str]
    dps_keys: Mapping[str, str] = field(repr=False)
    hub_keys: Mapping[str, str] = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Control:
    """What the emulator's own requests do."""

    stop: Callable[[], None]
    active: Callable[[], None]


def application(services: Services, access: Access, control: Control) -> Application:
    """The tornado application for one HTTPS listener."""
    common = {"services": services, "access": access, "control": control}
    return Application(
        [
            (r"/enrollments/query", EnrollmentQuery, common),
            (r"/enrollments/([^/]+)", EnrollmentHandler, common),
            (r"/devices/query", DeviceQuery, common),
            (r"/devices/([^/]+)", DeviceHandler, common),
            (r"/emulator/(ping|reset|stop)", ControlHandler, common),
            (r"/.*", NotEmulated, common),
        ],
        log_function=_log_request,
    )


def _log_request(handler: RequestHandler) -> None:
    request = handler.request
    if not request.path.startswith("/emulator/"):
        LOG.info("< %s %s", request.method, request.path[:200])
        LOG.info("> %d", handler.get_status())


class _Handler(RequestHandler):
    """What all requests share: who may ask, how answers and errors look, that the store commits before the answer."""

    services: Services
    access: Access
    control: Control
    plane = Answer.HUB_HTTP

    def initialize(self, services: Services, access: Access, control: Control) -> None:
        self.services, self.access, self.control = services, access, control
        self.stamp = services.stamp()
        self.set_default_headers()

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        if hasattr(self, "stamp"):  # tornado calls this once before `initialize` and again before an error
            self.set_header("x-ms-request-id", self.stamp.guid)

    def prepare(self) -> None:
        self.control.active()
        self.authorize()

    def authorize(self) -> None:
        keys = self.access.dps_keys if self.plane is Answer.DPS_HTTP else self.access.hub_keys
        token = self.request.headers.get("Authorization", "")
        why = sas.verify(token, self.access.names, keys, self.stamp.now.timestamp())
        if why is not None:
            raise Refused(self._row(refusals.DPS_UNAUTHORIZED, refusals.HUB_UNAUTHORIZED), why=why)
        version = self.get_query_argument("api-version", "")
        known = DPS_API_VERSIONS if self.plane is Answer.DPS_HTTP else HUB_API_VERSIONS
        if version not in known:
            uri = self.request.uri or ""
            raise self.bad_request(f"Unknown api version; uri: {uri[:80]}. Known: {', '.join(sorted(known))}")

    def bad_request(self, why: str) -> Refused:
        return Refused(self._row(refusals.DPS_BAD_REQUEST, refusals.HUB_BAD_REQUEST), why=why)

    def _row(self, of_dps: refusals.Refusal, of_hub: refusals.Refusal) -> refusals.Refusal:
        return of_dps if self.plane is Answer.DPS_HTTP else of_hub

    def document(self) -> Any:
        """The JSON of the request body."""
        try:
            return documents.load(self.request.body or b"null")
        except ValueError:
            raise self.bad_request("the body is not JSON") from None

    def answer(self, document: Any, status: int = 200) -> None:
        """Commit, then answer."""
        self.services.store.commit()
        self.set_status(status)
        if status == 204:
            self.finish()
        else:
            self.set_header("Content-Type", "application/json; charset=utf-8")
            self.finish(json.dumps(document))

    def page(self) -> tuple[int, int]:
        """(limit, offset) from `x-ms-max-item-count` and `x-ms-continuation`; limit -1 = all."""
        try:
            limit = int(self.request.headers.get("x-ms-max-item-count") or -1)
            offset = int(b64decode(self.request.headers.get("x-ms-continuation") or "MA=="))
        except ValueError:
            raise self.bad_request("x-ms-max-item-count or x-ms-continuation is not what it should be") from None
        if limit < -1 or limit == 0 or offset < 0 or max(limit, offset) > 2**31:
            raise self.bad_request("x-ms-max-item-count or x-ms-continuation is out of range")
        return limit, offset

    def answer_page(self, rows: list[Any], item_type: str) -> None:
        """Answer one page of rows, of which one more than wanted was read to know whether there is another."""
        limit, offset = self.page()
        if limit != -1 and len(rows) > limit:
            rows = rows[:limit]
            self.set_header("x-ms-continuation", b64encode(str(offset + limit).encode()).decode())
        self.set_header("x-ms-item-type", item_type)
        self.answer(rows)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Errors that are no refusals: a method or path that does not exist, or a fault of the emulator itself."""
        if status_code == 405:
            feature = f"{self.request.method} {self.request.path[:60]}"
            self._refuse(Refused(self._row(refusals.DPS_NOT_EMULATED, refusals.HUB_NOT_EMULATED), feature=feature))
        else:
            self.finish(json.dumps({"message": f"the emulator failed (HTTP {status_code}); its log says why"}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, Refused):
            super().log_exception(typ, value, tb)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Refused):
            self._refuse(error)
        else:
            super().send_error(status_code, **kwargs)

    def _refuse(self, refused: Refused) -> None:
        row, stamp = refused.refusal, self.stamp
        LOG.warning("> %d %s: %s. Remedy: %s.", row.status, row.text, refused.reason, row.hint)
        if row.answer is Answer.DPS_HTTP:
            self.set_header("x-ms-error-code", str(row.code))
            document: dict[str, Any] = refusals.dps_error(row, stamp.guid, stamp.text)
        else:
            self.set_header("iothub-errorcode", row.text)
            document = refusals.hub_error(refused, stamp.guid, stamp.text)
        self.answer(document, row.status)


class EnrollmentHandler(_Handler):
    """One individual enrollment."""

    plane = Answer.DPS_HTTP

    def get(self, name: str) -> None:
        found = self.services.store.enrollment(name)
        if found is None:
            raise Refused(refusals.ENROLLMENT_NOT_FOUND, registration_id=name)
        registration = self.services.store.registration(found.registration_id)
        self.answer(enrollment.render(found, registration, self.services.dps.hubs))

    def put(self, name: str) -> None:
        store, hubs = self.services.store, self.services.dps.hubs
        existing = store.enrollment(name)
        enrollment.check_etag(existing, self.request.headers.get("If-Match"), name, deleting=False)
        parsed = enrollment.parse(name, self.document(), existing, hubs, self.stamp)
        store.put_enrollment(parsed)
        self.answer(enrollment.render(parsed, store.registration(name), hubs))

    def delete(self, name: str) -> None:
        store = self.services.store
        enrollment.check_etag(store.enrollment(name), self.request.headers.get("If-Match"), name, deleting=True)
        store.delete_enrollment(name)
        self.answer(None, 204)


class EnrollmentQuery(_Handler):
    """All individual enrollments, page by page. The rows lack `registrationState`, as on Azure."""

    plane = Answer.DPS_HTTP

    def post(self) -> None:
        document = self.document()
        query = document.get("query") if isinstance(document, dict) else None
        if not isinstance(query, str):
            raise self.bad_request("the body has no query")
        if not _ENROLLMENT_QUERY.fullmatch(query):
            raise Refused(refusals.DPS_NOT_EMULATED, feature=f"the query {query[:60]}")
        limit, offset = self.page()
        rows = self.services.store.enrollments(limit + 1 if limit > 0 else -1, offset)
        self.answer_page([enrollment.render(row, None, self.services.dps.hubs) for row in rows], "enrollment")


class _HubHandler(_Handler):
    def hub(self) -> str:
        """The hub that the request's Host names; with one hub it is that one, whatever its spelling."""
        hubs = self.services.dps.hubs
        named = self.services.hub_at(self.request.host_name)
        return named or next(iter(hubs), "")


class DeviceHandler(_HubHandler):
    """One device identity."""

    def get(self, name: str) -> None:
        device = self.services.store.device(self.hub(), name)
        if device is None:
            raise Refused(refusals.DEVICE_NOT_FOUND, device_id=name)
        self.answer(hub.device_document(device, connected=self._connected(device)))

    def delete(self, name: str) -> None:
        found = self.services.store.device(self.hub(), name)
        device = hub.check_etag(found, name, self.request.headers.get("If-Match"))
        self.services.store.delete_device(device.hub, device.device_id)
        self.services.drop(("hub", device.hub, device.device_id))
        self.answer(None, 204)

    def _connected(self, device: hub.Device) -> bool:
        return self.services.is_connected(("hub", device.hub, device.device_id))


class DeviceQuery(_HubHandler):
    """All devices of the hub as twins, page by page."""

    def post(self) -> None:
        document = self.document()
        hub.check_query(document.get("query") if isinstance(document, dict) else None)
        limit, offset = self.page()
        rows = self.services.store.devices(self.hub(), limit + 1 if limit > 0 else -1, offset)
        twins = [
            hub.twin_document(row, connected=self.services.is_connected(("hub", row.hub, row.device_id)))
            for row in rows
        ]
        self.answer_page(twins, "Twin")


class NotEmulated(_Handler):
    """Every other path: documented by Azure, perhaps, but not here."""

    def authorize(self) -> None:
        """There is nothing behind this path to protect."""

    def prepare(self) -> None:
        of_dps = self.request.path.startswith(("/enrollment", "/registrations", "/certificates"))
        self.plane = Answer.DPS_HTTP if of_dps else Answer.HUB_HTTP
        super().prepare()
        feature = f"{self.request.method} {self.request.path[:60]}"
        raise Refused(self._row(refusals.DPS_NOT_EMULATED, refusals.HUB_NOT_EMULATED), feature=feature)


class ControlHandler(_Handler):
    """The emulator's own requests, for whoever can read its state directory."""

    def authorize(self) -> None:
        token = self.request.headers.get("Authorization", "")
        if not hmac.compare_digest(token.encode(), f"Bearer {self.access.token}".encode()):
            raise Refused(refusals.HUB_UNAUTHORIZED, why="the control token is missing or wrong")

    def post(self, action: str) -> None:
        if action == "reset":
            self.services.reset()
            LOG.info("= reset: enrollments, registrations, devices and messages are gone")
        self.answer({"done": action})
        if action == "stop":
            self.control.stop()
