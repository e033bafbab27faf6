"""What all requests of the HTTPS data planes share: who may ask, how answers, pages and errors look."""

import asyncio
import json
import logging
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler

from dpsx_helpers.emulator import documents, refusals, sas
from dpsx_helpers.emulator.limits import MINUTE
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.students import Student
from dpsx_helpers.joining import POLICY

LOG = logging.getLogger("dpsx_helpers.emulator.service")
_labels = (f"h{number}" for number in count(1))
_AS_LONG_AGAIN = 60_000_000  # bytes
PIECE = 4096  # bytes of a list that are sent at once, and what is left of its last item
DPS_API_VERSIONS = frozenset(
    {"2018-11-01", "2019-03-31", "2020-03-01", "2021-06-01", "2021-10-01", "2025-07-01-preview"}
)
HUB_API_VERSIONS = frozenset({"2018-06-30", "2020-05-31-preview", "2020-09-30", "2021-04-12", "2024-03-31"})


@dataclass(frozen=True, slots=True)
class Access:
    """What the data planes check: their own names, the keys of their policies (base64), the control token."""

    names: frozenset[str]
    dps_keys: Mapping[str, str] = field(repr=False)
    hub_keys: Mapping[str, str] = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Control:
    """What requests do to the emulator itself.

    `busy` is told when one that was let in is being worked on, and when it is answered. `answer_within`: seconds that a
    client may take to read an answer, and as many again for each 60 MB of it.
    """

    stop: Callable[[], None]
    active: Callable[[], None]
    busy: Callable[[RequestHandler, bool], None] = lambda handler, working: None
    answer_within: float = 60.0


