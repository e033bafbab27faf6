"""`python -m benchmarks`: its statistics, its table and JSON, its page, and that it measures; never how fast it is."""

import getpass
import json
import marshal
import math
import platform
import pstats
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    certificate,
    connects,
    device,
    drawing,
    growth,
    hotspots,
    idle,
    machine,
    page,
    programs,
    registrations,
    setting,
    start,
    telemetry,
    together,
)
from benchmarks.figures import (
    Aim,
    Figure,
    Line,
    NotMeasured,
    Row,
    Samples,
    alternate,
    document,
    exponent,
    number,
    read,
    table,
)
from benchmarks.growth import Launch
from benchmarks.idle import Rest
from benchmarks.light_device import NotLetIn
from benchmarks.peers import Server, mosquitto
from benchmarks.programs import Memory
from benchmarks.together import Run, Signal

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"


def samples(*values: float) -> Samples:
    return Samples.of(values)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_samples_have_a_median_and_a_spread() -> None:
    found = samples(3, 1, 9, 2)
    assert (found.median, found.spread) == (2.5, (1, 9))
    assert samples(0.123456789).values == (0.123457,)


@pytest.mark.parametrize("values", [(), (1.0, math.nan), (math.inf,)])
def test_what_was_not_measured_is_no_sample(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="measured nothing that is a number"):
        Samples.of(values)


def test_ours_and_the_peer_take_turns_and_the_first_round_does_not_count() -> None:
    done: list[str] = []

    def work(name: str) -> int:
        done.append(name)
        return len(done)

    assert alternate(2, lambda: work("ours"), lambda: work("peer")) == [[3, 5], [4, 6]]
    assert done == ["ours", "peer"] * 3
    assert alternate(1, lambda: work("alone"), warm_up=False) == [[7]]


def test_a_comparison_is_made_round_by_round() -> None:
    """The machine became three times as slow for the last round, which changes neither median."""
    ours, peer = samples(2, 2, 9), samples(1, 4, 3)
    ratio, difference = (Figure("x", "s", ours, "peer", peer, how).comparison for how in ("ratio", "difference"))
    assert ratio is not None
    assert difference is not None
    assert (ratio.values, ratio.median) == ((2, 0.5, 3), 2)
    assert (difference.values, difference.median) == ((1, -2, 6), 1)


def test_rounds_of_ours_without_one_of_the_peer_are_refused() -> None:
    with pytest.raises(ValueError, match="x: 2 rounds, 1 of the peer"):
        Figure("x", "s", samples(1, 2), "peer", samples(1))


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (None, None),
        (Aim(2.0), True),
        (Aim(1.9), False),
        (Aim(2.0, at_least=True), True),
        (Aim(2.1, at_least=True), False),
        (Aim(0.5, of="comparison"), True),
        (Aim(0.4, of="comparison"), False),
        (Aim(0.6, of="comparison", at_least=True), False),
    ],
)
def test_an_aim_is_judged_by_the_median(aim: Aim | None, met: bool | None) -> None:
    figure = Figure("x", "s", samples(0, 2, 100), "peer", samples(1, 4, 200), aim=aim)
    assert figure.met is met
    assert ("✔" in table([figure]), "✘" in table([figure])) == (met is True, met is False)


def test_without_the_peer_an_aim_beside_it_is_neither_met_nor_missed() -> None:
    figure = Figure("x", "s", samples(1), "mosquitto", None, aim=Aim(1, of="comparison"))
    assert figure.met is None
    assert "| mosquitto: not measured |" in table([figure])


@pytest.mark.parametrize(("power", "costs"), [(0, [7, 7, 7]), (1, [3, 30, 300]), (2, [1, 100, 10_000])])
def test_the_exponent_tells_how_costs_grow(power: float, costs: list[float]) -> None:
    assert exponent([10, 100, 1000], costs) == pytest.approx(power)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (34_567.8, "34,568"), (100, "100"), (60, "60.0"), (2.3456, "2.35"), (0.0721, "0.0721"),
     (0.00031, "0.0003"), (-1.5, "-1.50"), (9.999, "10.00")],
)  # fmt: skip
def test_numbers_are_short(value: float, said: str) -> None:
    assert number(value) == said


