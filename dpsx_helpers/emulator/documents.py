"""JSON and etags as clients send them, bad JSON included. No I/O."""

import json
from math import isinf
from typing import Any, NoReturn

_DEEPEST = 100  # levels of what is to be read, stored and written again


def load(data: bytes) -> Any:
    """The document in `data`. Raises ValueError for what is no JSON, NaN and nesting beyond all measure included.

    So are numbers that no double can hold: they would leave as `Infinity`.
    """
    try:
        document = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if deeper_than(document, _DEEPEST):
        raise ValueError("nested too deeply")
    return document


def matches(if_match: str, etag: str) -> bool:
    """Whether an `If-Match` means this etag: quoted or not, weak or not, one of several, or any (`*`)."""
    asked = {one.strip().removeprefix("W/").strip('"') for one in if_match.split(",")}
    return not asked.isdisjoint({"*", etag.strip('"')})


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"{text[:40]} is beyond all numbers")
    return number


def deeper_than(value: Any, levels: int) -> bool:
    """Whether objects and lists in `value` are nested more than `levels` deep."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        return False
    return levels == 0 or any(deeper_than(item, levels - 1) for item in inner)
