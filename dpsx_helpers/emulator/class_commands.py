"""`students` and `board`: what a teacher does with a class, from the command line."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from dpsx_helpers import certificates
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.emulator.tls import write_private
from dpsx_helpers.errors import LearnerError, shown
from dpsx_helpers.joining import SUFFIX, Join

_MOST = 1000  # students in one command
Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_to(add: Add) -> None:
    """Add both commands to a parser."""
    students = add("students", _students, "who may join the emulator as a class, each with a key of their own")
    students.add_argument(
        "action",
        choices=("add", "list", "code", "remove"),
        metavar="ACTION",
        help="add NAME… writes a join file for each (again for who is there already); list; code NAME prints the same "
        "as one line to paste; remove NAME… takes the key back and deletes what they made",
    )
    students.add_argument("names", nargs="*", metavar="NAME", help="a registration ID: letters, digits and - . _ :")
    students.add_argument("--count", type=_count, metavar="N", help="add N students, numbered")
    students.add_argument("--prefix", default="student-", metavar="TEXT", help="before those numbers (student-)")
    students.add_argument("--out", type=_folder, metavar="DIR", help="for the join files (students, in --state-dir)")
    board = add("board", _board, "how far every student is, and which mistakes came up")
    board.add_argument("--watch", action="store_true", help="follow the class until Ctrl-C")
    board.add_argument("--json", action="store_true", help="as one JSON object")


def _students(options: argparse.Namespace) -> int:
    names = _names(options)
    emulator = Emulator.attach(options.state_dir)
    match options.action:
        case "list":
            said = [join.registration_id for join in emulator.students()]
        case "code":
            said = [_join(emulator, names[0]).as_code()]
        case "remove":
            said = [_removed(emulator, name) for name in names]
        case _:
            said = _added(emulator, names, (options.out or options.state_dir / "students").absolute())
    options.say("\n".join(said))
    return 0


def _names(options: argparse.Namespace) -> list[str]:
    """The students named. Raises LearnerError where the command makes no sense."""
    names, action = list(options.names), options.action
    if action != "add" and (options.count or options.out):
        raise LearnerError("--count and --out go with add.")
    if options.count:
        width = max(2, len(str(options.count)))
        names += [f"{options.prefix}{number:0{width}}" for number in range(1, options.count + 1)]
    if action == "list" and names:
        raise LearnerError("list takes no names.")
    if action == "code" and len(names) != 1:
        raise LearnerError("code takes one name: the code is for one student alone.")
    if action in ("add", "remove") and not names:
        raise LearnerError(f"Name the students to {action}, for example: students {action} anna bob.")
    return [certificates.check_registration_id(name) for name in names] if action == "add" else names


def _added(emulator: Emulator, names: list[str], folder: Path) -> list[str]:
    joins = emulator.admit(names)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = []
    for join in joins:
        file = folder / f"{quote(join.registration_id, safe='')}{SUFFIX}"  # Windows takes no colon
        write_private(file, join.as_file().encode())
        lines.append(f"{join.registration_id:<24} {file}")
    return [
        *lines,
        f"{len(joins)} may join. Each file holds a key: hand it to its own student alone, who then runs",
        "  dpsx join FILE",
        "Who would rather paste a line gets it from: students code NAME",
        *_near(emulator.overview.host),
    ]


def _near(host: str) -> list[str]:
    """What a teacher is told whose emulator the students' machines cannot reach."""
    near = host == "localhost" or host.startswith("127.") or host == "::1"
    hint = f"{host} leads nowhere but to this machine: for others start it with run --host ADDRESS --allow-network."
    return [hint] if near else []


def _removed(emulator: Emulator, name: str) -> str:
    emulator.dismiss(name)
    return f"{name} is removed: the key opens nothing any more, and enrollment, device and messages are deleted."


def _join(emulator: Emulator, name: str) -> Join:
    for join in emulator.students():
        if join.registration_id.lower() == name.lower():
            return join
    raise LearnerError(f"There is no student {shown(name)} in this class: add them with students add NAME.")


def _board(options: argparse.Namespace) -> int:
    emulator = Emulator.attach(options.state_dir)
    if options.json:
        options.say(json.dumps(emulator.board(), indent=1))
        return 0
    from dpsx_helpers.emulator import board

    if options.watch:
        board.watch(emulator.board)
    else:
        board.show(emulator.board())
    return 0


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is blank")
    return Path(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:5]) <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of students: give 1 to {_MOST}")
    return int(text)
