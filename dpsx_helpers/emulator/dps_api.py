"""The data plane of DPS: enrollments, enrollment groups, registrations, CA certificates.

https://learn.microsoft.com/rest/api/iot-dps/ (api-version 2021-10-01)
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from dpsx_helpers.emulator import documents, dps, enrollment, group, refusals
from dpsx_helpers.emulator.data_plane import LOG, Access, Control, Handler
from dpsx_helpers.emulator.enrollment import Rows
from dpsx_helpers.emulator.records import CaCertificate, Enrollment, Group, Registration
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.stamps import Stamp

_MOST_IN_BULK = 10
_MODES = ("create", "update", "updateIfMatchETag", "delete")
# The Azure CLI wraps the query once more: {"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}.
_QUERY = re.compile(r"(\{.*'query': ')?\s*select\s+\*(\s+from\s+\w+)?\s*(;\s*)?('\})?", re.IGNORECASE)


class Kind(Protocol):
    """What the two kinds of enrollment differ in, as far as their requests go."""

    id_field: str
    bulk_field: str
    item_type: str
    rows: Rows

    def __init__(self, services: Services) -> None: ...
    def find(self, name: str) -> Any: ...
    def page(self, limit: int, offset: int) -> list[Any]: ...
    def parse(self, name: str, document: Any, existing: Any, stamp: Stamp) -> Any: ...
    def put(self, record: Any) -> None: ...
    def delete(self, name: str) -> None: ...
    def show(self, record: Any, *, whole: bool) -> dict[str, Any]: ...
    def mechanism(self, record: Any) -> dict[str, Any]: ...
    def doubts(self, record: Any) -> Iterable[str]: ...


class Individuals:
    """Individual enrollments."""

    id_field, bulk_field, item_type, rows = "registrationId", "enrollments", "enrollment", enrollment.INDIVIDUAL

    def __init__(self, services: Services) -> None:
        self._store, self._hubs = services.store, services.dps.hubs
        self.find, self.page = self._store.enrollment, self._store.enrollments
        self.put, self.delete = self._store.put_enrollment, self._store.delete_enrollment
        self.mechanism = enrollment.mechanism

    def parse(self, name: str, document: Any, existing: Enrollment | None, stamp: Stamp) -> Enrollment:
        return enrollment.parse(name, document, existing, self._hubs, stamp)

    def show(self, record: Enrollment, *, whole: bool) -> dict[str, Any]:
        """`whole`: with the state of its registration, which the rows of a query lack."""
        registration = self._store.registration(record.registration_id) if whole else None
        return enrollment.render(record, registration, self._hubs)

    def doubts(self, record: Enrollment) -> Iterable[str]:
        """None: an individual enrollment is checked when it is written."""
        return ()


class Groups:
    """Enrollment groups."""

    id_field, bulk_field, item_type, rows = "enrollmentGroupId", "enrollmentGroups", "enrollmentGroup", enrollment.GROUP

    def __init__(self, services: Services) -> None:
        self._store, self._hubs = services.store, services.dps.hubs
        self.find, self.page = self._store.group, self._store.groups
        self.put, self.delete = self._store.put_group, self._store.delete_group
        self.mechanism = group.mechanism

    def parse(self, name: str, document: Any, existing: Group | None, stamp: Stamp) -> Group:
        parsed = group.parse(name, document, existing, self._hubs, self._store.ca_certificate, stamp)
        group.check_single(parsed, self._store.groups_of)
        return parsed

    def show(self, record: Group, *, whole: bool) -> dict[str, Any]:
        return group.render(record, self._hubs)

    def doubts(self, record: Group) -> Iterable[str]:
        """Why a group will let nobody in, although DPS takes it."""
        return group.doubts(record, self._store.ca_certificate)


class _DpsHandler(Handler):
    plane = Answer.DPS_HTTP

    @property
    def if_match(self) -> str | None:
        return self.request.headers.get("If-Match")

    def check_query(self) -> None:
        """`SELECT *`, with or without FROM: the only query that DPS documents."""
        document = self.document()
        query = document.get("query") if isinstance(document, dict) else None
        if not isinstance(query, str):
            raise self.bad_request("the body has no query")
        if not _QUERY.fullmatch(query):
            raise Refused(refusals.DPS_NOT_EMULATED, feature=f"the query {query[:60]}")


class _EnrollmentHandler(_DpsHandler):
    """Requests about one kind of enrollment."""

    def initialize(self, services: Services, access: Access, control: Control, kind: type[Kind] | None = None) -> None:
        super().initialize(services, access, control)
        assert kind is not None
        self.kind = kind(services)
        if kind is not Individuals:
            self.for_students = frozenset()

    def existing(self, name: str) -> Any:
        found = self.kind.find(name)
        if found is None:
            raise Refused(self.kind.rows.missing, **enrollment.named(name))
        return found

    def keep(self, name: str, parsed: Any) -> None:
        self.kind.put(parsed)
        for doubt in self.kind.doubts(parsed):
            LOG.warning("%s = %s %s: %s", self.label, self.kind.item_type, name, doubt)


class OneEnrollment(_EnrollmentHandler):
    """One enrollment, or one group."""

    for_students = frozenset({"GET", "PUT", "DELETE"})

    def get(self, name: str) -> None:
        self.answer(self.kind.show(self.existing(name), whole=True))

    def put(self, name: str) -> None:
        existing = self.kind.find(name)
        enrollment.check_etag(existing, self.if_match, name, self.kind.rows, deleting=False)
        parsed = self.kind.parse(name, self.document(), existing, self.stamp)
        if self.student and parsed.device_id and not self.student.owns(parsed.device_id):
            raise self.not_yours(f"the deviceId {parsed.device_id!r}")  # it would be somebody else in the hub
        self.keep(name, parsed)
        self.answer(self.kind.show(parsed, whole=True))

    def delete(self, name: str) -> None:
        enrollment.check_etag(self.kind.find(name), self.if_match, name, self.kind.rows, deleting=True)
        self.kind.delete(name)
        self.answer(None, 204)


class EnrollmentQuery(_EnrollmentHandler):
    """All of one kind, page by page. The rows lack `registrationState`, as on Azure."""

    for_students = frozenset({"POST"})

    def post(self) -> None:
        self.check_query()
        limit, offset = self.page()
        if self.student:
            own = self.kind.find(self.student.registration_id)
            rows = [own][offset:] if own else []
        else:
            rows = self.kind.page(limit + 1 if limit > 0 else -1, offset)
        self.answer_page([self.kind.show(row, whole=False) for row in rows], self.kind.item_type)


class AttestationMechanism(_EnrollmentHandler):
    """What an enrollment checks. For X.509 there is no secret in it."""

    for_students = frozenset({"POST"})

    def post(self, name: str) -> None:
        self.answer(self.kind.mechanism(self.existing(name)))


class BulkEnrollments(_EnrollmentHandler):
    """Up to ten enrollments in one request, each done or refused for itself."""

    def post(self) -> None:
        document = self.document()
        mode = document.get("mode") if isinstance(document, dict) else None
        items = document.get(self.kind.bulk_field) if isinstance(document, dict) else None
        if mode not in _MODES:
            raise self.bad_request(f"mode is none of {', '.join(_MODES)}")
        if not isinstance(items, list) or not 1 <= len(items) <= _MOST_IN_BULK:
            raise self.bad_request(f"{self.kind.bulk_field} is not a list of 1 to {_MOST_IN_BULK}")
        errors = []
        for item in items:
            name = str(item.get(self.kind.id_field, "")) if isinstance(item, dict) else ""
            try:
                self._do(mode, name, item)
            except Refused as refused:
                row = refused.refusal
                self.explain(refused)
                errors.append({self.kind.id_field: name, "errorCode": row.code, "errorStatus": row.text})
        self.answer({"isSuccessful": not errors, "errors": errors})

    def _do(self, mode: str, name: str, item: Any) -> None:
        if not isinstance(item, dict):
            raise enrollment.bad("an item of the list is not a JSON object")
        etag = item.get("etag")
        if not name.isprintable() or not isinstance(etag, str | None):
            raise enrollment.bad(f"{self.kind.id_field} or etag is not a text")
        existing = self.kind.find(name)
        if existing is None and mode != "create":
            raise Refused(self.kind.rows.missing, **enrollment.named(name))
        if_match = {"create": None, "update": "*", "updateIfMatchETag": etag or "", "delete": etag or "*"}[mode]
        enrollment.check_etag(existing, if_match, name, self.kind.rows, deleting=mode == "delete")
        if mode == "delete":
            self.kind.delete(name)
        else:
            self.keep(name, self.kind.parse(name, item, existing, self.stamp))


class OneRegistration(_DpsHandler):
    """The record of one registration."""

    for_students = frozenset({"GET", "DELETE"})

    def get(self, name: str) -> None:
        self.answer(dps.record(self._existing(name), self.services.dps.hubs))

    def delete(self, name: str) -> None:
        found = self._existing(name)
        if self.if_match is not None and not documents.matches(self.if_match, found.etag):
            raise Refused(refusals.REGISTRATION_CHANGED, registration_id=name)
        self.services.store.delete_registration(name)
        self.answer(None, 204)

    def _existing(self, name: str) -> Registration:
        found = self.services.store.registration(name)
        if found is None:
            raise Refused(refusals.REGISTRATION_NOT_FOUND, registration_id=name)
        return found


class RegistrationQuery(_DpsHandler):
    """The registrations of one enrollment group, page by page."""

    def post(self, name: str) -> None:
        if self.services.store.group(name) is None:
            raise Refused(refusals.GROUP_NOT_FOUND, group_id=name)
        limit, offset = self.page()
        rows = self.services.store.registrations(name, limit + 1 if limit > 0 else -1, offset)
        hubs: Mapping[str, str] = self.services.dps.hubs
        self.answer_page([dps.record(row, hubs) for row in rows], "deviceRegistration")


class _CertificateHandler(_DpsHandler):
    """CA certificates, which Azure has in its Resource Manager: the emulator takes them with the key of DPS."""

    def existing(self, name: str) -> CaCertificate:
        found = self.services.store.ca_certificate(name)
        if found is None:
            raise Refused(refusals.CERTIFICATE_NOT_FOUND, name=name)
        return found

    def check_etag(self, found: CaCertificate) -> None:
        if self.if_match is None or not documents.matches(self.if_match, found.etag):
            raise Refused(refusals.CERTIFICATE_CHANGED, name=found.name)

    def keep(self, certificate: CaCertificate) -> None:
        self.services.store.put_ca_certificate(certificate)
        self.answer(group.render_ca(certificate))


class Certificates(_CertificateHandler):
    """All CA certificates."""

    def get(self) -> None:
        self.answer({"value": [group.render_ca(row) for row in self.services.store.ca_certificates()]})


class OneCertificate(_CertificateHandler):
    """One CA certificate."""

    def get(self, name: str) -> None:
        self.answer(group.render_ca(self.existing(name)))

    def put(self, name: str) -> None:
        found = self.services.store.ca_certificate(name)
        if found is not None:
            self.check_etag(found)
        self.keep(group.parse_ca(name, self.document(), found, self.stamp))

    def delete(self, name: str) -> None:
        found = self.existing(name)
        self.check_etag(found)
        for user in self.services.store.groups_of(found.der):
            if name.lower() in ((user.primary_ca or "").lower(), (user.secondary_ca or "").lower()):
                raise Refused(refusals.CERTIFICATE_IN_USE, group_id=user.group_id, name=name)
        self.services.store.delete_ca_certificate(name)
        self.answer(None, 204)


class VerificationCode(_CertificateHandler):
    """Ask for the code that a proof of possession has to have as its common name."""

    def post(self, name: str) -> None:
        found = self.existing(name)
        self.check_etag(found)
        self.keep(group.with_code(found, self.stamp))


class Verification(_CertificateHandler):
    """Give the proof."""

    def post(self, name: str) -> None:
        found = self.existing(name)
        self.check_etag(found)
        self.keep(group.prove(found, self.document(), self.stamp))


ROUTES: list[tuple[str, type[Handler], dict[str, Any]]] = [
    (r"/enrollments", BulkEnrollments, {"kind": Individuals}),
    (r"/enrollments/query", EnrollmentQuery, {"kind": Individuals}),
    (r"/enrollments/([^/]+)", OneEnrollment, {"kind": Individuals}),
    (r"/enrollments/([^/]+)/attestationmechanism", AttestationMechanism, {"kind": Individuals}),
    (r"/enrollmentGroups", BulkEnrollments, {"kind": Groups}),
    (r"/enrollmentGroups/query", EnrollmentQuery, {"kind": Groups}),
    (r"/enrollmentGroups/([^/]+)", OneEnrollment, {"kind": Groups}),
    (r"/enrollmentGroups/([^/]+)/attestationmechanism", AttestationMechanism, {"kind": Groups}),
    (r"/registrations/([^/]+)", OneRegistration, {}),
    (r"/registrations/([^/]+)/query", RegistrationQuery, {}),
    (r"/certificates", Certificates, {}),
    (r"/certificates/([^/]+)", OneCertificate, {}),
    (r"/certificates/([^/]+)/generateVerificationCode", VerificationCode, {}),
    (r"/certificates/([^/]+)/verify", Verification, {}),
]
