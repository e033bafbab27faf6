"""matplotlib and Dask, which only this notebook needs and not everybody has."""

from importlib import import_module
from typing import Any

from dpsx_helpers.display import View, note

_INSTALL = (
    "run `python -m pip install -r requirements-fleet.txt` in the tutorial's folder, restart the kernel, and run "
    "this notebook again"
)


def missing(package: str, what: str) -> View | None:
    """What to show in place of `what` when the package cannot be imported; None when it can."""
    try:
        import_module(package)
    except ImportError:
        return note(f"{what} needs {package}, which is not installed here: {_INSTALL}.")
    return None


def load(module: str) -> Any:
    """A module of matplotlib or distributed, after `missing` has found it."""
    return import_module(module)
