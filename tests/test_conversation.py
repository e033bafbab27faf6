"""What device and services said to each other, read from the log of the unmodified SDK against the real emulator."""

import asyncio
import io
import logging
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import devices
import nbformat
import pytest
from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient
from azure.iot.device.aio import IoTHubDeviceClient as AsyncHubClient
from nbclient import NotebookClient
from processes import unable, wait_for

from dpsx_helpers import conversation, enrollments, targets
from dpsx_helpers.conversation import DPS, HUB, Conversation, conversation_event, conversation_live
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]

_SDK = "azure.iot.device.common.mqtt_transport"


@pytest.fixture
def faulty(enrolled: Target) -> Any:
    assert enrolled.emulator is not None
    return enrolled.emulator


def _kinds(talk: Conversation, party: str) -> list[str]:
    return [event.kind for event in talk.events if event.party == party]


def _registered() -> Conversation:
    """A registration that fails in whatever way."""
    with conversation.recording() as talk, suppress(Exception):
        devices.provision()
    return talk


def _sync_client() -> Any:
    return ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=os.environ["PROVISIONING_HOST"],
        registration_id=os.environ["DPS_X509_REGISTRATION_ID"],
        id_scope=os.environ["PROVISIONING_IDSCOPE"],
        x509=devices.credentials(),
    )


def test_a_registration_and_messages_with_the_async_clients(enrolled: Target) -> None:
    with conversation.recording() as talk:
        devices.provision(3)
    start = ["OPEN", "CONNECT", "CONNACK", "SUBSCRIBE", "SUBACK", "PUBLISH", "PUBACK", "PUBLISH"]
    assert _kinds(talk, DPS)[:8] == start
    assert _kinds(talk, HUB)[:3] == ["OPEN", "CONNECT", "CONNACK"]
    assert sorted(_kinds(talk, HUB)[3:9]) == ["PUBACK"] * 3 + ["PUBLISH"] * 3
    assert (talk.connack, talk.connack_party, talk.drops, talk.unread) == (0, HUB, 0, 0)
    assert {event.host for event in talk.events} == {enrolled.host}
    assert talk.last_answer is not None
    assert talk.last_answer.status == 200
    assert talk.last_answer.json["registrationState"]["assignedHub"] == enrolled.host
    first = next(event for event in talk.events if event.status == 202)
    assert (first.retry_after, first.registration, first.sent) == (3, "assigning", False)
    assert first.in_words() == "DPS answers 202: it is working on it and asks to come back in 3 seconds."
    put = next(event for event in talk.events if "iotdps-register" in (event.topic or ""))
    assert put.size is not None
    assert put.body is None
    assert f"{put.size} bytes, which the log does not show" in put.in_words()


def test_the_same_with_the_sync_clients_and_each_message_with_its_confirmation(enrolled: Target) -> None:
    with conversation.recording() as talk:
        result = _sync_client().register()
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=devices.credentials(),
            hostname=result.registration_state.assigned_hub,
            device_id=result.registration_state.device_id,
        )
        client.send_message("one")
        client.send_message("three")
        client.shutdown()
    messages = talk.acknowledgements()
    assert [message.size for message in messages] == [3, 5]
    for message in messages:
        assert message.acknowledged_at is not None
        assert 0 <= message.acknowledged_at - message.sent_at < 5
    assert _kinds(talk, HUB)[-1] == "DISCONNECT"
    assert talk.unread == 0


