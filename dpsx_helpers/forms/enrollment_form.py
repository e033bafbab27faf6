"""The portal's *Add Enrollment* panel: first the fields that the quickstart fills in, then the others."""

import json
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from dpsx_helpers import certificates, tutorial
from dpsx_helpers.emulator.identity import DEVICE_ID
from dpsx_helpers.enrollments import EnrollmentRequest, check_twin
from dpsx_helpers.forms.certificate_choice import FileChoice
from dpsx_helpers.forms.form_fields import Field, Form, dropdown, radio, text, tick, typed
from dpsx_helpers.forms.form_memory import Memory
from dpsx_helpers.forms.uploads import ENROLLED_CERTIFICATE
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

EMPTY_TWIN: dict[str, Any] = {"tags": {}, "properties": {"desired": {}}}
_LARGEST_TWIN = 100_000  # characters; a hub takes some 40 KB of tags and properties

_MECHANISM_HINT = "The device shows a certificate. (Symmetric key and TPM are not part of this tutorial.)"
# Values as in enrollments.EnrollmentRequest, labels as in the portal.
_ALLOCATIONS = [
    ("Lowest latency", "geoLatency"),
    ("Evenly weighted distribution", "hashed"),
    ("Static configuration", "static"),
]
_ALLOCATION_HINTS = {
    "geoLatency": "DPS picks the hub that answers fastest to where the device connects from.",
    "hashed": "DPS spreads devices over the linked hubs.",
    "static": "The device gets the hub that is ticked below.",
}
_CUSTOM = "(Custom, which asks a program of yours, is not part of this tutorial.)"
_REPROVISIONING = [
    ("Re-provision and migrate data", "migrate"),
    ("Re-provision and reset to initial config", "reset"),
    ("Never re-provision", "never"),
]
_REPROVISIONING_HINTS = {
    "migrate": "A device that registers again may change its hub, and its twin moves along.",
    "reset": "A device that registers again may change its hub, and its twin begins with the initial state below.",
    "never": "A device that registers again keeps its hub and its twin.",
}


