"""Notebook 10: a fleet that registers at once, its arithmetic, its drawings, and Dask's workers."""

import asyncio
import base64
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import beyond
import pytest
from devices import PASS_PHRASE
from executed import cells, errors, files_with, read, said, tagged
from processes import wait_for

from dpsx_helpers import certificates, checks, enrollments, fleet, tutorial
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.fleet import arithmetic, delivery, drawing, launching, logbook, planning, steps, workers
from dpsx_helpers.fleet.launching import Launch, Registration
from dpsx_helpers.fleet.logbook import Logbook
from dpsx_helpers.fleet.steps import Answer
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]

CANARY = "canary-fleet-51c7e0"


# --- two hundred devices (first, since it takes longest) -------------------------------------------------------------


def test_the_notebook_is_a_story_of_two_hundred_devices(tmp_path: Path) -> None:
    for executed in beyond.runs_as_a_story(10, tmp_path):
        assert "Warning" not in "".join(map(said, executed.cells))
        first = said(tagged(executed, "first"))
        for count in (5, 50):
            assert f"Progress bar: {count} devices\n{count} of {count} devices are assigned, says DPS; all in " in first
        assert "Noted: you expect 200 devices to take " in said(tagged(executed, "estimate"))
        launched = said(tagged(executed, "all"))
        assert "200 of 200 devices are assigned, says DPS" in launched
        assert "Timeline of 200 registrations (one kernel)" in launched
        assert re.search(r"200 devices \(one kernel\) took from [\d.]+ s to [\d.]+ s, half of them at most", launched)
        throttled = said(tagged(executed, "throttle"))
        assert "200 of 200 devices are assigned" in throttled
        assert "DPS answered 429 60 times.\n" in throttled
        assert "raised an error" not in throttled
        assert re.search(
            r"one kernel +200 .* 200 of 200\n +2 workers +200 .* 200 of 200", said(tagged(executed, "workers"))
        )
        killed = re.search(
            r"2 workers, one killed with (\d+) devices in hand +200 .* 200 of 200", said(tagged(executed, "kill"))
        )
        assert killed
        assert int(killed[1]) > 0
        check = said(tagged(executed, "check"))
        assert check.startswith("✔ 200 of 200 devices are assigned, says DPS\n✔ you expected ")
        grown = re.search(r"([\d.]+) times the devices .* took ([\d.]+) times the time", check)
        assert grown
        assert float(grown[2]) < float(grown[1]), "twice the devices are not twice the time"
        drawn = [output["data"]["text/html"] for cell in cells(executed, "code") for output in cell.outputs
                 if "text/html" in output.get("data", {})]  # fmt: skip
        assert sum(len(pictures(html)) for html in drawn) == 5


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_ten_thousand_devices_need_ten_minutes_at_one_dps() -> None:
    assert arithmetic.minutes(10_000) == 10
    assert arithmetic.minutes(10_000, services=10) == 1


@pytest.mark.parametrize(
    ("tier", "units", "hubs", "seconds"),
    [("S1", 1, 1, 100), ("S1", 2, 1, 100), ("S1", 10, 1, 10_000 / 120), ("S1", 1, 2, 50), ("S2", 1, 1, 10_000 / 120),
     ("S3", 1, 1, 10_000 / 6_000)],
)  # fmt: skip
def test_hubs_take_so_many_connections_a_second(tier: str, units: int, hubs: int, seconds: float) -> None:
    assert arithmetic.connecting(10_000, tier, units, hubs) == pytest.approx(seconds)


def test_the_polls_of_this_sdk_stay_below_their_limit() -> None:
    asked = arithmetic.polls(20)
    assert asked == [2, 5, 8, 11, 14, 17, 20]
    assert arithmetic.busiest(asked, 10) == 4 <= arithmetic.POLLS
    assert arithmetic.busiest([], 10) == 0
    assert arithmetic.busiest([1, 11, 21], 10) == 1, "a window of ten seconds ends before its eleventh"


def test_who_is_refused_comes_back() -> None:
    course = arithmetic.simulate(2_000, retry_after=60)
    assert (course.requests, course.refusals, course.seconds) == (3_000, 1_000, 61)
    assert course.asked[0] == 2_000
    assert course.asked[60] == 1_000