def test_a_recording_that_begins_after_the_connection(enrolled: Target) -> None:
    result = devices.provision()

    async def session() -> Conversation:
        client = AsyncHubClient.create_from_x509_certificate(
            x509=devices.credentials(), hostname=result.registration_state.assigned_hub, device_id=devices.NAME
        )
        await client.connect()
        try:
            with conversation.recording() as talk:
                await client.send_message("late")
                await client.patch_twin_reported_properties({"speed": 3, "symmetricKey": "c2VjcmV0"})
                twin = await client.get_twin()
                assert twin["reported"]["speed"] == 3
            return talk
        finally:
            await client.shutdown()

    talk = asyncio.run(session())
    assert {event.party for event in talk.events} == {HUB}
    assert len({event.connection for event in talk.events}) == 1
    assert talk.acknowledgements()[0].acknowledged_at is not None
    patch = next(event for event in talk.events if "properties/reported" in (event.topic or ""))
    assert patch.json == {"speed": 3, "symmetricKey": "(hidden)"}
    answer = next(event for event in talk.events if event.status == 200)
    assert answer.json["reported"]["speed"] == 3
    assert "c2VjcmV0" not in talk.view().html + repr(talk.events)
    assert talk.unread == 0


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [("PROVISIONING_IDSCOPE", "0ne00000000", 3), ("DPS_X509_REGISTRATION_ID", "other", 5)],
)
def test_a_refused_connection(
    enrolled: Target, variable: str, value: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    talk = _registered()
    assert (talk.connack, talk.connack_party, talk.last_answer, talk.drops) == (code, DPS, None, 0)
    assert f"✘ DPS answers the introduction: {conversation_event.CONNACK[code]}" in talk.view().text
    assert f"(CONNACK {code})" in conversation_live.progress(talk, over=True, failed=True)


def test_a_host_that_does_not_exist(enrolled: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVISIONING_HOST", "nowhere.invalid")
    talk = _registered()
    event = talk.events[-1]
    assert (event.kind, event.party, event.host) == ("UNREACHABLE", DPS, "nowhere.invalid")
    assert (event.body or "").startswith("socket.gaierror")


def test_the_body_of_a_refusal(enrolled: Target) -> None:
    enrollments.delete(enrolled, devices.NAME)
    answer = _registered().last_answer
    assert answer is not None
    assert (answer.status, answer.json["errorCode"], answer.json["message"]) == (401, 401002, "Unauthorized")
    assert answer.in_words() == "✘ DPS answers 401: Unauthorized, error 401002."


def test_a_disabled_enrollment(faulty: Any) -> None:
    faulty.fault("disabled", devices.NAME, times=1)
    talk = _registered()
    assert talk.last_answer is not None
    assert (talk.last_answer.status, talk.last_answer.registration) == (200, "disabled")
    assert "the registration is disabled" in conversation_live.progress(talk, over=True, failed=True)


def test_too_many_requests(faulty: Any) -> None:
    faulty.fault("429", devices.NAME, times=1, retry_after=2)
    with conversation.recording() as talk:
        devices.provision()
    refusal = next(event for event in talk.events if event.status == 429)
    assert refusal.retry_after == 2
    later = next(event for event in talk.events if event.seconds > refusal.seconds and event.sent)
    assert 1.5 < later.seconds - refusal.seconds < 5
    assert "s later" in talk.view().html


def test_the_count_down_while_dps_assigns(faulty: Any) -> None:
    faulty.fault("slow", devices.NAME, times=1, seconds=3)
    seen: list[str] = []

    async def watched() -> None:
        registering = asyncio.create_task(devices.register())
        while not registering.done():
            text = conversation_live.progress(talk)
            if not seen or seen[-1] != text:
                seen.append(text)
            await asyncio.sleep(0.05)
        await registering

    with conversation.recording() as talk:
        asyncio.run(watched())
    assert [event.status for event in talk.events if event.status and event.kind == "PUBLISH"] == [202, 202, 200]
    waits = [int(found[1]) for text in seen if (found := re.search(r"^assigning: asking again in (\d) s$", text))]
    assert waits == [2, 1, 3, 2, 1]  # the SDK's own two seconds, then the three that DPS asks for
    assert conversation_live.progress(talk, over=True).startswith("✔ assigned to ")


def test_over_websockets(enrolled: Target) -> None:
    if fault := targets.listens(enrolled.host, 443):
        unable(f"the emulator could not take port 443: {fault}")
    client = ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=os.environ["PROVISIONING_HOST"],
        registration_id=devices.NAME,
        id_scope=os.environ["PROVISIONING_IDSCOPE"],
        x509=devices.credentials(),
        websockets=True,
    )
    with conversation.recording() as talk:
        client.register()
    assert talk.events[0].body == "on port 443 (MQTT over WebSockets)"
    assert talk.last_answer is not None
    assert talk.last_answer.registration == "assigned"


def test_a_hub_that_closes_the_connection_twice(faulty: Any) -> None:
    result = devices.provision()
    faulty.fault("hub-eviction", devices.NAME, times=2)
    with conversation.recording() as talk:
        for number in (1, 2):
            with suppress(Exception):
                asyncio.run(asyncio.wait_for(devices.send(1, result.registration_state), 2))
            wait_for(lambda number=number: talk.drops == number, within=5)
    assert talk.drops == 2
    assert _kinds(talk, HUB).count("CLOSED") == 2
    assert all(message.acknowledged_at is None for message in talk.acknowledgements())


def test_a_second_program_with_the_same_device_id(enrolled: Target) -> None:
    """Mistake: both are one device to the hub, which closes the older connection. It is counted, and nothing breaks."""
    state = devices.provision().registration_state

    def client() -> Any:
        return IoTHubDeviceClient.create_from_x509_certificate(
            x509=devices.credentials(), hostname=state.assigned_hub, device_id=state.device_id, connection_retry=False
        )

    with conversation.recording() as talk:
        one, two = client(), client()
        one.connect()
        two.connect()
        wait_for(lambda: talk.drops == 1, within=10)
        two.send_message("mine")
        one.shutdown()
        two.shutdown()
    assert talk.drops == 1
    assert talk.unread == 0


def test_several_devices_at_once_do_no_harm(enrolled: Target) -> None:
    """Whose step is whose may be mixed up then; the devices and the recording go on."""

    def register() -> str:
        return str(_sync_client().register().status)

    with conversation.recording() as talk, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(register) for _ in range(3)]
        ended = [one.exception(timeout=60) or one.result() for one in waiting]
    assert "assigned" in ended
    assert talk.unread == 0
    assert _kinds(talk, DPS).count("CONNECT") >= 3
    assert talk.view().text


