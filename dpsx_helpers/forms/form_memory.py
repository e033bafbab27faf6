"""What was typed or chosen in forms, for as long as this kernel lives.

What `tutorial` keeps is not kept a second time: this is for the rest, such as a text that was refused, or the
settings of the enrollment panel. Never for secrets.
"""

from typing import Any

from dpsx_helpers import tutorial

_kept: dict[tuple[str, str, str, str], Any] = {}  # single reads and writes of a dict are safe in threads


class Memory:
    """The memory of one form, for the work folder and the target in use when the form is made."""

    def __init__(self, form: str) -> None:
        self._place = (str(tutorial.work_dir()), tutorial.target(), form)

    def get(self, name: str, default: Any = None) -> Any:
        """What was kept under this name, else `default`."""
        return _kept.get((*self._place, name), default)

    def keep(self, name: str, value: Any) -> None:
        """Keep it; None forgets it."""
        if value is None:
            _kept.pop((*self._place, name), None)
        else:
            _kept[(*self._place, name)] = value
