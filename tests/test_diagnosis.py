"""What a learner sees of a failure: the sentence, the card, the answer of DPS, and no secret."""

import asyncio
import html.parser
import os
import re
import socket
import struct
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from devices import NAME, PASS_PHRASE, credentials, odd_pair, provision, register, send
from kit import fault
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from pki import make_device
from processes import free_host

from dpsx_helpers import conversation, diagnosis, enrollments, tutorial
from dpsx_helpers.diagnosis import Explained, diagnosis_card
from dpsx_helpers.diagnosis.evidence import Evidence
from dpsx_helpers.diagnosis.verdict import verdict
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]


def explained(action: Callable[[], Any], words: str) -> Explained:
    """The action fails inside `explain`, and the learner gets one sentence of these words."""
    with pytest.raises(Explained, match=words) as stop, diagnosis.explain():
        action()
    assert "\n" not in str(stop.value)
    assert str(stop.value).endswith(".")
    assert not re.search("[.!?] +[A-Z]", str(stop.value))
    return stop.value


def change(target: Target, **fields: Any) -> None:
    with enrollments.service(target) as client:
        client.enrollment.create_or_update(NAME, {**client.enrollment.get(NAME), **fields}, if_match="*")


def test_nothing_is_in_the_way_of_success(enrolled: Target, capsys: pytest.CaptureFixture[str]) -> None:
    with diagnosis.explain():
        assert provision().status == "assigned"
    assert capsys.readouterr().out == ""


# --- failures beside the 23 -------------------------------------------------------------------------------------------


def test_not_enrolled(enrolled: Target) -> None:
    enrollments.delete(enrolled, NAME)
    stop = explained(provision, "401: Python-device-01 is not enrolled: enroll it in notebook 03")
    assert '"message": "Unauthorized"' in stop.card.text


def test_not_enrolled_on_azure_is_only_likely(enrolled: Target) -> None:
    enrollments.delete(enrolled, NAME)
    tutorial.enter("target", "azure")
    stop = explained(provision, "401: no enrollment matches the certificate of Python-device-01")
    assert "What it can be, the likeliest first:\n  1. there is no enrollment Python-device-01" in stop.card.text
    assert "emulator" not in stop.card.text


def test_not_valid_yet(enrolled: Target, tmp_path: Path) -> None:
    made = make_device(tmp_path, NAME, valid_from=timedelta(days=2))
    enrollments.save(enrolled, made.certificate_file)
    os.environ.update(X509_CERT_FILE=str(made.certificate_file), X509_KEY_FILE=str(made.key_file))
    explained(provision, "is not valid before .* set this machine's clock")


def test_a_flaw_is_not_blamed_when_dps_says_that_nobody_is_enrolled(enrolled: Target, work: Path) -> None:
    made = odd_pair(work, is_ca=True)
    enrollments.delete(enrolled, NAME)
    os.environ.update(X509_CERT_FILE=str(made.certificate_file), X509_KEY_FILE=str(made.key_file))
    explained(provision, "is not enrolled")


def test_the_list_and_the_file_agree_again(enrolled: Target) -> None:
    """Refused, and mended before anybody looks: the diagnosis does not make up a cause."""
    enrollments.delete(enrolled, NAME)
    with pytest.raises(Exception, match="Unexpected failure") as failure:
        provision()
    enrollments.save(enrolled, tutorial.certificate_file())
    assert "agree now: run this cell again" in str(diagnosis.diagnose(failure.value))


def test_disabled(enrolled: Target) -> None:
    change(enrolled, provisioningStatus="disabled")
    stop = explained(provision, "enrollment of Python-device-01 is disabled: choose Enable in the form")
    assert '"status": "disabled"' in stop.card.text