def test_recordings_in_each_other_and_side_by_side(enrolled: Target) -> None:
    with conversation.recording() as outer:
        devices.provision()
        with conversation.recording() as inner:
            devices.provision()
    assert len(outer.events) == 2 * len(inner.events)
    said = len(outer.events)
    devices.provision()
    assert len(outer.events) == said


@contextmanager
def _kept() -> Iterator[None]:
    """Leave the loggers as they were, whatever a test did to them."""
    names = ("", "azure.iot.device", _SDK, "paho")
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names}
    try:
        yield
    finally:
        for name, (level, handlers) in before.items():
            logging.getLogger(name).setLevel(level)
            logging.getLogger(name).handlers[:] = handlers
            logging.getLogger(name).propagate = True


def _state() -> list[tuple[Any, ...]]:
    manager = logging.Logger.manager.loggerDict
    loggers = [one for name, one in sorted(manager.items()) if name.startswith(("azure", "paho"))]
    return [
        (one.name, one.level, tuple(one.handlers), tuple(one.filters), one.propagate, one.disabled)
        for one in [logging.getLogger(), *loggers]
        if isinstance(one, logging.Logger)
    ]


def _heard(stream: io.StringIO) -> list[str]:
    """The lines without what differs from run to run."""
    return [re.sub(r"[0-9a-f-]{20,}|0x[0-9a-f]+|\d+", "#", line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.CRITICAL])
def test_the_learners_own_handlers_hear_what_they_heard_before(enrolled: Target, level: int) -> None:
    with _kept():
        root, child = io.StringIO(), io.StringIO()
        logging.getLogger().addHandler(logging.StreamHandler(root))
        logging.getLogger("azure.iot.device").setLevel(level)
        logging.getLogger("paho").setLevel(level)
        logging.getLogger(_SDK).addHandler(logging.StreamHandler(child))
        logging.getLogger(_SDK).setLevel(logging.INFO)
        before = _state()
        devices.provision()
        expected = sorted(_heard(root)), sorted(_heard(child))
        root.truncate(0), root.seek(0), child.truncate(0), child.seek(0)
        with conversation.recording() as talk:
            devices.provision()
        assert (sorted(_heard(root)), sorted(_heard(child))) == expected
        assert expected[1]
        assert _state() == before
        assert talk.last_answer is not None
        with pytest.raises(ZeroDivisionError), conversation.recording():
            raise ZeroDivisionError
        assert _state() == before


def test_a_level_set_while_recording_counts_and_stays() -> None:
    with _kept():
        stream = io.StringIO()
        logging.getLogger(_SDK).addHandler(logging.StreamHandler(stream))
        with conversation.recording():
            logging.getLogger(_SDK).setLevel(logging.ERROR)
            logging.getLogger(_SDK).warning("not this")
            logging.getLogger(_SDK).error("but this")
        assert stream.getvalue() == "but this\n"
        assert logging.getLogger(_SDK).level == logging.ERROR


def test_secrets_are_hidden() -> None:
    for text in (
        '{"symmetricKey": {"primaryKey": "c2VjcmV0"}, "status": "x"}',
        '{"tpm": {"authenticationKey": "c2VjcmV0"}}',
        "HostName=h;SharedAccessKey=c2VjcmV0;DeviceId=d",
        "SharedAccessSignature sr=h&sig=c2VjcmV0&se=1",
        "devices/d/messages/events/$.mid=1&sas%3Dsig=c2VjcmV0",
        '{"note": "SharedAccessKey=c2VjcmV0"}',
        "{'primaryKey': 'c2VjcmV0'}",
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----",
    ):
        shown = conversation_event.without_secrets(text)
        assert "c2VjcmV0" not in shown
        assert "(hidden)" in shown
    plain = '{"registrationId": "monkey-1", "status": "assigned"}'
    assert conversation_event.without_secrets(plain) == plain


def _say(talk: Conversation, line: str, logger: str = "paho") -> None:
    talk.hear(logging.LogRecord(logger, logging.DEBUG, __file__, 1, line, None, None))


