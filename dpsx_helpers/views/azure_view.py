"""What a learner who chose Azure types into a terminal, in place of the portal."""

import sys

from dpsx_helpers import azure_cli, tutorial
from dpsx_helpers.azure_cli import Names, Shell
from dpsx_helpers.display import View, ask, copyable_block, fold, note, prose, stacked

_SHELLS: dict[Shell, str] = {
    "sh": "For bash and zsh (Git Bash and Azure Cloud Shell too)",
    "powershell": "For PowerShell",
}
#: What stands in the cell before a learner has changed it.
PLACEHOLDER = "change-me"


def azure_setup(*, resource_group: str, location: str, hub: str, dps: str) -> View:
    """The `az` lines for these names, by shell; on the emulator a note. Stop when Azure would not take a name."""
    if tutorial.target() == "emulator":
        return note("Nothing to set up: the emulator is both services, linked already.")
    names = Names(resource_group, location, hub, dps)
    found = tutorial.known("registration_id")
    device = tutorial.registration_id() if found else tutorial.TEST_REGISTRATION_ID
    shells = sorted(_SHELLS, key=lambda shell: (shell == "powershell") != (sys.platform == "win32"))
    folds = [fold(_SHELLS[shell], _of_shell(names, device, shell)) for shell in shells]
    warning = (
        f"Have you put something of your own in the place of {PLACEHOLDER}? Both names are unique in all of Azure."
    )
    intro = prose("These lines do what the portal's steps above do. They are filled with your values; none was run.")
    return stacked(*([ask(warning)] if PLACEHOLDER in hub + dps else []), intro, *folds)


def _of_shell(names: Names, device: str, shell: Shell) -> View:
    steps = azure_cli.steps(names, device, tutorial.certificate_file(), shell)
    shown = [
        fold(
            f"{number}. {step.title}",
            stacked(prose(step.why), copyable_block(f"the lines: {step.title}", "\n".join(step.lines))),
        )
        for number, step in enumerate(steps, 1)
    ]
    return stacked(*shown)
