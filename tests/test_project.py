"""The project's own promises: locks that agree, clean code, clean notebooks, commands that the README really has."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from take_pictures import DARK, PAGE, PICTURES

from benchmarks.__main__ import ROWS, module

ROOT = Path(__file__).parents[1]
EXTRAS = {"fleet": {"distributed", "matplotlib"}, "azure": {"azure-identity"}}
LOCKS = (
    "requirements.txt",
    "requirements-dev.txt",
    "binder/requirements.txt",
    *map("requirements-{}.txt".format, EXTRAS),
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines(lock: str) -> list[str]:
    found = [line.strip() for line in (ROOT / lock).read_text().splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def pins(lock: str) -> dict[str, set[str]]:
    """Name -> the exact versions pinned for it (more than one where markers tell Pythons apart)."""
    found: dict[str, set[str]] = {}
    for line in lines(lock):
        if line != "-e .":
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"{lock}: {line} is not exact"
            found.setdefault(canonicalize_name(requirement.name), set()).add(specifier.version)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_exact_and_tells_no_address(lock: str) -> None:
    assert len(pins(lock)) > 20
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|index-url|find-links|file:|@ ", text)
    local = [line for line in lines(lock) if line.startswith("-")]
    assert local == ([] if lock.startswith("binder") else ["-e ."])
    if local:
        assert lines(lock)[-1] == "-e ."


def test_the_locks_pin_the_same_versions() -> None:
    core, development, binder = map(pins, LOCKS[:3])
    assert PROJECT["optional-dependencies"].keys() == EXTRAS.keys()
    for name, wanted in EXTRAS.items():
        locked = pins(f"requirements-{name}.txt")
        assert core.items() <= locked.items() <= development.items()
        extra = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"][name]}
        assert extra == wanted <= locked.keys() - core.keys()
    for name, versions in binder.items():
        assert versions <= development[name], name


def test_the_locks_serve_windows_and_macos() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert "sys_platform == 'win32'" in text
    assert "sys_platform == 'darwin'" in text


def test_the_audit_tells_what_is_known_from_what_it_cannot_tell() -> None:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(audit := importlib.util.module_from_spec(spec))

    def page(version: str, *known: dict[str, str | None]) -> dict[str, object]:
        return {"info": {"version": version}, "vulnerabilities": list(known)}

    pages = {
        "good": page("1.0"),
        "bad": page("2", {"id": "PYSEC-1", "withdrawn": None}),
        "cleared": page("3", {"id": "PYSEC-2", "withdrawn": "2026-01-01"}),
        "old": page("5"),
    }
    lock = ["# Made by hand", "good==1", "bad==2 ; sys_platform == 'win32'", "cleared==3", "old==4", "gone==1", "-e ."]
    found = audit.audit(audit.pins(lock), pages.get)
    assert found.known == ["bad 2: PYSEC-1"]
    assert found.older == ["old 4: 5 is the newest"]
    assert found.missing == ["gone 1: no page"]


def test_every_direct_dependency_is_locked_within_its_range() -> None:
    core, direct = pins("requirements.txt"), [Requirement(text) for text in PROJECT["dependencies"]]
    assert len(direct) > 10
    for requirement in direct:
        for version in core[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version, prereleases=True), str(requirement)


def test_the_fixed_packages_are_there() -> None:
    assert {"azure-iot-device", "cryptography", "ipywidgets", "nest-asyncio", "jupyterlab"} <= pins(LOCKS[0]).keys()


def test_binder_leaves_what_its_base_image_brings() -> None:
    brought = {"jupyterlab", "notebook", "ipykernel", "ipywidgets", "jupyterlab-widgets", "jupyter-server"}
    assert pins(LOCKS[2]).keys().isdisjoint(brought)
    assert {"azure-iot-device", "azure-iot-deviceprovisioning", "pyopenssl", "websockets"} <= pins(LOCKS[2]).keys()


def test_binders_python_suits_everything_it_installs() -> None:
    from importlib.metadata import distributions

    python = (ROOT / "binder/runtime.txt").read_text().strip().removeprefix("python-")
    assert python == "3.12"
    locked, seen = pins(LOCKS[2]), 0
    for distribution in distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if name in locked or name == "dpsx":
            requires = distribution.metadata.get("Requires-Python", "")
            assert SpecifierSet(requires).contains(python), f"{name} wants {requires}"
            seen += 1
    assert seen > 20


def test_binder_runs_a_post_build_that_stops_at_the_first_fault() -> None:
    script = (ROOT / "binder/postBuild").read_text().splitlines()
    assert script[0] == "#!/bin/bash"
    assert "set -euo pipefail" in script
    assert "pip install --no-deps ." in script
    smoke = next(line for line in script if line.startswith("python -c "))
    code = smoke.removeprefix("python -c ").strip('"')
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "--strict", "dpsx_helpers"],
    ],
    ids=" ".join,
)
def test_the_code_is_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_notebooks_are_stripped() -> None:
    assert len(NOTEBOOKS) == 11
    command = [sys.executable, "-m", "nbstripout", "--verify", *map(str, NOTEBOOKS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_secret_is_committed() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    assert len(files) > 50
    keys = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\n[A-Za-z0-9+/]{40}")
    assert [path for path in files if path.is_file() and keys.search(path.read_bytes())] == []
    for name in ("notebooks/work/tutorial.json", "python-device.key.pem", "notebooks/.ipynb_checkpoints/x"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode == 0, name


def test_the_readme_has_the_two_commands_and_its_links_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text()
    start = "python3 -m venv .venv && .venv/bin/pip install -r"
    assert f"\n{start} requirements.txt && .venv/bin/dpsx lab\n" in readme
    assert f"\n{start} requirements-dev.txt && .venv/bin/pytest\n" in readme
    links = re.findall(r"\]\(((?!https?://)[^)#]+)", readme)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
    for alternative in re.findall(r"!\[([^\]]*)\]", readme):
        assert len(alternative) > 40, "a picture says in words what it shows"


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("/tmp/my-emulator", str(tmp_path / "state"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("0ne")


def test_the_package_is_complete_and_has_no_more() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    assert PROJECT["scripts"] == {"dpsx": "dpsx_helpers.__main__:main"}
    assert (ROOT / "dpsx_helpers" / "py.typed").is_file()
    installed = Metadata.from_email(_metadata(), validate=False)
    assert installed.name == "dpsx"


def _metadata() -> str:
    from importlib.metadata import distribution

    return distribution("dpsx").read_text("METADATA") or ""


def test_importing_the_package_imports_neither_widgets_nor_the_sdk() -> None:
    code = (
        "import sys, dpsx_helpers, dpsx_helpers.emulator.server; "
        "print([name for name in ('ipywidgets', 'azure.iot.device', 'IPython', 'nbclient') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid(notebook: Path) -> None:
    document = nbformat.read(notebook, as_version=4)
    nbformat.validate(document)
    assert (document.metadata.kernelspec.name, document.nbformat_minor) == ("python3", 5)


def test_every_picture_is_put_in_words_and_taken_by_the_script_or_drawn_by_the_benchmarks() -> None:
    shown: dict[str, str] = {}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for words, link in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text()):
            file = (page.parent / link).resolve()
            assert file.is_file(), f"{page.name}: {link}"
            shown[file.stem] = words
    assert all(len(words.split()) > 10 for words in shown.values())
    drawn = {picture for name in ROWS if (picture := getattr(module(name), "PICTURE", ""))}
    assert set(shown) == {*PICTURES, PAGE, DARK, *drawn} == {path.stem for path in (ROOT / "docs" / "images").iterdir()}
