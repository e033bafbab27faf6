"""`dpsx join` and `dpsx leave`: a learner enters a class, and leaves it."""

import os
import sys
from getpass import getpass
from pathlib import Path

from dpsx_helpers import enrollments, given_files, joining, targets, tutorial
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.joining import Join, JoinError


def join(file: str | None) -> str:
    """Join by a file, or by a code that is asked for; what to say. Raises LearnerError."""
    found = _given(file)
    work = tutorial.work_dir()
    if os.environ.get(joining.VARIABLE, "").strip():
        raise JoinError(f"{joining.VARIABLE} is set, and it decides: unset it, then join.")
    if os.environ.get(tutorial.INPUTS["target"], "emulator") != "emulator":
        raise JoinError(f"{tutorial.INPUTS['target']} names another target, and it decides: unset it, then join.")
    leave()
    tutorial.remember(target="emulator")
    joining.keep(work, found)
    return f"You are {found.registration_id} in the class at {found.host}. {_tried(work, found)}"


def leave() -> str:
    """Forget the class; what to say."""
    if os.environ.get(joining.VARIABLE, "").strip():
        raise JoinError(f"{joining.VARIABLE} is set, and it decides: unset it to leave the class.")
    tutorial.forget_class()
    if not joining.forget(tutorial.work_dir()):
        return "You are in no class: the notebooks use an emulator of your own already."
    return "You have left the class: from now on the notebooks use an emulator of your own."


def _given(file: str | None) -> Join:
    if file is None:
        return joining.read(_asked(), "The code")
    if joining.is_code(file):
        raise JoinError(
            "A code holds a key, and what stands on a command line others may see: run `dpsx join` alone, and paste it "
            "when you are asked."
        )
    return joining.read_file(given_files.path_of(file))


def _asked() -> str:
    """The code, pasted at a terminal (where it is not shown) or piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()
    try:
        return getpass("Paste the code of your teacher (it is not shown), then press Enter: ")
    except EOFError:
        return ""


def _tried(work: Path, join: Join) -> str:
    """Whether it can be reached now, and takes the key."""
    try:
        target = targets.current()
    except LearnerError:
        return "Its emulator does not answer at present: ask your teacher whether it runs."
    try:
        enrollments.get(target, join.registration_id)
    except LearnerError:
        joining.forget(work)
        raise JoinError(
            f"The emulator at {join.host} does not take the key of {join.registration_id}: ask your teacher for a new "
            "file."
        ) from None
    return "Its emulator answers and takes your key. Open the notebooks from 00 on; `dpsx leave` goes back."
