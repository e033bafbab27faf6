"""Fixtures of the helper package: a fresh work folder, and a real emulator that all tests of a worker share."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device.common.pipeline.pipeline_exceptions import PipelineNotRunning
from azure.iot.device.provisioning.pipeline.mqtt_pipeline import MQTTPipeline
from devices import NAME, PASS_PHRASE, set_variables

from dpsx_helpers import binder, certificates, enrollments, targets, tutorial
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.joining import VARIABLE
from dpsx_helpers.targets import Target


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty work folder, and no input from the environment or from an earlier test."""
    folder = tmp_path / "work"
    folder.mkdir()
    inputs = (*tutorial.INPUTS.values(), *tutorial.VARIABLES, *targets.TRUST)
    for name in (*inputs, *binder.SIGNS, VARIABLE):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back too
        monkeypatch.delenv(name)
    monkeypatch.setenv("DPSX_WORK_DIR", str(folder))
    monkeypatch.setattr(tutorial, "_entered", {})
    monkeypatch.setattr(tutorial, "_chosen_transport", None)
    return folder


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    emulator = Emulator.start(tmp_path_factory.mktemp("kit") / "emulator", idle_hours=0.2)
    yield emulator
    emulator.stop()


@pytest.fixture
def emulated(work: Path, _shared: Emulator) -> Iterator[Target]:
    """The target in an empty work folder on the shared emulator, which holds no records."""
    _shared.reset()
    (work / "emulator").symlink_to(_shared.state_dir)
    yield targets.current()
    end_refused_clients()


@pytest.fixture
def enrolled(emulated: Target, pair: certificates.Pair) -> Target:
    """Everything right: each test spoils one thing."""
    enrollments.save(emulated, pair.certificate_file)
    set_variables(emulated)
    return emulated


@contextmanager
def fault(target: Target, kind: str, **options: Any) -> Iterator[None]:
    """The emulator plays this fault meanwhile."""
    assert target.emulator is not None
    target.emulator.fault(kind, **options)
    try:
        yield
    finally:
        target.emulator.clear_faults()


def end_refused_clients() -> None:
    """The SDK's provisioning client goes on connecting after a refused register(), and offers no way to end that: it
    would meet the faults, and fill the log, of the tests that follow.
    """
    for found in gc.get_objects():
        if isinstance(found, MQTTPipeline):
            with suppress(PipelineNotRunning, AttributeError):  # the latter: its client could not be made
                done = threading.Event()
                found.shutdown(callback=lambda done=done, **_: done.set())
                done.wait(timeout=5)


@pytest.fixture
def pair(work: Path) -> certificates.Pair:
    """The device's certificate and key in the work folder."""
    return certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256")
