"""The query language: what each clause means for twins as the hub shows them, and what is refused and why."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
import refused
from hypothesis import given
from hypothesis import strategies as st
from refused import bad_at_hub, not_emulated, row_of

from dpsx_helpers.emulator import query, refusals
from dpsx_helpers.emulator.query import parse
from dpsx_helpers.emulator.refusals import Refusal, Refused

Twin = dict[str, Any]


def twin(
    device_id: str,
    *,
    tags: Twin | None = None,
    desired: Twin | None = None,
    reported: Twin | None = None,
    **fields: Any,
) -> Twin:
    """A twin as a query of devices shows it."""
    stamp = "2022-08-27T17:53:19.5143490Z"
    return {
        "deviceId": device_id,
        "etag": "AAAAAAAAAAE=",
        "deviceEtag": "MQ==",
        "status": "enabled",
        "statusUpdateTime": "0001-01-01T00:00:00Z",
        "connectionState": "Disconnected",
        "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "selfSigned",
        "x509Thumbprint": {"primaryThumbprint": "AB" * 32, "secondaryThumbprint": None},
        "capabilities": {"iotEdge": False},
        "version": 2,
        "tags": tags or {},
        "properties": {
            "desired": {**(desired or {}), "$metadata": {"$lastUpdated": stamp}, "$version": 1},
            "reported": {**(reported or {}), "$metadata": {"$lastUpdated": stamp}, "$version": 7},
        },
        **fields,
    }


def telemetry(status: str, seconds: float) -> Twin:
    return {"telemetryConfig": {"status": status, "sendFrequencyInSecs": seconds}}


REDMOND = twin(
    "redmond-43",
    tags={"location": {"region": "US", "plant": "Redmond43"}, "floor": 2},
    reported={"connectivity": "wifi", **telemetry("Success", 300)},
)
SEATTLE = twin(
    "seattle-1",
    tags={"location": {"region": "US", "plant": "Seattle1"}, "floor": 4, "note": "it's \U0001f600"},
    reported={"connectivity": "wired", **telemetry("Pending", 30)},
    connectionState="Connected",
    lastActivityTime="2022-08-27T17:53:19.5143490Z",
)
BERLIN = twin(
    "berlin-1",
    tags={"location": {"region": "DE"}, "floor": None, "spare": True, "list": [1]},
    reported=telemetry("Success", 60),
    status="disabled",
    capabilities={"iotEdge": True},
)
BARE = twin("bare")
FLEET = [REDMOND, SEATTLE, BERLIN, BARE]


def ids(text: str) -> list[str]:
    """The devices that a query selects."""
    return [found["deviceId"] for found in parse(text).run(FLEET)]


def where(condition: str) -> list[str]:
    return ids(f"SELECT * FROM devices WHERE {condition}")


def rows(text: str) -> list[Twin]:
    return parse(text).run(FLEET)


def holds(condition: str, **tags: Any) -> bool:
    """Whether a condition holds for a device with these tags."""
    return bool(parse(f"SELECT * FROM devices WHERE {condition}").run([twin("one", tags=tags)]))


def refusal(text: object) -> tuple[Refusal, str]:
    return refused.refusal(lambda: parse(text))


def attempt(text: object) -> Any:
    return refused.outcome(lambda: parse(text))


# --- the examples of the documentation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("SELECT * FROM devices", ["redmond-43", "seattle-1", "berlin-1", "bare"]),
        ("SELECT * FROM devices WHERE tags.location.region = 'US'", ["redmond-43", "seattle-1"]),
        (
            "SELECT * FROM devices\n  WHERE tags.location.region = 'US'\n"
            "    AND properties.reported.telemetryConfig.sendFrequencyInSecs >= 60",
            ["redmond-43"],
        ),
        (
            "SELECT * FROM devices WHERE properties.reported.connectivity IN ['wired', 'wifi']",
            ["redmond-43", "seattle-1"],
        ),
        ("SELECT * FROM devices WHERE is_defined(properties.reported.connectivity)", ["redmond-43", "seattle-1"]),
        ("SELECT * FROM devices WHERE STARTSWITH(devices.deviceId, 'b')", ["berlin-1", "bare"]),
        ("SELECT * FROM devices WHERE (capabilities.iotEdge=true)", ["berlin-1"]),
        ("SELECT * FROM devices WHERE properties.reported.$version = 7 AND deviceId = 'bare'", ["bare"]),
        ("select deviceId from devices where configurations.[[your-config]].status = 'Applied'", []),
    ],
)
def test_a_documented_query_selects_its_devices(text: str, selected: list[str]) -> None:
    assert ids(text) == selected


def test_the_documented_count_of_all_devices() -> None:
    assert rows("SELECT COUNT() as totalNumberOfDevices FROM devices") == [{"totalNumberOfDevices": 4}]


def test_the_documented_grouping() -> None:
    found = rows(
        "SELECT properties.reported.telemetryConfig.status AS status,\n    COUNT() AS numberOfDevices\n"
        "  FROM devices\n  GROUP BY properties.reported.telemetryConfig.status"
    )
    assert found == [
        {"status": "Success", "numberOfDevices": 2},
        {"status": "Pending", "numberOfDevices": 1},
        {"numberOfDevices": 1},
    ]


def test_the_documented_projection_answers_with_the_names_of_the_twin() -> None:
    text = (
        "SELECT DeviceId, LastActivityTime FROM devices WHERE status = 'enabled' AND connectionState = 'Disconnected'"
    )
    assert rows(text) == [
        {"deviceId": "redmond-43", "lastActivityTime": "0001-01-01T00:00:00Z"},
        {"deviceId": "bare", "lastActivityTime": "0001-01-01T00:00:00Z"},
    ]


# --- SELECT -----------------------------------------------------------------------------------------------------------


def test_a_star_gives_the_twins_themselves() -> None:
    assert parse("SELECT * FROM devices").run(iter(FLEET)) == FLEET


@pytest.mark.parametrize(
    ("text", "item_type"),
    [
        ("SELECT * FROM devices", "Twin"),
        ("SELECT TOP 3 * FROM devices WHERE tags.floor > 1", "Twin"),
        ("SELECT deviceId FROM devices", "Raw"),
        ("SELECT COUNT() AS n FROM devices", "Raw"),
        ("SELECT tags.floor FROM devices GROUP BY tags.floor", "Raw"),
    ],
)
def test_only_a_star_answers_with_twins(text: str, item_type: str) -> None:
    assert parse(text).item_type == item_type


@pytest.mark.parametrize(
    "text",
    [
        "select * from devices where deviceId='bare' and not false",
        "Select*From Devices Where deviceId='bare'And Not False;",
        "  SELECT\t*\r\nFROM DEVICES WHERE DEVICEID = 'bare' ; ",
    ],
)
def test_keywords_and_space_are_free(text: str) -> None:
    assert ids(text) == ["bare"]


def test_a_column_is_named_by_its_alias_or_by_the_last_name_of_its_path() -> None:
    text = "SELECT deviceId AS id, tags.location.region, tags.location AS [[the place]] FROM devices WHERE tags.floor=2"
    assert rows(text) == [{"id": "redmond-43", "region": "US", "the place": {"region": "US", "plant": "Redmond43"}}]


def test_a_row_leaves_out_what_a_device_does_not_have_but_not_null() -> None:
    assert rows("SELECT tags.floor, tags.spare FROM devices") == [
        {"floor": 2},
        {"floor": 4},
        {"floor": None, "spare": True},
        {},
    ]


@pytest.mark.parametrize(("top", "count"), [(0, 0), (1, 1), (4, 4), (999, 4)])
def test_top_keeps_the_first_ones(top: int, count: int) -> None:
    assert rows(f"SELECT TOP {top} * FROM devices") == FLEET[:count]
    assert rows(f"SELECT TOP {top} deviceId FROM devices") == [{"deviceId": one["deviceId"]} for one in FLEET[:count]]


@pytest.mark.parametrize(
    ("aggregates", "row"),
    [
        ("COUNT()", {"$1": 4}),
        ("count(), COUNT() AS n, count ( )", {"$1": 4, "n": 4, "$2": 4}),
        ("SUM(tags.floor) AS total", {"total": 6}),
        ("AVG(tags.floor) AS mean", {"mean": 3}),
        ("MIN(tags.floor) AS low, MAX(tags.floor) AS high", {"low": 2, "high": 4}),
        ("MAX(lastActivityTime) AS last", {"last": "2022-08-27T17:53:19.5143490Z"}),
        ("AVG(tags.spare) AS a, SUM(deviceId) AS b, MIN(tags.spare) AS c, MAX(tags.none) AS d", {}),
    ],
)
def test_an_aggregate_is_over_all_devices(aggregates: str, row: Twin) -> None:
    assert rows(f"SELECT {aggregates} FROM devices") == [row]


def test_an_aggregate_of_no_device_is_one_row() -> None:
    assert rows("SELECT COUNT() AS n, SUM(version) AS total FROM devices WHERE false") == [{"n": 0}]


@pytest.mark.parametrize("values", [[10**400, 0.5], [10**400, 10**400], [1e308, 1e308]])
def test_a_sum_beyond_all_numbers_is_left_out(values: list[float]) -> None:
    fleet = [twin("one", tags={"x": value}) for value in values]
    assert parse("SELECT AVG(tags.x) AS mean, SUM(tags.x) AS total FROM devices").run(fleet) == [{}]


# --- GROUP BY ---------------------------------------------------------------------------------------------------------


def test_groups_come_in_the_order_of_their_first_device() -> None:
    text = "SELECT tags.location.region, MAX(tags.floor) AS highest FROM devices GROUP BY tags.location.region"
    assert rows(text) == [{"region": "US", "highest": 4}, {"region": "DE"}, {}]


def test_the_condition_comes_before_the_grouping_and_top_after_it() -> None:
    text = "SELECT TOP 1 status, COUNT() AS n FROM devices WHERE deviceId != 'bare' GROUP BY status"
    assert rows(text) == [{"status": "enabled", "n": 2}]


def test_each_json_value_is_its_own_group() -> None:
    values = [1, True, 1.0, "1", None, {"a": 1, "b": 2}, {"b": 2, "a": 1}, [1], '{"a": 1, "b": 2}', [1]]
    fleet = [twin(f"d{number}", tags={"x": value}) for number, value in enumerate(values)]
    found = parse("SELECT tags.x, COUNT() AS n FROM devices GROUP BY tags.x").run(fleet)
    assert [(row["x"], row["n"]) for row in found] == [
        (1, 2),
        (True, 1),
        ("1", 1),
        (None, 1),
        ({"a": 1, "b": 2}, 2),
        ([1], 2),
        ('{"a": 1, "b": 2}', 1),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "SELECT * FROM devices GROUP BY status",
            "SELECT * cannot be grouped: name what GROUP BY names, and aggregates",
        ),
        (
            "SELECT deviceId, COUNT() AS n FROM devices",
            "the column deviceId is neither an aggregate nor what GROUP BY names",
        ),
        (
            "SELECT tags.b AS b FROM devices GROUP BY tags.a",
            "the column b is neither an aggregate nor what GROUP BY names",
        ),
        ("SELECT tags.x, status AS x FROM devices", "two columns have the same name; give one of them another with AS"),
        (
            "SELECT status FROM devices GROUP BY status, etag",
            ", at character 43 is where the end of the query should be",
        ),
    ],
)
def test_columns_that_do_not_go_together_are_refused(text: str, why: str) -> None:
    assert refusal(text) == bad_at_hub(why)


# --- WHERE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["=", "!=", "<>", "<", "<=", ">", ">="])
@pytest.mark.parametrize("missing", ["tags.none", "tags.none.at.all", "tags.number.deeper", "nowhere", "undefined"])
@pytest.mark.parametrize("value", ["1", "'a'", "null", "true", "undefined", "tags.none"])
def test_a_missing_property_compares_with_nothing(sign: str, missing: str, value: str) -> None:
    assert not holds(f"{missing} {sign} {value}", number=1)
    assert not holds(f"{value} {sign} {missing}", number=1)


@pytest.mark.parametrize("within", ["IN ['a', null, undefined]", "NIN ['a']", "NOT IN ['a']"])
def test_a_missing_property_is_neither_in_a_list_nor_out_of_it(within: str) -> None:
    assert not holds(f"tags.none {within}")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("tags.n = 5", True),
        ("tags.n = 5.0", True),
        ("tags.n = 0x5", True),
        ("tags.n = 0.5E1", True),
        ("tags.n = 6", False),
        ("tags.n != 6", True),
        ("tags.n <> 5", False),
        ("tags.n < 10", True),
        ("tags.n > 10", False),
        ("tags.n <= 5", True),
        ("tags.n >= 5.5", False),
        ("tags.n > -5", True),
        ("tags.n < 1e999", True),
        ("10 > tags.n", True),
        ("tags.n = tags.m", True),
        ("tags.s = 'abc'", True),
        ('tags.s = "abc"', True),
        ("tags.s = 'ABC'", False),
        ("tags.s < 'abd'", True),
        ("tags.s >= 'b'", False),
        ("tags.s > ''", True),
        ("tags.yes = true", True),
        ("tags.yes != FALSE", True),
        ("tags.yes > false", False),
        ("tags.nothing = null", True),
        ("tags.nothing != NULL", False),
        ("tags.nothing <= null", False),
    ],
)
def test_values_of_one_type_compare(condition: str, expected: bool) -> None:
    assert holds(condition, n=5, m=5.0, s="abc", yes=True, nothing=None) is expected


@pytest.mark.parametrize(
    ("left", "right"), [("tags.n", "'1'"), ("tags.n", "true"), ("tags.s", "1"), ("tags.n", "null"), ("tags.yes", "1")]
)
def test_values_of_two_types_differ_and_have_no_order(left: str, right: str) -> None:
    found = [
        sign
        for sign in ("=", "!=", "<>", "<", "<=", ">", ">=")
        if holds(f"{left} {sign} {right}", n=1, s="1", yes=True)
    ]
    assert found == ["!=", "<>"]


@pytest.mark.parametrize("sign", ["=", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("value", [{"a": 1}, {}, [1], []])
def test_objects_and_arrays_do_not_compare(sign: str, value: Any) -> None:
    assert not holds(f"tags.x {sign} tags.y", x=value, y=value)
    assert not holds(f"tags.x {sign} 1", x=value)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("tags.n IN [1, 5]", True),
        ("tags.n in [5]", True),
        ("tags.n IN ['5', true, null]", False),
        ("tags.n NIN [1, 2]", True),
        ("tags.n nin [1, 5]", False),
        ("tags.n NOT IN [-5, 0x6]", True),
        ("tags.n not in [5]", False),
        ("NOT tags.n IN [5]", False),
        ("tags.nothing IN [null]", True),
        ("tags.object IN [1]", False),
        ("tags.object NIN [1]", False),
    ],
)
def test_a_value_is_looked_for_in_a_list(condition: str, expected: bool) -> None:
    assert holds(condition, n=5, nothing=None, object={}) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("true OR true AND false", True),
        ("(true OR true) AND false", False),
        ("NOT true OR true", True),
        ("NOT (true OR true)", False),
        ("NOT false AND NOT false AND NOT NOT true", True),
        ("false OR false OR true", True),
        ("NOT tags.n = 5", False),
        ("(tags.n = 5) = true", True),
        ("tags.yes", True),
        ("tags.n", False),
        ("NOT tags.n", True),
        ("'true'", False),
        ("null OR undefined OR 1", False),
        ("tags.none = 1 OR tags.yes", True),
        ("NOT tags.none = 1", True),
    ],
)
def test_conditions_join_and_only_true_is_true(condition: str, expected: bool) -> None:
    assert holds(condition, n=5, yes=True) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("IS_DEFINED(tags.nothing)", True),
        ("IS_DEFINED(tags.none)", False),
        ("NOT is_defined(tags.none.deeper)", True),
        ("is_defined(tags.nothing) = true", True),
        ("STARTSWITH(deviceId, 'on')", True),
        ("startswith(tags.s, tags.s)", True),
        ("startsWith(tags.s, '')", True),
        ("STARTSWITH(tags.s, 'BC')", False),
        ("STARTSWITH(tags.none, '')", False),
        ("STARTSWITH(tags.s, tags.none)", False),
        ("STARTSWITH(tags.n, '1')", False),
    ],
)
def test_a_function_answers_true_or_false(condition: str, expected: bool) -> None:
    assert holds(condition, nothing=None, s="abc", n=1) is expected


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ("''", ""),
        (r"'it\'s'", "it's"),
        ('"it\'s"', "it's"),
        ("""'say "hi"'""", 'say "hi"'),
        (r'"say \"hi\""', 'say "hi"'),
        (r"'C:\\Temp'", "C:\\Temp"),
        (r"'\\u0041'", "\\u0041"),
        (r"'\u0041\u00e4'", "Aä"),
        (r"'\ud83d\uDE00!'", "\U0001f600!"),
        (r"'\ud83d'", "\ud83d"),
        ("'ä\n\U0001f600'", "ä\n\U0001f600"),
        ("'-- ; ) AND'", "-- ; ) AND"),
    ],
)
def test_a_string_literal_says_what_its_escapes_say(literal: str, text: str) -> None:
    assert holds(f"tags.x = {literal}", x=text)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("tags.Floor = 2", False),
        ("Tags.floor = 2", True),
        ("devices.tags.floor = 2", True),
        ("DEVICES.deviceid = 'one'", True),
        ("tags . floor = 2", True),
        ("tags.[[floor]] = 2", True),
        ("[[tags]].floor = 2", True),
        ("tags.[[my-tag.x y]] = 1", True),
        ("tags.[[group]] = 'G'", True),
        ("tags.größe = 1", True),
        ("tags._$1 = 1", True),
        ("tags.count = 1 AND tags.devices = 1", True),
    ],
)
def test_names_below_the_top_level_keep_their_case_and_brackets_quote_any_name(condition: str, expected: bool) -> None:
    tags = {"floor": 2, "my-tag.x y": 1, "group": "G", "größe": 1, "_$1": 1, "count": 1, "devices": 1}
    assert holds(condition, **tags) is expected


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, 7, b"SELECT * FROM devices", [], {}, True, "", " \t\n"])
def test_what_is_no_text_is_no_query(text: object) -> None:
    assert refusal(text) == bad_at_hub("the body has no query")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("devices", "devices at character 1 is where SELECT should be"),
        ("SELECT", "the end of the query is where a name should be"),
        ("SELECT *", "the end of the query is where FROM should be"),
        ("SELECT *, deviceId FROM devices", ", at character 9 is where FROM should be"),
        ("SELECT deviceId, FROM devices", "FROM at character 18 is a keyword; as a name it is written [[FROM]]"),
        ("SELECT deviceId id FROM devices", "id at character 17 is where FROM should be"),
        ("SELECT DISTINCT status FROM devices", "status at character 17 is where FROM should be"),
        ("SELECT TOP x * FROM devices", "x at character 12 is where a whole number should be"),
        ("SELECT TOP 1.5 * FROM devices", "1.5 at character 12 is where a whole number should be"),
        ("SELECT TOP [[5]] * FROM devices", "5 at character 12 is where a whole number should be"),
        ("SELECT COUNT(*) FROM devices", "* at character 14 is where ) should be"),
        ("SELECT SUM() FROM devices", ") at character 12 is where a name should be"),
        ("SELECT * FROM", "the end of the query is where DEVICES should be"),
        ("SELECT * FROM c", "c at character 15 is where DEVICES should be"),
        ("SELECT * FROM devices d", "d at character 23 is where the end of the query should be"),
        ("SELECT * FROM devices.twins", "twins at character 23 is where modules or jobs should be"),
        ("SELECT * FROM devices WHERE", "the end of the query is where a value should be"),
        ("SELECT * FROM devices WHERE a =", "the end of the query is where a value should be"),
        ("SELECT * FROM devices WHERE a == 1", "= at character 32 is where a value should be"),
        ("SELECT * FROM devices WHERE a = 1 2", "2 at character 35 is where the end of the query should be"),
        ("SELECT * FROM devices WHERE (a = 1", "the end of the query is where ) should be"),
        ("SELECT * FROM devices WHERE a = 1)", ") at character 34 is where the end of the query should be"),
        ("SELECT * FROM devices WHERE a = 1 AND", "the end of the query is where a value should be"),
        ("SELECT * FROM devices WHERE a.1 = 1", "1 at character 31 is where a name should be"),
        (
            "SELECT * FROM devices WHERE tags.group = 1",
            "group at character 34 is a keyword; as a name it is written [[group]]",
        ),
        ("SELECT * FROM devices WHERE a IN ('x')", "( at character 34 is where [ should be"),
        ("SELECT * FROM devices WHERE a IN []", "] at character 35 is where a constant should be"),
        ("SELECT * FROM devices WHERE a IN [b]", "b at character 35 is where a constant should be"),
        ("SELECT * FROM devices WHERE a = -b", "b at character 34 is where a constant should be"),
        ("SELECT COUNT() AS top FROM devices", "top at character 19 is a keyword; as a name it is written [[top]]"),
        ("SELECT * FROM devices WHERE a NOT = 1", "= at character 35 is where IN should be"),
        ("SELECT * FROM devices WHERE a = 'it''s'", "'s' at character 37 is where the end of the query should be"),
        ("SELECT * FROM devices GROUP status", "status at character 29 is where BY should be"),
        ("SELECT * FROM devices;;", "; at character 23 is where the end of the query should be"),
        ("SELECT * FROM devices ORDER BY deviceId", "ORDER at character 23 is where the end of the query should be"),
        ("SELECT * FROM devices LIMIT 5", "LIMIT at character 23 is where the end of the query should be"),
        ("SELECT * FROM devices JOIN x IN tags", "JOIN at character 23 is where the end of the query should be"),
        ("SELECT * FROM devices WHERE a LIKE 'x%'", "LIKE at character 31 is where the end of the query should be"),
        ("SELECT * FROM devices WHERE a IS NULL", "IS at character 31 is where the end of the query should be"),
        ("SELECT * FROM devices WHERE a = ?", "? at character 33 is not in the query language of IoT Hub"),
        (
            "SELECT * FROM devices WHERE a = 'x",
            "the string that begins with ' at character 33 has no end or an unknown escape",
        ),
        (
            r"SELECT * FROM devices WHERE a = 'x\n'",
            "the string that begins with ' at character 33 has no end or an unknown escape",
        ),
        (
            "SELECT UPPER(deviceId) FROM devices",
            "UPPER at character 8 is no function of SELECT in a query of devices; there are AVG, COUNT, MAX, MIN, SUM",
        ),
        (
            "SELECT * FROM devices WHERE COUNT() > 1",
            "COUNT at character 29 is no function of WHERE in a query of devices; there are IS_DEFINED, STARTSWITH",
        ),
        (
            "SELECT * FROM devices WHERE CONTAINS(deviceId, 'a')",
            "CONTAINS at character 29 is no function of WHERE in a query of devices; there are IS_DEFINED, STARTSWITH",
        ),
        ("SELECT * FROM devices WHERE IS_DEFINED(a, b)", "IS_DEFINED at character 29 has 2 arguments, not 1"),
        ("SELECT * FROM devices WHERE STARTSWITH(a)", "STARTSWITH at character 29 has 1 arguments, not 2"),
        ("SELECT * FROM devices WHERE IS_DEFINED()", ") at character 40 is where a value should be"),
    ],
)
def test_what_is_not_in_the_language_is_refused_by_name_and_place(text: str, why: str) -> None:
    assert refusal(text) == bad_at_hub(why)


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("SELECT * FROM devices.modules", "FROM devices.modules"),
        ("SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'x'", "FROM devices.jobs"),
        (
            "SELECT * FROM devices WHERE ST_DISTANCE(tags.a, tags.b) < 5",
            "the spatial function ST_DISTANCE at character 29",
        ),
        ("SELECT ST_DISTANCE(tags.a, tags.b) FROM devices", "the spatial function ST_DISTANCE at character 8"),
        *(
            (f"SELECT * FROM devices WHERE tags.a {sign} 1 > 2", f"arithmetic in a query ({sign} at character 36)")
            for sign in "+-*/%"
        ),
        ("SELECT * FROM devices WHERE tags.my-tag = 1", "arithmetic in a query (- at character 36)"),
        ("SELECT * FROM devices WHERE tags.a = ['x']", "an array that does not follow IN ([ at character 38)"),
    ],
)
def test_what_azure_has_and_the_emulator_has_not_is_refused_by_name(text: str, feature: str) -> None:
    assert refusal(text) == not_emulated(refusals.HUB_NOT_EMULATED, feature)


# --- hostile queries --------------------------------------------------------------------------------------------------

NESTINGS: dict[str, Callable[[int], str]] = {
    "parentheses": lambda levels: "(" * levels + "true" + ")" * levels,
    "negations": lambda levels: "NOT " * (levels // 2 * 2) + "true",
    "calls": lambda levels: "IS_DEFINED(" * levels + "deviceId" + ")" * levels,
    "lists": lambda levels: "(" * levels + "true" + " IN [false, false, true])" * levels,
}


@pytest.mark.parametrize("nesting", NESTINGS.values(), ids=list(NESTINGS))
def test_a_query_may_be_nested_and_stays_quick(nesting: Callable[[int], str]) -> None:
    began = perf_counter()
    assert holds(nesting(query.MAX_DEPTH))
    assert perf_counter() - began < 20, "it takes milliseconds; what grows with the square would take minutes"


@pytest.mark.parametrize("nesting", NESTINGS.values(), ids=list(NESTINGS))
def test_a_query_that_is_nested_too_deeply_is_refused(nesting: Callable[[int], str]) -> None:
    row, reason = refusal(f"SELECT * FROM devices WHERE {nesting(query.MAX_DEPTH + 2)}")
    assert row is refusals.HUB_BAD_REQUEST
    assert reason.endswith(f"is more than {query.MAX_DEPTH} levels deep")


def test_a_query_of_a_megabyte_is_refused_at_once() -> None:
    text = "SELECT * FROM devices WHERE " + "(" * 2**20
    began = perf_counter()
    assert refusal(text) == bad_at_hub("the query has 1048604 characters; 8192 are allowed")
    assert perf_counter() - began < 20, "it takes milliseconds; what grows with the square would take minutes"


@pytest.mark.parametrize("piece", ["(", "NOT ", "'", '"\\', "[[", "a.", "a OR ", "-", "9", "'\\u0041", " ", "\0", "f("])
def test_the_longest_query_is_answered_at_once(piece: str) -> None:
    text = "SELECT * FROM devices WHERE " + piece * (8000 // len(piece))
    began = perf_counter()
    attempt(text)
    assert perf_counter() - began < 20, "it takes milliseconds; what grows with the square would take minutes"


def test_a_query_of_exactly_8192_characters_is_read() -> None:
    begin = "SELECT * FROM devices WHERE deviceId IN ['bare'"
    text = begin + ",1" * ((8191 - len(begin)) // 2) + " " * ((8191 - len(begin)) % 2) + "]"
    assert (len(text), ids(text)) == (8192, ["bare"])
    assert refusal(text + " ") == bad_at_hub("the query has 8193 characters; 8192 are allowed")


PIECES = """SELECT TOP AS FROM WHERE GROUP BY AND OR NOT IN NIN true null undefined devices tags.floor deviceId [[x]]
    COUNT() AVG( IS_DEFINED( STARTSWITH( ( ) [ ] , . ; * = != < >= - 5 0x1F 1e999 'a' "b" '\\u0041' ' [[ $version"""
WORDS = st.lists(st.sampled_from(PIECES.split()), max_size=20).map(" ".join)


@given(
    st.one_of(
        st.text(max_size=60),
        WORDS,
        WORDS.map("SELECT * FROM devices WHERE {}".format),
        WORDS.map("SELECT {} FROM devices".format),
    )
)
def test_any_text_is_a_query_that_runs_or_is_refused(text: str) -> None:
    found = attempt(text)
    if isinstance(found, Refused):
        assert row_of(found) in (refusals.HUB_BAD_REQUEST, refusals.HUB_NOT_EMULATED)
    else:
        assert all(isinstance(row, dict) for row in found.run(FLEET))
