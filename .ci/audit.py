"""Ask the Python Package Index what is known against the pins: `python .ci/audit.py` in an environment with
requirements-dev.txt.

pip-audit is the tool for that; it needs the index's page of every version, or OSV's database. This asks for the page of
each project alone, which says what is known against its newest version (https://docs.pypi.org/api/json/), so it can
tell of a pin only if that is the newest. Exit status 1 when something is known, or a page could not be had.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import requests
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
WITHIN = 60  # seconds


def pins(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and version of each line of a lock that pins one."""
    for line in lines:
        try:
            requirement = Requirement(line.strip())
        except InvalidRequirement:  # a remark, or `-e .`
            continue
        (specifier,) = requirement.specifier
        yield requirement.name, specifier.version


def audit(pinned: Iterable[tuple[str, str]], page: Callable[[str], Any]) -> tuple[list[str], list[str], int]:
    """What is known, what could not be told, and of how many pins nothing is known. `page`: a project's, or None."""
    known, unknown, good = [], [], 0
    for name, version in pinned:
        project = page(name)
        if project is None:
            unknown.append(f"{name} {version}: no page")
        elif Version(project["info"]["version"]) != Version(version):
            unknown.append(f"{name} {version}: {project['info']['version']} is the newest")
        elif found := [one["id"] for one in project["vulnerabilities"] if not one.get("withdrawn")]:
            known.append(f"{name} {version}: {', '.join(found)}")
        else:
            good += 1
    return known, unknown, good


def _page(name: str) -> Any:
    try:
        answer = requests.get(f"https://pypi.org/pypi/{name}/json", timeout=WITHIN)
        return answer.json() if answer.ok else None
    except (requests.RequestException, ValueError):
        return None


def main() -> int:
    locks = (*ROOT.glob("requirements*.txt"), *ROOT.glob("binder/requirements*.txt"))
    pinned = sorted({pin for lock in locks for pin in pins(lock.read_text().splitlines())})
    known, unknown, good = audit(pinned, _page)
    sys.stdout.writelines(f"{line}\n" for line in [*(f"✘ {one}" for one in known), *(f"? {one}" for one in unknown)])
    sys.stdout.write(
        f"{len(pinned)} pins: nothing is known against {good}, something against {len(known)}; "
        f"of {len(unknown)} this cannot tell.\n"
    )
    return 1 if known or any(line.endswith("no page") for line in unknown) else 0


if __name__ == "__main__":
    sys.exit(main())
