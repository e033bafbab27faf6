"""The forms, the one cell with nest_asyncio, and the SDK, on four ipykernels that run what a widget does differently.

ipykernel 6.29 runs it after the cell that is busy, 7.0 and 7.3 in another thread, 7.4 in another one while a cell is
busy. A real JupyterLab in a real Chromium; what goes into a form is typed and clicked.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import ROOT, browser, jupyterlab, tutorial_copy
from devices import NAME
from leaks import canary, leaks
from learner import Learner, keep_widget_state, need_chromium
from processes import unable

from dpsx_helpers.emulator import Emulator, EmulatorError

pytestmark = pytest.mark.browser
VERSIONS = ("6.29.5", "7.0.1", "7.3.0", "7.4.0")
HEARS_WHILE_BUSY = VERSIONS[1:]
CELLS = f"""
import asyncio, hashlib, os, time
import ipykernel
import nest_asyncio
from azure.iot.device import X509
from azure.iot.device.aio import ProvisioningDeviceClient
from dpsx_helpers import certificates, enrollments, forms, registry, targets, tutorial
def digest():
    return hashlib.sha256(tutorial.pass_phrase(new_key=True).encode()).hexdigest()
print("This is ipykernel", ipykernel.__version__)
---
forms.target()
---
target = targets.current()
forms.connection(target)
---
print("In use now:", tutorial.target(), targets.current().id_scope)
forms.pass_phrase()
---
print("Typed to an idle kernel:", before := digest())
---
print("The cell is busy.")
end = time.monotonic() + (60 if ipykernel.__version__ in {HEARS_WHILE_BUSY} else 3)
while digest() == before and time.monotonic() < end:
    time.sleep(0.05)
print("Known at its end:", digest())
---
print("Typed to a busy kernel:", digest())
---
async def waited():
    await asyncio.sleep(0.01)
    return "loop within a loop"
nest_asyncio.apply()
print("Back from the", asyncio.run(waited()))
---
pair = certificates.create("{NAME}", tutorial.pass_phrase(), tutorial.work_dir(), key_type="ec-p256")
enrollments.save(target, pair.certificate_file)
forms.devices(target)
---
os.environ.update(targets.environment(target))
identity = X509(os.environ["X509_CERT_FILE"], os.environ["X509_KEY_FILE"], os.environ["X509_PASS_PHRASE"])
client = ProvisioningDeviceClient.create_from_x509_certificate(
    target.host, tutorial.registration_id(), target.id_scope, identity
)
result = await client.register()
print("The device is", result.status, "as", result.registration_state.device_id)
---
print("Devices left:", len(registry.list_all(target)))
"""


@pytest.fixture(scope="module")
def ipykernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder for each version, each with that ipykernel and nothing that it depends on."""
    folder = tmp_path_factory.mktemp("ipykernels")

    def install(version: str) -> int:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / version)]
        done = subprocess.run([*command, f"ipykernel=={version}"], capture_output=True, timeout=120, check=False)
        return done.returncode

    with ThreadPoolExecutor() as threads:
        if any(threads.map(install, VERSIONS)):
            unable("the older ipykernels cannot be installed: pip reaches no package index from here")
    return folder


@pytest.fixture(scope="module")
def learner(ipykernels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    """One JupyterLab with a kernel, a notebook and a work folder for each version."""
    need_chromium()
    folder = tmp_path_factory.mktemp("kernels")
    keep_widget_state(folder)
    with tutorial_copy(folder, JUPYTER_PATH=str(folder / "data")) as (notebooks, environment):
        for version in VERSIONS:
            _write_kernel(folder / "data" / "kernels" / version, ipykernels / version, folder / "work" / version)
            _write_notebook(notebooks / f"{version}.ipynb", version)
        try:
            with jupyterlab(notebooks, environment) as address, browser() as launched:
                page = launched.new_page(viewport={"width": 1280, "height": 1000})
                yield Learner(page, address, notebooks)
        finally:
            for version in VERSIONS:
                with suppress(EmulatorError):
                    Emulator.attach(folder / "work" / version / "emulator").stop()


def _write_kernel(folder: Path, ipykernel: Path, work: Path) -> None:
    folder.mkdir(parents=True)
    document = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": folder.name,
        "language": "python",
        "env": {"PYTHONPATH": os.pathsep.join(map(str, (ipykernel, ROOT))), "DPSX_WORK_DIR": str(work)},
    }
    (folder / "kernel.json").write_text(json.dumps(document))


def _write_notebook(file: Path, kernel: str) -> None:
    new: Any = nbformat.v4
    sources = [source.strip() for source in CELLS.split("---\n")]
    cells = [new.new_code_cell(source, metadata={"tags": [f"cell-{place}"]}) for place, source in enumerate(sources)]
    metadata = {"kernelspec": {"name": kernel, "display_name": kernel}}
    nbformat.write(new.new_notebook(cells=cells, metadata=metadata), file)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_forms_and_the_sdk_work_on_every_ipykernel(version: str, learner: Learner) -> None:
    idle, busy = canary(), canary()
    learner.open(version)
    learner.step()
    learner.reads(f"This is ipykernel {version}")

    learner.step()
    for choice in ("my Azure subscription", "the emulator on this machine"):
        learner.choose(choice)
    learner.return_to_cells()
    learner.step()
    scope = learner.field("ID Scope").input_value()
    learner.type("ID Scope", f"{scope}?")
    learner.reads("letters and digits")
    learner.type("ID Scope", scope)
    learner.reads(f"In use: ID Scope {scope}")
    learner.return_to_cells()
    learner.step()
    learner.reads(f"In use now: emulator {scope}")

    _type_twice(learner, idle)
    learner.return_to_cells()
    learner.step()
    learner.reads(f"Typed to an idle kernel: {_digest(idle)}")
    learner.page.keyboard.press("Shift+Enter")
    learner.reads("The cell is busy.")
    _type_twice(learner, busy)
    learner.reads(f"Known at its end: {_digest(busy if version in HEARS_WHILE_BUSY else idle)}")
    learner.return_to_cells()
    learner.back_to("cell-6")
    learner.step()
    learner.reads(f"Typed to a busy kernel: {_digest(busy)}")

    learner.step()
    learner.reads("Back from the loop within a loop")
    learner.step()
    learner.reads("The hub has no devices.")
    learner.step()
    learner.reads(f"The device is assigned as {NAME}")
    learner.press("Refresh")
    learner.reads("The hub has 1 device.")
    learner.choose(NAME)
    learner.press("Delete")
    learner.press("Yes, delete")
    learner.reads(f"Deleted from the hub: {NAME}")
    learner.return_to_cells()
    learner.back_to("cell-10")
    learner.step()
    learner.reads("Devices left: 0")

    assert learner.save(version), "the state of the forms is in the file"
    assert learner.complaints == []
    folder = learner.notebooks.parent
    assert leaks(folder, [idle, busy]) == []
    history = folder / "ipython" / "profile_default" / "history.sqlite"
    assert any(b"Typed to an idle kernel" in path.read_bytes() for path in history.parent.glob("history.sqlite*"))


def _type_twice(learner: Learner, phrase: str) -> None:
    for label in ("Enter PEM pass phrase", "Verifying - Enter PEM pass phrase"):
        learner.type_secret(label, phrase)


def _digest(phrase: str) -> str:
    return sha256(phrase.encode()).hexdigest()
