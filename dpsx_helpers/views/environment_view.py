"""The variables that the device code reads: as they are set here, and as a terminal or VS Code would set them.

A pass phrase is in none of it: each of the three asks for it where it is used.
"""

import json
import os
from collections.abc import Mapping

from dpsx_helpers import tutorial
from dpsx_helpers.display import View, copyable_block, fold, prose, stacked, table
from dpsx_helpers.emulator import shells

_SECRET = tutorial.VARIABLES[5:]
_PROMPT = "Enter PEM pass phrase"
_TRUST = "SSL_CERT_FILE"
_TRANSPORT = tutorial.INPUTS["transport"]
_INTRO = (
    "To run the same program outside this notebook, take one of these. The pass phrase is in none of them: each asks "
    "for it, and sets both of its names."
)
_FOR_TRUST = (
    f"{_TRUST} is for the emulator only: it names a file of trusted authorities in which the emulator's own stands too."
)
_BASH = "Paste it into a terminal with bash (Git Bash too) or zsh, and start the program there."
_POWERSHELL = "Paste it into PowerShell 7.1 or later (pwsh), and start the program there."
_VS_CODE = (
    "Save it as .vscode/launch.json in the folder that you have open in VS Code, open the program, and press F5 "
    "(with Microsoft's Python extensions)."
)


def environment() -> View:
    """The six variables (and the second name of the pass phrase) as they are set in this kernel, and below them what
    to copy into bash, PowerShell or VS Code.
    """
    rows = [(name, _value(name), _before(name)) for name in tutorial.VARIABLES]
    shown = table("Environment variables of this kernel", ("Variable", "Value", "Before this notebook"), rows)
    plain = {name: os.environ[name] for name in tutorial.VARIABLES if name in os.environ and name not in _SECRET}
    if not plain:
        return shown
    if tutorial.target() == "emulator" and _TRUST in os.environ:
        plain[_TRUST] = os.environ[_TRUST]
    if _TRANSPORT in os.environ:
        plain[_TRANSPORT] = os.environ[_TRANSPORT]
    intro = prose(f"{_INTRO} {_FOR_TRUST}" if _TRUST in plain else _INTRO)
    copies = (
        _copy("bash", _BASH, bash(plain)),
        _copy("PowerShell", _POWERSHELL, powershell(plain)),
        _copy("VS Code launch", _VS_CODE, launch(plain)),
    )
    return stacked(shown, intro, *copies)


def _copy(where: str, how: str, text: str) -> View:
    return fold(f"Copy as {where}", stacked(prose(how), copyable_block(f"the text for {where}", text)))


def _value(name: str) -> str:
    return tutorial.masked(name, os.environ[name]) if name in os.environ else "not set"


def _before(name: str) -> str:
    before = tutorial.exported_before.get(name)
    if before is None:
        return "not set"
    if before == tutorial.MASK or before == os.environ.get(name):
        return "was set already; this kernel uses the value shown" if before == tutorial.MASK else "the same"
    return f"{before} (overwritten in this kernel, your shell keeps it)"


def bash(plain: Mapping[str, str]) -> str:
    """Lines for bash and zsh. The one that asks is the last: what is pasted after it would be taken for the answer."""
    first, second = _SECRET
    asks = f"printf '{_PROMPT}: '; IFS= read -rs {first}; echo; export {first} {second}=\"${first}\""
    return "\n".join([*(shells.sh(name, value) for name, value in plain.items()), asks])


def powershell(plain: Mapping[str, str]) -> str:
    """Lines for PowerShell 7.1 and later, the first with `Read-Host -MaskInput`.

    https://learn.microsoft.com/powershell/module/microsoft.powershell.utility/read-host
    """
    first, second = _SECRET
    asks = f"$env:{first} = $env:{second} = Read-Host -MaskInput '{_PROMPT}'"
    lines = [shells.powershell(name, value) for name, value in plain.items()]
    return "\n".join([*lines, asks])


def launch(plain: Mapping[str, str]) -> str:
    """`.vscode/launch.json` for the Python program that is open in VS Code, which asks for the pass phrase.

    https://code.visualstudio.com/docs/python/debugging and https://code.visualstudio.com/docs/reference/variables-reference
    """
    asked = dict.fromkeys(_SECRET, "${input:passPhrase}")
    configuration = {
        "name": "Simulated device",
        "type": "debugpy",
        "request": "launch",
        "program": "${file}",
        "console": "integratedTerminal",
        "env": {**plain, **asked},
    }
    ask = {"id": "passPhrase", "type": "promptString", "description": _PROMPT, "password": True}
    return json.dumps({"version": "0.2.0", "configurations": [configuration], "inputs": [ask]}, indent=2)