class Handler(RequestHandler):
    """What all requests share: who may ask, how answers and errors look, that the store commits before the answer."""

    services: Services
    access: Access
    control: Control
    plane = Answer.HUB_HTTP
    logged = True  # one line for the request, one for its answer
    # The methods that a student may use on this path. Every name in the path has to be their own registration ID, and
    # of what is listed they get their own. A handler that says nothing here is the teacher's alone.
    for_students: frozenset[str] = frozenset()
    student: Student | None = None

    def initialize(self, services: Services, access: Access, control: Control) -> None:
        self.services, self.access, self.control = services, access, control
        self.stamp = services.stamp()
        self.label = next(_labels)
        self.set_default_headers()

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        if hasattr(self, "stamp"):  # tornado calls this once before `initialize` and again before an error
            self.set_header("x-ms-request-id", self.stamp.guid)

    def compute_etag(self) -> None:
        """Not tornado's own, a digest of the body: the C# client takes the header for the etag of the document."""
        return

    def prepare(self) -> None:
        try:
            self.services.commit()  # what devices have written in this turn does not depend on this request
        except sqlite3.Error as error:  # nor this request on it
            self.services.not_stored(error)
        if self.logged:
            body = self.services.body(self.request.body)
            LOG.info("%s < %s %s%s", self.label, self.request.method, self.request.path[:200], body)
        self.control.active()
        self.authorize()
        self.control.busy(self, True)

    def by_owner(self) -> bool:
        """Whether the emulator's own token came, which only its owner can read."""
        token = self.request.headers.get("Authorization", "")
        return sas.same(token, f"Bearer {self.access.token}")

    def authorize(self) -> None:
        if self.by_owner():
            return
        keys = self.access.dps_keys if self.plane is Answer.DPS_HTTP else self.access.hub_keys
        token = self.request.headers.get("Authorization", "")
        now = self.stamp.now.timestamp()
        student = self._named_student(token)
        known = {**keys, student.policy: student.key} if student else keys
        why = sas.verify(token, self.access.names, known, now, self.request.path)
        if why is not None:
            self._check_service(token, now)
            raise Refused(self._row(refusals.DPS_UNAUTHORIZED, refusals.HUB_UNAUTHORIZED), why=why)
        if student:
            self.student = student
            if self.request.method not in self.for_students or not all(map(student.owns, self.path_args)):
                raise self.not_yours(f"{self.request.method} {self.request.path[:200]}")
        version = self.get_query_argument("api-version", "")
        versions = DPS_API_VERSIONS if self.plane is Answer.DPS_HTTP else HUB_API_VERSIONS
        if version not in versions:
            uri = self.request.uri or ""
            raise self.bad_request(f"Unknown api version; uri: {uri[:80]}. Known: {', '.join(sorted(versions))}")
        limits = self.services.limits
        wait = limits.operation(now) if limits and self.plane is Answer.DPS_HTTP else None
        if wait is not None:
            self.set_header("Retry-After", str(wait))
            raise Refused(refusals.DPS_THROTTLED, retry_after=wait, limit="{} in {:g} s".format(*MINUTE))

    def _named_student(self, token: str) -> Student | None:
        """The student whose policy the token names. Whether it was signed with their key is not known yet."""
        policy = sas.policy_of(token)
        named = policy.startswith(POLICY) and policy.isprintable()
        return self.services.store.student(policy.removeprefix(POLICY)) if named else None

    def sees(self, name: str) -> bool:
        """Whether whoever asks may know of the enrollment or device of this ID."""
        return self.student is None or self.student.owns(name)

    def not_yours(self, what: str) -> Refused:
        policy = self.student.policy if self.student else ""
        return Refused(self._row(refusals.DPS_NOT_YOURS, refusals.HUB_NOT_YOURS), policy=policy, feature=what)

    def _check_service(self, token: str, now: float) -> None:
        """Who asks a hub about enrollments, with its connection string, gets the answer of a hub."""
        if self.plane is Answer.DPS_HTTP and sas.verify(token, self.access.names, self.access.hub_keys, now) is None:
            raise Refused(refusals.WRONG_SERVICE, why=(self.request.uri or "")[:200])

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
        self.services.commit()
        self._answer(document, status)

    def _answer(self, document: Any, status: int) -> None:
        self.set_status(status)
        if status == 204:
            self._say([])
        else:
            self.set_header("Content-Type", "application/json; charset=utf-8")
            etag = document.get("etag") if isinstance(document, dict) else None
            if isinstance(etag, str):
                self.set_header("ETag", '"{}"'.format(etag.strip('"')))
            self._say(list(in_pieces(document)))

    def _say(self, pieces: list[bytes]) -> None:
        """Finish with that, and part from who does not read it in time: nobody else would, and it takes memory."""
        size = sum(map(len, pieces))
        if len(pieces) > 1:
            self.set_header("Content-Length", str(size))
        for piece in pieces[:-1]:
            self.write(piece)
            self.flush()  # or else tornado puts all pieces together
        read = self.finish(pieces[-1] if pieces else None)
        patience = self.control.answer_within * (1 + size / _AS_LONG_AGAIN)
        late = asyncio.get_running_loop().call_later(patience, self._give_up)
        read.add_done_callback(lambda _: late.cancel())

    def _give_up(self) -> None:
        LOG.warning("%s = the answer was not read in time: the connection is closed", self.label)
        if isinstance(self.request.connection, HTTP1Connection):
            self.request.connection.stream.close()

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
        if status_code == 400:
            self._refuse(
                self.bad_request("the request cannot be read: a path that is not UTF-8, or a body unlike its header")
            )
        elif status_code == 405:
            feature = f"{self.request.method} {self.request.path[:60]}"
            self._refuse(Refused(self._row(refusals.DPS_NOT_EMULATED, refusals.HUB_NOT_EMULATED), feature=feature))
        else:
            self.finish(json.dumps({"message": f"The emulator failed (HTTP {status_code}): its log says why."}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, Refused | sqlite3.Error):
            super().log_exception(typ, value, tb)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Refused):
            self._refuse(error)
        elif isinstance(error, sqlite3.Error):
            self._refuse_unstored(error)
        else:
            self.services.store.roll_back()
            super().send_error(status_code, **kwargs)

    def on_finish(self) -> None:
        self.control.busy(self, False)
        if self.logged and self.get_status() < 400:  # why it was refused has been said
            LOG.info("%s > %d", self.label, self.get_status())

    def explain(self, refused: Refused) -> None:
        """To the log, what the client is not told."""
        row = refused.refusal
        if not self.by_owner():
            student = self.student or self._named_student(self.request.headers.get("Authorization", ""))
            if student:
                self.services.note_mistake(student.registration_id, refused)
        LOG.warning(
            "%s > %d %s: %s. Remedy: %s.", self.label, row.status, row.text.rstrip("."), refused.reason, row.hint
        )

    def _refuse(self, refused: Refused) -> None:
        try:
            self.explain(refused)
            self.services.commit()
        except sqlite3.Error as error:  # that a student made a mistake is not noted then
            self.services.not_stored(error)
        self._answer(self._document_of(refused), refused.refusal.status)

    def _refuse_unstored(self, error: sqlite3.Error) -> None:
        """Why goes to the log, but not with every request."""
        reason = self.services.not_stored(error)
        refused = Refused(self._row(refusals.DPS_NOT_STORED, refusals.HUB_NOT_STORED), why=reason)
        document = self._document_of(refused)
        if "errorCode" in document:  # that of DPS, which has no place of its own for a reason
            document["message"] = f"{refused.refusal.text.rstrip('.')}: {reason}."
        self._answer(document, refused.refusal.status)

    def _document_of(self, refused: Refused) -> dict[str, Any]:
        """The error document, in the form of the service that was asked. Its code goes into a header, too."""
        row, stamp = refused.refusal, self.stamp
        if self.by_owner() or row is refusals.CONTROL_UNAUTHORIZED:  # for whoever typed the command
            return {"message": _sentence(refused)}
        if row.answer is Answer.DPS_HTTP:
            self.set_header("x-ms-error-code", str(row.code))
            return refusals.dps_error(row, stamp.guid, stamp.text)
        self.set_header("iothub-errorcode", row.error_name or row.text)
        return refusals.hub_error(refused, stamp.guid, stamp.text)


def in_pieces(document: Any) -> Iterator[bytes]:
    """A document as JSON. A list comes in pieces: they end with the item that brings them to PIECE bytes.

    As one piece a list of hundreds of devices is copied five times over before it is sent, each time to a new place in
    memory that has to be that large. Among what connections keep there soon is none, and the process grows.
    """
    if not isinstance(document, list):
        yield json.dumps(document).encode()
        return
    piece = "["
    for number, item in enumerate(document):
        piece += f"{', ' if number else ''}{json.dumps(item)}"
        if len(piece) >= PIECE:
            yield piece.encode()
            piece = ""
    yield f"{piece}]".encode()


_WITH_ITS_REMEDY = (
    refusals.DPS_BAD_REQUEST, refusals.HUB_BAD_REQUEST, refusals.DPS_NOT_STORED, refusals.HUB_NOT_STORED,
)  # fmt: skip


def _sentence(refused: Refused) -> str:
    """The reason, with the remedy unless that is in it, or is to read what Azure documents."""
    row = refused.refusal
    remedy = "" if row in _WITH_ITS_REMEDY else f": {row.hint}"
    return f"{refused.reason[:1].upper()}{refused.reason[1:]}{remedy}."
