"""Messages after the fact and while they arrive: the SDK sends them, the emulator stores them."""

import asyncio
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from azure.iot.device import Message
from azure.iot.device.aio import IoTHubDeviceClient
from devices import NAME, credentials, provision, set_variables
from nbclient import NotebookClient
from test_views import accessible

from dpsx_helpers import conversation, enrollments, targets, tutorial, views
from dpsx_helpers.certificates import Pair
from dpsx_helpers.display import View
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]


class Charts(HTMLParser):
    """The words of each chart of a view."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.words: list[str] = []
        self._within = False
        self.feed(view.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag == "desc"

    def handle_data(self, data: str) -> None:
        if self._within:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._within = False


@pytest.fixture
def provisioned(emulated: Target, pair: Pair) -> Target:
    enrollments.save(emulated, pair.certificate_file)
    set_variables(emulated)
    provision()
    return emulated


def send(target: Target, bodies: Sequence[str], **properties: str) -> None:
    async def all_of_them() -> None:
        client = IoTHubDeviceClient.create_from_x509_certificate(credentials(), target.hubs[0], NAME)
        try:
            await client.connect()
            for number, body in enumerate(bodies):
                message = Message(body)
                message.message_id = f"id-{number}"
                message.custom_properties.update(properties)
                await client.send_message(message)
        finally:
            await client.shutdown()

    asyncio.run(all_of_them())


def test_the_newest_message_is_last_and_the_wind_is_drawn(provisioned: Target) -> None:
    send(provisioned, ["test wind speed 7", "test wind speed 2.5", "test wind speed -1"])
    view = views.messages(provisioned, NAME)
    accessible(view)
    lines = view.text.splitlines()
    assert lines[0] == f"Messages from {NAME} (3)"
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert lines[4].endswith("test wind speed -1")
    assert "Properties" not in view.text
    (words,) = Charts(view).words
    assert words == "Wind speed, 3 messages: from -1 to 7, median 2.5, last -1."
    assert words in view.text


def test_messages_without_a_number_are_counted_and_left_out_of_the_chart(provisioned: Target) -> None:
    send(provisioned, ["hello", "temperature 20", "v1.2.3", "nan"], colour="<red>")
    view = views.messages(provisioned, NAME)
    accessible(view)
    assert Charts(view).words == ["Number at the end of the body, one message: 20."]
    assert "3 of 4 messages are not in the chart: no number at the end of the body." in view.text
    assert "colour=<red>" in view.text
    assert "colour=&lt;red&gt;" in view.html


def test_with_no_number_in_any_message_there_is_no_chart_and_no_word_of_one(provisioned: Target) -> None:
    send(provisioned, ["hello"])
    view = views.messages(provisioned, NAME)
    assert Charts(view).words == []
    assert "chart" not in view.text


def test_the_recorded_conversation_tells_how_long_each_acknowledgement_took(provisioned: Target) -> None:
    with conversation.recording() as talk:
        send(provisioned, ["test wind speed 1", "test wind speed 2"])
    view = views.messages(provisioned, NAME, talk)
    accessible(view)
    assert "Acknowledged after (ms)" in view.text
    wind, late = Charts(view).words
    assert wind.startswith("Wind speed, 2 messages: ")
    assert late.startswith("Acknowledged after, 2 messages: from ")
    for name, size, sent, acknowledged in talk.acknowledgements():
        assert name is not None
        assert size == len("test wind speed 1")
        assert acknowledged is not None
        assert f"{(acknowledged - sent) * 1000:.1f}" in view.text


def test_on_azure_the_conversation_alone_gives_the_times(provisioned: Target) -> None:
    with conversation.recording() as talk:
        send(provisioned, ["test wind speed 1"])
    tutorial.enter("target", "azure")
    view = views.messages(targets.current(), NAME, talk)
    accessible(view)
    assert "Messages that this device sent (1)" in view.text
    assert "id-0" in view.text
    assert len(Charts(view).words) == 1
    assert "Do your messages appear?" in view.text


def test_a_conversation_without_messages_adds_nothing(provisioned: Target) -> None:
    send(provisioned, ["test wind speed 1"])
    with conversation.recording() as talk:
        pass
    assert views.messages(provisioned, NAME, talk).text == views.messages(provisioned, NAME).text
    assert views.conversation(talk).text == talk.view().text


class Watching(NotebookClient):
    """Notes what the kernel says, in its order: the kind of each message and the plain text in it."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        content = msg["content"]
        text = content.get("text") or content.get("data", {}).get("text/plain", "")
        self.__dict__.setdefault("heard", []).append((msg["header"]["msg_type"], text))
        return super().process_message(msg, cell, cell_index)


