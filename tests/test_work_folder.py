"""The work folder on a full disk, and deleted while a kernel works in it: each cell ends in one sentence."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from disks import Disk, disk
from kit import NAME, PASS_PHRASE, set_variables
from kit import work as work

from dpsx_helpers import (
    authorities,
    certificates,
    checks,
    enrollments,
    joining,
    progress,
    registry,
    takeaway,
    targets,
    tutorial,
    views,
)
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.fleet import delivery
from dpsx_helpers.forms import uploads
from dpsx_helpers.targets import Target


def sentence(act: Callable[[], Any]) -> str:
    """The one sentence with which a cell ends."""
    with pytest.raises(LearnerError) as failure:
        act()
    said = str(failure.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The work folder on a small disk."""
    with disk(work / "disk") as mounted:
        monkeypatch.setenv("DPSX_WORK_DIR", str(mounted.folder))
        yield mounted


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pair_of(folder: Path) -> Callable[[], Any]:
    return lambda: certificates.create(NAME, PASS_PHRASE, folder, key_type="ec-p256", existing="replace")


def test_on_a_full_disk_each_cell_says_so_and_the_old_files_are_whole(small: Disk, tmp_path: Path) -> None:
    work = small.folder
    pair_of(work)()
    tutorial.remember(device="old")
    progress.record("02")
    takeaway.pack()
    root = authorities.create("root", PASS_PHRASE, work, key_type="ec-p256")
    ca = root.certificate_file.read_text()
    join = joining.Join("127.0.0.1", 8883, 8443, None, ("127.0.0.1",), "0ne00111111", "anna", "a2V5", ca)
    upload = tmp_path / "upload.pem"
    upload.write_bytes((work / certificates.CERTIFICATE_FILE).read_bytes())
    (work / "notes.txt").write_bytes(bytes(range(256)) * 100)
    running = targets.current()
    enrollments.save(running, tutorial.certificate_file())
    thumbprints = {"primaryThumbprint": "A" * 40, "secondaryThumbprint": None}
    known = {"deviceId": NAME, "authentication": {"type": "selfSigned", "x509Thumbprint": thumbprints}}
    assert registry.request(running, "PUT", f"/devices/{NAME}", json=known).ok
    small.fill()
    for act in (
        lambda: enrollments.delete(running, NAME),
        lambda: registry.set_status(running, NAME, "disabled"),
    ):
        assert f"the disk with {work / 'emulator'} is full: make room there" in sentence(act)
    assert running.emulator is not None
    running.emulator.stop()
    before = everything(work)
    cells: dict[str, Callable[[], Any]] = {
        "what is remembered": lambda: tutorial.remember(device="new"),
        "what was passed": lambda: progress.record("03"),
        "a new pair in place of the old": pair_of(work),
        "a pair in another folder": pair_of(tutorial.own_folder(9)),
        "an authority": lambda: authorities.create("other", PASS_PHRASE, work / "other", key_type="ec-p256"),
        "chains to look at": lambda: authorities.broken_chains(root, PASS_PHRASE, work / "chains"),
        "devices of a fleet": lambda: delivery.make(2),
        "the archive": takeaway.pack,
        "a class": lambda: joining.keep(work, join),
        "the trust in a class": lambda: joining.trust(work, join),
        "an upload": lambda: uploads.keep("new.pem", upload.read_bytes(), uploads.DEVICE_CERTIFICATE, work),
    }
    for cell, act in cells.items():
        said = sentence(act)
        assert "No space left on device" in said, cell
        assert "space" in said.replace("No space left on device", "") or "another" in said or "instead" in said, said
        assert everything(work) == before, cell
    assert "the disk with " in sentence(targets.current)
    assert progress.recall().keys() == {"02"}
    assert tutorial.recall()["device"] == "old"
    certificates.check_pair(tutorial.certificate_file(), tutorial.key_file(), PASS_PHRASE)
    small.make_room()
    del cells["an upload"]
    for act in cells.values():
        act()
    joining.forget(work)
    target = targets.current()
    assert target.emulator is not None
    target.emulator.stop()


# --- a folder that is deleted -----------------------------------------------------------------------------------------


@pytest.fixture
def orphaned(work: Path) -> Iterator[Target]:
    """A target whose work folder is deleted, with the emulator in it, in the middle of a notebook."""
    target = targets.current()
    assert target.emulator is not None
    process = psutil.Process(target.emulator.overview.pid)
    pair_of(work)()
    set_variables(target)
    shutil.rmtree(work)
    psutil.wait_procs([process], timeout=20)
    assert not process.is_running()
    yield target
    for left in (target.emulator, *([Emulator.attach(work / "emulator")] if target.emulator.running() else [])):
        left.stop()


def test_after_the_work_folder_is_deleted_each_cell_says_what_to_run(orphaned: Target, work: Path) -> None:
    target = orphaned
    assert target.emulator is not None
    cells: dict[str, Callable[[], Any]] = {
        "messages": lambda: target.messages(NAME),
        "command": lambda: target.send(NAME, "hello"),
        "log": target.log,
        "view of the log": lambda: views.log(target),
        "view of the devices": lambda: views.devices(target),
        "view of the enrollments": lambda: views.enrollments(target),
        "registrations": target.emulator.registrations,
        "fault": lambda: target.emulator and target.emulator.fault("429"),
        "device": lambda: registry.get(target, NAME),
        "enrollment": lambda: enrollments.save(target, tutorial.certificate_file()),
        "check of the environment": checks.environment,
        "check of the certificate": checks.certificate,
        "check of the enrollment": checks.enrollment,
        "check before connecting": checks.before_connecting,
        "check of the simulation": lambda: checks.simulate(10),
    }
    for cell, act in cells.items():
        said = sentence(act)
        assert "run " in said or "make the pair in notebook 02" in said, f"{cell}: {said}"
    assert targets.attached() is None
    assert progress.recall() == {}
    target.emulator.stop()
    again = targets.current()  # the first cell of every notebook
    assert again.emulator is not None
    assert again.messages(NAME) == []
    again.emulator.stop()
