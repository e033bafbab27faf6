"""How a call of the pure modules is refused: the row of the refusal, and the reason that goes into the log."""

from collections.abc import Callable
from typing import Any

import pytest

from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.refusals import Refusal, Refused


def refusal(call: Callable[[], object]) -> tuple[Refusal, str]:
    """The row and the reason that a call must be refused with."""
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.refusal, caught.value.reason


def outcome(call: Callable[[], object]) -> Any:
    """What came of it: a result, or Refused. Nothing else may come."""
    try:
        return call()
    except Refused as refused:
        return refused


def row_of(refused: Refused) -> Refusal:
    """The row of a refusal, whose reason must fit into a line of the log."""
    assert refused.reason.isprintable()
    return refused.refusal


def bad_at_dps(why: str) -> tuple[Refusal, str]:
    return refusals.DPS_BAD_REQUEST, quoted(why)


def bad_at_hub(why: str) -> tuple[Refusal, str]:
    return refusals.HUB_BAD_REQUEST, quoted(why)


def not_emulated(row: Refusal, feature: str) -> tuple[Refusal, str]:
    return row, f"limit of this emulator, not of Azure: {quoted(feature)} is not emulated in this version"


def quoted(text: str) -> str:
    """As it is, unless it would break the line of the log."""
    return text[:300] if text.isprintable() else repr(text)[:100]