@pytest.mark.parametrize(("spread", "jitter"), [(0, 0), (0, 60), (200, 0), (720, 0)])
def test_no_minute_takes_more_than_the_limit_and_nobody_is_lost(spread: int, jitter: int) -> None:
    course = arithmetic.simulate(3_000, spread=spread, jitter=jitter)
    accepted = [asked - refused for asked, refused in zip(course.asked, course.refused, strict=True)]
    assert sum(accepted) == 3_000
    sums = [0, *accumulate(accepted)]
    assert max(sums[min(start + 60, len(accepted))] - sums[start] for start in range(len(accepted))) <= 1_000


def test_jitter_and_spreading_take_the_requests_away() -> None:
    herd, jitter = arithmetic.simulate(10_000), arithmetic.simulate(10_000, jitter=60)
    spread = arithmetic.simulate(10_000, spread=720)
    assert herd.requests > 5 * jitter.requests > 5 * spread.requests == 50_000
    assert spread.refusals == 0
    assert arithmetic.simulate(10_000, spread=720) == spread, "the same seed, the same day"
    assert arithmetic.simulate(10_000, spread=720, seed=1) != spread
    assert arithmetic.simulate(0).requests == 0


@pytest.mark.parametrize("wrong", [{"devices": -1}, {"spread": -1}, {"retry_after": 0}, {"jitter": -1}])
def test_a_simulation_of_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not negative"):
        arithmetic.simulate(**{"devices": 10, **wrong})


def test_shares_are_values_that_occur() -> None:
    assert arithmetic.shares([3.0, 1.0, 2.0, 4.0], 0.5, 0.95) == [2.0, 4.0]
    assert arithmetic.shares([7.0], 0.5, 0.95) == [7.0, 7.0]
    assert arithmetic.shares([], 0.5) == [0.0]


def test_the_table_of_a_launch_day_follows_the_number_of_devices() -> None:
    text = planning.launch_day(10_000).text
    for fact in ("10 minutes", "1,000 requests; a group is one", "100 seconds", "4 at most", "50 seconds"):
        assert fact in text
    assert "20 minutes" in planning.launch_day(20_000).text
    for wrong in (0, -5, "many", True, 20_000_000):
        with pytest.raises(Stop, match="no number of devices for a launch day"):
            planning.launch_day(wrong)  # type: ignore[arg-type]


def test_the_line_for_azure_names_the_service() -> None:
    target = Target(
        "azure", "global", "0ne", dps_connection_string="HostName=my-dps.azure-devices-provisioning.net;X=y"
    )
    line = planning.attempts(target).text
    assert "az monitor metrics list --resource my-dps --resource-group <group>" in line
    assert "RegistrationAttempts" in line


# --- the logbook ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", ["three", None, float("nan"), float("inf"), -1, 0, True, 1e9])
def test_an_estimate_that_is_no_time_is_refused_in_a_sentence(work: Path, seconds: Any) -> None:
    with pytest.raises(Stop, match=r"no seconds for an estimate: give a number, for example seconds=3\.5"):
        fleet.estimate(100, seconds)
    assert logbook.read() == Logbook()


@pytest.mark.parametrize("devices", ["ten", 0, 2.5, True, None])
def test_a_number_of_devices_that_is_none_is_refused_in_a_sentence(work: Path, devices: Any) -> None:
    for note in (fleet.estimate, fleet.stagger):
        with pytest.raises(Stop, match="no number of devices: give a whole number"):
            note(devices, 5)


def test_an_estimate_counts_when_it_was_made_before_the_launch(work: Path) -> None:
    fleet.estimate(20, seconds=4)
    before = time.time()
    logbook.measured(20, 2.5, before + 1)
    logbook.measured(20, 9.0, before + 2, workers=2)
    (estimate,) = logbook.read().estimates
    (launch,) = logbook.read().alone(20)
    assert launch.seconds == 2.5
    assert logbook.read().estimate_for(launch) == estimate
    late = Logbook((logbook.Estimate(20, 3.0, before + 5),), (launch,))
    assert late.estimate_for(launch) is None
    assert late.alone(21) == []
    logbook.measured(20, 2.6, before + 9)
    again = logbook.read()
    assert [again.estimate_for(one) for one in again.alone(20)] == [estimate, None], "a launch uses its estimate up"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "7", "\0", '{"estimates": 5}', '{"estimates": [{"devices": 1}]}', '{"plan": [1]}', '{"second": 5}',
     '{"launches": [{"devices": "x", "seconds": 1, "at": 2}]}', '{"plan": {"devices": true, "minutes": 1}}'],
)  # fmt: skip
def test_a_damaged_logbook_is_told_in_one_sentence(work: Path, content: str) -> None:
    (tutorial.own_folder(10) / "logbook-emulator.json").write_text(content)
    for use in (logbook.read, lambda: fleet.estimate(5, 3)):
        with pytest.raises(Stop, match=r"logbook-emulator\.json is damaged: delete that file"):
            use()


