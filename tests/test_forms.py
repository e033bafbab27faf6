import json
import threading
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import nbformat
import pytest
from devices import NAME
from nbclient import NotebookClient

from dpsx_helpers import certificates, forms, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]
CANARY = "canary-4711"


def fields(form: forms.Form, kind: type[Any] = widgets.Widget) -> list[Any]:
    return [child for child in form._box.children if isinstance(child, kind) and not isinstance(child, widgets.HTML)]


def type_in(field: Any, value: Any) -> None:
    """What a front end sends when the learner leaves the field."""
    field.set_state({"value": value})


def traces(form: forms.Form) -> str:
    """Everything that a notebook file could hold of this form."""
    return json.dumps([widgets.Widget.get_manager_state(), form._repr_mimebundle_(), repr(form)], default=str)


def every_form(target: Target) -> list[forms.Form]:
    return [
        forms.target(),
        forms.connection(target),
        forms.registration_id(),
        forms.pass_phrase(),
        forms.pass_phrase(twice=False),
        forms.certificate_files(),
        forms.enrollment(target),
        forms.clean_up(target),
    ]


def test_every_form_shows_itself_with_labels_and_without_values(emulated: Target) -> None:
    for form in every_form(emulated):
        bundle = form._repr_mimebundle_()
        assert bundle["text/plain"] == repr(form) == f"[form: {form._title}]"
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert fields(form)
        assert all(field.description for field in fields(form))


def test_making_forms_changes_nothing(emulated: Target, work: Path) -> None:
    every_form(emulated)
    assert tutorial._entered == {}
    assert not (work / "tutorial.json").exists()


def test_the_target_is_remembered(work: Path) -> None:
    form = forms.target()
    assert form.value == "emulator"
    fields(form)[0].value = "azure"
    assert tutorial.target() == "azure"
    assert form.value == "azure"
    assert "✔" in form.status


def test_a_damaged_file_shows_as_a_sentence_beside_the_field(work: Path) -> None:
    form = forms.target()
    (work / "tutorial.json").write_text("{")
    fields(form)[0].value = "azure"
    assert "is damaged" in form.status


def test_two_equal_pass_phrases_are_taken_and_leave_no_trace(work: Path) -> None:
    form = forms.pass_phrase()
    first, second = fields(form, widgets.Password)
    assert not first.continuous_update
    assert not second.continuous_update
    type_in(first, CANARY)
    assert first.value == ""
    type_in(second, CANARY)
    assert second.value == ""
    assert tutorial.pass_phrase() == CANARY
    assert "agree" in form.status
    assert CANARY not in traces(form)
    assert CANARY not in repr(vars(form))


def test_two_different_pass_phrases_are_refused_beside_the_field(work: Path) -> None:
    form = forms.pass_phrase()
    first, second = fields(form, widgets.Password)
    type_in(first, CANARY)
    type_in(second, CANARY + "x")
    assert "differ" in form.status
    assert tutorial.known("pass_phrase") is None
    assert CANARY not in traces(form)
    type_in(second, CANARY)
    assert "first field" in form.status
    assert tutorial.known("pass_phrase") is None


def test_asked_once_the_pass_phrase_is_tried_on_the_key(work: Path) -> None:
    certificates.create(NAME, CANARY, work, key_type="ec-p256")
    form = forms.pass_phrase(twice=False)
    (field,) = fields(form, widgets.Password)
    type_in(field, "wrong")
    assert "does not open" in form.status
    assert tutorial.known("pass_phrase") is None
    type_in(field, CANARY)
    assert tutorial.pass_phrase() == CANARY
    assert CANARY not in traces(form)


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
    assert CANARY not in traces(form)


def test_connection_takes_good_values_and_explains_bad_ones(emulated: Target) -> None:
    form = forms.connection(emulated)
    scope, host = fields(form)
    assert (scope.value, host.value) == (emulated.id_scope, emulated.host)
    type_in(scope, "0ne-1")
    assert "letters and digits" in form.status
    assert targets.current().id_scope == emulated.id_scope
    type_in(scope, " 002409020C00089D ")
    assert "hint" in form.status
    assert targets.current().id_scope == "002409020C00089D"
    type_in(host, "https://global.azure-devices-provisioning.net/")
    assert "use global.azure-devices-provisioning.net" in form.status