def test_nothing_listens(enrolled: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVISIONING_HOST", host := free_host())
    explained(provision, rf"Nothing listens at {re.escape(host)}; the emulator is at .*: run the cell that sets")
    tutorial.enter("target", "azure")
    explained(provision, rf"{re.escape(host)} refused the connection: check the host name")


def test_a_client_that_was_shut_down(enrolled: Target) -> None:
    from azure.iot.device.aio import IoTHubDeviceClient

    async def use_again() -> None:
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=credentials(), hostname=enrolled.hubs[0], device_id=NAME
        )
        await client.shutdown()
        await client.connect()

    explained(lambda: asyncio.run(use_again()), "shut down for good")


@contextmanager
def odd_server(answer: bytes | None) -> Iterator[None]:
    """A server at PROVISIONING_HOST that says this to whoever connects, or (None) resets the connection."""
    with socket.create_server((free_host(), 8883)) as server:
        os.environ["PROVISIONING_HOST"] = server.getsockname()[0]

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(5)
                if answer is None:  # closing with a linger time of 0 sends a reset
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(10)


def test_a_connection_that_is_reset(enrolled: Target) -> None:
    with odd_server(None):
        explained(provision, "connection was lost")


def test_something_else_than_dps(enrolled: Target) -> None:
    with odd_server(b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        stop = explained(provision, r"TLS handshake with .* failed \(WRONG_VERSION_NUMBER\): check PROVISIONING_HOST")
    assert "does not trust" not in stop.card.text


def test_an_unknown_failure_names_the_classes_of_its_chain(enrolled: Target) -> None:
    from azure.iot.device.exceptions import ClientError, ServiceError

    def fail() -> None:
        raise ClientError("Unexpected failure") from ServiceError("something new")

    explained(fail, r"does not know \(ClientError caused by ServiceError\)")


def test_a_failure_in_a_task_group(enrolled: Target) -> None:
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(register())

    os.environ["PROVISIONING_IDSCOPE"] = "0ne00000000"
    explained(lambda: asyncio.run(both()), "knows no ID scope")


# --- faults of the emulator -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "times", "title"),
    [
        ("connack-3", 1, "Wrong ID scope (mistake 5 of 23)"),
        ("connack-5", None, "Registration ID and certificate name different devices (mistake 6 of 23)"),
        ("401-unauthorized", 1, "The device is not enrolled"),
        ("401-invalid-certificate", 1, "Another certificate is enrolled than the device shows (mistake 9 of 23)"),
        ("401-ca-not-found", 1, "The chain of a group's device does not reach"),
        ("disabled", 1, "The enrollment is disabled"),
        ("failed-400208", 1, "No IoT hub is linked to the provisioning service (mistake 13 of 23)"),
        ("failed-400207", 1, "The device was not assigned to a hub"),
        ("409", 1, "Two programs register the same device at once"),
    ],
)
def test_a_fault_is_no_mistake_of_the_learner(enrolled: Target, kind: str, times: int | None, title: str) -> None:
    with fault(enrolled, kind, times=times):
        stop = explained(provision, f"played the fault {kind}, so this is no mistake of yours")
    if not kind.startswith("401"):
        assert title in stop.card.text.splitlines()[0]
    assert "target.emulator.clear_faults()" in stop.card.text
    assert provision().status == "assigned"


def test_a_fault_at_the_hub(enrolled: Target) -> None:
    state = provision().registration_state
    with fault(enrolled, "hub-connack-3"):
        stop = explained(lambda: asyncio.run(send(1, state)), "played the fault hub-connack-3")
    assert "The hub is not available" in stop.card.text
    assert "CONNACK 3" in stop.card.text


def test_a_fault_of_before_is_not_blamed(enrolled: Target) -> None:
    with fault(enrolled, "connack-5", times=1), pytest.raises(Exception, match="Credentials invalid"):
        provision()
    os.environ["PROVISIONING_IDSCOPE"] = "0ne00000000"
    stop = explained(provision, "knows no ID scope")
    assert "fault" not in stop.card.text


