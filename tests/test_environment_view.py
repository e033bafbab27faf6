"""What is copied into a terminal or VS Code is tried there: the variables arrive as they are in the kernel."""

import json
import os
import pty
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from devices import NAME, set_variables

from dpsx_helpers import tutorial, views
from dpsx_helpers.certificates import Pair
from dpsx_helpers.targets import Target
from dpsx_helpers.views import environment_view

pytest_plugins = ["kit"]
ODD = {
    "PROVISIONING_HOST": "127.0.0.1",
    "PROVISIONING_IDSCOPE": "0ne00ABC123",
    "X509_CERT_FILE": '/tmp/it\'s $HOME "here"/`id`\\n/Zoë.pem',
    "X509_KEY_FILE": "C:\\Users\\A B\\${file}\\key.pem",
}
PASS_PHRASE = " canary $HOME 'x\\ "
_PRINT = f"import json, os; print(json.dumps({{n: os.environ.get(n) for n in {[*ODD, *tutorial.VARIABLES[5:]]!r}}}))"


class Copied(HTMLParser):
    """What the copy buttons of a view would put into the clipboard, by their names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "button":
            self.values[str(given["aria-label"])] = str(given["data-value"])


def test_bash_sets_the_values_asks_for_the_pass_phrase_and_shows_nothing_of_it() -> None:
    """In a terminal of its own: `read -s` switches its echo off."""
    script = f"{environment_view.bash(ODD)}\n{sys.executable} -c {_quoted(_PRINT)}"
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{PASS_PHRASE}\n".encode())
        environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
        shell = subprocess.Popen(
            ["bash", "-c", script], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        out, err = shell.communicate(timeout=30)
    finally:
        os.close(ours)
        os.close(theirs)
    assert err == b""
    asked, said = out.decode().split("\n", 1)
    assert asked == "Enter PEM pass phrase: "
    assert json.loads(said) == {**ODD, "PASS_PHRASE": PASS_PHRASE, "X509_PASS_PHRASE": PASS_PHRASE}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_the_line_that_asks_is_the_last() -> None:
    """Lines that are pasted after it would be read as the pass phrase."""
    assert "read -rs PASS_PHRASE" in environment_view.bash(ODD).splitlines()[-1]
    assert "Read-Host -MaskInput" in environment_view.powershell(ODD).splitlines()[-1]


def test_powershell_has_a_line_for_each_variable() -> None:
    lines = environment_view.powershell(ODD).splitlines()
    assert lines[2] == "$env:X509_CERT_FILE = '/tmp/it''s $HOME \"here\"/`id`\\n/Zoë.pem'"
    assert lines[3] == "$env:X509_KEY_FILE = 'C:\\Users\\A B\\${file}\\key.pem'"
    assert lines[4].startswith("$env:PASS_PHRASE = $env:X509_PASS_PHRASE = Read-Host ")


def test_vs_code_gets_a_launch_configuration_that_asks_for_the_pass_phrase() -> None:
    document = json.loads(environment_view.launch(ODD))
    (configuration,) = document["configurations"]
    assert document["version"] == "0.2.0"
    wanted = {"type": "debugpy", "request": "launch", "program": "${file}", "console": "integratedTerminal"}
    assert wanted.items() <= configuration.items()
    (asked,) = document["inputs"]
    assert asked["type"] == "promptString"
    assert asked["password"] is True
    answer = f"${{input:{asked['id']}}}"
    assert configuration["env"] == {**ODD, "PASS_PHRASE": answer, "X509_PASS_PHRASE": answer}


def test_the_view_offers_all_three_and_the_pass_phrase_is_in_none(
    emulated: Target, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(emulated, PASS_PHRASE=PASS_PHRASE, X509_PASS_PHRASE=PASS_PHRASE)
    view = views.environment()
    assert PASS_PHRASE.strip() not in view.html + view.text
    assert "canary" not in view.html + view.text
    copied = Copied(view.html).values
    assert list(copied) == [f"Copy the text for {where}" for where in ("bash", "PowerShell", "VS Code launch")]
    for text in copied.values():
        assert text in view.text
        for value in (emulated.id_scope, NAME, str(pair.key_file), os.environ["SSL_CERT_FILE"]):
            assert value in text
    assert "SSL_CERT_FILE is for the emulator only" in view.text


def test_on_azure_there_is_no_word_of_the_emulator(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial.enter("target", "azure")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/own.pem")
    monkeypatch.setenv("PROVISIONING_HOST", "global.azure-devices-provisioning.net")
    assert "SSL_CERT_FILE" not in views.environment().text
    assert "export PROVISIONING_HOST=global" in views.environment().text


def test_with_no_variable_set_there_is_nothing_to_copy(work: Path) -> None:
    assert Copied(views.environment().html).values == {}