def test_what_is_typed_is_escaped(emulated: Target) -> None:
    form = forms.connection(emulated)
    type_in(fields(form)[0], "<b>scope</b>")
    assert "<b>scope" not in form.status


def test_registration_id_is_checked(work: Path) -> None:
    form = forms.registration_id()
    (field,) = fields(form)
    assert field.value == NAME
    type_in(field, "bad/name")
    assert "✘" in form.status
    type_in(field, "class-7")
    assert tutorial.registration_id() == "class-7"


def test_registration_id_is_empty_at_first_on_azure(work: Path) -> None:
    tutorial.enter("target", "azure")
    assert fields(forms.registration_id())[0].value == ""


def test_files_of_ones_own_must_exist(work: Path, pair: Pair, tmp_path: Path) -> None:
    form = forms.certificate_files()
    certificate, _ = fields(form)
    assert form.value == (pair.certificate_file, pair.key_file)
    type_in(certificate, str(tmp_path / "missing.pem"))
    assert "There is no file" in form.status
    own = tmp_path / "own.pem"
    own.write_bytes(pair.certificate_file.read_bytes())
    type_in(certificate, str(own))
    assert form.value == (own, pair.key_file)
    type_in(certificate, str(pair.key_file))
    assert "✘" in form.status
    assert form.value[0] == own


def test_enrollment_request_holds_what_the_panel_shows(emulated: Target, pair: Pair) -> None:
    form = forms.enrollment(emulated, {"tags": {}, "properties": {"desired": {"interval": 5}}})
    assert form.value == forms.EnrollmentRequest(
        pair.certificate_file, None, {"tags": {}, "properties": {"desired": {"interval": 5}}}
    )
    fields(form, widgets.Dropdown)[1].value = emulated.hubs[0]
    assert form.value.iot_hub == emulated.hubs[0]
    assert "CN=Python-device-01" in form.status


@pytest.mark.parametrize(("twin", "sentence"), [("{", "not JSON"), ('{"interval": 5}', "portal's form")])
def test_a_wrong_twin_is_a_sentence(emulated: Target, pair: Pair, twin: str, sentence: str) -> None:
    form = forms.enrollment(emulated)
    type_in(fields(form, widgets.Textarea)[0], twin)
    assert sentence.replace("'", "&#x27;") in form.status
    with pytest.raises(Stop, match=sentence):
        _ = form.value


def test_an_enrollment_without_a_certificate_is_a_sentence(emulated: Target) -> None:
    with pytest.raises(Stop, match="There is no file"):
        _ = forms.enrollment(emulated).value


def test_clean_up_is_the_default_on_the_emulator_only(emulated: Target, work: Path) -> None:
    assert forms.clean_up(emulated).value is True
    tutorial.enter("target", "azure")
    form = forms.clean_up(targets.current())
    assert form.value is False
    choice, tick = fields(form)
    choice.value = True
    assert form.value is False
    assert "Tick" in form.status
    tick.value = True
    assert form.value is True


NOTEBOOK = """
import os
from dpsx_helpers import certificates, forms, targets, tutorial
from IPython.display import display
form = forms.pass_phrase()
display(form, forms.target(), forms.registration_id(), forms.certificate_files())
for field in form._box.children:
    if hasattr(field, "continuous_update"):
        field.set_state({"value": "".join(["canary", "-4711"])})
display(form)
certificates.create("Python-device-01", tutorial.pass_phrase(), tutorial.work_dir(), key_type="ec-p256")
os.environ["X509_PASS_PHRASE"] = tutorial.pass_phrase()
tutorial.pass_phrase()
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
    (error,) = notebook.cells[1].outputs
    assert error.ename == "Stop"
    assert len(error.traceback) == 1
    assert "does not open with the pass phrase" in error.traceback[0]
    assert notebook.cells[0].outputs[-1].data["text/plain"] == tutorial.MASK
