"""JSON as clients send it, bad JSON included. No I/O."""

import json
from typing import Any, NoReturn


def load(data: bytes) -> Any:
    """The document in `data`. Raises ValueError for what is no JSON, NaN and nesting beyond all measure included."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def deeper_than(value: Any, levels: int) -> bool:
    """Whether objects and lists in `value` are nested more than `levels` deep."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        return False
    return levels == 0 or any(deeper_than(item, levels - 1) for item in inner)