# --- table and JSON ---------------------------------------------------------------------------------------------------

LINES: tuple[Line, ...] = (
    Figure("start", "s", samples(0.2, 0.25, 0.3), "imports", samples(0.1, 0.1, 0.1), "difference", Aim(0.5), "a note"),
    Figure("sent", "/s", samples(30_000), "mosquitto", samples(40_000), aim=Aim(0.5, "comparison", True)),
    Figure("share", "%", samples(12), curve="a curve", size=10),
    Figure("program", "s", samples(2.2), aim=Aim(2.3, words="2.0 s + 0.3 s")),
    NotMeasured("beside openssl", "openssl is not installed"),
)


def row(name: str, *lines: Line, **changes: Any) -> Row:
    facts: dict[str, Any] = {
        "rounds": 3,
        "date": "2026-11-30 21:00 UTC",
        "commit": "abc",
        "load": 0.1,
        "machine": {"cores": "2"},
    }
    return Row(name, f"The {name}", lines or LINES, **(facts | changes))


def test_the_table_says_all_that_there_is_to_say() -> None:
    head, rule, *rows = table(LINES).partition("\n\n")[0].splitlines()
    assert len({len(line) for line in (head, rule, *rows)}) == 1, "it can be read in a terminal"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows)]
    assert cells == [
        ["what", "here", "beside it", "compared", "aim", "met"],
        ["start", "0.250 s (0.200 to 0.300)", "imports: 0.100 s (0.100 to 0.100)", "+0.150 s (0.100 to 0.200)",
         "at most 0.500 s", "✔"],
        ["sent", "30,000/s", "mosquitto: 40,000/s", "× 0.750", "at least × 0.500", "✔"],
        ["share", "12.0%", "", "", "", "–"],
        ["program", "2.20 s", "", "", "at most 2.0 s + 0.3 s", "✔"],
        ["beside openssl", "not measured: openssl is not installed", "", "", "", "–"],
    ]  # fmt: skip
    assert table(LINES).endswith("\n\nstart: a note.")


def test_json_keeps_every_sample_and_reads_back() -> None:
    rows = [row("first"), row("second", LINES[0], load=None)]
    said = json.loads(json.dumps(document(rows)))
    assert read(said) == rows
    line = said["rows"][0]["lines"][0]
    assert (line["ours"]["values"], line["median"], line["peer_median"], line["met"]) == (
        [0.2, 0.25, 0.3],
        0.25,
        0.1,
        True,
    )
    assert line["comparison"] == pytest.approx(0.15)
    with pytest.raises(ValueError, match="format 2 is not known here"):
        read({**said, "format": 2})


# --- what it was measured on ------------------------------------------------------------------------------------------


def names_nobody(text: str) -> bool:
    """Whether there is nothing of this machine's name, its user, or a folder on it."""
    names = {socket.gethostname(), platform.node(), getpass.getuser()}
    folders = {str(path) for path in (Path.home(), ROOT, Path.cwd(), Path(sys.prefix))}
    folders |= {"/home/", "/root", "/tmp/", "/usr/", "/work/", "C:\\"}
    found = [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)]
    return not found and not [folder for folder in folders if len(folder) > 1 and folder in text]


def test_the_machine_is_described_and_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.18.2-built-by-somebody")
    facts = machine.describe()
    assert all(facts.values())
    assert facts["Python"] == platform.python_version()
    assert facts["azure-iot-device"] == "2.14.0"
    assert re.search(r", \d+ cores$", facts["processor"])
    assert "somebody" not in json.dumps(facts)
    assert names_nobody(json.dumps(facts))
    assert not names_nobody(f"{socket.gethostname()} {Path.home()}")


def test_a_commit_with_changes_is_told_from_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is not a git checkout")
    assert re.fullmatch(r"[0-9a-f]{9,}\+?", machine.commit())
    monkeypatch.setenv("PATH", "/nonexistent")
    assert machine.commit() == ""


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(machine, "_SYSTEM", ())


