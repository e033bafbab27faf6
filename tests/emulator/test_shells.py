"""The lines that set a variable, judged by the shells themselves."""

import shutil
import subprocess

import pytest

from dpsx_helpers.emulator import shells

ODD = [
    "plain",
    "",
    "with spaces  and tabs\t",
    'it\'s $HOME `id` $(id) !! \\ \\\\ "quoted"',
    "C:\\Users\\Zoë O'Neil\\key.pem",
    "two\nlines",
    "‘typographic’ ‚signs‛ “too”",
    "-n; rm *",
]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_bourne_shell_reads_the_value_back(shell: str, value: str) -> None:
    line = shells.sh("DPSX_ODD", value)
    read = subprocess.run([shell, "-c", f'{line}\nprintf %s "$DPSX_ODD"'], capture_output=True, check=True)
    assert read.stdout.decode() == value
    assert read.stderr == b""


@pytest.mark.parametrize("value", [value for value in ODD if value])
def test_powershell_reads_the_value_back(value: str) -> None:
    """By PowerShell itself where there is one; anywhere by its rule: within quotes only quotes count, doubled."""
    line = shells.powershell("DPSX_ODD", value)
    start, end = "$env:DPSX_ODD = '", "'"
    assert line.startswith(start)
    assert line.endswith(end)
    assert _unquoted(line[len(start) : -len(end)]) == value
    if powershell := shutil.which("pwsh"):
        script = f"{line}; [Console]::OutputEncoding = [Text.Encoding]::UTF8; [Console]::Out.Write($env:DPSX_ODD)"
        read = subprocess.run([powershell, "-NoProfile", "-Command", script], capture_output=True, check=True)
        assert read.stdout.decode() == value


def _unquoted(text: str) -> str:
    """What PowerShell's reader makes of the text within single quotes; every kind of single quote ends it."""
    signs, found = iter(text), []
    for sign in signs:
        if sign in "'‘’‚‛":
            assert next(signs) in "'‘’‚‛", "the text would end here"
        found.append(sign)
    return "".join(found)
