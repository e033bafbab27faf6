"""`dpsx lab | run | check | collect | doctor | join | leave | links`: for learners and their teachers."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from dpsx_helpers import __version__
from dpsx_helpers.errors import LearnerError, shown

_ABOUT = """\
Learn how a simulated X.509 device is provisioned to Azure IoT Hub, in notebooks, on an emulator or on Azure.

  dpsx lab      opens the tutorial in JupyterLab
  dpsx run      runs it without hands, and leaves one page to read
  dpsx check    says what of it is done, for you or for your teacher
  dpsx collect  makes one table of a class's reports
  dpsx doctor   says whether this machine is fit for it
  dpsx join     uses the emulator of your class, with the file or code from your teacher; dpsx leave goes back
  dpsx links    prints the links that open it on Binder and on a JupyterHub
"""
INTERRUPTED = 130  # as shells count Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; 2 is argparse's own, for arguments that make no sense."""
    given = sys.argv[1:] if arguments is None else arguments
    _print_anything()
    try:
        status = _command(given)
        sys.stdout.flush()
        return status
    except LearnerError as error:
        print(error, file=sys.stderr)
    except BrokenPipeError:  # the reader has gone: `dpsx check | head`
        _print_no_more()
    except OSError as error:  # a full disk, a folder that may not be read …
        where = f" ({shown(error.filename)})" if error.filename else ""
        print(f"{shown(error.strerror or error)}{where}: mend that and start again.", file=sys.stderr)
        _print_no_more()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    return 1


def _print_anything() -> None:
    """A console that has no ✔ shows ? instead."""
    for stream in (sys.stdout, sys.stderr):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="replace")


def _stand_somewhere() -> None:
    """Python cannot even import in a folder that was deleted meanwhile."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise LearnerError(
            "The current folder was deleted meanwhile: change to the tutorial's folder and start again."
        ) from None


def _print_no_more() -> None:
    """Where standard output takes nothing more, Python would complain of that once again at its end:
    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(given: list[str]) -> int:
    _stand_somewhere()
    parser = _parser()
    if given[:1] == ["lab"] and not {"-h", "--help"}.intersection(given):
        return int(_module("lab").start(given[1:]))  # whatever else is said is for JupyterLab
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help()
        return 0
    with warnings.catch_warnings(), _module("doctor").settled():
        warnings.simplefilter("ignore")  # of libraries, to which a learner can do nothing
        return _COMMANDS[options.command](options)


def _run(options: argparse.Namespace) -> int:
    _module("run").run(sys.stdout, options.all)
    return 0


def _check(options: argparse.Namespace) -> int:
    """0 when there is a report, whatever is in it."""
    if sys.stderr.isatty():
        print("Looking at what is there: this takes some seconds …", file=sys.stderr)
    found = _module("report").make()
    print(found.as_json() if options.json else found.as_text())
    return 0


def _links(options: argparse.Namespace) -> int:
    """Warnings go to standard error, so that standard output can be pasted from, or read by a program."""
    links = _module("links")
    made = links.make(_module("lab").notebooks_folder().parent, options.hub)
    print(made.as_json() if options.json else made.as_text())
    for warning in made.warnings:
        print(warning, file=sys.stderr)
    return 0


def _collect(options: argparse.Namespace) -> int:
    """1 when a file is no report or counts no more, which is said after the table."""
    found = _module("collect").read(options.folder)
    print(found.as_csv() if options.csv else found.as_text(), end="" if options.csv else "\n")
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return 1 if found.problems else 0


def _join(options: argparse.Namespace) -> int:
    print(_module("membership").join(options.file))
    return 0


def _leave(_: argparse.Namespace) -> int:
    print(_module("membership").leave())
    return 0


def _doctor(options: argparse.Namespace) -> int:
    doctor, machine = _module("doctor"), _module("machine")
    if options.target is not None:
        os.environ["DPSX_TARGET"] = options.target
    found = doctor.findings()
    for finding in found:
        print(doctor.line(finding), flush=True)
    way, transport = doctor.on_the_way()
    for finding in way:
        print(doctor.line(finding))
    fit = machine.fit([*found, *way])
    mend = "Mend what is marked with ✘, and start `dpsx doctor` again."
    print("This machine is fit for the tutorial." if fit else mend)
    print(f"Transport: {transport}")
    return 0 if fit else 1


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run, "check": _check, "collect": _collect, "doctor": _doctor, "join": _join, "leave": _leave,
    "links": _links,
}  # fmt: skip


def _module(name: str) -> Any:
    """Loaded when needed, so that `dpsx --help` answers at once."""
    return import_module(f"dpsx_helpers.{name}")


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is blank")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpsx", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dpsx {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    texts = {
        "lab": "Open JupyterLab on the first notebook, until Ctrl-C. Other arguments go to `jupyter lab`, "
        "for example --port 9999 or --no-browser.",
        "run": "Run notebooks 00 to 05, or all eleven, in notebooks/work/run (or $DPSX_WORK_DIR/run), on an emulator "
        "of their own. "
        "Inputs: the variables DPSX_PASS_PHRASE, DPSX_CERT_FILE, DPSX_KEY_FILE, DPSX_REGISTRATION_ID, DPSX_ID_SCOPE, "
        "DPSX_PROVISIONING_HOST, DPSX_TARGET; none is needed.",
        "check": "Look at what the notebooks made in notebooks/work (or $DPSX_WORK_DIR), and print which checks and "
        "exercises are done. Nothing is started. ✔ done: it can be seen now, or (passed: the time is given) it was; "
        "? only you can see it, on Azure; – it cannot be looked at while the emulator is not running; ☐ open. "
        "DPSX_LEARNER is a name to put into the report.",
        "collect": "Make one table of the reports (*.json) in a folder and those below it: what each learner's "
        "`dpsx check --json` printed, a file each.",
        "doctor": "Check Python, packages, folders, ports, the emulator, those DPSX_ variables that are set, and the "
        "way to the target's endpoint. The last line says which transport to use.",
        "join": "Use the emulator of a class from now on, in this work folder. Give the file that your teacher made "
        "for you, or no argument, and paste the code when you are asked: it holds a key, and what stands on a command "
        "line others may see. Where no command can be run, set DPSX_JOIN to the path or the code instead.",
        "leave": "Go back to an emulator of your own. Certificate and key stay; in the class your device stays too.",
        "links": "Print the links to this very clone, at its remote and its branch: the badge for Binder, a link for "
        "nbgitpuller, a link for a JupyterHub. Nothing is contacted.",
    }
    parts = {name: commands.add_parser(name, description=text, allow_abbrev=False) for name, text in texts.items()}
    parts["run"].add_argument("--all", action="store_true", help="go on after the quickstart, with notebooks 06 to 10")
    parts["doctor"].add_argument(
        "--target", choices=("emulator", "azure"), help="whose endpoint (when left out: the one that you work with)"
    )
    parts["collect"].add_argument("folder", metavar="FOLDER", type=_folder, help="where the reports are")
    parts["collect"].add_argument(
        "--csv", action="store_true", help="print CSV for a spreadsheet, a column for each step"
    )
    parts["join"].add_argument("file", nargs="?", metavar="FILE", help="the join file; without it you are asked")
    for name in ("check", "links"):
        parts[name].add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parts["links"].add_argument("--hub", metavar="URL", help="the address of your JupyterHub")
    return parser


if __name__ == "__main__":
    sys.exit(main())
