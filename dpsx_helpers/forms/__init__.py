"""Widgets that collect. They act on nothing: network work happens in cells (only the device list, as in the portal,
has buttons that act).

A widget's value is saved with the notebook's widget state, so a pass phrase is taken out of its field, and
the field emptied, in the very event that brings it; its fields sync only on Enter or when left. That event
may come in another thread (ipykernel runs it in a subshell while a cell is busy), so taking is locked. What a
form displays as plain text names the form and none of its values.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dpsx_helpers import access, certificates, joining, targets, tutorial
from dpsx_helpers.display import View, note
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.forms.access_form import AccessForm
from dpsx_helpers.forms.certificate_choice import FileChoice
from dpsx_helpers.forms.device_list import DeviceList
from dpsx_helpers.forms.enrollment_form import EnrollmentForm
from dpsx_helpers.forms.form_fields import ENTER_EMPTIES, Field, Form, radio, text, tick, typed
from dpsx_helpers.forms.form_memory import Memory
from dpsx_helpers.forms.uploads import DEVICE_CERTIFICATE, DEVICE_KEY
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

_WHEN_DONE = "Press Enter when you are done."
_WHERE = {
    "emulator": "Everything stays on this machine; ID scope, endpoint and hub are filled in for you.",
    "class": "The emulator of your class is your teacher's; ID scope, endpoint and registration ID are filled in for "
    "you. `dpsx leave` in a terminal goes back to one on this machine.",
    "azure": "You need an Azure account with a provisioning service and a linked hub, as described above.",
}


class _TargetForm(Form):
    def __init__(self) -> None:
        self._emulator = "class" if joining.current(tutorial.work_dir()) else "emulator"
        whose = "of my class" if self._emulator == "class" else "on this machine"
        options = [(f"the emulator {whose}", "emulator"), ("my Azure subscription", "azure")]
        self._choice = radio("Work with", options, tutorial.target(), self._where(tutorial.target()))
        super().__init__("Which service?", self._choice)
        self._say("The notebooks remember the choice; you can change it here at any time.")
        self._choice.widget.observe(lambda change: self._try(self._take), names="value")

    @property
    def value(self) -> str:
        return str(self._choice.widget.value)

    def _where(self, target: str) -> str:
        return _WHERE[self._emulator if target == "emulator" else target]

    def _take(self) -> str:
        self._choice.say(self._where(self.value))
        tutorial.enter("target", self.value)
        label = self._choice.widget.label
        return f"✔ From now on every notebook works with {label}: run the cells below (again)."


@dataclass(frozen=True)
class _Input:
    """A text field for one input of the tutorial."""

    name: str
    label: str
    check: Callable[[str], str]  # returns the value to take, or raises a LearnerError
    current: Callable[[], str]  # the value in use, "" when there is none
    placeholder: str
    hint: str
    remark: Callable[[str], str] = lambda value: "."


class _TextForm(Form):
    """Text fields that are checked with every key, and taken when good."""

    def __init__(self, title: str, intro: str, then: str, *inputs: _Input) -> None:
        self._inputs, self._then = inputs, then
        self._memory = Memory(title)
        fields = [self._field(one) for one in inputs]
        super().__init__(title, *fields, intro=intro)
        self._say(_WHEN_DONE)
        self._entered = False
        self._settle()
        for one, field in zip(inputs, fields, strict=True):
            self._watch(one, field)

    def _settle(self) -> None:
        """What is in use now comes back when the text in its field turns out to be wrong."""
        self._settled = {one.name: tutorial.held(one.name) for one in self._inputs}

    def _field(self, one: _Input) -> Field:
        draft = self._memory.get(one.name)
        field = text(one.label, one.current() if draft is None else draft, one.hint, one.placeholder)
        if draft is not None or field.widget.value:
            field.judge(lambda: self._look(one, field))
        return field

    def _look(self, one: _Input, field: Field) -> str:
        """What is said of the text in the field; a LearnerError that also says which value stays in use."""
        try:
            value = one.check(typed(field.widget))
        except LearnerError as error:
            raise Stop(f"{error}{self._still(one)}") from error
        return f"{one.label} is {value}{one.remark(value)}"

    def _still(self, one: _Input) -> str:
        current = one.current()
        return f" {current} stays in use." if current else " None is in use yet."

    def _watch(self, one: _Input, field: Field) -> None:
        def changed(change: Any) -> None:
            with self.lock:
                field.judge(lambda: self._take(one, field))
                if self._entered:
                    self._try(self._outcome)
                else:
                    self._say(_WHEN_DONE)

        field.widget.observe(changed, names="value")
        self._on_enter(field.widget, self._enter)

    def _take(self, one: _Input, field: Field) -> str:
        self._memory.keep(one.name, field.widget.value)
        try:
            one.check(typed(field.widget))
        except LearnerError:
            tutorial.put_back(one.name, self._settled[one.name])  # a beginning of the text may have been good
        said = self._look(one, field)
        tutorial.enter(one.name, typed(field.widget))
        self._memory.keep(one.name, None)
        return said

    def _enter(self) -> str:
        self._entered = True  # a browser may send Enter before the last keys: from now on the outcome follows them
        return self._outcome()

    def _outcome(self) -> str:
        refused = [one.label for one in self._inputs if self._memory.get(one.name) is not None]
        if refused:
            raise Stop(f"{' and '.join(refused)} cannot be used as it is now: see below the field.")
        if missing := [one.label for one in self._inputs if not one.current()]:
            raise Stop(f"{' and '.join(missing)} is still empty.")
        return f"✔ In use: {', '.join(f'{one.label} {one.current()}' for one in self._inputs)}. {self._then}"


class _SecretForm(Form):
    _LABELS = ("Enter PEM pass phrase", "Verifying - Enter PEM pass phrase")

    def __init__(self, twice: bool) -> None:
        self._first: tutorial.Secret | None = None
        self._twice = twice
        labels = self._LABELS if twice else self._LABELS[:1]
        self._fields = [
            self._secret_field(label, partial(self._taken, number), ENTER_EMPTIES)
            for number, label in enumerate(labels)
        ]
        super().__init__("Pass phrase of the private key", *self._fields)
        self._say(self._standing())

    def _standing(self) -> str:
        found = tutorial.known("pass_phrase")
        if found and found[0]:
            return f"✔ A pass phrase is known in this kernel already ({found[1]}); type another one to replace it."
        if tutorial.target() == "emulator" and self._test_value_will_do():
            return f"Without an entry the test value {tutorial.TEST_PASS_PHRASE} is used."
        return "No pass phrase is known in this kernel yet."

    def _test_value_will_do(self) -> bool:
        return self._twice or not os.path.exists(tutorial.key_file()) or tutorial.opens(tutorial.TEST_PASS_PHRASE)

    def _taken(self, number: int, secret: tutorial.Secret) -> None:
        for field in self._fields:
            field.say(ENTER_EMPTIES)
        try:
            said, outcome = self._take(secret, number)
        except LearnerError as error:
            said, outcome = f"✘ {error}", self._standing()
        self._fields[number].say(said)
        self._say(outcome)

    def _take(self, secret: tutorial.Secret, number: int) -> tuple[str, str]:
        """What to say below the field and in the line of the form."""
        if not self._twice:
            return self._take_single(secret)
        if number == 0:
            self._first = secret
            return "✔ Taken; now type it again in the second field.", self._standing()
        first, self._first = self._first, None
        if first is None:
            raise Stop("Type the pass phrase in the first field, then again in the second.")
        if str.__ne__(first, secret):
            raise Stop("The two pass phrases differ: type both again.")
        tutorial.enter("pass_phrase", secret)
        kept = "the pass phrase is kept in this kernel's memory only"
        return "✔ The same as above.", f"✔ Both entries agree; {kept}. Run the cells below."

    def _take_single(self, secret: tutorial.Secret) -> tuple[str, str]:
        if os.path.exists(tutorial.key_file()) and not tutorial.opens(secret):
            raise Stop(f"That pass phrase does not open {tutorial.key_file().name}: type it again.")
        tutorial.enter("pass_phrase", secret)
        opened = f"✔ It opens {tutorial.key_file().name}." if os.path.exists(tutorial.key_file()) else "✔ Taken."
        return opened, "✔ Taken; the pass phrase is kept in this kernel's memory only. Run the cells below."


class _FilesForm(Form):
    def __init__(self) -> None:
        memory = Memory("files")
        self._choices = {
            "certificate_file": FileChoice(
                "Certificate file", "certificate", DEVICE_CERTIFICATE, tutorial.certificate_file(), memory
            ),
            "key_file": FileChoice("Private key file", "private key", DEVICE_KEY, tutorial.key_file(), memory),
        }
        intro = "Choose from the work folder, give the path of your own file, or upload a certificate into that folder."
        super().__init__("Which certificate and key?", *(one.field for one in self._choices.values()), intro=intro)
        self._try(self._outcome)
        for name, choice in self._choices.items():
            choice.watch(self, lambda name=name: self._take(name))  # type: ignore[misc]
            self._on_enter(choice.text_field, self._outcome)

    @property
    def value(self) -> tuple[Path, Path]:
        return tutorial.certificate_file(), tutorial.key_file()

    def _take(self, name: str) -> None:
        path, known = self._choices[name].path, dict(zip(self._choices, self.value, strict=True))
        if path and path != known[name]:
            tutorial.enter(name, str(path))
        self._try(self._outcome)

    def _outcome(self) -> str:
        certificate, key = self.value
        if not os.path.exists(certificate) and not os.path.exists(key):
            return "The cell above that makes the pair has not run yet."
        if tutorial.opens(phrase := (tutorial.known("pass_phrase") or (tutorial.TEST_PASS_PHRASE,))[0]):
            certificates.check_pair(certificate, key, phrase)
        return f"✔ In use: {certificate.name} and {key.name}. Run the cells below."


class _CleanUpForm(Form):
    def __init__(self, target: Target) -> None:
        options = [
            ("continue: keep everything for later", False),
            ("clean up: delete what this tutorial made", True),
        ]
        self._azure = not target.is_emulator
        self._memory = Memory("clean up")
        self._choice = radio("What next?", options, self._memory.get("choice", target.is_emulator))
        self._sure = tick("Yes, delete in my Azure subscription", self._memory.get("sure", False))
        super().__init__("Continue or clean up?", self._choice, *((self._sure,) if self._azure else ()))
        self._say(self._told())
        for widget in (self._choice.widget, self._sure):
            widget.observe(lambda change: self._try(self._tell), names="value")

    @property
    def value(self) -> bool:
        """True: clean up. On Azure only when the box is ticked too."""
        return bool(self._choice.widget.value and (self._sure.value or not self._azure))

    def _tell(self) -> str:
        self._memory.keep("choice", self._choice.widget.value)
        self._memory.keep("sure", self._sure.value)
        return self._told()

    def _told(self) -> str:
        if self._choice.widget.value and not self.value:
            return "Tick the box as well: this deletes in your own subscription."
        return "✔ The cells below will clean up." if self.value else "✔ The cells below will keep everything."


def target() -> _TargetForm:
    """Emulator or Azure; remembered for every notebook."""
    return _TargetForm()


def connection(target: Target) -> Form:
    """ID scope and global device endpoint, as the Overview page shows them."""
    scope = _Input(
        "id_scope",
        "ID Scope",
        targets.check_id_scope,
        lambda: _known("id_scope", target.scope or ""),
        "0ne00ABC123",
        "The Overview page of your provisioning service shows it.",
        lambda value: f" (hint: {hint})." if (hint := targets.id_scope_hint(value)) else ".",
    )
    host = _Input(
        "host",
        "Global device endpoint",
        targets.check_host,
        lambda: _known("host", target.host),
        targets.GLOBAL_ENDPOINT,
        f"On Azure it is {targets.GLOBAL_ENDPOINT} for everybody.",
        lambda value: f" (hint: {hint})." if (hint := targets.host_hint(value)) else ".",
    )
    return _TextForm("Connection", "The Overview page shows both.", "Run the cells below.", scope, host)


def service_access(target: Target) -> Form | View:
    """Connection strings of DPS and hub, so that the cells act on Azure; on the emulator, which needs none, a note."""
    if target.is_emulator:
        return note("Nothing to enter: on the emulator the cells have access to both services already.")
    return AccessForm()


def sign_in(target: Target) -> Form | View:
    """The two hosts at which the cells act as whoever is signed in (`az login`), without any key."""
    if target.is_emulator:
        return note("Nothing to enter: nobody signs in at the emulator.")
    hosts = {
        "dps": ("Service endpoint", "my-dps.azure-devices-provisioning.net", "your provisioning service"),
        "hub": ("Hostname of the IoT hub", "my-hub.azure-devices.net", "your IoT hub"),
    }
    fields = [
        _Input(
            access.HOSTS[owner],
            label,
            partial(access.check_service_host, owner=owner),
            partial(_known, access.HOSTS[owner], ""),
            example,
            f"The Overview page of {whose} shows it.",
        )
        for owner, (label, example, whose) in hosts.items()
    ]
    then = "Sign in with `az login`, then run the cells below."
    return _TextForm("Act as who is signed in (optional)", "No key is needed for this.", then, *fields)


def registration_id() -> Form:
    """The device's registration ID, which becomes the certificate's subject."""
    default = tutorial.TEST_REGISTRATION_ID if tutorial.target() == "emulator" else ""
    if (join := tutorial.joined()) is not None:
        default = join.registration_id
    name = _Input(
        "registration_id",
        "Registration ID",
        tutorial.check_registration_id,
        lambda: _known("registration_id", default),
        tutorial.TEST_REGISTRATION_ID,
        "Letters, digits and - . _ : with a letter, digit or - at the end.",
    )
    return _TextForm("Name of the device", "", "Run the cell that makes the certificate.", name)


def _known(name: str, default: str) -> str:
    found = tutorial.known(name)
    return found[0] if found else default


def pass_phrase(twice: bool = True) -> Form:
    """The pass phrase, twice as openssl asks; `twice` False asks once and tries it on the key on disk."""
    return _SecretForm(twice)


def certificate_files() -> _FilesForm:
    """Which certificate and key to use: the tutorial's, or the learner's own."""
    return _FilesForm()


def enrollment(target: Target, initial_twin: dict[str, Any] | None = None) -> EnrollmentForm:
    """The portal's Add Enrollment panel; its `value` is for enrollments.save()."""
    return EnrollmentForm(target, initial_twin)


def devices(target: Target) -> DeviceList:
    """The hub's list of devices, with Refresh and Delete; on Azure, where to find it in the portal."""
    return DeviceList(target)


def clean_up(target: Target) -> _CleanUpForm:
    """Continue (the default on Azure) or clean up (the default on the emulator)."""
    return _CleanUpForm(target)
