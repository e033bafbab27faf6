"""The rules of a device twin: what may be written, how it merges, versions and metadata. No I/O, no clock.

https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins
"""

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from dpsx_helpers.emulator import documents, refusals
from dpsx_helpers.emulator.refusals import Refused, bad_at_hub
from dpsx_helpers.emulator.stamps import Stamp

# https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins#device-twin-size
LIMITS = {"tags": 8 * 1024, "properties.desired": 32 * 1024, "properties.reported": 32 * 1024}  # bytes
_LEVELS = 10  # objects below that of the section
_LONGEST_KEY, _LONGEST_TEXT = 1024, 4096  # bytes
_SMALLEST, _LARGEST = -(2**52), 2**52 - 1
_NOT_IN_KEYS = re.compile(r"[\x00-\x1f\x7f-\x9f.$# ]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_READ_ONLY = ("$metadata", "$version")


@dataclass(frozen=True, slots=True)
class Section:
    """Desired or reported properties. `metadata` says of each value, and of the whole, when it was last set."""

    values: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    version: int = 1

    def document(self) -> dict[str, Any]:
        return self.values | {"$metadata": self.metadata, "$version": self.version}


@dataclass(frozen=True, slots=True)
class Twin:
    """The twin of one device. `version` counts every change, and is its etag."""

    tags: dict[str, Any] = field(default_factory=dict)
    desired: Section = field(default_factory=Section)
    reported: Section = field(default_factory=Section)
    version: int = 1

    @property
    def etag(self) -> str:
        return b64encode(self.version.to_bytes(8, "big")).decode()

    @classmethod
    def load(cls, record: dict[str, Any]) -> "Twin":
        """The reverse of `dataclasses.asdict`."""
        sections = {name: Section(**record[name]) for name in ("desired", "reported")}
        return cls(**record | sections)


def new(initial: dict[str, Any], stamp: Stamp) -> Twin:
    """The twin of a new device; `initial` is the initial twin of its enrollment."""
    desired = _merge({}, _without_read_only(initial.get("properties", {}).get("desired", {})))
    return Twin(
        tags=_merge({}, _without_read_only(initial.get("tags", {}))),
        desired=Section(desired, _metadata(desired, {}, {}, stamp.text)),
        reported=Section({}, {"$lastUpdated": stamp.text}),
    )


def report(twin: Twin, payload: bytes, stamp: Stamp) -> Twin:
    """The twin after a device's PATCH of its reported properties. Raises Refused, and nothing has changed."""
    try:
        patch = documents.load(payload)
    except ValueError:
        raise Refused(refusals.BAD_TWIN_PATCH, why="the body is not JSON") from None
    if not isinstance(patch, dict):
        raise Refused(refusals.BAD_TWIN_PATCH, why="the body is not a JSON object")
    patch = _without_read_only(patch)
    name = "properties.reported"
    why = _too_deep(name, patch)
    reported = twin.reported if why else _merged(twin.reported, patch, stamp)
    why = why or unfit(name, reported.values, patch)
    if why:
        raise Refused(refusals.BAD_TWIN_PATCH, why=why)
    return replace(twin, reported=reported, version=twin.version + 1)


def change(twin: Twin, document: Any, stamp: Stamp, *, whole: bool) -> tuple[Twin, dict[str, Any] | None]:
    """The twin after the service's PATCH, or PUT (`whole`), and what a connected device is told of it, if anything.

    A PATCH merges tags and desired properties, a PUT replaces them. Raises Refused, and nothing has changed.
    """
    if not isinstance(document, dict):
        raise bad_at_hub("the body is not a JSON object")
    tags = _section(document, "tags")
    properties = _section(document, "properties")
    if properties is not None and set(properties) - {"desired", "reported"}:
        raise bad_at_hub("properties has desired and reported, nothing else")
    patch = None if properties is None else _section(properties, "desired")
    if whole:
        tags, patch = tags or {}, patch or {}
    for name, given in (("tags", tags), ("properties.desired", patch)):
        if given is not None and (why := _too_deep(name, given)):
            raise bad_at_hub(why)
    base = Twin(desired=replace(twin.desired, values={}, metadata={})) if whole else twin
    changed = replace(
        twin,
        tags=base.tags if tags is None else _merge(base.tags, tags),
        desired=base.desired if patch is None else _merged(base.desired, patch, stamp),
        version=twin.version + 1,
    )
    for name, values, given in (("tags", changed.tags, tags), ("properties.desired", changed.desired.values, patch)):
        if why := unfit(name, values, given or {}):
            raise bad_at_hub(why)
    if patch is None:
        return changed, None
    told = _difference(twin.desired.values, changed.desired.values) if whole else patch
    return changed, told | {"$version": changed.desired.version}


def migrated(twin: Twin, stamp: Stamp) -> Twin:
    """The twin of a device that comes from another hub: the same values under versions of the new one."""
    return Twin(
        tags=twin.tags,
        desired=Section(twin.desired.values, _metadata(twin.desired.values, {}, {}, stamp.text)),
        reported=Section(twin.reported.values, _metadata(twin.reported.values, {}, {}, stamp.text)),
    )


def for_device(twin: Twin) -> dict[str, Any]:
    """What a device gets that asks for its twin: no tags, no metadata."""
    return {
        "desired": twin.desired.values | {"$version": twin.desired.version},
        "reported": twin.reported.values | {"$version": twin.reported.version},
    }


def unfit(name: str, values: dict[str, Any], patch: dict[str, Any] | None = None) -> str:
    """Why a section may not hold these values, as one phrase; "" when it may. `patch`: what was sent, nulls included.

    https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins#tags-and-properties-format
    """
    why = _too_deep(name, values)
    if why:
        return why
    why = next(_faults(name, _without_read_only(values if patch is None else patch)), "")
    size = _size(values)
    if not why and size > LIMITS[name]:
        why = f"{name} would take {size} bytes; the limit is {LIMITS[name]}"
    return why


def _too_deep(name: str, values: dict[str, Any]) -> str:
    """To be asked before anything else walks down."""
    return f"{name} is nested more than {_LEVELS} levels deep" if documents.deeper_than(values, _LEVELS + 1) else ""


def _faults(path: str, value: Any, *, in_list: bool = False) -> Iterator[str]:
    match value:
        case dict():
            for key, item in value.items():
                size = len(key.encode(errors="surrogatepass"))
                if not 0 < size <= _LONGEST_KEY or _NOT_IN_KEYS.search(key):
                    yield f"the key {key[:40]!r} in {path} is empty, too long, or has a control sign, space or . $ #"
                yield from _faults(f"{path}.{key}"[:200], item, in_list=in_list)
        case list():
            for item in value:
                yield from _faults(f"{path}[]", item, in_list=True)
        case str() if len(value.encode(errors="surrogatepass")) > _LONGEST_TEXT:
            yield f"{path} is longer than {_LONGEST_TEXT} bytes"
        case int() if not _SMALLEST <= value <= _LARGEST:
            yield f"{path} is outside the integers from -2^52 to 2^52-1"
        case None if in_list:
            yield f"{path} holds null"


def _size(value: Any) -> int:
    """Bytes as the page above counts them: keys and texts without control signs, 8 for a number, 4 for a Boolean."""
    match value:
        case dict():
            return sum(_size(key) + _size(item) for key, item in value.items())
        case list():
            return sum(map(_size, value))
        case str():
            return len(_CONTROL.sub("", value).encode(errors="surrogatepass"))
        case bool() | None:
            return 4
        case _:
            return 8


def _section(document: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A member that is an object, without the service's own entries: what was read may be written back.

    Null is as good as absent, as the service clients send it.
    """
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, dict):
        return _without_read_only(value)
    raise bad_at_hub(f"{name} is not an object")


def _without_read_only(patch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in patch.items() if name not in _READ_ONLY}


def _merged(section: Section, patch: dict[str, Any], stamp: Stamp) -> Section:
    values = _merge(section.values, patch)
    return Section(values, _metadata(values, section.metadata, patch, stamp.text), section.version + 1)


def _merge(values: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """JSON merge patch: null deletes, objects merge, anything else replaces (https://www.rfc-editor.org/rfc/rfc7396)."""
    merged = dict(values)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            before = merged.get(name)
            merged[name] = _merge(before if isinstance(before, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _difference(before: Any, after: Any) -> Any:
    """The merge patch that turns one into the other, naming also what has not changed."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    removed = {name: None for name in before if name not in after}
    return removed | {name: _difference(before.get(name), value) for name, value in after.items()}


def _metadata(values: Any, before: dict[str, Any], patch: dict[str, Any], now: str) -> dict[str, Any]:
    """When each value was last set: now where the patch touched it or nothing was known, else as before."""
    if not isinstance(values, dict):
        return {"$lastUpdated": now}
    metadata: dict[str, Any] = {"$lastUpdated": now if patch else before.get("$lastUpdated", now)}
    for name, value in values.items():
        earlier, part = before.get(name, {}), patch.get(name)
        if earlier and name not in patch:
            metadata[name] = earlier
        else:
            nested = _metadata(value, earlier, part if isinstance(part, dict) else {}, now)
            metadata[name] = nested | {"$lastUpdated": now}
    return metadata