def test_dps_that_says_nothing(enrolled: Target) -> None:
    """As long as the SDK waits: 30 seconds. On Azure nobody tells of a fault."""
    with fault(enrolled, "silence"):
        tutorial.enter("target", "azure")
        explained(provision, "then said nothing for 30 seconds")


# --- what is not explained --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [NameError("x"), KeyError("y"), ValueError("status code 401"), AssertionError(), TimeoutError("mine"), OSError(22)],
)
def test_programming_errors_pass_unchanged(work: Path, mistake: Exception) -> None:
    with pytest.raises(type(mistake)) as raised, diagnosis.explain():
        raise mistake
    assert raised.value is mistake


def test_a_file_that_the_learner_did_not_find_passes_unchanged(enrolled: Target) -> None:
    with pytest.raises(FileNotFoundError, match="no-notes"), diagnosis.explain():
        Path("/nowhere/no-notes.txt").read_text()


def test_a_stop_passes_unchanged() -> None:
    stop = Stop("Enter the ID scope.")
    with pytest.raises(Stop) as raised, diagnosis.explain():
        raise stop
    assert raised.value is stop


@pytest.mark.parametrize("name", tutorial.VARIABLES)
def test_a_variable_that_is_not_set_is_named(name: str) -> None:
    assert (
        diagnosis.diagnose(KeyError(name))
        == f"{name} is not set: run the cell that sets the variables and run this cell again."
    )
    assert diagnosis.diagnose(KeyError("another")) is None


# --- one line after a failure -----------------------------------------------------------------------------------------


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], str]:
    """What `why()` says after this exception has ended a cell, as Python remembers it."""

    def after(error: BaseException) -> str:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
        return diagnosis.why().text

    monkeypatch.setattr(sys, "last_value", None, raising=False)
    return after


