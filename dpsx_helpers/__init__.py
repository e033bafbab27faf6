"""Helpers for the tutorial notebooks on Azure IoT device provisioning.

The names below are the submodules that notebooks import. They are loaded on first use, so that
``import dpsx_helpers`` (which the emulator process does too) pulls in neither widgets nor the device SDK.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "authorities",
    "certificates",
    "chains",
    "checks",
    "clinic",
    "conversation",
    "diagnosis",
    "diary",
    "enrollments",
    "fleet",
    "forms",
    "registry",
    "rollover",
    "targets",
    "tutorial",
    "twins",
    "views",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
