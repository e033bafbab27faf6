"""One variable, as a line that sets it in a shell, whatever its value holds."""

import re
import shlex


def sh(name: str, value: str) -> str:
    """The line for bash, zsh and other Bourne shells."""
    return f"export {name}={shlex.quote(value)}"


def powershell(name: str, value: str) -> str:
    """The line for PowerShell, which also takes typographic single quotes for the end of a quoted text.

    https://learn.microsoft.com/powershell/module/microsoft.powershell.core/about/about_quoting_rules
    """
    doubled = re.sub("(['‘’‚‛])", r"\1\1", value)
    return f"$env:{name} = '{doubled}'"