def test_each_target_has_a_logbook_of_its_own(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.estimate(5, 3)
    monkeypatch.setenv("DPSX_TARGET", "azure")
    assert logbook.read() == Logbook()


# --- the steps of a device --------------------------------------------------------------------------------------------


def _record(name: str, text: str, thread: int) -> logging.LogRecord:
    record = logging.LogRecord(f"azure.iot.device.{name}", logging.INFO, __file__, 1, text, (), None)
    record.thread = thread
    return record


def test_lines_of_many_devices_find_their_device() -> None:
    heard = steps.Steps(time.perf_counter())

    def transport(text: str, thread: int) -> None:
        heard.hear(_record("common.mqtt_transport", text, thread))

    def answer(status: int, request: str, thread: int, body: dict[str, Any]) -> None:
        topic = f"$dps/registrations/res/{status}/?$rid={request}&retry-after=3"
        transport(f"message received on {topic}", thread)
        said = f"Received payload:{json.dumps(body).encode()!r} on topic:{topic}"
        heard.hear(_record("provisioning.pipeline.pipeline_stages_provisioning_mqtt", said, 99))

    for thread in (1, 2):
        transport("connected with result code: 0", thread)
    answer(202, "a", 1, {"operationId": "5.1", "status": "assigning"})
    answer(429, "b", 2, {"errorCode": 429001})
    answer(202, "c", 2, {"operationId": "5.2", "status": "assigning"})
    answer(200, "d", 2, {"registrationState": {"registrationId": "Fleet-002"}})
    answer(200, "e", 1, {"registrationState": {"registrationId": "fleet-001"}})
    transport("connected with result code: 0", 1)  # the system gives the number of an ended thread to a new one
    answer(200, "f", 1, {"registrationState": {"registrationId": "fleet-003"}})
    transport("connected with result code: 5", 3)
    answer(200, "g", 3, {"registrationState": {"registrationId": "fleet-004"}})
    found = {name: heard.of(name) for name in ("fleet-001", "fleet-002", "fleet-003")}
    statuses = {name: [one.status for one in seen.answers] for name, seen in found.items() if seen}
    assert statuses == {"fleet-001": [202, 200], "fleet-002": [429, 202, 200], "fleet-003": [200]}
    assert heard.of("fleet-004") is None, "a connection that was refused"


# --- drawings ---------------------------------------------------------------------------------------------------------

SLOW = Registration("fleet-002", 0.5, 5.6, 0.6, (Answer(0.7, 429), Answer(3.7, 202), Answer(5.5, 200)))
QUICK = Registration("fleet-001", 0.1, 2.2, 0.2, (Answer(0.3, 202), Answer(2.1, 200)))
FAILED = Registration("fleet-003", 0.2, 2.3, error="ClientError: Unexpected failure")
SMALL = Launch((SLOW, QUICK, FAILED), 5.6, 2)


def pictures(html: str) -> list[tuple[str, bytes]]:
    """(alternative text, PNG) of each picture."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', html)
    return [(alt, base64.b64decode(data)) for data, alt in found]


def test_a_timeline_is_a_picture_with_its_own_ground_and_words() -> None:
    from PIL import Image

    view = fleet.timeline(SMALL)
    ((alternative, png),) = pictures(view.html)
    assert alternative.startswith(
        "In words: 3 registrations, one kernel. The first had begun after 0.1 s, was connected "
    )
    assert (
        "DPS answered 429 to 1 of them, and the first of those ended after 5.6 s; the others ended by 2.3 s."
        in view.text
    )
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    corners = {image.getpixel((x, y)) for x in (0, image.width - 1) for y in (0, image.height - 1)}
    assert corners == {(255, 255, 255, 255)}, "opaque, so that it can be read in a dark theme, too"
    assert drawing._moments(SLOW) == (0.0, 0.5, 0.6, 3.7, 5.6)
    assert drawing._moments(FAILED) == (0.0, 0.2, 0.2, 0.2, 2.3)


def test_the_latencies_are_told_with_median_and_95_percent() -> None:
    view = fleet.latency(SMALL, Launch((QUICK,), 2.2, 1, workers=2))
    ((alternative, png),) = pictures(view.html)
    assert png.startswith(b"\x89PNG")
    assert (
        "3 devices (one kernel) took from 2.2 s to 5.6 s, half of them at most 2.2 s, 95 % at most 5.6 s" in alternative
    )
    assert "1 devices (2 workers) took from 2.2 s" in view.text
    assert fleet.latency(Launch((FAILED,), 2.3, 0)).text == "Nothing to show."


def test_the_herd_is_told_in_words() -> None:
    view = fleet.herd(2_000, spread_minutes=5)
    ((alternative, _),) = pictures(view.html)
    assert "2,000 devices at one DPS, simulated" in alternative
    assert "2,000 requests, none of them refused" in alternative
    longer, jitter = (
        re.search(rf"after {wait}[^:]*: [^:]* at most ([\d,]+) requests in one", alternative)
        for wait in (33, "3 to 63")
    )
    assert longer
    assert jitter
    assert int(longer[1].replace(",", "")) > 4 * int(jitter[1]), "what jitter itself does"
    for wrong in ((0, 5), (10**7, 5), (10, -1), (10, 10**6)):
        with pytest.raises(Stop, match="cannot be drawn here"):
            fleet.herd(wrong[0], spread_minutes=wrong[1])


def test_without_matplotlib_the_words_are_there_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for view in (fleet.timeline(SMALL), fleet.latency(SMALL), fleet.herd(100, spread_minutes=1)):
        assert (
            "needs matplotlib, which is not installed here: run `python -m pip install -r requirements-fleet.txt`"
            in (view.text)
        )
        assert "In words: " in view.text
        assert pictures(view.html) == []


# --- real devices -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> list[fleet.Device]:
    """Eight devices that are enrolled, and the variables of their program."""
    variables = {
        "PROVISIONING_HOST": emulated.host, "PROVISIONING_IDSCOPE": emulated.id_scope, "PASS_PHRASE": PASS_PHRASE,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(workers.SCHEDULER, raising=False)
    devices = fleet.make(8)
    enroll(emulated, devices)
    return devices


def enroll(target: Target, devices: list[fleet.Device]) -> None:
    with enrollments.service(target) as client:
        for ten in fleet.in_tens(fleet.not_enrolled(target, devices)):
            entries = [device.enrollment for device in ten]
            assert client.enrollment.run_bulk_operation({"mode": "create", "enrollments": entries})["isSuccessful"]


def program() -> Any:
    """The cell of the notebook with the device's program: its own text, run here."""
    source = tagged(read(10), "device-code").source
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source[: source.index("os.environ[")] + source[source.index("async def") :], names)
    return names["provision"]


