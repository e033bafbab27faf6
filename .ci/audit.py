"""Ask the Python Package Index what is known against the pins: `python .ci/audit.py` in an environment with
requirements-dev.txt.

pip-audit is the tool for that; it needs the index's page of every version, or OSV's database. This asks for the page of
each project alone, which says what is known against its newest version (https://docs.pypi.org/api/json/), so it can
tell of a pin only if that is the newest. Exit status 1 when something is known, or a page could not be had.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


class Audit(NamedTuple):
    """A line for each pin against which something is known, which is not the newest, or whose page could not be had."""

    known: list[str]
    older: list[str]
    missing: list[str]


def audit(pinned: Iterable[tuple[str, str]], page: Callable[[str], Any]) -> Audit:
    """`page`: a project's, or None."""
    found = Audit([], [], [])
    for name, version in pinned:
        project = page(name)
        if project is None:
            found.missing.append(f"{name} {version}: no page")
        elif Version(project["info"]["version"]) != Version(version):
            found.older.append(f"{name} {version}: {project['info']['version']} is the newest")
        elif known := [one["id"] for one in project["vulnerabilities"] if not one.get("withdrawn")]:
            found.known.append(f"{name} {version}: {', '.join(known)}")
    return found


def _page(name: str) -> Any:
    try:
        answer = requests.get(f"https://pypi.org/pypi/{name}/json", timeout=WITHIN)
        return answer.json() if answer.ok else None
    except (requests.RequestException, ValueError):
        return None


def main() -> int:
    locks = (*ROOT.glob("requirements*.txt"), *ROOT.glob("binder/requirements*.txt"))
    pinned = sorted({pin for lock in locks for pin in pins(lock.read_text().splitlines())})
    found = audit(pinned, _page)
    unknown = [*found.older, *found.missing]
    sys.stdout.writelines([*(f"✘ {line}\n" for line in found.known), *(f"? {line}\n" for line in unknown)])
    sys.stdout.write(
        f"{len(pinned)} pins: nothing is known against {len(pinned) - len(found.known) - len(unknown)}, "
        f"something against {len(found.known)}; of {len(unknown)} this cannot tell.\n"
    )
    return 1 if found.known or found.missing else 0


if __name__ == "__main__":
    sys.exit(main())
