import errno
import json
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import nbformat
import pytest
from devices import NAME, odd_pair, provision, set_variables
from leaks import body, traces
from nbclient import NotebookClient
from processes import RunningEmulator, wait_for

from dpsx_helpers import certificates, enrollments, forms, given_files, registry, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.enrollments import EnrollmentRequest
from dpsx_helpers.forms import form_memory
from dpsx_helpers.forms.form_style import ENDED
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]
CANARY = "canary-4711"
COLLECTING = (
    widgets.Text,
    widgets.Textarea,
    widgets.Dropdown,
    widgets.RadioButtons,
    widgets.Checkbox,
    widgets.FileUpload,
    widgets.Button,
)
ODD_TEXTS = (
    "",
    "   ",
    "x" * 1_000_000,
    "a\0b",
    "a\nb",
    "\x1b[31m",
    "\ud800",
    "<b>bold</b>",
    "/",
    "~nobody-of-this-name/x",
)


def walk(widget: Any) -> Iterator[Any]:
    """The widgets of a form, in the order in which the keyboard comes to them."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def fields(form: forms.Form, kind: Any = COLLECTING) -> list[Any]:
    return [widget for widget in walk(form._box) if isinstance(widget, kind)]


def labelled(form: forms.Form, label: str) -> Any:
    (found,) = [field for field in fields(form) if field.description == label]
    return found


def beside(form: forms.Form, label: str) -> str:
    """The sentence below this field, as HTML."""
    field = labelled(form, label)
    (box,) = [one for one in walk(form._box) if field in getattr(one, "children", ())]
    sentence: str = box.children[-1].value
    return sentence


def type_in(field: Any, value: Any) -> None:
    """What a front end sends when the learner leaves the field, or with every key."""
    field.set_state({"value": value})


def choose(field: Any, label: str) -> None:
    """What a front end sends when the learner chooses from a list."""
    (index,) = [number for number, text in enumerate(field._options_labels) if label in text]
    field.set_state({"index": index})


def press_enter(field: Any) -> None:
    field._handle_custom_msg({"event": "submit"}, [])


def press(button: widgets.Button) -> None:
    button._handle_custom_msg({"event": "click"}, [])


def upload(field: widgets.FileUpload, name: str, content: bytes) -> None:
    sent = {"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": 0}
    field.set_state({"value": [sent]})


def saved(form: forms.Form) -> bytes:
    """Everything that a notebook file could hold of this form, and what kernel memory keeps of forms."""
    return json.dumps(
        [widgets.Widget.get_manager_state(), form._repr_mimebundle_(), repr(form), repr(form_memory._kept)], default=str
    ).encode()


def every_form(target: Target) -> list[forms.Form]:
    return [
        forms.target(),
        forms.connection(target),
        forms.registration_id(),
        forms.pass_phrase(),
        forms.pass_phrase(twice=False),
        forms.certificate_files(),
        forms.enrollment(target),
        forms.devices(target),
        forms.clean_up(target),
    ]


# --- what all forms have in common ----------------------------------------------------------------


def test_every_form_shows_itself_with_labels_and_without_values(emulated: Target) -> None:
    for form in every_form(emulated):
        bundle = form._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert fields(form)
        assert all(field.description for field in fields(form))
        if not isinstance(form, forms.DeviceList):
            assert bundle["text/plain"] == repr(form) == f"[form: {form._title}]"


def test_labels_of_one_form_differ(emulated: Target) -> None:
    for form in every_form(emulated):
        labels = [field.description for field in fields(form)]
        assert len(labels) == len(set(labels))


def test_making_forms_changes_nothing(emulated: Target, work: Path) -> None:
    every_form(emulated)
    assert tutorial._entered == {}
    assert not (work / "tutorial.json").exists()


def test_making_forms_warns_of_nothing(emulated: Target) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in every_form(emulated):
            for field in fields(form, widgets.Text):
                press_enter(field)


def test_text_is_looked_at_with_every_key_and_secrets_are_not(emulated: Target) -> None:
    for form in every_form(emulated):
        for field in fields(form, (widgets.Text, widgets.Textarea)):
            assert field.continuous_update is not isinstance(field, widgets.Password)


@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_odd_texts_meet_a_sentence_and_stay_in_the_field(emulated: Target, odd: str) -> None:
    for form in every_form(emulated):
        for field in fields(form, (widgets.Text, widgets.Textarea)):
            type_in(field, odd)
            press_enter(field)
            if not isinstance(field, widgets.Password):
                assert field.value == odd
            assert "<b>" not in form.status
        assert len(form.status) < 2000
        for note in fields(form, widgets.HTML):
            assert "<b>" not in note.value
            assert len(note.value) < 10_000
    tutorial.registration_id()
    targets.current()


def test_events_may_come_from_several_threads(emulated: Target) -> None:
    form = forms.connection(emulated)
    scopes = [f"0ne{number:08}" for number in range(20)]
    threads = [threading.Thread(target=type_in, args=(labelled(form, "ID Scope"), scope)) for scope in scopes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert targets.current().scope in scopes
    assert "✔ ID Scope is 0ne" in beside(form, "ID Scope")


# --- the target -----------------------------------------------------------------------------------


def test_the_target_is_remembered(work: Path) -> None:
    form = forms.target()
    assert form.value == "emulator"
    labelled(form, "Work with").value = "azure"
    assert tutorial.target() == "azure"
    assert form.value == "azure"
    assert "✔" in form.status
    assert "Azure account" in beside(form, "Work with")
    assert forms.target().value == "azure"


def test_a_damaged_file_shows_as_a_sentence_beside_the_field(work: Path) -> None:
    form = forms.target()
    (work / "tutorial.json").write_text("{")
    labelled(form, "Work with").value = "azure"
    assert "is damaged" in form.status


# --- the pass phrase ------------------------------------------------------------------------------


def test_two_equal_pass_phrases_are_taken_and_leave_no_trace(work: Path) -> None:
    form = forms.pass_phrase()
    first, second = fields(form, widgets.Password)
    type_in(first, CANARY)
    assert first.value == ""
    assert "again in the second" in beside(form, first.description)
    type_in(second, CANARY)
    assert second.value == ""
    assert tutorial.pass_phrase() == CANARY
    assert "agree" in form.status
    assert traces(saved(form), CANARY) == []
    assert CANARY not in repr(vars(form))


def test_two_different_pass_phrases_are_refused_beside_the_field(work: Path) -> None:
    form = forms.pass_phrase()
    first, second = fields(form, widgets.Password)
    type_in(first, CANARY)
    type_in(second, CANARY + "x")
    assert "✘ The two pass phrases differ" in beside(form, second.description)
    assert tutorial.known("pass_phrase") is None
    assert traces(saved(form), CANARY) == []
    type_in(second, CANARY)
    assert "first field" in beside(form, second.description)
    assert tutorial.known("pass_phrase") is None


def test_asked_once_the_pass_phrase_is_tried_on_the_key(work: Path) -> None:
    certificates.create(NAME, CANARY, work, key_type="ec-p256")
    form = forms.pass_phrase(twice=False)
    (field,) = fields(form, widgets.Password)
    type_in(field, "wrong")
    assert "does not open" in beside(form, field.description)
    assert tutorial.known("pass_phrase") is None
    type_in(field, CANARY)
    assert tutorial.pass_phrase() == CANARY
    assert traces(saved(form), CANARY) == []


def test_a_form_made_again_says_that_a_pass_phrase_is_known(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "test value 1234" in forms.pass_phrase().status
    monkeypatch.setenv("DPSX_PASS_PHRASE", CANARY)
    assert "known in this kernel already (from the environment variable" in forms.pass_phrase().status
    for field in fields(forms.pass_phrase(), widgets.Password):
        type_in(field, CANARY)
    again = forms.pass_phrase(twice=False)
    assert "already (entered in this notebook)" in again.status
    assert traces(saved(again), CANARY) == []


def test_pass_phrases_from_other_threads_leave_no_trace(work: Path) -> None:
    form = forms.pass_phrase()
    first, second = fields(form, widgets.Password)
    for field in (first, second):
        threads = [threading.Thread(target=type_in, args=(field, CANARY)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert field.value == ""
    assert tutorial.pass_phrase() == CANARY
    assert traces(saved(form), CANARY) == []


# --- connection and name --------------------------------------------------------------------------


def test_connection_takes_good_values_and_explains_bad_ones(emulated: Target) -> None:
    form = forms.connection(emulated)
    scope, host = fields(form)
    assert (scope.value, host.value) == (emulated.id_scope, emulated.host)
    type_in(scope, "0ne-1")
    assert "letters and digits" in beside(form, "ID Scope")
    assert f"{emulated.id_scope} stays in use." in beside(form, "ID Scope")
    assert "run this cell" not in beside(form, "ID Scope")
    assert targets.current().id_scope == emulated.id_scope
    type_in(scope, " 002409020C00089D ")
    assert scope.value == " 002409020C00089D "
    assert "hint" in beside(form, "ID Scope")
    assert targets.current().id_scope == "002409020C00089D"
    type_in(host, "https://global.azure-devices-provisioning.net/")
    assert "use global.azure-devices-provisioning.net" in beside(form, "Global device endpoint")
    assert targets.current().host == emulated.host


def test_a_good_beginning_of_a_bad_text_is_not_left_in_use(work: Path) -> None:
    tutorial.enter("target", "azure")
    form = forms.connection(targets.current())
    scope, _ = fields(form)
    for typed in ("0", "0ne", "0ne-"):
        press_enter(scope)  # a browser may send it before the last keys
        type_in(scope, typed)
    assert "None is in use yet" in beside(form, "ID Scope")
    assert targets.current().scope is None
    assert "id_scope" not in tutorial.recall()
    type_in(scope, "0ne00ABC123")
    press_enter(scope)
    assert targets.current().scope == tutorial.recall()["id_scope"] == "0ne00ABC123"


def test_enter_before_the_last_keys_still_has_its_outcome(emulated: Target) -> None:
    form = forms.connection(emulated)
    scope, _ = fields(form)
    type_in(scope, "0ne00ABC12")
    press_enter(scope)
    type_in(scope, "0ne00ABC123")
    assert "✔ In use: ID Scope 0ne00ABC123" in form.status


def test_enter_says_what_is_in_use_or_which_field_is_wrong(emulated: Target) -> None:
    form = forms.connection(emulated)
    scope, host = fields(form)
    type_in(scope, "0ne00ABC123")
    press_enter(scope)
    assert f"✔ In use: ID Scope 0ne00ABC123, Global device endpoint {emulated.host}" in form.status
    assert "Run the cells below" in form.status
    assert 'role="status"' in form.status
    type_in(host, "no such/host")
    assert "In use" not in form.status
    press_enter(scope)
    assert "✘ Global device endpoint cannot be used" in form.status


def test_on_azure_an_empty_id_scope_is_named(work: Path) -> None:
    tutorial.enter("target", "azure")
    form = forms.connection(targets.current())
    scope, host = fields(form)
    assert scope.placeholder == "0ne00ABC123"
    press_enter(host)
    assert "✘ ID Scope is still empty" in form.status
    type_in(scope, "?")
    assert "None is in use yet" in beside(form, "ID Scope")


def test_what_was_refused_is_there_again(emulated: Target) -> None:
    type_in(labelled(forms.connection(emulated), "ID Scope"), "0ne 1")
    again = forms.connection(emulated)
    assert labelled(again, "ID Scope").value == "0ne 1"
    assert "✘" in beside(again, "ID Scope")
    type_in(labelled(again, "ID Scope"), "0ne00ABC123")
    assert labelled(forms.connection(emulated), "ID Scope").value == "0ne00ABC123"


def test_what_was_typed_for_one_target_is_not_shown_for_the_other(work: Path) -> None:
    type_in(labelled(forms.registration_id(), "Registration ID"), "bad/name")
    tutorial.enter("target", "azure")
    assert labelled(forms.registration_id(), "Registration ID").value == ""
    tutorial.enter("target", "emulator")
    assert labelled(forms.registration_id(), "Registration ID").value == "bad/name"


def test_registration_id_is_checked(work: Path) -> None:
    form = forms.registration_id()
    (field,) = fields(form)
    assert field.value == NAME
    type_in(field, "bad/name")
    assert "✘" in beside(form, "Registration ID")
    assert f"{NAME} stays in use" in beside(form, "Registration ID")
    type_in(field, "class-7")
    assert tutorial.registration_id() == "class-7"
    press_enter(field)
    assert "✔ In use: Registration ID class-7" in form.status


# --- files ----------------------------------------------------------------------------------------

CERTIFICATE, KEY = "Certificate file", "Private key file"
CERTIFICATE_PATH, KEY_PATH = "Path of the certificate", "Path of the private key"


def test_the_lists_hold_certificates_and_keys_of_the_work_folder(work: Path, pair: Pair) -> None:
    (work / "notes.pem").write_text("nothing")
    (work / "device.cer").write_bytes(certificates.describe(pair.certificate_file).der)
    form = forms.certificate_files()
    shown = labelled(form, CERTIFICATE)._options_labels
    assert shown[0].startswith("python-device.pem (certificate CN=Python-device-01, expires 20")
    assert not any("key" in label or "notes" in label for label in shown)
    assert labelled(form, KEY)._options_labels[0] == "python-device.key.pem (private key, encrypted)"
    assert "not encrypted" not in str(labelled(form, KEY)._options_labels)
    assert labelled(form, CERTIFICATE_PATH).layout.display == "none"


def test_files_of_ones_own_must_exist(work: Path, pair: Pair, tmp_path: Path) -> None:
    form = forms.certificate_files()
    assert form.value == (pair.certificate_file, pair.key_file)
    choose(labelled(form, CERTIFICATE), "by its path")
    path = labelled(form, CERTIFICATE_PATH)
    assert path.layout.display == ""
    type_in(path, str(tmp_path / "missing.pem"))
    assert "✘ There is no certificate file" in beside(form, CERTIFICATE)
    assert "python-device.pem stays in use" in beside(form, CERTIFICATE)
    own = tmp_path / "own.pem"
    own.write_bytes(pair.certificate_file.read_bytes())
    type_in(path, str(own))
    assert form.value == (own, pair.key_file)
    press_enter(path)
    assert "✔ In use: own.pem and python-device.key.pem" in form.status
    for wrong, sentence in ((pair.key_file, "private key"), (tmp_path, "is a folder"), (Path("/dev/null"), "ordinary")):
        type_in(path, str(wrong))
        assert "✘" in beside(form, CERTIFICATE)
        assert sentence in beside(form, CERTIFICATE)
    assert form.value[0] == own
    assert labelled(forms.certificate_files(), CERTIFICATE_PATH).value == "/dev/null"


def test_a_der_certificate_is_not_for_the_device(work: Path, pair: Pair, tmp_path: Path) -> None:
    der = certificates.describe(pair.certificate_file).der
    (tmp_path / "own.cer").write_bytes(der)
    form = forms.certificate_files()
    choose(labelled(form, CERTIFICATE), "by its path")
    type_in(labelled(form, CERTIFICATE_PATH), str(tmp_path / "own.cer"))
    assert "is DER (binary)" in beside(form, CERTIFICATE)
    upload(fields(form, widgets.FileUpload)[0], "own.cer", der)
    assert form.value[0] == work / "own.cer"
    assert (work / "own.cer").read_bytes().startswith(b"-----BEGIN CERTIFICATE")


def test_a_full_disk_is_a_sentence_beside_the_field(work: Path, pair: Pair, full_disk: None) -> None:
    form = forms.registration_id()
    type_in(labelled(form, "Registration ID"), "class-7")
    assert "✘" in beside(form, "Registration ID")
    assert "tutorial.json cannot be written (File too large)" in beside(form, "Registration ID")
    files = forms.certificate_files()
    upload(fields(files, widgets.FileUpload)[0], "my.pem", pair.certificate_file.read_bytes())
    assert "my.pem cannot be written" in beside(files, CERTIFICATE)
    assert not (work / "my.pem").exists()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Nothing can be written to any file, as on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_cannot_be_read_is_a_sentence(
    work: Path, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = forms.certificate_files()
    choose(labelled(form, CERTIFICATE), "by its path")

    own, really = odd_pair(tmp_path).certificate_file, given_files.read

    def refuse(path: Path, most: int = given_files.LARGEST) -> bytes:  # root may read every file
        if path == own:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, most)

    monkeypatch.setattr(given_files, "read", refuse)
    type_in(labelled(form, CERTIFICATE_PATH), str(own))
    assert "cannot be read" in beside(form, CERTIFICATE)


def test_an_upload_is_kept_for_its_owner_and_leaves_the_widget(work: Path, pair: Pair, tmp_path: Path) -> None:
    own = odd_pair(tmp_path)
    form = forms.certificate_files()
    (button,) = fields(form, widgets.FileUpload)
    upload(button, "../../my device.pem", own.certificate_file.read_bytes())
    assert form.value == (work / "my-device.pem", pair.key_file)
    assert form.value[0].stat().st_mode & 0o777 == 0o600
    assert "It is saved as my-device.pem" in beside(form, CERTIFICATE)
    assert button.value == ()
    assert labelled(forms.certificate_files(), CERTIFICATE).value == str(work / "my-device.pem")


def test_an_upload_overwrites_nothing(work: Path, pair: Pair, tmp_path: Path) -> None:
    before = pair.certificate_file.read_bytes()
    first, second = (odd_pair(tmp_path, days=days).certificate_file.read_bytes() for days in (1, 2))
    form = forms.certificate_files()
    button = fields(form, widgets.FileUpload)[0]
    for name, content, kept in (
        ("python-device.pem", first, "python-device-2.pem"),
        ("python-device.pem", second, "python-device-3.pem"),
        ("python-device.pem", first, "python-device-2.pem"),
        ("python-device.pem", before, "python-device-4.pem"),
    ):
        upload(button, name, content)
        assert form.value[0] == work / kept
    assert pair.certificate_file.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"garbage", b"\x30\x82", b"x" * (2 << 20), b"-----BEGIN CERTIFICATE-----"]
)
def test_a_useless_upload_is_refused_and_nothing_is_kept(work: Path, pair: Pair, content: bytes) -> None:
    form = forms.certificate_files()
    before = sorted(path.name for path in work.iterdir())
    (button,) = fields(form, widgets.FileUpload)
    upload(button, "some.pem", content)
    for part in ("✘", "some.pem", "Nothing was kept"):
        assert part in beside(form, CERTIFICATE)
    assert ".upload-" not in beside(form, CERTIFICATE)
    assert button.value == ()
    assert sorted(path.name for path in work.iterdir()) == before
    assert form.value == (pair.certificate_file, pair.key_file)


def test_a_key_is_not_uploaded(work: Path, pair: Pair) -> None:
    form = forms.certificate_files()
    (button,) = fields(form, widgets.FileUpload)
    before = sorted(path.name for path in work.iterdir())
    for content in (pair.key_file.read_bytes(), pair.certificate_file.read_bytes() + pair.key_file.read_bytes()):
        upload(button, "some.pem", content)
        assert "holds a private key" in beside(form, CERTIFICATE)
    assert sorted(path.name for path in work.iterdir()) == before
    assert traces(saved(form), *body(pair.key_file.read_text())) == []


def test_before_the_pair_is_made_the_form_says_so(work: Path) -> None:
    form = forms.certificate_files()
    assert "not there yet" in labelled(form, CERTIFICATE)._options_labels[0]
    assert "has not run yet" in form.status


# --- the enrollment panel -------------------------------------------------------------------------

PANEL = [
    "Mechanism",
    "Primary certificate .pem or .cer file",
    "Secondary certificate .pem or .cer file (optional)",
    "IoT Hub Device ID (optional)",
    "IoT Edge device",
    "Select how you want to assign devices to hubs",
    "127.",
    "Select how you want device data to be handled on re-provisioning",
    "Initial device twin state (optional)",
    "Enable entry",
]
PRIMARY, SECONDARY, DEVICE_ID, EDGE, ASSIGN, _, AGAIN, TWIN, ENABLE = PANEL[1:]


def test_the_panel_has_the_fields_of_the_portal_in_its_order(emulated: Target, pair: Pair) -> None:
    shown = [
        field.description
        for field in fields(forms.enrollment(emulated))
        if field.description[:4] not in ("Path", "Uplo")
    ]
    assert len(shown) == len(PANEL)
    assert all(label.startswith(wanted) for label, wanted in zip(shown, PANEL, strict=True))


def test_enrollment_request_holds_what_the_panel_shows(emulated: Target, pair: Pair, work: Path) -> None:
    twin = {"tags": {}, "properties": {"desired": {"interval": 5}}}
    form = forms.enrollment(emulated, twin)
    assert form.value == EnrollmentRequest(pair.certificate_file, initial_twin=twin)
    odd_pair(work)
    form = forms.enrollment(emulated, twin)
    choose(labelled(form, SECONDARY), "odd.pem")
    type_in(labelled(form, DEVICE_ID), "pump-7")
    choose(labelled(form, EDGE), "True")
    choose(labelled(form, ASSIGN), "Static")
    assert any("✘ Static configuration needs" in note.value for note in fields(form, widgets.HTML))
    with pytest.raises(Stop, match="tick one"):
        _ = form.value
    type_in(labelled(form, emulated.hubs[0]), True)
    choose(labelled(form, AGAIN), "reset")
    type_in(labelled(form, TWIN), '{"tags": {"hall": 3}}')
    choose(labelled(form, ENABLE), "Disable")
    wanted = EnrollmentRequest(
        certificate_file=pair.certificate_file,
        secondary_file=work / "odd.pem",
        device_id="pump-7",
        iot_edge=True,
        allocation="static",
        iot_hubs=emulated.hubs,
        reprovisioning="reset",
        initial_twin={"tags": {"hall": 3}, "properties": {"desired": {}}},
        enabled=False,
    )
    assert form.value == wanted
    assert "CN=Python-device-01 will be enrolled" in form.status
    assert forms.enrollment(emulated, twin).value == wanted


def test_a_new_initial_twin_in_the_cell_replaces_what_was_typed_over_the_old(emulated: Target, pair: Pair) -> None:
    type_in(labelled(forms.enrollment(emulated, {"tags": {"a": 1}}), TWIN), '{"tags": {"b": 2}}')
    assert forms.enrollment(emulated, {"tags": {"a": 1}}).value.initial_twin["tags"] == {"b": 2}
    assert forms.enrollment(emulated, {"tags": {"c": 3}}).value.initial_twin["tags"] == {"c": 3}


@pytest.mark.parametrize(
    ("twin", "sentence"),
    [("{", "not JSON"), ('{"interval": 5}', "portal's form"), ("[" * 90_000, "not JSON"), (" " * 200_000, "200000")],
)
def test_a_wrong_twin_is_a_sentence(emulated: Target, pair: Pair, twin: str, sentence: str) -> None:
    form = forms.enrollment(emulated)
    type_in(labelled(form, TWIN), twin)
    assert sentence.replace("'", "&#x27;") in beside(form, TWIN)
    assert "✘" in form.status
    with pytest.raises(Stop, match=sentence):
        _ = form.value
    assert labelled(forms.enrollment(emulated), TWIN).value == twin


@pytest.mark.parametrize("device_id", ["has space", "a/b", "x" * 129])
def test_a_wrong_device_id_is_a_sentence(emulated: Target, pair: Pair, device_id: str) -> None:
    form = forms.enrollment(emulated)
    type_in(labelled(form, DEVICE_ID), device_id)
    assert "✘ This cannot be a device ID" in beside(form, DEVICE_ID)
    with pytest.raises(Stop, match="cannot be a device ID"):
        _ = form.value


def test_on_azure_the_panel_names_the_portal_for_the_hubs(work: Path, pair: Pair) -> None:
    tutorial.enter("target", "azure")
    form = forms.enrollment(targets.current())
    assert any("The portal lists the hubs" in note.value for note in fields(form, widgets.HTML))
    choose(labelled(form, ASSIGN), "Static")
    assert form.value == EnrollmentRequest(
        pair.certificate_file, allocation="static", initial_twin=form.value.initial_twin
    )


def test_enter_in_the_panel_says_who_will_be_enrolled(emulated: Target, pair: Pair) -> None:
    form = forms.enrollment(emulated)
    press_enter(labelled(form, DEVICE_ID))
    assert "CN=Python-device-01 will be enrolled when you run the cell below" in form.status


def test_an_enrollment_without_a_certificate_is_a_sentence(emulated: Target) -> None:
    form = forms.enrollment(emulated)
    with pytest.raises((Stop, certificates.CertificateError), match="There is no certificate file"):
        _ = form.value


def test_an_uploaded_certificate_can_be_enrolled(emulated: Target, work: Path, tmp_path: Path) -> None:
    form = forms.enrollment(emulated)
    upload(
        fields(form, widgets.FileUpload)[0],
        "pump.pem",
        odd_pair(tmp_path, common_name="pump-7").certificate_file.read_bytes(),
    )
    assert form.value.certificate_file == work / "pump.pem"
    assert enrollments.save(emulated, form.value).registration_id == "pump-7"


# --- the device list ------------------------------------------------------------------------------


def provisioned(target: Target, pair: Pair) -> None:
    enrollments.save(target, pair.certificate_file)
    set_variables(target)
    provision()


def named(form: forms.Form, label: str) -> widgets.Button:
    (button,) = [one for one in fields(form, widgets.Button) if one.description == label]
    return button


def idle(form: forms.Form) -> bool:
    return not named(form, "Refresh").disabled


def test_the_list_shows_devices_also_where_no_widget_lives(emulated: Target, pair: Pair) -> None:
    assert "IoT devices: nothing here yet." in forms.devices(emulated)._repr_mimebundle_()["text/plain"]
    provisioned(emulated, pair)
    bundle = forms.devices(emulated)._repr_mimebundle_()
    thumbprint = certificates.describe(pair.certificate_file).thumbprint_sha256
    for word in ("DEVICE ID", NAME, "enabled", thumbprint):
        assert word in bundle["text/plain"]
        assert word in bundle["text/html"]


def test_refresh_reads_the_list_again(emulated: Target, pair: Pair) -> None:
    form = forms.devices(emulated)
    assert "no devices" in form.status
    provisioned(emulated, pair)
    press(named(form, "Refresh"))
    wait_for(lambda: idle(form), within=20)
    assert "1 device" in form.status
    assert labelled(form, NAME).value is False


def test_delete_asks_and_then_deletes(emulated: Target, pair: Pair) -> None:
    provisioned(emulated, pair)
    form = forms.devices(emulated)
    assert named(form, "Delete").disabled
    type_in(labelled(form, NAME), True)
    assert not named(form, "Delete").disabled
    press(named(form, "Delete"))
    question = form._question.value
    assert f"Delete {NAME} from the hub? Its enrollment stays." in question
    assert named(form, "Refresh").disabled
    press(named(form, "No, keep"))
    assert "Nothing was deleted" in form.status
    assert registry.get(emulated, NAME) is not None
    press(named(form, "Delete"))
    press(named(form, "Yes, delete"))
    wait_for(lambda: idle(form), within=20)
    assert f"✔ Deleted from the hub: {NAME}." in form.status
    assert registry.list_all(emulated) == []
    assert enrollments.get(emulated, NAME) is not None
    assert NAME not in [field.description for field in fields(form)]


def test_a_device_that_is_gone_already_is_said(emulated: Target, pair: Pair) -> None:
    provisioned(emulated, pair)
    form = forms.devices(emulated)
    type_in(labelled(form, NAME), True)
    press(named(form, "Delete"))
    registry.delete(emulated, NAME)
    press(named(form, "Yes, delete"))
    wait_for(lambda: idle(form), within=20)
    assert "not there any more" in form.status


def test_the_request_is_made_in_another_thread(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    form = forms.devices(emulated)
    seen: list[threading.Thread] = []
    going_on = threading.Event()

    def slow(target: Target) -> list[Any]:
        seen.append(threading.current_thread())
        going_on.wait(20)
        return []

    monkeypatch.setattr(registry, "list_all", slow)
    start = time.monotonic()
    press(named(form, "Refresh"))
    press(named(form, "Refresh"))
    assert time.monotonic() - start < 2
    assert named(form, "Refresh").disabled
    assert "Reading the list" in form.status
    going_on.set()
    wait_for(lambda: idle(form), within=20)
    assert len(seen) == 1
    assert seen != [threading.current_thread()]


def test_an_emulator_that_has_died_is_one_sentence(work: Path, tmp_path: Path) -> None:
    running = RunningEmulator(tmp_path / "emulator")
    try:
        (work / "emulator").symlink_to(running.state_dir)
        target = targets.current()
        form = forms.devices(target)
    finally:
        running.kill()
    press(named(form, "Refresh"))
    wait_for(lambda: idle(form), within=30)
    assert "✘" in form.status
    assert "does not answer" in form.status
    assert "✘" in forms.devices(target).status


def test_on_azure_the_list_says_where_to_look(work: Path) -> None:
    tutorial.enter("target", "azure")
    form = forms.devices(targets.current())
    assert "in the portal" in form.status
    assert "in the portal" in form._repr_mimebundle_()["text/plain"]
    assert all(button.disabled for button in (named(form, "Refresh"), named(form, "Delete")))


# --- cleaning up ----------------------------------------------------------------------------------


def test_clean_up_is_the_default_on_the_emulator_only(emulated: Target, work: Path) -> None:
    assert forms.clean_up(emulated).value is True
    tutorial.enter("target", "azure")
    form = forms.clean_up(targets.current())
    assert form.value is False
    choice, sure = fields(form)
    choice.value = True
    assert form.value is False
    assert "Tick" in form.status
    sure.value = True
    assert form.value is True
    assert forms.clean_up(targets.current()).value is True


def test_the_choice_to_keep_everything_is_there_again(emulated: Target) -> None:
    fields(forms.clean_up(emulated))[0].value = False
    again = forms.clean_up(emulated)
    assert again.value is False
    assert "keep everything" in again.status


# --- in a notebook --------------------------------------------------------------------------------

NOTEBOOK = """
import os
from dpsx_helpers import certificates, forms, targets, tutorial
from IPython.display import display
form = forms.pass_phrase()
display(form, forms.target(), forms.registration_id(), forms.certificate_files())
for field in form._fields:
    field.widget.set_state({"value": "".join(["canary", "-4711"])})
