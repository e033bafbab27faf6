"""Widgets that collect. They act on nothing: network work happens in cells.

A widget's value is saved with the notebook's widget state, so a pass phrase is taken out of its field, and
the field emptied, in the very event that brings it; its fields sync only on Enter or when left. That event
may come in another thread (ipykernel runs it in a subshell while a cell is busy), so taking is locked. What a
form displays as plain text names the form and none of its values.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from dpsx_helpers import certificates, targets, tutorial
from dpsx_helpers.enrollments import check_twin
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

_LABEL = {"description_width": "20em"}  # the longest label of any form
_FIELD = {"width": "46em"}
EMPTY_TWIN: dict[str, Any] = {"tags": {}, "properties": {"desired": {}}}


@dataclass(frozen=True)
class EnrollmentRequest:
    """What the enrollment form holds: arguments of enrollments.save()."""

    certificate_file: Path
    iot_hub: str | None
    initial_twin: dict[str, Any]


class Form:
    """A titled column of labelled fields with one line of text below that says what was taken or what is
    wrong.
    """

    def __init__(self, title: str, *fields: widgets.Widget) -> None:
        self._title = title
        self._status = widgets.HTML()
        heading = widgets.HTML(f"<strong>{escape(title)}</strong>")
        self._box = widgets.VBox([heading, *fields, self._status])

    def __repr__(self) -> str:
        return f"[form: {self._title}]"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = dict(self._box._repr_mimebundle_(include=include, exclude=exclude))
        bundle["text/plain"] = repr(self)
        return bundle

    @property
    def status(self) -> str:
        """The line below the fields, as HTML."""
        return str(self._status.value)

    def _say(self, text: str) -> None:
        self._status.value = f'<span role="status">{escape(text)}</span>'

    def _try(self, action: Callable[[], str]) -> None:
        """Show what the action says, or the sentence it raises, beside the fields."""
        try:
            self._say(action())
        except LearnerError as error:
            self._say(f"✘ {error}")


class _TargetForm(Form):
    def __init__(self) -> None:
        options = [("the emulator on this machine", "emulator"), ("my Azure subscription", "azure")]
        self._choice = widgets.RadioButtons(
            description="Work with", options=options, value=tutorial.target(), style=_LABEL, layout=_FIELD
        )
        super().__init__("Which service?", self._choice)
        self._choice.observe(lambda change: self._try(self._take), names="value")

    @property
    def value(self) -> str:
        return str(self._choice.value)

    def _take(self) -> str:
        tutorial.enter("target", self.value)
        return f"✔ From now on every notebook works with {self._choice.label}: run the cells below (again)."


class _TextForm(Form):
    """Text fields that are checked, and taken when good, each as soon as it is left."""

    def __init__(self, title: str, *fields: tuple[str, str, str, Callable[[str], str]]) -> None:
        """Each field: (input name, label, value, check that returns the value to take or raises a
        LearnerError).
        """
        self._fields = {name: _text(label, value) for name, label, value, _ in fields}
        super().__init__(title, *self._fields.values())
        for name, _, _, check in fields:
            self._observe(name, check)

    def _observe(self, name: str, check: Callable[[str], str]) -> None:
        field = self._fields[name]
        field.observe(lambda change: self._try(lambda: self._take(name, check)), names="value")

    def _take(self, name: str, check: Callable[[str], str]) -> str:
        field = self._fields[name]
        value = check(field.value.strip())
        tutorial.enter(name, value)
        hint = targets.id_scope_hint(value) if name == "id_scope" else None
        return f"✔ {field.description} is now {value}" + (f" (hint: {hint})." if hint else ".")


def _text(label: str, value: str) -> widgets.Text:
    return widgets.Text(description=label, value=value, continuous_update=False, style=_LABEL, layout=_FIELD)


class _SecretForm(Form):
    def __init__(self, twice: bool) -> None:
        self._lock = threading.RLock()
        self._first: tutorial.Secret | None = None
        labels = ("Enter PEM pass phrase", "Verifying - Enter PEM pass phrase") if twice else ("Enter PEM pass phrase",)
        fields = [self._secret(label, number) for number, label in enumerate(labels)]
        self._twice = twice
        super().__init__("Pass phrase of the private key", *fields)
        self._say("Press Enter (or leave the field) after typing; the field then empties itself.")

    def _secret(self, label: str, number: int) -> widgets.Password:
        field = widgets.Password(description=label, continuous_update=False, style=_LABEL, layout=_FIELD)
        field.observe(lambda change: self._empty(field, number), names="value")
        return field

    def _empty(self, field: widgets.Password, number: int) -> None:
        with self._lock:
            typed = tutorial.Secret(field.value)
            if not typed:
                return  # the emptying below comes back as an event of its own
            field.value = ""
            self._try(lambda: self._take(typed, number))

    def _take(self, typed: tutorial.Secret, number: int) -> str:
        if not self._twice:
            return self._take_single(typed)
        if number == 0:
            self._first = typed
            return "Taken; now type it again in the second field."
        first, self._first = self._first, None
        if first is None:
            raise Stop("Type the pass phrase in the first field, then again in the second.")
        if str.__ne__(first, typed):
            raise Stop("The two pass phrases differ: type both again.")
        tutorial.enter("pass_phrase", typed)
        return "✔ Both entries agree; the pass phrase is kept in this kernel's memory only."

    def _take_single(self, typed: tutorial.Secret) -> str:
        if tutorial.key_file().exists() and not tutorial.opens(typed):
            raise Stop(f"That pass phrase does not open {tutorial.key_file().name}: type it again.")
        tutorial.enter("pass_phrase", typed)
        return "✔ Taken; the pass phrase is kept in this kernel's memory only."


class _FilesForm(_TextForm):
    def __init__(self) -> None:
        certificate, key = tutorial.certificate_file(), tutorial.key_file()
        super().__init__(
            "Which certificate and key?",
            ("certificate_file", "Certificate file", str(certificate), _existing_certificate),
            ("key_file", "Private key file", str(key), _existing_file),
        )
        self._say("These are the files that this tutorial makes and uses; enter other paths to bring your own.")

    @property
    def value(self) -> tuple[Path, Path]:
        return tutorial.certificate_file(), tutorial.key_file()


def _existing_file(text: str) -> str:
    path = Path(text).expanduser().absolute()
    if not text or not path.is_file():
        raise Stop(f"There is no file {path}: enter the path of an existing file, or make the pair in notebook 02.")
    return str(path)


def _existing_certificate(text: str) -> str:
    path = _existing_file(text)
    certificates.describe(Path(path))
    return path


class _EnrollmentForm(Form):
    def __init__(self, target: Target, initial_twin: dict[str, Any] | None) -> None:
        mechanism = widgets.Dropdown(description="Mechanism", options=["X.509"], style=_LABEL, layout=_FIELD)
        self._file = _text("Primary certificate .pem or .cer file", str(tutorial.certificate_file()))
        hubs = [("any hub linked to the service", None), *((hub, hub) for hub in target.hubs)]
        self._hub = widgets.Dropdown(description="IoT hub (optional)", options=hubs, style=_LABEL, layout=_FIELD)
        twin = json.dumps(initial_twin or EMPTY_TWIN, indent=2)
        self._twin = widgets.Textarea(
            description="Initial device twin state (optional)",
            value=twin,
            rows=8,
            continuous_update=False,
            style=_LABEL,
            layout=_FIELD,
        )
        super().__init__("Add Enrollment", mechanism, self._file, self._hub, self._twin)
        for field in (self._file, self._hub, self._twin):
            field.observe(lambda change: self._try(self._check), names="value")

    @property
    def value(self) -> EnrollmentRequest:
        """The request; Stop when a field cannot be used."""
        path = Path(_existing_certificate(self._file.value.strip()))
        return EnrollmentRequest(path, self._hub.value, check_twin(_json(self._twin.value)))

    def _check(self) -> str:
        request = self.value
        subject = certificates.describe(request.certificate_file).subject
        return f"✔ {subject} will be enrolled when you run the cell below."


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else EMPTY_TWIN
    except ValueError as error:
        place = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "somewhere"
        raise Stop(f"The initial device twin state is not JSON ({place}): mend it and run this cell again.") from error


class _CleanUpForm(Form):
    def __init__(self, target: Target) -> None:
        options = [
            ("continue: keep everything for later", False),
            ("clean up: delete what this tutorial made", True),
        ]
        self._azure = not target.is_emulator
        self._choice = widgets.RadioButtons(
            description="What next?", options=options, value=target.is_emulator, style=_LABEL, layout=_FIELD
        )
        self._sure = widgets.Checkbox(description="Yes, delete in my Azure subscription", value=False, indent=False)
        super().__init__("Continue or clean up?", self._choice, *((self._sure,) if self._azure else ()))
        for field in (self._choice, self._sure):
            field.observe(lambda change: self._try(self._tell), names="value")

    @property
    def value(self) -> bool:
        """True: clean up. On Azure only when the box is ticked too."""
        return bool(self._choice.value and (self._sure.value or not self._azure))

    def _tell(self) -> str:
        if self._choice.value and not self.value:
            return "Tick the box as well: this deletes in your own subscription."
        return "✔ The cells below will clean up." if self.value else "✔ The cells below will keep everything."


def target() -> _TargetForm:
    """Emulator or Azure; remembered for every notebook."""
    return _TargetForm()


def connection(target: Target) -> Form:
    """ID scope and global device endpoint, as the Overview page shows them."""
    return _TextForm(
        "Connection",
        ("id_scope", "ID Scope", target.scope or "", targets.check_id_scope),
        ("host", "Global device endpoint", target.host, targets.check_host),
    )


def registration_id() -> Form:
    """The device's registration ID, which becomes the certificate's subject."""
    found = tutorial.known("registration_id")
    default = tutorial.TEST_REGISTRATION_ID if tutorial.target() == "emulator" else ""
    value = found[0] if found else default
    return _TextForm(
        "Name of the device",
        ("registration_id", "Registration ID", value, certificates.check_registration_id),
    )


def pass_phrase(twice: bool = True) -> Form:
    """The pass phrase, twice as openssl asks; `twice` False asks once and tries it on the key on disk."""
    return _SecretForm(twice)


def certificate_files() -> _FilesForm:
    """Which certificate and key to use: the tutorial's, or the learner's own."""
    return _FilesForm()


def enrollment(target: Target, initial_twin: dict[str, Any] | None = None) -> _EnrollmentForm:
    """The portal's Add Enrollment panel."""
    return _EnrollmentForm(target, initial_twin)


def clean_up(target: Target) -> _CleanUpForm:
    """Continue (the default on Azure) or clean up (the default on the emulator)."""
    return _CleanUpForm(target)