def run(cell: str) -> tuple[list[Any], list[tuple[str, str]]]:
    """The outputs of this cell in a kernel of its own, and all that the kernel said on the way."""
    setup = (
        "import sys; sys.path[:0] = ['tests']\n"
        "import asyncio, dataclasses, pathlib, threading\n"
        "from test_telemetry_view import send\n"
        "from dpsx_helpers import targets, views\n"
        "from dpsx_helpers.emulator import Emulator\n"
        "target = targets.current()"
    )
    cells = [nbformat.v4.new_code_cell(setup), nbformat.v4.new_code_cell(cell)]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    client = Watching(notebook, timeout=60, resources={"metadata": {"path": str(Path(__file__).parents[1])}})
    client.execute()
    return list(notebook.cells[1].outputs), client.__dict__["heard"]


def test_a_live_table_shows_what_arrives_while_it_arrives_and_at_the_end_all_of_it(provisioned: Target) -> None:
    send(provisioned, ["test wind speed 99"])
    (output, printed), heard = run(
        f"with views.arriving(target, {NAME!r}):\n"
        "    await asyncio.to_thread(send, target, ['test wind speed 1', 'test wind speed 2'])\n"
        "    await asyncio.sleep(1)\n"
        "    print('still running')"
    )
    assert printed.text == "still running\n"
    kinds = [(kind, text.splitlines()[0]) for kind, text in heard if kind in ("update_display_data", "stream")]
    start = f"Messages from {NAME} while this cell"
    assert kinds[-3:] == [
        ("update_display_data", f"{start} runs (2 so far)"),
        ("stream", "still running"),
        ("update_display_data", f"{start} ran (2 in all)"),
    ]
    text = output.data["text/plain"]
    assert text.splitlines()[0] == f"{start} ran (2 in all)"
    assert [line.split()[-1] for line in text.splitlines()[2:4]] == ["1", "2"], "and not the one from before"
    assert "Wind speed, 2 messages" in text


def test_the_cell_keeps_its_own_exception_and_learns_of_no_other(provisioned: Target) -> None:
    """No thread stays behind; an emulator that cannot be read costs the table and nothing else."""
    (waited, caught, ran), _ = run(
        "try:\n"
        "    with views.arriving(target):\n"
        "        raise KeyError('mine')\n"
        "except KeyError as error:\n"
        "    print(error, [thread.name for thread in threading.enumerate() if thread.name == 'arriving'])\n"
        "nowhere = Emulator(pathlib.Path('/nowhere'), target.emulator._facts)\n"
        "with views.arriving(dataclasses.replace(target, emulator=nowhere)):\n"
        "    sys.stderr.write('it ran')"
    )
    assert waited.data["text/plain"] == "Messages to the hub: none reached the hub while this cell ran."
    assert (caught.text, ran.text) == ("'mine' []\n", "it ran")


def test_on_azure_one_sentence_says_where_to_look(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_TARGET", "azure")
    (output,), _ = run(f"with views.arriving(target, {NAME!r}):\n    pass")
    assert "az iot hub monitor-events" in output.data["text/plain"]
    assert NAME in output.data["text/plain"]


def test_without_ipython_nothing_is_shown(provisioned: Target, capsys: pytest.CaptureFixture[str]) -> None:
    with views.arriving(provisioned):
        send(provisioned, ["test wind speed 1"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", ["9" * 308, "-" + "9" * 308, "0." + "0" * 323 + "5", "9" * 300])
def test_numbers_that_no_axis_can_hold_are_left_out_of_the_chart(provisioned: Target, number: str) -> None:
    send(provisioned, [f"speed {number}", "speed 3"])
    view = views.messages(provisioned, NAME)
    assert number in view.text
    assert len(Charts(view).words) == 1