display(form)
certificates.create("Python-device-01", tutorial.pass_phrase(), tutorial.work_dir(), key_type="ec-p256")
os.environ["X509_PASS_PHRASE"] = tutorial.pass_phrase()
tutorial.pass_phrase()
---
forms.registration_id()
---
tutorial.enter("pass_phrase", "another")
tutorial.pass_phrase()
---
raise AssertionError("Run All went on")
"""


def test_in_a_notebook_no_secret_is_saved_and_a_stop_is_one_sentence(work: Path) -> None:
    new: Any = nbformat.v4
    cells = [new.new_code_cell(source.strip()) for source in NOTEBOOK.split("---")]
    notebook = new.new_notebook(cells=cells)
    client = NotebookClient(notebook, store_widget_state=True, allow_errors=True, kernel_name="python3")
    client.execute()
    saved = new.writes(notebook)
    assert "widget-state+json" in saved
    assert CANARY not in saved
    assert all(CANARY.encode() not in file.read_bytes() for file in work.rglob("*") if file.is_file())
    widget, standby = (output.data for output in notebook.cells[1].outputs)
    assert widget["text/plain"] == "[form: Name of the device]"
    assert ENDED in standby["text/html"]
    assert not standby["text/plain"]
    (error,) = notebook.cells[2].outputs
    assert error.ename == "Stop"
    assert len(error.traceback) == 1
    assert "does not open with the pass phrase" in error.traceback[0]
    assert notebook.cells[0].outputs[-1].data["text/plain"] == tutorial.MASK