def test_a_peer_that_is_not_installed_is_one_line_that_names_the_package(no_peers: None) -> None:
    assert machine.missing(("openssl", "mosquitto")) == [
        f"{name} is not installed, so what is measured beside it is left out: on Debian, apt install {name}."
        for name in ("openssl", "mosquitto")
    ]
    facts = machine.describe()
    assert facts["mosquitto"] == facts["OpenSSL program"] == "not installed"


def test_a_certificate_without_openssl_is_measured_and_its_row_says_so() -> None:
    *ours, last = certificate.figures([(0.5, 0.4)], [])
    assert len(ours) == 2
    assert last == NotMeasured("the same beside `openssl req` of the quickstart", "openssl is not installed")


# --- the command ------------------------------------------------------------------------------------------------------


class Rows:
    """Rows that take no time, in the place of the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.value = 1.0
        self.asked: list[tuple[str, int]] = []
        monkeypatch.setattr(command, "ROWS", ("one", "two"))
        monkeypatch.setattr(machine, "describe", lambda: {"cores": "2"})
        monkeypatch.setattr(machine, "load", lambda: 0.1)
        for name in command.ROWS:
            stub = SimpleNamespace(NAME=name, TITLE=name.title(), ROUNDS=2, NEEDS=("openssl",), PICTURE="")
            stub.measure = lambda rounds, name=name: self._measure(name, rounds)
            monkeypatch.setitem(sys.modules, f"benchmarks.{name}", stub)

    def _measure(self, name: str, rounds: int) -> list[Line]:
        self.asked.append((name, rounds))
        if self.value < 0:
            raise RuntimeError("the device has said nothing")
        return [Figure(f"work of {name}", "s", samples(*[self.value] * rounds), curve="c", size=1)]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(monkeypatch)


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """A page with a place for both rows."""
    (tmp_path / "images").mkdir()
    parts = [f"{name}\n<!-- {what} -->\n<!-- end -->\n" for name, what in
             (("on", "machine"), ("1", "figures one"), ("2", "figures two"))]  # fmt: skip
    path = tmp_path / "page.md"
    path.write_text("# By hand\n" + "between\n".join(parts) + "after\n")
    return path


def test_the_command_prints_one_table_and_writes_json(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_peers: None
) -> None:
    assert command.main(["--json", str(tmp_path / "all.json")]) == 0
    assert rows.asked == [("one", 2), ("two", 2)]
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("openssl is not installed")
    assert out[0].endswith("apt install openssl.")
    assert [line.split(" | ")[0] for line in out[1:]] == [
        "| what       ", "|" + out[2][1:], "| work of one", "| work of two", "", "cores: 2",
    ]  # fmt: skip
    found = read(json.loads((tmp_path / "all.json").read_text()))
    assert [(one.name, one.title, one.rounds) for one in found] == [("one", "One", 2), ("two", "Two", 2)]


def test_a_busy_machine_is_told(
    rows: Rows, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for load, said in ((None, False), (0.4, False), (7.25, True)):
        monkeypatch.setattr(machine, "load", lambda load=load: load)
        assert command.main(["--only", "one"]) == 0
        assert ("This machine is busy (load 7.25)" in capsys.readouterr().err) is said


def test_it_measures_what_is_asked_for_as_often_as_is_asked_for(rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "two", "--rounds", "5"]) == 0
    assert rows.asked == [("two", 5)]
    for wrong in (["--only", "three"], ["--rounds", "0"], ["--rounds", "many"]):
        with pytest.raises(SystemExit, match="2"):
            command.main(wrong)
    assert "'many' is no number of rounds: give 1 or more" in capsys.readouterr().err


def test_a_row_that_fails_is_said_in_one_line_and_the_others_are_measured(
    rows: Rows, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rounds: int) -> list[Line]:
        raise RuntimeError("the device has said nothing")

    monkeypatch.setattr(sys.modules["benchmarks.one"], "measure", fail)
    assert command.main([]) == 1
    said = capsys.readouterr()
    assert "one could not be measured: the device has said nothing\n" in said.err
    assert "work of two" in said.out
    assert "work of one" not in said.out


def test_what_was_measured_before_ctrl_c_is_kept(
    rows: Rows, paper: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(rounds: int) -> list[Line]:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["benchmarks.two"], "measure", stop)
    assert command.main(["--page", str(paper)]) == 130
    said = capsys.readouterr()
    assert "Stopped; measured until then: one.\n" in said.err
    assert "work of one" in said.out
    assert [one.name for one in read(json.loads(paper.with_suffix(".json").read_text()))] == ["one"]
    monkeypatch.setattr(sys.modules["benchmarks.one"], "measure", stop)
    assert command.main([]) == 130
    assert "measured until then: nothing." in capsys.readouterr().err


def test_the_page_gets_tables_between_its_markers_and_keeps_the_rest(rows: Rows, paper: Path) -> None:
    before = re.sub(r"(<!-- \w.*? -->)\n<!-- end -->", r"\1", paper.read_text())
    assert command.main(["--page", str(paper)]) == 0
    first = paper.read_text()
    assert re.sub(r"(<!-- (?!end).*? -->)\n.*?<!-- end -->", r"\1", first, flags=re.DOTALL) == before
    assert re.search(r"<!-- figures one -->\n\n\| what .*\| work of one \| 1.00 s .*, 2 rounds", first, re.DOTALL)
    assert first == page.fill(first, read(json.loads(paper.with_suffix(".json").read_text())))
    rows.value = 3.0
    assert command.main(["--page", str(paper), "--only", "two"]) == 0
    second = paper.read_text()
    assert ("work of one | 1.00 s" in second, "work of two | 3.00 s" in second) == (True, True)
    assert "work of two | 1.00 s" not in second
    assert second == page.fill(second, kept := read(json.loads(paper.with_suffix(".json").read_text())))
    assert [(one.name, one.lines[0].ours.median) for one in kept] == [("one", 1), ("two", 3)]  # type: ignore[union-attr]


def test_rows_of_two_machines_do_not_come_onto_one_page(
    rows: Rows, paper: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--page", str(paper)]) == 0
    before = paper.read_text()
    monkeypatch.setattr(machine, "describe", lambda: {"cores": "64"})
    assert command.main(["--page", str(paper), "--only", "two"]) == 1
    assert "different machines or versions: measure all of them, without --only." in capsys.readouterr().err
    assert paper.read_text() == before
    assert command.main(["--page", str(paper)]) == 0
    assert "| cores | 64 |" in paper.read_text()


def test_a_page_that_cannot_be_filled_stays_as_it_is(
    rows: Rows, paper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper.write_text(before := paper.read_text().replace("<!-- figures two -->", ""))
    assert command.main(["--page", str(paper)]) == 1
    place = "put <!-- figures two --> and, on a later line, <!-- end --> where it belongs."
    assert capsys.readouterr().err.endswith(f"The page has no place for this: {place}\n")
    assert paper.read_text() == before
    paper.with_suffix(".json").write_text("{")
    assert command.main(["--page", str(paper)]) == 1
    assert "page.json is damaged: delete it, and measure everything" in capsys.readouterr().err
    assert command.main(["--page", str(paper.parent / "none.md")]) == 1


def test_a_row_with_curves_is_drawn_beside_the_page(
    rows: Rows, paper: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["benchmarks.two"], "PICTURE", "drawn")
    picture = paper.parent / "images" / "drawn.png"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert command.main(["--page", str(paper)]) == 0
    assert "Nothing is drawn without matplotlib: pip install -r requirements-fleet.txt" in capsys.readouterr().err
    assert not picture.exists()
    monkeypatch.undo()


def test_curves_are_drawn_beside_growth_in_proportion() -> None:
    lines = growth.figures({size: [Launch(0.01 * size, 0.002 * size, 0.1, 50, 50 + size)] * 2 for size in (1, 10, 100)})
    curves = drawing.curves(lines)
    assert list(curves) == ["time beyond 2.0 s, s", "processor time of the emulator, s", "growth of its memory, MB"]
    assert curves["growth of its memory, MB"] == [(1, 1, 1, 1), (10, 10, 10, 10), (100, 100, 100, 100)]
    worse = [(1, 5.0, 5, 5), (10, 2.0, 2, 2), (100, 200.0, 200, 200)]
    assert drawing.proportional(worse) == [0.2, 2, 20], "a hundred cost ten times too much"
    assert drawing.png(lines).startswith(b"\x89PNG")


# --- the page of this project -----------------------------------------------------------------------------------------


def test_the_page_says_what_the_command_has_written_and_nothing_else() -> None:
    text, kept = PAGE.read_text(encoding="utf-8"), command.samples_of(PAGE).read_text(encoding="utf-8")
    measured = read(json.loads(kept))
    assert page.names(text) == [one.name for one in measured] == list(command.ROWS), "every row is there, in its order"
    assert page.fill(text, measured) == text
    assert command.as_json(measured) == kept
    assert names_nobody(text)
    assert names_nobody(kept)
    for one in measured:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", one.date)
        assert one.machine.keys() == machine.describe().keys()


@pytest.mark.parametrize("name", command.ROWS)
def test_a_row_is_what_the_command_expects(name: str) -> None:
    one = command.module(name)
    assert (one.NAME, one.ROUNDS > 0, set(one.NEEDS) <= machine.PEERS.keys()) == (name, True, True)
    assert one.TITLE
    picture = getattr(one, "PICTURE", "")
    assert not picture or f"](images/{picture}.png)" in PAGE.read_text(encoding="utf-8")


# --- what is measured -------------------------------------------------------------------------------------------------


def test_a_process_is_timed_to_its_end() -> None:
    began = time.perf_counter()
    ran = programs.run([sys.executable, "-c", "import time; time.sleep(0.3); print(input())"], given="said")
    assert ran.printed == "said\n"
    assert 0.3 <= ran.seconds <= time.perf_counter() - began


def test_a_process_that_fails_is_an_error_with_its_last_words_and_no_path() -> None:
    with pytest.raises(RuntimeError) as failure:
        programs.run([sys.executable, "-c", "raise SystemExit('no such device')"])
    assert re.fullmatch(r"`python[\d.]* -c .*` ended with 1: no such device", str(failure.value))


def test_processor_time_is_counted_more_finely_than_in_hundredths() -> None:
    own = psutil.Process().pid
    before, until = programs.cpu_seconds(own), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    spent = programs.cpu_seconds(own) - before
    assert 0.04 < spent < 30
    if sys.platform == "linux":
        assert round(spent * 100, 9) != round(spent * 100), "not in steps of 10 ms"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(psutil.NoSuchProcess):
        programs.cpu_seconds(ended.pid)


def test_the_devices_program_is_that_of_the_notebook_and_its_imports_are_no_more_than_that() -> None:
    program = setting.device_program()
    compile(program, "device.py", "exec")
    assert setting.imports_of(program).splitlines() == [
        "import asyncio",
        "import os",
        "import uuid",
        "from azure.iot.device import Message, X509",
        "from azure.iot.device.aio import IoTHubDeviceClient, ProvisioningDeviceClient",
    ]


def test_key_generation_is_timed_within_the_making_of_a_certificate(tmp_path: Path) -> None:
    whole, generation = certificate.create(tmp_path)
    assert 0 < generation < whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["python-device.key.pem", "python-device.pem"]
    kept, command_ = certificate.figures([(1.0, 0.8), (3.0, 2.5)], [4.0, 4.0])[0], certificate._openssl
    assert isinstance(kept, Figure)
    assert kept.comparison == samples(1.25, 1.2)
    if (openssl := machine.program("openssl")) is not None:
        assert command_(openssl, tmp_path) > 0
        assert (tmp_path / "openssl.pem").read_text().startswith("-----BEGIN CERTIFICATE-----")


def test_an_emulator_is_timed_until_it_is_ready_and_has_ended_afterwards(tmp_path: Path) -> None:
    with start._running(tmp_path / "emulator") as (seconds, running):
        assert seconds > 0
        assert running.running()
        used = programs.memory(running.overview.pid)
    assert not running.running()
    assert used.rss >= used.pss >= used.uss > 1
    rss, pss, uss = start.resting([used, Memory(3, 2, 1)])
    assert [one.ours.values[1] for one in (rss, pss, uss) if isinstance(one, Figure)] == [3, 2, 1]


@pytest.fixture
def no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits two seconds before the first question."""
    monkeypatch.setattr(growth, "FLOOR", 0.0)