def test_hostile_text_is_escaped() -> None:
    talk = Conversation()
    path = "$dps/registrations/res/401/?$rid=<script>alert(1)</script>"
    _say(talk, f"Received PUBLISH (d0, q0, r0, m0), '{path}', ...  (30 bytes)")
    stage = "azure.iot.device.provisioning.pipeline.pipeline_stages_provisioning_mqtt"
    _say(talk, f"""Received payload:b'{{"message": "<img src=x onerror=alert(1)>"}}' on topic:{path}""", stage)
    _say(talk, """Sending CONNECT (u1, p0, wr0, wq0, wf0, c0, k60) client_id=b'<b>"x"</b>'""")
    html = talk.view().html
    assert "&lt;script&gt;" in html
    assert "&lt;img" in html
    for tag in ("<script", "<img", "<b>"):
        assert tag not in html


def test_memory_is_bounded_and_what_is_forgotten_is_told() -> None:
    talk = Conversation()
    stage = "azure.iot.device.provisioning.pipeline.pipeline_stages_provisioning_mqtt"
    for number in range(conversation.MOST_EVENTS + 10):
        path = f"$dps/registrations/res/202/?$rid={number}" + "x" * 3_000
        _say(talk, f"Received PUBLISH (d0, q0, r0, m0), '{path}', ...  (30 bytes)")
        if number % 1_000 == 0:
            _say(talk, f"Received payload:{b'y' * 50_000!r} on topic:{path}", stage)
    assert len(talk.events) == conversation.MOST_EVENTS
    assert talk.forgotten == 10
    assert max(len(event.topic or "") + len(event.body or "") for event in talk.events) < 10_000
    assert "The oldest 10 steps are no longer kept." in talk.view().text
    assert len(talk.view().html) < 1_000_000


def test_lines_of_another_version_do_no_harm() -> None:
    talk = Conversation()
    stage = "azure.iot.device.provisioning.pipeline.pipeline_stages_provisioning_mqtt"
    _say(talk, "Received payload:not python on topic:x", stage)
    _say(talk, "Received CONNACK in a new form")
    assert talk.unread == 2
    assert "2 lines of the log could not be read." in talk.view().text


def test_equal_steps_are_joined(enrolled: Target) -> None:
    with conversation.recording() as talk:
        devices.provision(10)
    view = talk.view()
    assert "10 × PUBLISH …/messages/events/ within" in view.html
    assert "10 × PUBACK within" in view.html
    assert 'role="img"' in view.html
    assert "2.0 s later" in view.html
    assert "<summary>In words, with the bodies of the answers</summary>" in view.html
    assert "neither the user name" in view.text


@pytest.mark.parametrize(("order", "overlapping"), [("ppaa", False), ("papa", True), ("ppapaa", True), ("pa", False)])
def test_steps_that_overlap_are_said_to(order: str, overlapping: bool) -> None:
    talk, numbers = Conversation(), {"p": 0, "a": 0}
    for letter in order:
        numbers[letter] += 1
        publish = f"Sending PUBLISH (d0, q1, r0, m{numbers['p']}), 'b'devices/d/messages/events/'', ... (9 bytes)"
        _say(talk, publish if letter == "p" else f"Received PUBACK (Mid: {numbers['a']})")
    assert ("overlapping" in talk.view().html) is overlapping
    assert all(message.acknowledged_at is not None for message in talk.acknowledgements())


def test_nothing_said_is_told() -> None:
    with conversation.recording() as talk:
        pass
    assert talk.view().text.startswith("Nothing was said")
    assert conversation_live.progress(talk, over=True) == "The device has not said anything."


_CELL = """
import sys; sys.path.insert(0, {tests!r})
import devices
from dpsx_helpers import conversation, targets
devices.set_variables(targets.current())
with conversation.live() as talk:
    result = await devices.register()
    await devices.send(2, result.registration_state)
"""


def test_in_a_notebook_the_last_line_is_stored_and_it_is_one_output(enrolled: Target) -> None:
    here = os.path.dirname(__file__)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_CELL.format(tests=here))])
    started = time.monotonic()
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    assert time.monotonic() - started > 2
    outputs = notebook.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data"]
    text = outputs[0].data["text/plain"]
    host = enrolled.host
    assert text == f"✔ assigned to {host}; 2 messages sent, 2 acknowledged; disconnected from the hub ({host})"
    assert 'role="status"' in outputs[0].data["text/html"]


def test_in_a_notebook_a_failure_is_where_the_line_ends(enrolled: Target) -> None:
    lines = _CELL.format(tests=os.path.dirname(__file__)).replace(
        "with conversation", "import os; os.environ['PROVISIONING_IDSCOPE'] = '0ne00000000'\nwith conversation"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(lines)])
    NotebookClient(notebook, kernel_name="python3", timeout=60, allow_errors=True).execute()
    shown = [output.data["text/plain"] for output in notebook.cells[0].outputs if output.output_type == "display_data"]
    assert shown == [f"✘ DPS ({enrolled.host}) refuses the connection: server unavailable (CONNACK 3)"]
