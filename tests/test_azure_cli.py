"""The lines for `az`: filled in, quoted for their shell, of names that Azure takes. None is run."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from devices import NAME

from dpsx_helpers import azure_cli, tutorial, views
from dpsx_helpers.azure_cli import Names, Shell
from dpsx_helpers.display import open_questions
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]

NAMES = Names("dpsx", "West Europe", "my-hub-7", "my-dps-7")
ODD = Path("/home/O'Neill & son/python device.pem")
#: Commands of the Azure CLI and of its extension azure-iot: https://learn.microsoft.com/cli/azure/iot
KNOWN = {
    "login", "extension add", "group create", "group delete", "role assignment create", "ad signed-in-user show",
    "iot hub create", "iot hub delete", "iot hub show", "iot hub monitor-events", "iot hub connection-string show",
    "iot dps create", "iot dps delete", "iot dps show", "iot dps linked-hub create", "iot dps connection-string show",
    "iot dps enrollment create", "iot dps enrollment list",
}  # fmt: skip


def every_line(shell: Shell = "sh", file: Path = ODD) -> list[str]:
    return [line for step in azure_cli.steps(NAMES, NAME, file, shell) for line in step.lines]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("resource_group", ["a", "rg_1.x-2", "x" * 90], ["", "x.", "x" * 91, "a b", "a'b", "$(x)", "ä"]),
        ("location", ["westeurope", "West Europe"], ["", "x", "west;europe", "$HOME", "-o"]),
        ("hub", ["abc", "A-1", "x" * 50, "-ab"], ["", "ab", "x" * 51, "ab-", "a_b", "a.b", "ab\n", "a b"]),
        ("dps", ["abc", "x" * 64], ["ab", "x" * 65, "ab-", "a_b", "`id`"]),
    ],
)
def test_names_are_held_to_azures_rules(field: str, good: list[str], bad: list[str]) -> None:
    fine = {"resource_group": "g", "location": "westeurope", "hub": "hub", "dps": "dps"}
    for name in good:
        assert getattr(Names(**{**fine, field: name}), field) == name
    for name in bad:
        with pytest.raises(Stop, match=r"cannot be the name of your .* mend it and run this cell again"):
            Names(**{**fine, field: name})


def test_every_line_is_a_command_that_az_has_and_names_the_learners_things() -> None:
    lines = every_line()
    commands = {found for line in lines for found in re.findall(r"\baz ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)", line)}
    assert commands == KNOWN
    text = "\n".join(lines)
    assert text.count("my-hub-7") >= 6
    assert text.count("my-dps-7") >= 7
    assert not re.search(r"[<>]|SharedAccessKey", text), "nothing is left to fill in, and no key is in a line"
    assert "--sku F1 --partition-count 2" in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_reads_the_lines_as_they_are_meant(tmp_path: Path) -> None:
    """A stand-in for `az` writes down what it is given."""
    program = tmp_path / "az"
    program.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word" >> "$RECORD"; done\necho "a value"\n')
    program.chmod(0o755)
    record = tmp_path / "record"
    script = "\n".join([*every_line(), 'printf "%s|" "$DPS_CONNECTION_STRING" "$DPSX_IOTHUB_HOST"'])
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RECORD": str(record)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("a value|my-hub-7.azure-devices.net|")
    words = record.read_text().splitlines()
    assert words.count("West Europe") == 3
    assert str(ODD) in words
    assert "IoT Hub Data Contributor" in words
    assert not any("$" in word for word in words)


def test_powershell_quotes_its_own_way() -> None:
    lines = every_line("powershell")
    text = "\n".join(lines)
    assert "--location 'West Europe'" in text
    assert "--certificate-path '/home/O''Neill & son/python device.pem'" in text
    assert "$env:DPSX_SERVICE_ENDPOINT = 'my-dps-7.azure-devices-provisioning.net'" in lines
    assert any(line.startswith("$env:IOTHUB_CONNECTION_STRING = az iot hub connection-string show ") for line in lines)
    assert "export" not in text


def test_a_path_that_needs_no_quotes_gets_none() -> None:
    (line,) = [line for line in every_line(file=Path("/work/python-device.pem")) if "enrollment create" in line]
    assert shlex.split(line)[-2:] == ["--certificate-path", "/work/python-device.pem"]
    assert "'" not in line


# --- in the notebook --------------------------------------------------------------------------------------------------

GIVEN = {"resource_group": "dpsx", "location": "westeurope", "hub": "dpsx-hub-7", "dps": "dpsx-dps-7"}


def test_on_the_emulator_there_is_nothing_to_set_up(work: Path) -> None:
    assert views.azure_setup(**GIVEN).text.startswith("Nothing to set up")


def test_on_azure_the_lines_are_there_for_both_shells_to_copy(work: Path) -> None:
    tutorial.enter("target", "azure")
    tutorial.enter("registration_id", "press-01")
    shown = views.azure_setup(**GIVEN)
    assert open_questions(shown) == []
    for shell in ("For bash and zsh", "For PowerShell"):
        assert shell in shown.text
    assert shown.text.count("az iot dps linked-hub create --dps-name dpsx-dps-7 --resource-group dpsx --hub-name") == 2
    assert "--enrollment-id press-01" in shown.text
    assert str(work / "python-device.pem") in shown.text
    assert shown.html.count("<button") == 16


def test_a_name_that_was_not_changed_is_asked_for(work: Path) -> None:
    tutorial.enter("target", "azure")
    (question,) = open_questions(views.azure_setup(**{**GIVEN, "hub": "dpsx-hub-change-me"}))
    assert "in the place of change-me" in question


def test_a_name_that_azure_refuses_stops(work: Path) -> None:
    tutorial.enter("target", "azure")
    with pytest.raises(Stop, match=r'"my_hub" cannot be the name of your IoT hub'):
        views.azure_setup(**{**GIVEN, "hub": "my_hub"})


def test_the_page_has_the_same_lines() -> None:
    """docs/azure.md shows the first ones with names that are to be replaced."""
    page = (Path(__file__).parents[1] / "docs" / "azure.md").read_text(encoding="utf-8")
    names = Names("dpsx", "westeurope", "dpsx-hub-YOURS", "dpsx-dps-YOURS")
    first, second = azure_cli.steps(names, NAME, ODD)[:2]
    assert "\n".join((*first.lines, *second.lines)) in page
