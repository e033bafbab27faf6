"""A device twin: what the cloud wants beside what the device says."""

import json
from html import escape
from typing import Any

from dpsx_helpers import twins
from dpsx_helpers.display import View, note, prose, stacked, table
from dpsx_helpers.targets import Target

_NO = object()
_MOST = 60  # characters of a value in the plain text, whose columns are as wide as what is in them


def twin(target: Target, device_id: str) -> View:
    """Desired and reported properties side by side, their versions, and whether the device has followed."""
    seen = twins.get(target, device_id)
    if seen is None:
        return note(f"The hub has no device {device_id}.")
    headers = ("PROPERTY", "DESIRED", "REPORTED", "IS IT SO?")
    names = [*seen.desired, *(name for name in seen.reported if name not in seen.desired)]
    rows = [_row(name, seen.desired.get(name, _NO), seen.reported.get(name, _NO)) for name in names]
    versions = ("$version", str(seen.desired_version), str(seen.reported_version), "each counts for itself")
    caption = f"The twin of {device_id}"
    return stacked(table(caption, headers, [*rows, versions]), prose(_verdict(seen)))


def _row(name: str, desired: Any, reported: Any) -> tuple[str | View, ...]:
    if desired is _NO:
        so = "the device's own"
    elif reported is _NO:
        so = "✘ not reported"
    else:
        so = "✔ yes" if desired == reported else "✘ no"
    return name, _cell(desired), _cell(reported), so


def _cell(value: Any) -> str | View:
    text = _shown(value)
    return text if len(text) <= _MOST else View(escape(text), f"{text[: _MOST - 1]}…")


def _shown(value: Any) -> str:
    return "(none)" if value is _NO else json.dumps(value, ensure_ascii=False)


def _verdict(seen: twins.Twin) -> str:
    tags = f"Tags, which the device never sees: {_shown(seen.tags)}."
    if seen.adopted is None:
        return f"The device has not reported yet. {tags}"
    follows = "✔ The device follows" if seen.followed else "✘ The device does not follow"
    return f"{follows}: it has adopted version {seen.adopted} of {seen.desired_version}. {tags}"