def test_devices_are_made_once_with_encrypted_keys(ready: list[fleet.Device]) -> None:
    assert [device.registration_id for device in ready] == [f"fleet-{number:03}" for number in range(1, 9)]
    before = Path(ready[0].key_file).read_bytes()
    assert b"ENCRYPTED PRIVATE KEY" in before
    if sys.platform != "win32":
        assert Path(ready[0].key_file).stat().st_mode & 0o777 == 0o600
    assert fleet.make(8) == ready
    assert Path(ready[0].key_file).read_bytes() == before


@pytest.mark.parametrize("count", [0, -1, 1000, "all", 2.5, True])
def test_a_fleet_that_cannot_be_made_is_told_in_a_sentence(work: Path, count: Any) -> None:
    with pytest.raises(Stop, match="no number of devices for this notebook"):
        fleet.make(count)


def test_only_what_dps_does_not_expect_is_enrolled(emulated: Target, ready: list[fleet.Device]) -> None:
    assert fleet.not_enrolled(emulated, ready) == []
    one = ready[3]
    certificates.create(
        one.registration_id, PASS_PHRASE, Path(one.key_file).parent, key_type="ec-p256", existing="replace"
    )
    assert fleet.not_enrolled(emulated, ready) == [one], "an entry of an older fleet"
    enroll(emulated, ready)
    assert delivery.entries(emulated, [one.registration_id]) == {one.registration_id: "enabled"}


