"""The query language of IoT Hub, as far as it asks for devices: parse a query once, run it over twins. No I/O.

Grammar and meaning: https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-query-language
Examples and limits: https://learn.microsoft.com/azure/iot-hub/query-twins
"""

import json
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.refusals import Refused

MAX_LENGTH = 8192  # characters: https://learn.microsoft.com/azure/iot-hub/query-twins#twin-query-limitations
MAX_DEPTH = 32  # parentheses, NOTs and calls inside one another; where Azure stops is not documented

Twin = dict[str, Any]
Expression = Callable[[Twin], Any]  # a JSON value or _UNDEFINED; as a condition it holds when it is exactly true

_UNDEFINED = object()
_CONSTANTS = {"TRUE": True, "FALSE": False, "NULL": None, "UNDEFINED": _UNDEFINED}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<>": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_AGGREGATES = {"COUNT", "AVG", "SUM", "MIN", "MAX"}
# IS_DEFINED is the one that the page has for twins. STARTSWITH works in Azure, and Azure IoT Explorer sends it:
# https://github.com/MicrosoftDocs/azure-docs/issues/105649
_FUNCTIONS: dict[str, tuple[int, Callable[..., bool]]] = {
    "IS_DEFINED": (1, lambda value: value is not _UNDEFINED),
    "STARTSWITH": (2, lambda text, start: isinstance(text, str) and isinstance(start, str) and text.startswith(start)),
}
# Azure takes them for names only in double brackets: https://github.com/MicrosoftDocs/azure-docs/issues/17106
_KEYWORDS = {"SELECT", "TOP", "AS", "FROM", "WHERE", "GROUP", "BY", "AND", "OR", "NOT", "IN", "NIN", *_CONSTANTS}
# The page asks for DeviceId and is answered deviceId: the top level of a twin ignores case, what is below does not.
_TOP_LEVEL = {
    name.lower(): name
    for name in (
        "deviceId", "etag", "deviceEtag", "status", "statusReason", "statusUpdateTime", "connectionState",
        "lastActivityTime", "cloudToDeviceMessageCount", "authenticationType", "x509Thumbprint", "modelId",
        "capabilities", "version", "tags", "properties", "configurations", "deviceScope", "parentScopes",
    )
}  # fmt: skip
_TOKEN = re.compile(
    r"""(?P<string>'(?:[^'\\]|\\(?:['"\\]|u[0-9A-Fa-f]{4}))*'|"(?:[^"\\]|\\(?:['"\\]|u[0-9A-Fa-f]{4}))*")
      | (?P<number>0[xX][0-9A-Fa-f]+|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
      | \[\[(?P<name>[^\[\]]+)\]\]
      | (?P<word>(?:[^\W\d]|\$)[\w$]*)
      | (?P<sign><=|>=|<>|!=|[-=<>(),.\[\]*;+/%])
      | (?P<space>\s+)
      | (?P<nonsense>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"(?:\\u[0-9A-Fa-f]{4})+|\\(.)")


@dataclass(frozen=True, slots=True)
class Path:
    """Where in a twin an attribute is. What is missing is undefined."""

    names: tuple[str, ...]

    def value(self, twin: Twin) -> Any:
        found: Any = twin
        for name in self.names:
            found = found.get(name, _UNDEFINED) if isinstance(found, dict) else _UNDEFINED
        return found


@dataclass(frozen=True, slots=True)
class Column:
    """An attribute, or an aggregate of one over many twins."""

    name: str
    aggregate: str
    path: Path

    def value(self, twins: list[Twin]) -> Any:
        return _aggregated(self.aggregate, [self.path.value(twin) for twin in twins])


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was understood. No columns are `SELECT *`, no `top` is all rows."""

    columns: tuple[Column, ...]
    where: Expression
    group: Path | None
    top: int | None

    @property
    def item_type(self) -> Literal["Twin", "Raw"]:
        """What the answer holds: twins, or rows of the query's own making."""
        return "Raw" if self.columns else "Twin"

    def run(self, twins: Iterable[Twin]) -> list[Twin]:
        """The twins that the condition holds for, or the rows made of them. A row leaves out what is undefined."""
        chosen = [twin for twin in twins if self.where(twin) is True]
        if not self.columns:
            return chosen[: self.top]
        rows = [[(column.name, column.value(members)) for column in self.columns] for members in self._groups(chosen)]
        return [{name: value for name, value in row if value is not _UNDEFINED} for row in rows[: self.top]]

    def _groups(self, twins: list[Twin]) -> Iterable[list[Twin]]:
        if self.group is None:
            return [twins] if any(column.aggregate for column in self.columns) else [[twin] for twin in twins]
        groups: dict[object, list[Twin]] = {}
        for twin in twins:
            value = self.group.value(twin)
            key = json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
            groups.setdefault((_kind(value), key), []).append(twin)  # the kind, because True equals 1
        return groups.values()


def parse(text: object) -> Query:
    """Read a query. Raises Refused naming what is wrong and where, or the feature that is not emulated."""
    if not isinstance(text, str) or not text.strip():
        raise _bad("the body has no query")
    if len(text) > MAX_LENGTH:
        raise _bad(f"the query has {len(text)} characters; {MAX_LENGTH} are allowed")
    return _Parser(_tokens(text)).query()


def _bad(why: str) -> Refused:
    return Refused(refusals.HUB_BAD_REQUEST, why=why)


def _not_emulated(feature: str) -> Refused:
    return Refused(refusals.HUB_NOT_EMULATED, feature=feature)


def _kind(value: Any) -> str:
    """The type of what can be compared; objects, arrays and what is undefined have none."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "null" if value is None else ""


def _compare(left: Any, sign: str, right: Any) -> bool:
    """Only numbers and strings have an order, values of two types just differ, and what has no type gives false."""
    kinds = {_kind(left), _kind(right)}
    if "" in kinds:
        return False
    if len(kinds) == 2:
        return sign in ("!=", "<>")
    return (sign in ("=", "!=", "<>") or kinds <= {"number", "string"}) and _COMPARISONS[sign](left, right)


def _aggregated(name: str, values: list[Any]) -> Any:
    """COUNT is of all; the others are of the numbers, and MIN and MAX of the strings where there is no number."""
    if name in ("", "COUNT"):
        return len(values) if name else values[0]
    numbers = [value for value in values if _kind(value) == "number"]
    if name in ("MIN", "MAX"):
        pick = min if name == "MIN" else max
        return pick(numbers or [value for value in values if _kind(value) == "string"], default=_UNDEFINED)
    try:
        result = sum(numbers) / len(numbers) if name == "AVG" else sum(numbers)
        return result if numbers and math.isfinite(result) else _UNDEFINED
    except (OverflowError, ZeroDivisionError):
        return _UNDEFINED


def _unescaped(literal: str) -> str:
    """What a string literal says. \\uXXXX are units of UTF-16, so that two of them may make one character."""
    return _ESCAPE.sub(
        lambda match: match[1] or bytes.fromhex(match[0].replace("\\u", "")).decode("utf-16-be", "surrogatepass"),
        literal[1:-1],
    )


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return f"{self.text[:40]} at character {self.at}" if self.text else "the end of the query"

    @property
    def symbol(self) -> str:
        """A word in capitals, or a sign; empty for a token that is its own value."""
        return self.text.upper() if self.kind in ("word", "sign") else ""


def _tokens(text: str) -> list[_Token]:
    """All but the space between them. The last one is the end. Characters are counted from 1."""
    found = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        token = _Token(kind, match[kind], match.start() + 1)
        if kind == "nonsense" and token.text in "'\"":
            raise _bad(f"the string that begins with {token} has no end or an unknown escape")
        if kind == "nonsense":
            raise _bad(f"{token} is not in the query language of IoT Hub")
        if kind != "space":
            found.append(token)
    return [*found, _Token("end", "", len(text) + 1)]


class _Parser:
    """Recursive descent: each method reads what it is named after and stops at what follows."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._index = 0
        self._unnamed = 0

    @property
    def current(self) -> _Token:
        return self._tokens[self._index]

    def take(self) -> _Token:
        self._index += 1
        return self._tokens[self._index - 1]

    def accept(self, *symbols: str) -> str:
        return self.take().symbol if self.current.symbol in symbols else ""

    def expect(self, symbol: str) -> None:
        if not self.accept(symbol):
            raise self.unexpected(symbol)

    def unexpected(self, wanted: str) -> Refused:
        return _bad(f"{self.current} is where {wanted} should be")

    def series(self, part: Callable[[], Any]) -> list[Any]:
        found = [part()]
        while self.accept(","):
            found.append(part())
        return found

    def called(self) -> _Token | None:
        """The name of a function, taken with its opening parenthesis; None when none is called here."""
        if self.current.kind != "word" or self._tokens[self._index + 1].symbol != "(":
            return None
        self._index += 2
        return self._tokens[self._index - 2]

    def query(self) -> Query:
        self.expect("SELECT")
        top = self.top() if self.accept("TOP") else None
        columns = () if self.accept("*") else tuple(self.series(self.column))
        self.expect("FROM")
        self.expect("DEVICES")
        if self.accept("."):
            inner = self.accept("MODULES", "JOBS")
            raise _not_emulated(f"FROM devices.{inner.lower()}") if inner else self.unexpected("modules or jobs")
        where = self.condition(0) if self.accept("WHERE") else lambda twin: True
        group = None
        if self.accept("GROUP"):
            self.expect("BY")
            group = self.path()
        self.accept(";")
        if self.current.kind != "end":
            raise self.unexpected("the end of the query")
        _check_columns(columns, group)
        return Query(columns, where, group, top)

    def top(self) -> int:
        if self.current.kind != "number" or not self.current.text.isdigit() or len(self.current.text) > 9:
            raise self.unexpected("a whole number")
        return int(self.take().text)

    def column(self) -> Column:
        """The page gives an alias to every aggregate; one without is numbered as Azure's databases do it."""
        function = self.called()
        aggregate = function.symbol if function else ""
        if function and aggregate not in _AGGREGATES:
            raise _no_function(function, "SELECT", _AGGREGATES)
        path = Path(()) if aggregate == "COUNT" else self.path()
        if aggregate:
            self.expect(")")
        if self.accept("AS"):
            return Column(self.name(), aggregate, path)
        if not aggregate:
            return Column(path.names[-1], aggregate, path)
        self._unnamed += 1
        return Column(f"${self._unnamed}", aggregate, path)

    def path(self, wanted: str = "a name") -> Path:
        names = [self.name(wanted)]
        while self.accept("."):
            names.append(self.name())
        if names[0].lower() == "devices" and len(names) > 1:
            del names[0]
        return Path((_TOP_LEVEL.get(names[0].lower(), names[0]), *names[1:]))

    def name(self, wanted: str = "a name") -> str:
        """A bare name, or any text in double brackets."""
        if self.current.symbol in _KEYWORDS:
            raise _bad(f"{self.current} is a keyword; as a name it is written [[{self.current.text}]]")
        if self.current.kind not in ("word", "name"):
            raise self.unexpected(wanted)
        return self.take().text

    def condition(self, depth: int) -> Expression:
        return self.joined("OR", any, lambda: self.joined("AND", all, lambda: self.negation(depth)))

    def joined(self, word: str, over: Callable[[Iterable[bool]], bool], part: Callable[[], Expression]) -> Expression:
        parts = [part()]
        while self.accept(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else lambda twin: over(each(twin) is True for each in parts)

    def negation(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise _bad(f"{self.current} is more than {MAX_DEPTH} levels deep")
        if self.accept("NOT"):
            inner = self.negation(depth + 1)
            return lambda twin: inner(twin) is not True
        return self.comparison(depth)

    def comparison(self, depth: int) -> Expression:
        left = self.operand(depth)
        if sign := self.accept(*_COMPARISONS):
            right = self.operand(depth)
            return lambda twin: _compare(left(twin), sign, right(twin))
        within = self.accept("IN", "NIN", "NOT")
        if not within:
            return left
        if within == "NOT":
            self.expect("IN")
        self.expect("[")
        choices = self.series(self.constant)
        self.expect("]")
        each, over = ("=", any) if within == "IN" else ("!=", all)
        return lambda twin: over(_compare(value, each, choice) for value in [left(twin)] for choice in choices)

    def operand(self, depth: int) -> Expression:
        expression = self.term(depth)
        if self.current.symbol in {"+", "-", "*", "/", "%"}:
            raise _not_emulated(f"arithmetic in a query ({self.current})")
        return expression

    def term(self, depth: int) -> Expression:
        if self.accept("("):
            inner = self.condition(depth + 1)
            self.expect(")")
            return inner
        if function := self.called():
            return self.call(function, depth + 1)
        if self.current.symbol == "[":
            raise _not_emulated(f"an array that does not follow IN ({self.current})")
        if self.current.kind in ("string", "number") or self.current.symbol in {"-", *_CONSTANTS}:
            constant = self.constant()
            return lambda twin: constant
        return self.path("a value").value

    def call(self, function: _Token, depth: int) -> Expression:
        if function.symbol not in _FUNCTIONS:
            raise _no_function(function, "WHERE", _FUNCTIONS)
        arity, applied = _FUNCTIONS[function.symbol]
        arguments = self.series(lambda: self.condition(depth))
        self.expect(")")
        if len(arguments) != arity:
            raise _bad(f"{function} has {len(arguments)} arguments, not {arity}")
        return lambda twin: applied(*(argument(twin) for argument in arguments))

    def constant(self) -> Any:
        if self.current.kind == "string":
            return _unescaped(self.take().text)
        if word := self.accept(*_CONSTANTS):
            return _CONSTANTS[word]
        sign = -1 if self.accept("-") else 1
        if self.current.kind != "number":
            raise self.unexpected("a constant")
        text = self.take().text.lower()
        return sign * (int(text, 16) if text.startswith("0x") else float(text))


def _no_function(function: _Token, clause: str, known: Iterable[str]) -> Refused:
    if function.symbol.startswith("ST_"):
        return _not_emulated(f"the spatial function {function}")
    return _bad(f"{function} is no function of {clause} in a query of devices; there are {', '.join(sorted(known))}")


def _check_columns(columns: tuple[Column, ...], group: Path | None) -> None:
    """Names differ, and beside an aggregate or a GROUP BY each column is one of the two."""
    if len({column.name for column in columns}) < len(columns):
        raise _bad("two columns have the same name; give one of them another with AS")
    if group and not columns:
        raise _bad("SELECT * cannot be grouped: name what GROUP BY names, and aggregates")
    if group or any(column.aggregate for column in columns):
        for column in columns:
            if not column.aggregate and column.path != group:
                raise _bad(f"the column {column.name[:40]} is neither an aggregate nor what GROUP BY names")