def failure_of(action: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as failure:  # noqa: PT011 - any that comes
        action()
    return failure.value


def test_why_after_a_failure_without_explain(enrolled: Target, last: Callable[[BaseException], str]) -> None:
    enrollments.delete(enrolled, NAME)
    said = last(failure_of(provision))
    assert said.startswith("✘ The device is not enrolled")
    assert "It was not recorded" in said
    assert "with diagnosis.explain():" in said


def test_why_minds_a_fault_that_is_on(enrolled: Target, last: Callable[[BaseException], str]) -> None:
    with fault(enrolled, "connack-3", device=NAME.upper()):
        assert "Mind: In the emulator the fault connack-3 is switched on" in last(failure_of(provision))
    with fault(enrolled, "connack-3", device="another"):
        os.environ["PROVISIONING_IDSCOPE"] = "0ne00000000"
        assert "Mind" not in last(failure_of(provision))


def test_why_repeats_the_card(enrolled: Target, last: Callable[[BaseException], str]) -> None:
    os.environ["PROVISIONING_IDSCOPE"] = "0ne00000000"
    stop = explained(provision, "knows no ID scope")
    assert last(stop) == stop.card.text


def test_why_of_other_things(work: Path, last: Callable[[BaseException], str]) -> None:
    assert diagnosis.why().text == "No cell has failed in this kernel since it was started."
    assert last(Stop("Enter the ID scope.")) == "Enter the ID scope."
    caused = Stop("The work folder cannot be made.")
    caused.__cause__ = PermissionError(13, "Permission denied")
    assert last(caused) == "The work folder cannot be made."
    assert "NameError: it came from the code of its cell" in last(NameError("name 'x' is not defined"))


def test_why_of_a_service_that_does_not_answer(enrolled: Target, last: Callable[[BaseException], str]) -> None:
    def ask() -> None:
        with diagnosis.explain_service("hub"):
            requests.get(f"https://{free_host()}:8443/", timeout=5)

    stop = failure_of(ask)
    assert str(stop).startswith("The hub does not answer (ConnectionError): run the first cell")
    assert isinstance(stop, Stop)
    assert "ConnectionError" in last(stop)


def test_why_of_a_conversation_that_failed(enrolled: Target) -> None:
    enrollments.delete(enrolled, NAME)
    with conversation.recording() as talk, pytest.raises(Exception, match="Unexpected failure"):
        provision()
    said = diagnosis.why(talk).text
    assert said.startswith("✘ The device is not enrolled")
    assert '"errorCode": 401002' in said
    os.environ["PROVISIONING_IDSCOPE"] = "0ne00000000"
    with conversation.recording() as talk, pytest.raises(Exception, match="Could not connect"):
        provision()
    assert "(mistake 5 of 23)" in diagnosis.why(talk).text


def test_why_of_a_conversation_at_the_hub(enrolled: Target) -> None:
    state = provision().registration_state
    with (
        fault(enrolled, "hub-connack-5", times=1),
        conversation.recording() as talk,
        pytest.raises(Exception, match="Credentials invalid"),
    ):
        asyncio.run(send(1, state))
    tutorial.enter("target", "azure")
    assert "(mistake 14 of 23)" in diagnosis.why(talk).text


def test_why_of_a_good_conversation(enrolled: Target) -> None:
    with conversation.recording() as talk:
        provision(2)
    assert "Nothing in this conversation is a mistake" in diagnosis.why(talk).text


def test_a_diagnosis_changes_nothing(enrolled: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["DPS_X509_REGISTRATION_ID"] = "another"
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    before, files = dict(os.environ), sorted(tutorial.work_dir().iterdir())
    with conversation.recording() as talk:
        stop = explained(provision, "CONNACK 5")
    assert talk.connack == 5  # an explained cell may be recorded too
    enrollments.delete(enrolled, NAME)
    os.environ["DPS_X509_REGISTRATION_ID"] = NAME
    explained(provision, "is not enrolled")
    os.environ["DPS_X509_REGISTRATION_ID"] = "another"
    assert dict(os.environ) == before
    assert sorted(tutorial.work_dir().iterdir()) == files
    assert "(mistake 6 of 23)" in stop.card.text


# --- the card ---------------------------------------------------------------------------------------------------------


class _Page(html.parser.HTMLParser):
    """Tags that are open, links, and what a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag != "br":
            self.open.append(tag)
        self.links += [value or "" for name, value in attributes if name == "href"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_card_says_the_same_in_html_and_in_plain_text(enrolled: Target) -> None:
    os.environ["PROVISIONING_IDSCOPE"] = "<b>0ne&amp;"
    card = explained(provision, "knows no ID scope").card
    page = _Page(card.html)
    assert page.open == []
    assert "<b>" not in card.html
    assert card.html.startswith('<section aria-label="Diagnosis: Wrong ID scope (mistake 5 of 23)"')
    for heading in ("What happened", "Why", "What to do now", "Where to read more", "What the SDK raised"):
        assert f"{heading}:" in card.text
        assert heading in page.text
    assert 'scope that the variables name is "<b>0ne&amp;"' in page.text
    assert page.links == ["https://github.com/Azure/azure-iot-sdk-python/issues/670"]
    assert not re.search(r"(?<!-)width:\s*\d+px|color:\s*#", card.html)
    for line in card.text.splitlines():
        assert line.strip(" 123.").removeprefix("caused by ").split(": ", 1)[-1].rstrip(":") in page.text


@pytest.mark.parametrize("pass_phrase", ["correct horse battery", "pä$$ (wörd)\\", "1234"])
def test_no_pass_phrase_is_shown(
    enrolled: Target, monkeypatch: pytest.MonkeyPatch, pass_phrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where a learner has typed it into the wrong place."""
    monkeypatch.setenv("X509_PASS_PHRASE", pass_phrase)
    monkeypatch.setenv("X509_CERT_FILE", f"/nowhere/{pass_phrase}/device.pem")
    monkeypatch.setenv("PROVISIONING_HOST", pass_phrase)
    stop = explained(provision, "There is no certificate file /nowhere/••••/device.pem")
    everything = str(stop) + stop.card.text + _Page(stop.card.html).text + stop.card.html + capsys.readouterr().out
    assert not re.search(rf"(?<!\w){re.escape(pass_phrase)}(?!\w)", everything)


def test_no_service_key_is_shown(enrolled: Target) -> None:
    key = str(enrolled.dps_connection_string).partition("SharedAccessKey=")[2]

    def fail() -> None:
        raise requests.exceptions.InvalidURL(
            f"HostName=x;SharedAccessKey={key} Authorization: sig={urllib.parse.quote(key)}&skn=x "
            f"-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----"
        )

    stop = explained(fail, "InvalidURL")
    assert "SharedAccessKey=••••" in stop.card.text
    assert key not in stop.card.text + stop.card.html
    assert urllib.parse.quote(key) not in stop.card.text + stop.card.html


def test_in_a_kernel_the_card_stands_above_one_line(enrolled: Target) -> None:
    code = """
    import os
    from azure.iot.device import X509, ProvisioningDeviceClient
    from dpsx_helpers import diagnosis
    os.environ["PROVISIONING_IDSCOPE"] = "0ne00000000"
    with diagnosis.explain():
        identity = X509(os.environ["X509_CERT_FILE"], os.environ["X509_KEY_FILE"], os.environ["X509_PASS_PHRASE"])
        ProvisioningDeviceClient.create_from_x509_certificate(
            os.environ["PROVISIONING_HOST"], os.environ["DPS_X509_REGISTRATION_ID"], "0ne00000000", identity
        ).register()
    """
    book = new_notebook(cells=[new_code_cell(re.sub("(?m)^    ", "", code)), new_code_cell("diagnosis.why()")])
    NotebookClient(book, timeout=60, allow_errors=True, kernel_name="python3").execute()
    shown = [output for output in book.cells[0].outputs if output.output_type != "stream"]
    assert [output.output_type for output in shown] == ["display_data", "error"]
    assert shown[0]["data"]["text/plain"].startswith("✘ Wrong ID scope")
    assert shown[0]["data"]["text/html"].startswith("<section ")
    assert shown[1]["traceback"] == [shown[1]["evalue"]]
    assert book.cells[1].outputs[0]["data"] == shown[0]["data"]
    assert PASS_PHRASE not in str([output for cell in book.cells for output in cell.outputs]).split()


@pytest.mark.parametrize("which", [12, 13, 17, "emulator-gone", "unknown"])
def test_on_azure_no_card_sends_to_the_emulator(work: Path, which: int | str) -> None:
    tutorial.enter("target", "azure")
    shown = diagnosis_card.card(verdict(which, "A sentence."), Evidence(ValueError("x"))).text
    (advice,) = [line for line in shown.splitlines() if line.startswith("What to do now: ")]
    assert "emulator" not in advice
    assert "On Azure: " not in shown


def test_a_custom_allocation_that_failed_is_not_blamed_on_the_hub(enrolled: Target) -> None:
    tutorial.enter("target", "azure")  # where nobody can know of the fault
    with fault(enrolled, "failed-400207"):
        stop = explained(provision, "could not assign it to a hub")
    assert "mistake 12" not in stop.card.text
    assert "Custom allocation failed" in stop.card.text


@pytest.mark.parametrize("word", ["in", "DPS", "a"])
def test_a_pass_phrase_that_is_an_ordinary_word_does_not_garble_the_advice(
    work: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("PASS_PHRASE", word)
    shown = diagnosis_card.card(verdict("not-enrolled", "A sentence."), Evidence(ValueError(f"with {word} in it"))).text
    why = next(line for line in shown.splitlines() if line.startswith("Why: "))
    assert tutorial.MASK not in why
    assert f"with {tutorial.MASK} " in shown