def test_a_launch_follows_each_device_and_ends_its_threads(emulated: Target, ready: list[fleet.Device]) -> None:
    threads = threading.active_count()
    launch = asyncio.run(fleet.launch(emulated, program(), ready))
    assert (launch.devices, launch.assigned, launch.throttled, launch.failures) == (8, 8, 0, {})
    assert launch.summary().startswith("8 of 8 devices are assigned, says DPS; all in ")
    for one in launch.registrations:
        assert one.connected is not None
        assert [answer.status for answer in one.answers] == [202, 200]
        moments = [0.0, one.begun, one.connected, one.answers[0].at, one.answers[1].at, one.ended]
        assert moments == sorted(moments)
        assert one.answers[1].at - one.answers[0].at > 1.9, "the SDK's two seconds"
    assert launch.seconds < 8 * 2, "side by side"
    assert {state["status"] for state in emulated.emulator.registrations()} == {"assigned"}  # type: ignore[union-attr]
    assert len(logbook.read().alone(8)) == 1
    assert threading.active_count() <= threads + 3, "the SDK's own threads, which all clients share"
    assert os.environ["SSL_CERT_FILE"] == str(emulated.bundle_file), "as it was before"


def test_the_count_is_of_this_launch(emulated: Target, ready: list[fleet.Device]) -> None:
    asyncio.run(fleet.launch(emulated, program(), ready[:2]))

    async def lazy(device: Any) -> Any:
        return SimpleNamespace(status="assigned")

    launch = asyncio.run(fleet.launch(emulated, lazy, ready[:2]))
    assert launch.assigned == 0, "who never asked has no record, although there was one before"


def test_429_is_waited_for_in_silence(emulated: Target, ready: list[fleet.Device]) -> None:
    assert emulated.emulator is not None
    emulated.emulator.fault("429", times=3, retry_after=1)
    launch = asyncio.run(fleet.launch(emulated, program(), ready))
    assert (launch.assigned, launch.throttled, launch.failures) == (8, 3, {})
    late = [one for one in launch.registrations if one.throttled]
    assert len(late) == 3
    assert min(one.ended - one.begun for one in late) > 3
    assert "DPS answered 429 3 times" in launch.summary()
    assert logbook.read().launches == (), "a launch that was slowed down is no measure"


def test_one_device_that_fails_does_not_stop_the_others(emulated: Target, ready: list[fleet.Device]) -> None:
    provision = program()

    async def careless(device: Any) -> Any:
        if device.registration_id == "fleet-002":
            raise RuntimeError("no power") from OSError("the battery is empty")
        if device.registration_id == "fleet-003":
            return None
        return await provision(device)

    launch = asyncio.run(fleet.launch(emulated, careless, ready[:4]))
    assert launch.assigned == 2
    assert launch.failures == {
        "fleet-002": "RuntimeError: no power <- OSError: the battery is empty",
        "fleet-003": "register() returned None",
    }
    assert "the SDK raised an error for 2" in repr(launch)
    with pytest.raises(Stop, match="no devices to launch"):
        asyncio.run(fleet.launch(emulated, provision, []))


def test_what_was_made_is_deleted_again(emulated: Target, ready: list[fleet.Device]) -> None:
    asyncio.run(fleet.launch(emulated, program(), ready[:2]))
    assert fleet.delete(emulated, ready) == 8
    assert emulated.emulator is not None
    assert emulated.emulator.registrations() == []
    assert set(delivery.entries(emulated, ["fleet-001", "fleet-008"]).values()) == {"none"}
    assert not Path(ready[0].key_file).exists()
    assert fleet.delete(emulated, ready) == 0


# --- Dask -------------------------------------------------------------------------------------------------------------


