"""What the SDK's register() gave back, field by field."""

from html import escape
from typing import Any

from dpsx_helpers.display import GREEN, INK, ORANGE, SURFACE, View, moment, note, stacked, table

# https://learn.microsoft.com/rest/api/iot-dps/device/runtime-registration/register-device
_MEANINGS = {
    "status": "What became of the request. “assigned” is the good end; after “failed” or “disabled” there is no hub.",
    "device_id": "The name of the device in the hub, which is what you look for in the portal.",
    "assigned_hub": "The address of the hub that DPS chose. From now on the device talks to it, and no longer to DPS.",
    "sub_status": "How it came to this hub. “initialAssignment” means that DPS chose it without moving old data.",
    "created_date_time": "When DPS first registered this device. It stays the same when the device registers again.",
    "last_update_date_time": "When DPS last wrote this record, which it does at each registration.",
    "etag": "The version of this record. Programs compare it, so as not to overwrite what somebody else has changed.",
    "response_payload": "Data from your own allocation program (custom allocation). Without such a program it is null.",
    "operation_id": "The number of this request. The SDK asked DPS about it until the answer was ready.",
}
_TIMES = ("created_date_time", "last_update_date_time")


def registration(result: Any) -> View:
    """Every field of the SDK's RegistrationResult, with what it means; status and hub in front. None: no result yet."""
    if result is None:
        return note(
            "There is no registration result: the cell with register() has not run, or it ended with a failure."
        )
    state = result.registration_state
    values = {
        name: str(getattr(result if name in ("status", "operation_id") else state, name, None)) for name in _MEANINGS
    }
    for name in _TIMES:
        shown = moment(values[name])
        values[name] = f"{shown} UTC" if shown != values[name] else shown
    rows = [(name, _value(name, values[name]), meaning) for name, meaning in _MEANINGS.items()]
    fields = table("The complete registration result", ("Field", "Value", "Meaning"), rows)
    return stacked(_headline(values), fields)


def _value(name: str, text: str) -> str | View:
    stands_out = name in ("status", "assigned_hub")
    return View(f"<strong>{escape(text)}</strong>", text) if stands_out else text


def _headline(values: dict[str, str]) -> View:
    if values["status"] == "assigned":
        text, colour = f"✔ assigned: {values['device_id']} belongs to the hub {values['assigned_hub']}", GREEN
    else:
        text, colour = f"✘ {values['status']}: DPS answered, but assigned no hub", ORANGE
    style = (
        f"border-left:4px solid {colour};padding:0.4em 0.8em;margin:0.3em 0;font-size:1.15em;overflow-wrap:anywhere;"
        f"color:{INK};background:{SURFACE}"
    )
    return View(f'<p style="{style}"><strong>{escape(text)}</strong></p>', text)