class EnrollmentForm(Form):
    """`value` is what the fields hold, for enrollments.save()."""

    def __init__(self, target: Target, initial_twin: dict[str, Any] | None) -> None:
        memory = self._memory = Memory("enrollment")
        self._primary = self._certificate(
            "Primary certificate .pem or .cer file", "primary", tutorial.certificate_file()
        )
        self._secondary = self._certificate("Secondary certificate .pem or .cer file (optional)", "secondary", None)
        mechanism = dropdown("Mechanism", [("X.509", "x509")], "x509", _MECHANISM_HINT)
        self._device_id = text(
            "IoT Hub Device ID (optional)", memory.get("device_id", ""), placeholder="the same as the registration ID"
        )
        self._edge = radio("IoT Edge device", [("True", True), ("False", False)], memory.get("edge", False))
        self._allocation = dropdown(
            "Select how you want to assign devices to hubs", _ALLOCATIONS, memory.get("allocation", "hashed")
        )
        ticked = memory.get("hubs", ())
        self._hubs = [tick(hub, hub in ticked) for hub in target.hubs]
        self._hubs_field = Field(_ticks("Select the IoT hubs this device can be assigned to", self._hubs))
        self._policy = dropdown(
            "Select how you want device data to be handled on re-provisioning",
            _REPROVISIONING,
            memory.get("policy", "migrate"),
        )
        self._twin = self._twin_field(json.dumps(initial_twin or EMPTY_TWIN, indent=2))
        self._enabled = radio("Enable entry", [("Enable", True), ("Disable", False)], memory.get("enabled", True))
        fields = (
            mechanism, self._primary.field, self._secondary.field, self._device_id, self._edge, self._allocation,
            self._hubs_field, self._policy, self._twin, self._enabled,
        )  # fmt: skip
        super().__init__("Add Enrollment", *fields)
        self._judge_all()
        self._try(self._tell)
        for choice in (self._primary, self._secondary):
            choice.watch(self, self._changed)
            self._on_enter(choice.text_field, self._tell)
        self._on_enter(self._device_id.widget, self._tell)
        for widget in (*(field.widget for field in self._plain()), *self._hubs):
            widget.observe(lambda change: self._changed(), names="value")

    @property
    def value(self) -> EnrollmentRequest:
        """The request; Stop when a field cannot be used, as the portal then does not save."""
        return EnrollmentRequest(
            certificate_file=self._file(self._primary),
            secondary_file=self._file(self._secondary) if self._secondary.path or self._secondary.fault else None,
            device_id=self._checked_device_id(),
            iot_edge=self._edge.widget.value,
            allocation=self._allocation.widget.value,
            iot_hubs=self._checked_hubs(),
            reprovisioning=self._policy.widget.value,
            initial_twin=self._checked_twin(),
            enabled=self._enabled.widget.value,
        )

    def _certificate(self, label: str, name: str, default: Path | None) -> FileChoice:
        kept = self._memory.get(name)
        current = Path(kept) if kept else default
        return FileChoice(
            label, f"{name} certificate", ENROLLED_CERTIFICATE, current, self._memory, optional=name == "secondary"
        )

    def _twin_field(self, initial: str) -> Field:
        # What was typed over another initial state than the cell gives now is out of date.
        self._initial_twin = initial
        before, kept = self._memory.get("twin", ("", ""))
        shown = kept if before == initial else initial
        area = widgets.Textarea(
            description="Initial device twin state (optional)", value=shown, rows=8, continuous_update=True
        )
        return Field(area)

    def _plain(self) -> tuple[Field, ...]:
        return (self._device_id, self._edge, self._allocation, self._policy, self._twin, self._enabled)

    def _changed(self) -> None:
        with self.lock:
            self._keep()
            self._judge_all()
            self._try(self._tell)

    def _keep(self) -> None:
        chosen = {
            "primary": _kept(self._primary.path) if self._primary.path != tutorial.certificate_file() else None,
            "secondary": _kept(self._secondary.path),
            "device_id": self._device_id.widget.value,
            "edge": self._edge.widget.value,
            "allocation": self._allocation.widget.value,
            "hubs": tuple(box.description for box in self._hubs if box.value),
            "policy": self._policy.widget.value,
            "twin": (self._initial_twin, self._twin.widget.value),
            "enabled": self._enabled.widget.value,
        }
        for name, value in chosen.items():
            self._memory.keep(name, value)

    def _judge_all(self) -> None:
        self._device_id.judge(
            lambda: f"The hub will know the device as {self._checked_device_id() or 'its registration ID'}."
        )
        self._edge.say("A device that runs IoT Edge modules." if self._edge.widget.value else "An ordinary device.")
        self._allocation.say(f"{_ALLOCATION_HINTS[self._allocation.widget.value]} {_CUSTOM}")
        self._hubs_field.judge(self._about_hubs)
        self._policy.say(_REPROVISIONING_HINTS[self._policy.widget.value])
        self._twin.judge(self._about_twin)
        self._enabled.say(
            "The device may register."
            if self._enabled.widget.value
            else "The entry is kept, but the device may not register."
        )

    def _tell(self) -> str:
        request = self.value
        subject = certificates.describe(request.certificate_file).subject
        how = "" if request.enabled else ", but disabled, so that it may not register,"
        return f"✔ {subject} will be enrolled{how} when you run the cell below."

    def _file(self, choice: FileChoice) -> Path:
        if choice.path is None and choice.fault:
            raise Stop(choice.fault)
        if choice.path is None:
            raise Stop("No primary certificate is chosen: choose python-device.pem, which notebook 02 makes.")
        choice.kind.describe(choice.path)
        return choice.path

    def _checked_device_id(self) -> str | None:
        device_id = typed(self._device_id.widget)
        if device_id and not DEVICE_ID.fullmatch(device_id):
            raise Stop(
                "This cannot be a device ID in an IoT hub: use at most 128 letters, digits and "
                "- . _ : + % # * ? ! ( ) , = @ ; $ ' only, or leave the field empty."
            )
        return device_id or None

    def _about_device_id(self) -> str:
        return f"The hub will know the device by {self._checked_device_id() or 'its registration ID'}."

    def _checked_hubs(self) -> tuple[str, ...]:
        ticked = tuple(box.description for box in self._hubs if box.value)
        if self._allocation.widget.value == "static" and self._hubs and not ticked:
            raise Stop("Static configuration needs to know the hub: tick one, or choose another way to assign devices.")
        return ticked

    def _about_hubs(self) -> str:
        if not self._hubs:
            return "The portal lists the hubs that are linked to your provisioning service; any of them will do."
        ticked = self._checked_hubs()
        return f"Only {' or '.join(ticked)}." if ticked else "Nothing is ticked: any hub linked to the service."

    def _checked_twin(self) -> dict[str, Any]:
        written = str(self._twin.widget.value)
        if len(written) > _LARGEST_TWIN:
            raise Stop(
                f"The initial device twin state has {len(written)} characters, more than a hub keeps: shorten it."
            )
        return check_twin(_json(written))

    def _about_twin(self) -> str:
        twin = self._checked_twin()
        desired = ", ".join(twin["properties"]["desired"])
        return f"The twin starts with the desired properties {desired}." if desired else "The twin starts empty."


def _kept(path: Path | None) -> str | None:
    return str(path) if path else None


def _ticks(label: str, boxes: list[widgets.Checkbox]) -> widgets.VBox:
    column = widgets.VBox([widgets.Label(label), *boxes])
    column.add_class("dpsx-ticks")
    return column


def _json(written: str) -> Any:
    try:
        return json.loads(written) if written.strip() else EMPTY_TWIN
    except (ValueError, RecursionError) as error:
        place = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "somewhere"
        raise Stop(f"The initial device twin state is not JSON ({place}): mend it and run this cell again.") from error