def test_two_workers_lose_nothing_when_one_is_killed(emulated: Target, ready: list[fleet.Device]) -> None:
    launch = fleet.launch_on_workers(emulated, program(), ready, kill_one=True)
    assert isinstance(launch, Launch)
    assert (launch.devices, launch.assigned, launch.workers, launch.failures) == (8, 8, 2, {})
    assert launch.held, "it had devices in hand"
    assert launch.where == f"2 workers, one killed with {launch.held} devices in hand"
    assert emulated.emulator is not None
    records = {state["registrationId"]: state["status"] for state in emulated.emulator.registrations()}
    assert records == {device.registration_id: "assigned" for device in ready}
    assert logbook.read().alone(8) == [], "what workers took is no measure of one kernel"
    text = fleet.compare(SMALL, launch).text
    assert re.search(r"one kernel +3 .* 2 of 3\n +2 workers, one killed .* 8 of 8", text)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler with two workers, each a process that cannot import this tutorial."""
    stub = tmp_path / "stub" / "dpsx_helpers"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('there is no tutorial on this machine')")
    environment = {**os.environ, "PYTHONPATH": str(stub.parent)}
    facts = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path, "env": environment}
    command = [*dask[:2], "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    processes = [subprocess.Popen([*command, "--scheduler-file", str(facts)], **quiet)]  # type: ignore[call-overload]
    try:
        wait_for(lambda: facts.exists() and facts.read_text().rstrip().endswith("}"))  # whole, not only begun
        worker = [*dask[:2], "distributed.cli.dask_worker", "--scheduler-file", str(facts), "--no-dashboard"]
        worker += ["--nthreads", "2", "--local-directory", str(tmp_path)]
        processes += [subprocess.Popen(worker, **quiet) for _ in range(2)]  # type: ignore[call-overload]
        address = str(json.loads(facts.read_text())["address"])
        from distributed import Client

        with Client(address) as client:
            client.wait_for_workers(2, timeout=30)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=20)


def test_the_same_devices_go_to_the_workers_of_a_scheduler(
    emulated: Target, ready: list[fleet.Device], scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(workers.SCHEDULER, scheduler)
    launch = fleet.launch_on_workers(emulated, program(), ready)
    assert isinstance(launch, Launch)
    assert (launch.assigned, launch.workers, launch.failures) == (8, 2, {})
    with pytest.raises(Stop, match="are not this notebook's to kill"):
        fleet.launch_on_workers(emulated, program(), ready, kill_one=True)


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_nobody_else_on_this_machine_can_use_the_workers(protocol: str) -> None:
    """Who may talk to a scheduler, a worker or its nanny may run code there, in the name of the learner."""
    from distributed import Client
    from distributed.security import Security

    stranger = Security.temporary() if protocol == "tls" else None
    with workers._client(None, 2) as (client, cluster):
        assert client.submit(sum, [1, 1]).result() == 2
        known = [client.scheduler_info()["address"], *client.scheduler_info()["workers"], *client.nthreads()]
        assert {address.partition(":")[0] for address in known} == {"tls"}
        with pytest.raises(OSError):  # noqa: PT011 - it is closed in several ways
            Client(cluster.scheduler_address.replace("tls", protocol), timeout=5, security=stranger)


def test_a_scheduler_that_is_not_there_is_told_in_a_sentence(emulated: Target, ready: list[fleet.Device]) -> None:
    with pytest.raises(Stop, match=r"No Dask scheduler answers at .*:9: start one with `dask scheduler`"):
        fleet.launch_on_workers(emulated, program(), ready, scheduler="tcp://127.0.0.1:9")


def test_a_worker_without_the_files_gets_them_with_the_device(emulated: Target, ready: list[fleet.Device]) -> None:
    goods = [workers._goods(device) for device in ready[:2]]
    for one in goods:
        one.certificate_file = one.key_file = "/nowhere/on/this/machine"
    task = workers._task(program(), {})
    with launching.one_root(emulated):
        outcome = asyncio.run(task(goods))  # type: ignore[arg-type]
    assert [(name, error) for name, _, _, error in outcome] == [("fleet-001", None), ("fleet-002", None)]


def test_a_task_that_dask_gives_up_is_an_error_of_its_devices(ready: list[fleet.Device]) -> None:
    work = workers._Work(None, None, workers.Bar(2), time.time(), None)
    told = work._registrations(ready[:2], (RuntimeError, RuntimeError("killed too often"), None))
    assert [one.error for one in told] == ["the task was lost: RuntimeError: killed too often"] * 2


def test_without_dask_it_is_said_what_to_do(
    emulated: Target, ready: list[fleet.Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    shown = fleet.launch_on_workers(emulated, program(), ready)
    assert "needs distributed, which is not installed here: run `python -m pip install" in repr(shown)
    assert repr(shown) in fleet.compare(SMALL, shown).text


# --- the check and the exercises --------------------------------------------------------------------------------------


def open_verdict(number: int) -> str:
    return beyond.open_verdict(checks.exercise(10, number).text)


def test_the_check_says_what_is_missing(emulated: Target, ready: list[fleet.Device]) -> None:
    with pytest.raises(Stop, match="Nothing was launched yet"):
        checks.fleet()
    asyncio.run(fleet.launch(emulated, program(), ready))
    with pytest.raises(Stop, match="There is no estimate from before the launch of 8 devices"):
        checks.fleet()
    fleet.estimate(8, seconds=1.0)
    with pytest.raises(Stop, match="There is no estimate"):
        checks.fleet()
    asyncio.run(fleet.launch(emulated, program(), ready))
    text = checks.fleet().text
    assert text.startswith(
        "✔ 8 of 8 devices are assigned, says DPS\n✔ you expected 1.0 s for 8 devices, and they took "
    )
    assert text.endswith("times too short")
    delivery.forget(emulated, ["fleet-005"])
    with pytest.raises(Stop, match=r"7 of 8 devices are assigned in DPS, and fleet-005 is not \(state: none\)"):
        checks.fleet()


def test_the_first_exercise_holds_the_estimate_against_the_launch(emulated: Target, ready: list[fleet.Device]) -> None:
    assert open_verdict(1) == "no launch of a tenth of the fleet was measured."
    logbook.measured(40, 3.0, time.time())
    assert open_verdict(1) == "no launch of a tenth of the fleet (4 devices) was measured."
    asyncio.run(fleet.launch(emulated, program(), ready[:4]))
    assert "there is no estimate of yours for this launch: write it with" in open_verdict(1)
    fleet.estimate(40, seconds=9)
    assert "(your last one, 9.0 s for 40 devices, was for another)" in open_verdict(1)
    for wrong in (30.0, 0.24):  # the second: a tenth of what ten times as many would take
        fleet.estimate(4, seconds=wrong)
        logbook.measured(4, 2.4, time.time())
        assert f"you expected {wrong:.1f} s for 4 devices, and they took 2.4 s" in open_verdict(1)
    fleet.estimate(4, seconds=2.5)
    logbook.measured(4, 2.4, time.time())
    assert checks.exercise(10, 1).text == "✔ you expected 2.5 s for 4 devices, and they took 2.4 s; all are assigned"
    logbook.measured(4, 2.4, time.time())
    assert "no estimate of yours for this launch (your last one, 2.5 s for 4 devices" in open_verdict(1), "used up"
    fleet.estimate(4, seconds=2.5)
    logbook.measured(4, 2.4, time.time())
    delivery.forget(emulated, ["fleet-002"])
    assert open_verdict(1) == "not all of the 4 devices are assigned in DPS: run the cell again."


@pytest.mark.parametrize(
    ("devices", "minutes", "why"),
    [
        (10_000, 0, "429"),
        (10_000, 9.5, "429"),
        (10_000, 10, "429"),
        (10_000, 60, "within 15"),
        (10_000, 15, "2 seconds more"),
        (5_000, 12, "10,000"),
    ],
)
def test_a_plan_that_meets_the_limit_is_not_yet_one(emulated: Target, devices: int, minutes: float, why: str) -> None:
    assert open_verdict(2) == "there is no plan for 10,000 devices: write one with fleet.stagger."
    fleet.stagger(devices, minutes=minutes)
    assert why in open_verdict(2)
    fleet.stagger(10_000, minutes=12.5)
    assert checks.exercise(10, 2).text == "✔ 10,000 devices within 12.5 minutes: on 5 simulated days nobody is refused"


def test_the_device_that_did_not_come_in_is_found_and_mended(emulated: Target, ready: list[fleet.Device]) -> None:
    assert open_verdict(3) == "the second delivery has not come yet: run the first lines of this exercise."
    logbook.measured(8, 3.0, time.time())
    second = fleet.second_delivery(emulated)
    names = [device.registration_id for device in second]
    assert names == ["fleet-009", "fleet-010", "fleet-011"]
    (shut,) = [name for name, status in delivery.entries(emulated, names).items() if status == "disabled"]
    assert fleet.second_delivery(emulated) == second
    assert delivery.entries(emulated, names)[shut] == "disabled", "still the same, and it alone"
    launch = asyncio.run(fleet.launch(emulated, program(), second))
    assert (launch.assigned, set(launch.failures)) == (2, {shut})
    assert f"; the SDK raised an error for 1, first for {shut}: ClientError: Unexpected failure." in launch.summary()
    assert open_verdict(3) == (
        "2 of the 3 devices of the second delivery are assigned, and the entry of 1 is still disabled in DPS."
    )
    with enrollments.service(emulated) as client:
        entry = client.enrollment.get(shut)
        entry["provisioningStatus"] = "enabled"
        client.enrollment.create_or_update(shut, entry, if_match=entry["etag"])
    assert "every entry is enabled now, but 2 of the 3 devices" in open_verdict(3)
    (mended,) = [device for device in second if device.registration_id == shut]
    asyncio.run(fleet.launch(emulated, program(), [mended]))
    done = "✔ all 3 devices of the second delivery are assigned, and every entry is enabled"
    assert checks.exercise(10, 3).text == done
    assert fleet.second_delivery(emulated) == second
    assert checks.exercise(10, 3).text == done, "who is let in stays in"
    with enrollments.service(emulated) as client:
        client.enrollment.delete(shut, if_match="*")
    assert "1 of the 3 devices of the second delivery have no enrollment any more" in open_verdict(3)


def test_a_damaged_logbook_is_no_traceback_in_an_exercise(emulated: Target) -> None:
    (tutorial.own_folder(10) / "logbook-emulator.json").write_text("{")
    for number in (1, 2, 3):
        assert "is damaged: delete that file" in open_verdict(number)
    with pytest.raises(LearnerError, match="is damaged"):
        checks.fleet()


# --- the notebook -----------------------------------------------------------------------------------------------------


def smaller(notebook: Any) -> Any:
    """The notebook with eight devices in place of 200."""
    cell = tagged(notebook, "size")
    assert "(5, 50, 200)" in cell.source
    cell.source = cell.source.replace("(5, 50, 200)", "(2, 4, 8)")
    return notebook


def test_without_the_extra_the_notebook_runs_to_its_end(tmp_path: Path) -> None:
    for package in ("matplotlib", "distributed", "dask"):
        (tmp_path / "none" / package).mkdir(parents=True)
        (tmp_path / "none" / package / "__init__.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join(filter(None, (str(tmp_path / "none"), os.environ.get("PYTHONPATH"))))
    with beyond.desk(tmp_path / "desk", PYTHONPATH=path) as learner:
        executed = learner.run(smaller(read(10)))
    assert errors(executed) == []
    how = "which is not installed here: run `python -m pip install -r requirements-fleet.txt` in the tutorial's folder"
    needed = {"matplotlib": ("first", "all", "throttle", "arithmetic"), "distributed": ("workers", "kill")}
    for package, tags in needed.items():
        for tag in tags:
            assert f"needs {package}, {how}" in said(tagged(executed, tag)), tag
    assert "In words: 8 registrations, one kernel" in said(tagged(executed, "all"))
    assert said(tagged(executed, "check")).startswith("✔ 8 of 8 devices are assigned, says DPS")


def test_on_azure_a_small_fleet_runs_to_the_end_and_is_tidied_up(tmp_path: Path) -> None:
    notebook = read(10)
    tagged(notebook, "tidy").source = tagged(notebook, "tidy").source.replace("tidy = False", "tidy = True")
    with (
        beyond.azure(tmp_path) as environment,
        beyond.desk(tmp_path / "desk", **environment, DPSX_PASS_PHRASE=CANARY) as learner,
    ):
        executed = learner.run(notebook)
        key = environment["DPS_CONNECTION_STRING"].split("SharedAccessKey=")[1]
    assert errors(executed) == []
    assert "10 of 10 devices are assigned, says DPS" in said(tagged(executed, "all"))
    line = said(tagged(executed, "throttle"))
    assert "az monitor metrics list --resource 127" in line
    assert "10 of 10" in said(tagged(executed, "kill"))
    assert "Warning" not in "".join(map(said, executed.cells))
    assert said(tagged(executed, "check")).startswith("✔ 10 of 10 devices are assigned, says DPS")
    assert "enrollments are deleted" in said(tagged(executed, "tidy"))
    assert not (learner.work / "notebook-10" / "devices").exists()
    assert files_with(CANARY, learner.folder) == []
    assert files_with(key, learner.folder) == []


def test_on_azure_without_connection_strings_it_says_which(tmp_path: Path) -> None:
    assert "set DPS_CONNECTION_STRING and IOTHUB_CONNECTION_STRING" in beyond.stops_without_values(10, tmp_path)