def test_a_thousand_are_measured_as_two_are(tmp_path: Path, no_floor: None) -> None:
    devices = setting.make_devices(2, tmp_path)
    launched = growth.launch(tmp_path, devices)
    assert launched.seconds > 0
    assert launched.emulator > 0
    assert launched.client > 0
    assert launched.memory >= launched.at_rest > 1


def test_a_device_that_is_refused_is_no_measurement(
    tmp_path: Path, no_floor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "enroll", lambda running, devices: None)
    with pytest.raises(NotLetIn, match="device-0001: 401"):
        growth.launch(tmp_path, setting.make_devices(1, tmp_path))


def test_growth_says_with_which_power_and_how_much_for_each() -> None:
    def quadratic(size: int) -> list[Launch]:
        return [Launch(1, size**2 / 1e6, 1, 50, 50 + size / 10)] * 3

    *_, power, each = growth.figures({size: quadratic(size) for size in (1, 10, 100, 1000)})
    assert isinstance(power, Figure)
    assert power.ours.median == pytest.approx(2)
    assert power.met is False
    assert isinstance(each, Figure)
    assert (each.ours.median, each.unit) == (100, "kB")


def test_the_sdks_launches_are_put_beside_one_device() -> None:
    many, one = [registrations.Launch(3.0, 1.5, 0.7)] * 2, [registrations.Launch(2.1, 0.1, 0.01)] * 2
    whole, used = registrations.figures(many, one, 200)
    assert isinstance(whole, Figure)
    assert isinstance(used, Figure)
    assert (whole.met, whole.comparison) == (True, samples(0.9, 0.9))
    assert (used.ours.median, used.peer and used.peer.median) == (0.7, 1.5)


