"""Regenerate the lock files: `python .ci/lock.py` in an environment with requirements-dev.txt.

All requirements*.txt come from one resolution by uv, for every platform and Python from 3.11 on; requirements-fleet.txt
and requirements-azure.txt have the extra of that name too. To change as few pins as possible, name the old
requirements-dev.txt (without its `-e .`) in UV_CONSTRAINT.
binder/requirements.txt is the part of it that Binder's base image does not bring, for the Python of binder/runtime.txt.
"""

import re
import subprocess
import tempfile
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DEVELOPMENT = (
    "axe-playwright-python",
    "hypothesis",
    "jupyter-repo2docker",
    "mypy",
    "nbstripout",
    "packaging",
    "paho-mqtt",
    "papermill",
    "playwright",
    "pre-commit",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "types-psutil",
    "types-requests",
    "uv",
)
# What repo2docker's base environment has and must keep: https://repo2docker.readthedocs.io/en/latest/howto/lab_workspaces.html
BINDER_BRINGS = ("jupyterlab", "ipywidgets", "nbclient", "nbconvert", "nbformat", "tornado", "psutil")
#: What is said of the lock of each extra.
EXTRAS = {
    "fleet": "The tutorial and what notebook 10 can draw with, exactly.",
    "azure": "The tutorial and what signs in to Azure, exactly.",
}
COMMAND = "python .ci/lock.py"


def resolve(requirements: list[str], *options: str) -> list[str]:
    """The lines of a lock for `requirements`, with nothing in them that tells where packages came from."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.txt"), Path(folder, "out.txt")
        source.write_text("\n".join(requirements))
        command = ["uv", "pip", "compile", "--no-config", "--quiet", "--no-annotate", "--no-header", *options]
        subprocess.run([*command, str(source), "--output-file", str(target)], check=True)
        return target.read_text().splitlines()


def header(first: str) -> list[str]:
    return [f"# {first}", f"# Made by `{COMMAND}`; change pyproject.toml or {COMMAND.split()[1]} instead of this file."]


def write(path: str, lines: list[str]) -> None:
    (ROOT / path).write_text("\n".join(lines) + "\n")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct, extras = project["dependencies"], project["optional-dependencies"]
    universal = ("--universal", "--python-version", "3.11")
    everything = resolve([*direct, *chain(*extras.values()), *DEVELOPMENT], *universal)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(everything))
        constraints.flush()
        core = resolve(direct, *universal, "--constraint", constraints.name)
        with_extra = {
            name: resolve([*direct, *extra], *universal, "--constraint", constraints.name)
            for name, extra in extras.items()
        }
        leaner = [text for text in direct if canonicalize_name(Requirement(text).name) not in BINDER_BRINGS]
        python = re.sub("^python-", "", (ROOT / "binder/runtime.txt").read_text().strip())
        target = ("--python-version", python, "--python-platform", "linux", "--constraint", constraints.name)
        binder = resolve(leaner, *target)
    write("requirements.txt", [*header("All that the tutorial needs, exactly."), *core, "-e ."])
    for name, first in EXTRAS.items():
        write(f"requirements-{name}.txt", [*header(first), *with_extra[name], "-e ."])
    write("requirements-dev.txt", [*header("The tutorial and the tools that test it, exactly."), *everything, "-e ."])
    write("binder/requirements.txt", [*header("What Binder's base image lacks, exactly."), *binder])


if __name__ == "__main__":
    main()
