"""What is in the packets: topics and user names, and JSON of twins, registrations and method answers."""

import copy
import json
from collections.abc import Hashable
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from wire import HOST, NOW

from dpsx_helpers.emulator import documents, methods, topics, twin
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.stamps import Stamp

from . import recorded
from .devices import NAME, OTHER, WORDS
from .inputs import Input, packets
from .mutation import Edit, json_edit


class Topics:
    """Each piece is a topic, a filter or a user name; those that are no UTF-8 text never come so far."""

    name = "topics"
    words = WORDS
    gentle = ()

    def __init__(self) -> None:
        topics_of = [
            body[2 : 2 + int.from_bytes(body[:2])]
            for conversation in recorded.conversations(HOST)
            for first, body in packets(b"".join(conversation))
            if first >> 4 == 3
        ]
        self.seeds: list[Input] = [(topic,) for topic in [*topics_of, *WORDS, *_USER_NAMES]]
        self.edits: list[Edit] = []

    def renew(self) -> None: ...
    def close(self) -> None: ...
    def check(self) -> None: ...

    def run(self, given: Input) -> tuple[int, set[Hashable]]:
        features: set[Hashable] = set()
        for piece in given:
            try:
                text = piece[:65535].decode()
            except UnicodeDecodeError:
                continue
            features.add(type(_login(text)))
            features |= {type(_request(text)), type(_dps_request(text))}
            subscription = topics.parse_subscription(text, NAME)
            assert subscription is None or subscription.value.replace("{}", NAME) == text
            features.add(subscription)
        return len(given), features


_USER_NAMES = (
    b"0ne00111111/registrations/north/api-version=2019-03-31&ClientVersion=x",
    b"127.0.0.1/north/?api-version=2021-04-12",
    b"127.0.0.1/north/module/?api-version=2021-04-12&DeviceClientType=py%2F2",
    b"a/b/api-version=1",
)


def _login(text: str) -> Any:
    login = topics.parse_login(text)
    match login:
        case topics.DpsLogin():
            assert text.startswith(f"{login.id_scope}/registrations/{login.registration_id}/")
        case topics.HubLogin():
            assert text.startswith(f"{login.host}/{login.device_id}/")
    return login


def _request(text: str) -> Any:
    request = topics.parse_hub(text)
    match request:
        case topics.Telemetry():
            assert text.startswith(f"devices/{request.device_id}/messages/events")
            assert "/" not in request.device_id
            built = topics.build_bag({key: value for key, value in request.properties.items() if key})
            again = {key: value for key, value in request.properties.items() if key}
            assert topics.parse_bag(built) == again
        case topics.TwinGet() | topics.TwinPatch() | topics.MethodAnswer():
            assert 0 < len(request.request_id) <= 1024
            assert f"$rid={request.request_id}" in text
    return request


def _dps_request(text: str) -> Any:
    request = topics.parse_dps(text)
    if request is not None:
        assert f"$rid={request.request_id}" in text
        assert len(topics.dps_response(200, request.request_id).encode()) < 65536
    if isinstance(request, topics.Poll):
        assert any(unquote(item.partition("=")[2]) == request.operation_id for item in text.split("&"))
    return request


class Json:
    """Each piece is the body of a PATCH of the same twin, and of other packets that carry JSON."""

    name = "json"
    words = (
        b'"a"', b":", b"{", b"}", b"[", b"]", b",", b"null", b"\\u0000", b"\\ud800", b'"$version"', b"1e308", b"-0",
        NAME.encode(), OTHER.encode(), b'"registrationId"', b'"payload"', b"1" * 4301, b" ", b"\xed\xa0\x80",
    )  # fmt: skip
    gentle = ()

    def __init__(self) -> None:
        documents_of = [
            b"{}", b'{"a": {"b": null, "c": [1, "x", {"d": true}]}}', b'{"a": 1.5, "b": "text"}', b"null", b" ",
            b'{"registrationId": "north", "payload": {"a": 1}}', b'{"a": null}', b'"text"',
        ]  # fmt: skip
        self.seeds: list[Input] = [(document,) for document in documents_of]
        self.seeds.append(tuple(documents_of))
        self.edits: list[Edit] = [json_edit]

    def renew(self) -> None: ...
    def close(self) -> None: ...
    def check(self) -> None: ...

    def run(self, given: Input) -> tuple[int, set[Hashable]]:
        features: set[Hashable] = set()
        now = Stamp(NOW, "00000000-0000-4000-8000-000000000000")
        current = twin.new({"properties": {"desired": {"a": 1}}}, now)
        reasons: list[str] = []
        for piece in given:
            features.add(_loaded(piece))
            before = copy.deepcopy(asdict(current))
            try:
                changed = twin.report(current, piece, now)
            except Refused as refused:
                features.add(refused.reason.partition(" in ")[0][:20])
                reasons.append(refused.reason)
            else:
                _merged_rightly(current, changed, json.loads(piece))
                assert asdict(current) == before, "the twin that was there has changed"
                current = changed
            try:
                shown = methods.answer(NAME, 200, piece)
                json.dumps(shown, allow_nan=False).encode()
            except Refused as refused:
                features.add(refused.refusal.name)
        assert all(reason.isprintable() for reason in reasons)
        return len(given), features


def _loaded(data: bytes) -> Hashable:
    try:
        document = documents.load(data)
    except ValueError as error:
        return type(error).__name__
    assert documents.load(json.dumps(document, allow_nan=False).encode()) == document, "it cannot be written again"
    return type(document).__name__


def _merged_rightly(before: twin.Twin, after: twin.Twin, patch: dict[str, Any]) -> None:
    patch = {name: value for name, value in patch.items() if name not in ("$metadata", "$version")}
    assert after.reported.values == merge_patch(before.reported.values, patch)
    assert after.reported.version == before.reported.version + 1
    assert (after.desired, after.tags) == (before.desired, before.tags)
    assert twin.unfit("properties.reported", after.reported.values) == ""
    kept = json.dumps(asdict(after), allow_nan=False)
    assert twin.Twin.load(json.loads(kept)) == after
    shown = json.dumps(twin.for_device(after), separators=(",", ":")).encode()
    assert len(shown) < 400_000, "it fits into a packet"
    metadata = {name for name in after.reported.metadata if name != "$lastUpdated"}
    assert metadata == set(after.reported.values)


def merge_patch(target: Any, patch: Any) -> Any:
    """The pseudo code of https://www.rfc-editor.org/rfc/rfc7396#section-2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