def test_telemetry_and_connections_are_measured_on_both_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few of each. There are fewer devices than connections at once, and none is on two of them."""
    monkeypatch.setattr(connects, "COUNT", 4)
    at_once: Any = SimpleNamespace(wait=lambda: None, done=lambda: None)  # the signal, for clients in this process
    with setting.emulator(tmp_path / "emulator") as running, ExitStack() as stack:
        devices = setting.make_devices(2, tmp_path)
        setting.enroll(running, devices)
        senders = setting.named(devices[0], 2)
        setting.in_hub(running, senders)
        ours, scope = Server.of(running), running.overview.id_scope
        done = connects.connect(ours, scope, devices, 1)
        assert 0 < done.seconds < 60
        assert 0 < done.cpu < 60
        assert {record["status"] for record in running.registrations()} == {"assigned"}
        telemetry._send_all(ours, ours.host, senders, 10, at_once)
        if machine.program("mosquitto"):
            trusted = [device.certificate_file for device in devices]
            peer = stack.enter_context(mosquitto(tmp_path / "peer", running, trusted))
            telemetry._send_all(peer, ours.host, senders, 10, at_once)
            connects._connect_all(peer, "", devices, 4, at_once)
        assert len(running.messages()) == 20, "what went to mosquitto is not ours"


def test_rows_beside_mosquitto_say_when_it_is_not_there() -> None:
    run, rest = [Run(2.0, 0.4)], [idle.Rest(30.0, 70.0, 0.1, 1.0)]
    for lines in (telemetry.figures(1, 0.85, run), connects.figures("EC", run), idle.figures(1000, rest)):
        assert all("mosquitto" in cells and "not measured" in cells for cells in table(lines).splitlines()[2:])
    pace, cost = telemetry.figures(1, 0.85, run, [Run(1.8, 0.1)])
    assert [one.met for one in (pace, cost) if isinstance(one, Figure)] == [True, True]
    assert isinstance(pace, Figure)
    assert isinstance(cost, Figure)
    assert (pace.ours.median, cost.ours.median, cost.unit) == (10_000, 20, "µs"), "20,000 messages in 2 s, with 0.4 s"
    memory, after, *_ = idle.figures(1000, rest, rest)
    assert [one.met for one in (memory, after) if isinstance(one, Figure)] == [True, False]


def test_the_programs_whole_time_is_put_beside_its_imports_and_the_floor() -> None:
    whole, imports, roots = device.figures(samples(2.5), samples(0.2), samples(0.05), samples(2.4))
    found = [one.comparison.median for one in (whole, imports, roots) if isinstance(one, Figure) and one.comparison]
    assert found == pytest.approx([0.3, 0.15, 0.1])
    assert isinstance(whole, Figure)
    assert whole.met is False


# --- beside mosquitto -------------------------------------------------------------------------------------------------


def test_telemetry_is_compared_by_pace_and_judged_by_processor_time() -> None:
    ours, peer = [Run(0.5, 0.2)] * 2, [Run(0.4, 0.1)] * 2
    pace, cost = telemetry.figures(10, 0.85, ours, peer)
    assert isinstance(pace, Figure)
    assert isinstance(cost, Figure)
    assert pace.ours.median == telemetry.MESSAGES / 0.5
    assert pace.comparison is not None
    assert pace.comparison.median == pytest.approx(0.8)
    assert pace.met is False
    assert cost.ours.median == pytest.approx(0.2 / telemetry.MESSAGES * 1e6)
    assert cost.met is True


@pytest.mark.parametrize(("seconds", "met"), [(1.0, True), (1.2, False)])
def test_connections_are_judged_by_their_pace(seconds: float, met: bool) -> None:
    pace, cost = connects.figures("EC", [Run(seconds, 0.8)], [Run(1.0, 0.4)])
    assert isinstance(pace, Figure)
    assert isinstance(cost, Figure)
    assert pace.met is met
    assert cost.ours.median == pytest.approx(0.8 / connects.COUNT * 1e3)


def test_devices_at_rest_are_judged_by_memory_and_processor_time() -> None:
    lines = idle.figures(1000, [Rest(40, 61, 0.1, 2.5)], [Rest(20, 20, 0.0, 0.1)])
    assert [line.met for line in lines if isinstance(line, Figure)] == [True, False, True, False]


def test_a_registration_that_is_refused_is_no_measurement_either(tmp_path: Path) -> None:
    with (
        setting.emulator(tmp_path / "emulator") as running,
        pytest.raises(RuntimeError, match="a client process has ended"),
    ):
        connects.connect(Server.of(running), running.overview.id_scope, setting.make_devices(1, tmp_path), 1)


def test_devices_at_rest_are_held_open_and_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_REST", 0.5)
    monkeypatch.setattr(idle, "_SETTLED", 0.0)
    rest = idle._emulator(3)
    assert rest.connected > 0
    assert rest.sent > 0
    assert rest.busy > 0


def _never_ready(signal: Signal) -> None:
    raise SystemExit(3)


def test_a_client_process_that_ends_early_is_told(tmp_path: Path) -> None:
    server = Server("127.0.0.1", 1, psutil.Process().pid, tmp_path)
    with pytest.raises(RuntimeError, match="a client process has ended before it was done"):
        together.run(server, [(_never_ready, ())])


def test_hotspots_are_sorted_into_parts(tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    cost = {
        ("/x/dpsx_helpers/emulator/mqtt.py", 1, "receive"): (4, 4, 0.003, 0.003, {}),
        ("~", 0, "<method 'execute' of 'sqlite3.Connection' objects>"): (1, 1, 0.001, 0.001, {}),
        ("~", 0, "<method 'poll' of 'select.epoll' objects>"): (1, 1, 9.0, 9.0, {}),
    }
    profile.write_bytes(marshal.dumps(cost))
    said = hotspots.report(pstats.Stats(str(profile)), 10)
    assert "| MQTT | 300.0 | 75% |" in said
    assert "| store | 100.0 | 25% |" in said
    assert "epoll" not in said
