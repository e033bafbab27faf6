import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from dpsx_helpers import __main__, __version__, doctor

pytest_plugins = ["kit"]
COMMANDS = ("lab", "run", "check", "doctor", "links")


def dpsx(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_the_installed_command_says_its_version() -> None:
    program = shutil.which("dpsx", path=Path(sys.executable).parent)
    assert program is not None, "the project is installed beside this Python"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dpsx {__version__}\n", "")


def test_help_names_the_commands() -> None:
    done = dpsx("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in COMMANDS:
        assert f"\n  dpsx {command} " in done.stdout


def test_no_command_at_all_shows_the_help() -> None:
    done = dpsx()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dpsx("--help").stdout


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main([command, option])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dpsx {command} ")


def test_the_help_of_run_names_every_variable_that_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["run", "--help"])
    told = capsys.readouterr().out
    for name in ("PASS_PHRASE", "CERT_FILE", "KEY_FILE", "REGISTRATION_ID", "ID_SCOPE", "PROVISIONING_HOST", "TARGET"):
        assert f"DPSX_{name}" in told


@pytest.mark.parametrize(
    "arguments", [["provision"], ["Run"], ["doc"], ["--verbose"], ["--vers"], ["run", "fast"], ["doctor", "--all"]]
)
def test_arguments_that_make_no_sense_end_with_2_and_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("usage: dpsx")
    assert arguments[-1] in said.err


def test_help_is_answered_without_loading_what_the_commands_need() -> None:
    code = (
        "import sys; from dpsx_helpers.__main__ import main; main([]); "
        "sys.exit(any(name in sys.modules for name in ('nbclient', 'nbformat', 'cryptography', 'dpsx_helpers.lab')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/somewhere/file"),
            "No space left on device (/somewhere/file): mend that and start again.",
        ),
        (OSError("odd"), "odd: mend that and start again."),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, sentence: str
) -> None:
    def refuse() -> NoReturn:
        raise error

    monkeypatch.setattr(doctor, "findings", refuse)
    assert __main__.main(["doctor"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"{sentence}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_takes_nothing_more_is_one_line(tmp_path: Path) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dpsx_helpers", "doctor"],
            env=buffered | {"DPSX_WORK_DIR": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "No space left on device: mend that and start again.\n")


def test_ctrl_c_is_one_line_and_the_status_that_shells_know(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "findings", interrupt)
    assert __main__.main(["doctor"]) == 128 + signal.SIGINT
    said = capsys.readouterr()
    assert (said.out, said.err.split("\n")) == ("", ["", "Stopped.", ""])


def test_a_console_without_the_signs_shows_others_instead(tmp_path: Path) -> None:
    done = dpsx("doctor", DPSX_WORK_DIR=str(tmp_path), PYTHONIOENCODING="ascii")
    assert done.stderr == ""
    assert "? work folder: " in done.stdout
    assert done.stdout.isascii()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no folder that a process is in")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_was_deleted_meanwhile_is_one_line(command: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from dpsx_helpers.__main__ import main; "
        f"sys.exit(main(['{command}', *sys.argv[1:]]))"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    package = str(Path(__main__.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "folder was deleted meanwhile" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_without_the_tutorials_notebooks_each_command_says_where_to_go(command: str, tmp_path: Path) -> None:
    """As after `pip install` of the package alone."""
    shutil.copytree(Path(__main__.__file__).parent, tmp_path / "site" / "dpsx_helpers")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
    done = subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", command],
        cwd=elsewhere,
        env={**environment, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    if command == "doctor":
        (told,) = [line for line in done.stdout.splitlines() if line.startswith("✘ work folder")]
    else:
        (told,) = done.stderr.splitlines()
        assert done.stdout == ""
    assert f"at or above {elsewhere}" in told
    assert "change to " in told
    assert list(elsewhere.iterdir()) == []
