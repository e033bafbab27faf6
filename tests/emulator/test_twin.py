"""The rules of twins: format and size, merging, versions, metadata, what a device is told, and what a refusal leaves.

The facts are those of https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins, the merging is that of
https://www.rfc-editor.org/rfc/rfc7396.
"""

import json
from base64 import b64decode
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import bad_at_hub, outcome, refusal, row_of

from dpsx_helpers.emulator import refusals, twin
from dpsx_helpers.emulator.refusals import Refusal, Refused
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.twin import Section, Twin

Json = dict[str, Any]
GUID = "120086f2-76fe-4341-9214-bb6cfb891b8a"
SECTIONS = {"tags": 8192, "properties.desired": 32_768, "properties.reported": 32_768}
KB = 1024


def stamp(second: int = 0) -> Stamp:
    return Stamp(datetime(2022, 8, 27, 17, 0, tzinfo=UTC) + timedelta(seconds=second), GUID)


def at(second: int = 0) -> str:
    """That moment as metadata have it."""
    return stamp(second).text


def fresh(*, tags: Json | None = None, desired: Json | None = None, reported: Json | None = None) -> Twin:
    """A twin with these values, all set in second 0."""
    made = twin.new({"tags": tags or {}, "properties": {"desired": desired or {}}}, stamp())
    return reporting(made, reported, 0) if reported else made


def reporting(current: Twin, patch: Any, second: int = 1) -> Twin:
    return twin.report(current, json.dumps(patch).encode(), stamp(second))


def patched(current: Twin, document: Any, second: int = 1) -> Twin:
    return twin.change(current, document, stamp(second), whole=False)[0]


def replaced(current: Twin, document: Any, second: int = 1) -> Twin:
    return twin.change(current, document, stamp(second), whole=True)[0]


def told(current: Twin, document: Any, *, whole: bool) -> Json | None:
    return twin.change(current, document, stamp(1), whole=whole)[1]


def desired(patch: Any) -> Json:
    """The document that changes the desired properties."""
    return {"properties": {"desired": patch}}


def bad_report(why: str) -> tuple[Refusal, str]:
    """How a device is refused."""
    return refusals.BAD_TWIN_PATCH, f"reported properties cannot be taken: {why}"


def set_in(section: str, values: Any) -> Callable[[], Twin]:
    """The change that puts these values into a section of a new twin, by whoever may write there."""
    if section == "properties.reported":
        return lambda: reporting(fresh(), values)
    return lambda: patched(fresh(), {"tags": values} if section == "tags" else desired(values))


def values_of(current: Twin, section: str) -> Json:
    return {
        "tags": current.tags,
        "properties.desired": current.desired.values,
        "properties.reported": current.reported.values,
    }[section]


def refused_in(section: str, values: Any) -> str:
    """Why these values may not be there; the row is that of whoever sent them."""
    row, reason = refusal(set_in(section, values))
    if section == "properties.reported":
        assert row is refusals.BAD_TWIN_PATCH
        return reason.removeprefix("reported properties cannot be taken: ")
    assert row is refusals.HUB_BAD_REQUEST
    return reason


def filled(size: int) -> Json:
    """An object that counts for `size` bytes."""
    whole, rest = divmod(size, 4096)
    return {f"k{number}": "x" * 4094 for number in range(whole)} | ({"r": "x" * (rest - 1)} if rest else {})


def nested(levels: int, innermost: Any = "value") -> Json:
    """So many objects, one within the other."""
    value = innermost
    for _ in range(levels):
        value = {"a": value}
    return dict(value)


# --- format -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": True, "b": False, "c": 1.5, "d": "text", "e": {}, "f": [], "g": ""},
        {"a": [1, "two", True, {"b": 3}, [4.5]]},
        {"Case": 1, "case": 2},
        {"ключ": "значение", "キー": "値", "\xa0": "no control sign"},
        {"-_:/\\?*+!'()@=;,<>[]{}|~^`%&\"": 1},
        {"k" * KB: 1},
        {"é" * (KB // 2): 1},
        {"a": "x" * 4 * KB},
        {"a": "é" * 2 * KB},
        {"a": ["x" * 4 * KB]},
        {"a": "signs \x00\n\x7f\x9f in a text"},
        {"smallest": -(2**52), "largest": 2**52 - 1},
        {"a": 1e300, "b": -1e300},
    ],
)
def test_what_keeps_to_the_format_is_taken_as_it_is(section: str, values: Json) -> None:
    assert values_of(set_in(section, values)(), section) == values


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("path", [(), ("outer",), ("outer", "inner")])
@pytest.mark.parametrize(
    "key",
    [
        "",
        "k" * (KB + 1),
        "é" * (KB // 2) + "x",
        "a.b",
        "$a",
        "a$",
        "a#",
        "a b",
        "\x00",
        "\x1f",
        "\n",
        "\x80",
        "a\x9f",
    ],
)
def test_a_key_that_is_none_is_named_with_its_place(section: str, path: tuple[str, ...], key: str) -> None:
    values: Json = {key: 1}
    for name in reversed(path):
        values = {name: values}
    place = ".".join([section, *path])
    why = f"the key {key[:40]!r} in {place} is empty, too long, or has a control sign, space or . $ #"
    assert refused_in(section, values) == why


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", ["$version", "$metadata"])
def test_the_names_of_read_only_entries_are_none_further_in(section: str, name: str) -> None:
    assert f"the key '{name}' in {section}.a is" in refused_in(section, {"a": {name: 1}})


@pytest.mark.parametrize("name", ["$version", "$metadata", "$etag"])
@pytest.mark.parametrize("whole", [False, True])
def test_tags_have_no_read_only_entries_to_begin_with(name: str, whole: bool) -> None:
    found = outcome(lambda: twin.change(fresh(), {"tags": {name: {"a": 1}}}, stamp(1), whole=whole)[0].tags)
    assert f"the key '{name}' in tags is" in found.reason if isinstance(found, Refused) else found == {}


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"a": {"b": "x" * (4 * KB + 1)}}, "{}.a.b is longer than 4096 bytes"),
        ({"a": "é" * 2 * KB + "x"}, "{}.a is longer than 4096 bytes"),
        ({"a": ["ok", "x" * (4 * KB + 1)]}, "{}.a[] is longer than 4096 bytes"),
        ({"a": 2**52}, "{}.a is outside the integers from -2^52 to 2^52-1"),
        ({"a": -(2**52) - 1}, "{}.a is outside the integers from -2^52 to 2^52-1"),
        ({"a": [{"b": 2**52}]}, "{}.a[].b is outside the integers from -2^52 to 2^52-1"),
        ({"a": [None]}, "{}.a[] holds null"),
        ({"a": [1, [None]]}, "{}.a[][] holds null"),
        ({"good": 1, "a": {"b": [None]}}, "{}.a.b[] holds null"),
    ],
)
def test_a_value_that_is_none_is_named_with_its_place(section: str, values: Json, why: str) -> None:
    assert refused_in(section, values) == why.format(section)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_null_within_an_object_of_a_list_is_refused_too_for_nothing_would_delete_it(section: str) -> None:
    assert "null" in refused_in(section, {"a": [{"b": {"c": None}}]})


@pytest.mark.parametrize("section", SECTIONS)
def test_a_key_that_is_none_is_refused_even_where_it_is_to_be_deleted(section: str) -> None:
    assert f"the key 'a.b' in {section} is" in refused_in(section, {"a.b": None})


@pytest.mark.parametrize("section", SECTIONS)
def test_a_place_far_down_is_named_in_short(section: str) -> None:
    reason = refused_in(section, {"k" * 1000: {"l" * 1000: [None]}})
    assert f"{section}.{'k' * 100}" in reason
    assert reason.endswith("holds null")
    assert len(reason) <= 300


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("key", ["\ud800", "\udfff" * 400])
def test_half_a_surrogate_pair_does_no_harm(section: str, key: str) -> None:
    found = outcome(set_in(section, {key: key}))
    assert found.reason.isprintable() if isinstance(found, Refused) else values_of(found, section) == {key: key}


@pytest.mark.parametrize("payload", [b'{"a": 1e400}', b'{"a": [-1e999]}'])
def test_a_number_beyond_all_numbers_is_refused_for_no_json_could_show_it(payload: bytes) -> None:
    row, _ = refusal(lambda: twin.report(fresh(), payload, stamp()))
    assert row is refusals.BAD_TWIN_PATCH


# --- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_the_deepest_object_of_the_documentation_is_taken(section: str) -> None:
    names = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    values: Any = {"property": "value"}
    for name in reversed(names):
        values = {name: values}
    assert values_of(set_in(section, values)(), section) == values
    why = f"{section} is nested more than 10 levels deep"
    assert refused_in(section, {"zero": values}) == why
    assert refused_in(section, {"zero": {"a": 1} | values}) == why


@pytest.mark.parametrize("section", SECTIONS)
def test_lists_are_levels_too(section: str) -> None:
    assert set_in(section, nested(10, [1]))()
    assert refused_in(section, nested(11, [1])) == f"{section} is nested more than 10 levels deep"
    assert refused_in(section, nested(10, [[1]])) == f"{section} is nested more than 10 levels deep"


@pytest.mark.parametrize("section", SECTIONS)
def test_what_would_be_too_deep_is_refused_even_if_only_nulls_are_there(section: str) -> None:
    assert values_of(set_in(section, nested(11, None))(), section) == nested(10, {})
    assert refused_in(section, nested(12, None)) == f"{section} is nested more than 10 levels deep"


@pytest.mark.parametrize("section", ["tags", "properties.desired"])
@pytest.mark.parametrize("levels", [12, 100, 990, 1400, 5000, 100_000])
def test_depth_beyond_all_measure_is_refused_likewise(section: str, levels: int) -> None:
    assert refused_in(section, nested(levels)) == f"{section} is nested more than 10 levels deep"
    document = {"tags": nested(levels)} if section == "tags" else desired(nested(levels))
    assert refusal(lambda: replaced(fresh(), document)) == bad_at_hub(f"{section} is nested more than 10 levels deep")


@pytest.mark.parametrize("levels", [12, 100, *range(900, 1001), 1400, 5000, 100_000])
def test_a_device_that_reports_depth_beyond_all_measure_is_refused(levels: int) -> None:
    payload = b'{"a":' * levels + b"1" + b"}" * levels
    row, reason = refusal(lambda: twin.report(fresh(), payload, stamp()))
    assert row is refusals.BAD_TWIN_PATCH
    assert "nested more than 10 levels deep" in reason or "not JSON" in reason


# --- size -------------------------------------------------------------------------------------------------------------


def test_the_limits_are_those_of_the_documentation() -> None:
    assert twin.LIMITS == SECTIONS


@pytest.mark.parametrize("section", SECTIONS)
def test_exactly_the_limit_passes_and_one_byte_more_does_not(section: str) -> None:
    limit = SECTIONS[section]
    assert set_in(section, filled(limit))()
    why = f"{section} would take {limit + 1} bytes; the limit is {limit}"
    assert refused_in(section, filled(limit + 1)) == why


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 8),
        (2**52 - 1, 8),
        (1.5, 8),
        (True, 4),
        (False, 4),
        ("", 0),
        ("abc", 3),
        ("é", 2),
        ("値", 3),
        ("😀", 4),
        ("a\x00\x1f\n\x80\x9fb", 2),
        ({}, 0),
        ([], 0),
        ({"ключ": "é", "b": {"c": True}}, 8 + 2 + 1 + 1 + 4),
        ([1, "ab", True, [2.5], {"k": 3}], 8 + 2 + 4 + 8 + 9),
    ],
)
def test_keys_and_values_count(section: str, value: Any, size: int) -> None:
    limit = SECTIONS[section]
    values = filled(limit - len("key") - size) | {"key": value}
    assert set_in(section, values)()
    why = f"{section} would take {limit + 1} bytes; the limit is {limit}"
    assert refused_in(section, filled(limit - len("key") - size + 1) | {"key": value}) == why


@pytest.mark.parametrize("section", SECTIONS)
def test_what_counts_is_what_would_be_there_after_the_change(section: str) -> None:
    limit = SECTIONS[section]
    assert twin.unfit(section, filled(limit), {"r": None}) == ""
    assert twin.unfit(section, filled(limit + 1), {"r": None}) == (
        f"{section} would take {limit + 1} bytes; the limit is {limit}"
    )


def test_a_small_patch_can_be_the_one_too_many_and_a_deletion_makes_room() -> None:
    full = fresh(tags=filled(8192), desired=filled(32_768), reported=filled(32_768))
    assert refusal(lambda: patched(full, {"tags": {"a": ""}})) == bad_at_hub(
        "tags would take 8193 bytes; the limit is 8192"
    )
    assert refusal(lambda: patched(full, desired({"a": ""}))) == bad_at_hub(
        "properties.desired would take 32769 bytes; the limit is 32768"
    )
    assert refusal(lambda: reporting(full, {"a": ""})) == bad_report(
        "properties.reported would take 32769 bytes; the limit is 32768"
    )
    assert patched(full, {"tags": {"a": "", "k0": None}}).tags == {"a": ""} | {"k1": "x" * 4094}
    assert replaced(full, {"tags": {"a": ""}}).tags == {"a": ""}
    assert reporting(full, {"a": "", "k0": None}).reported.values["a"] == ""


def test_read_only_entries_count_for_nothing() -> None:
    patch = filled(32_768) | {"$version": 7, "$metadata": {"$lastUpdated": "x" * 100}}
    assert patched(fresh(), desired(patch)).desired.values == filled(32_768)
    assert reporting(fresh(), patch).reported.values == filled(32_768)
    assert replaced(fresh(), desired(patch)).desired.values == filled(32_768)


def test_of_several_faults_depth_comes_first_then_format_then_size() -> None:
    large, odd = filled(8193), {"a": 2**52}
    assert "nested" in refused_in("tags", large | odd | {"deep": nested(11)})
    assert "outside the integers" in refused_in("tags", large | odd)
    assert "would take" in refused_in("tags", large)


# --- unfit, as an enrollment asks it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_what_fits_has_no_reason_not_to(section: str) -> None:
    assert twin.unfit(section, {}) == ""
    assert twin.unfit(section, {"a": {"b": [1]}}) == ""
    assert section == "tags" or twin.unfit(section, {"$version": 1, "$metadata": {"$lastUpdated": at()}}) == ""


@pytest.mark.parametrize("section", SECTIONS)
def test_without_a_patch_the_values_themselves_are_judged(section: str) -> None:
    assert twin.unfit(section, {"a": [None]}) == f"{section}.a[] holds null"
    assert twin.unfit(section, {"a": [None]}, {"b": 1}) == "", "what was there is not judged again"
    assert twin.unfit(section, {"a": 1}, {"b": [None]}) == f"{section}.b[] holds null"


def text() -> st.SearchStrategy[str]:
    """Any text, half a surrogate pair included, as JSON can spell it."""
    return st.sampled_from(["a", "b", "a b", "$version", "\ud800", "\x00", "x" * 4097]) | st.text(max_size=4)


def any_json() -> st.SearchStrategy[Any]:
    """Anything that JSON can say."""
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    simple = st.none() | st.booleans() | numbers | st.sampled_from([2**52, -(2**52)]) | text()
    return st.recursive(simple, lambda inner: st.lists(inner, max_size=3) | objects(inner), max_leaves=8)


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """Objects, of which many have names that a twin takes."""
    return st.dictionaries(st.sampled_from("abc"), values, max_size=3) | st.dictionaries(text(), values, max_size=3)


@given(
    st.sampled_from([*SECTIONS]),
    objects(any_json()),
    st.none() | objects(any_json()),
)
def test_unfit_has_an_answer_to_everything(section: str, values: Json, patch: Json | None) -> None:
    why = twin.unfit(section, values, patch)
    assert why == "" or why.startswith((section, "the key "))


# --- a new twin -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [{}, {"tags": {}}, {"properties": {}}, {"properties": {"desired": {}}}])
def test_a_twin_begins_empty_and_with_version_1(initial: Json) -> None:
    empty = Section({}, {"$lastUpdated": at()}, 1)
    assert twin.new(initial, stamp()) == Twin({}, empty, empty, 1)


def test_a_twin_begins_as_its_enrollment_says() -> None:
    made = twin.new({"tags": {"room": "lab"}, "properties": {"desired": {"a": {"b": 1, "c": [2]}}}}, stamp(7))
    now = {"$lastUpdated": at(7)}
    assert made == Twin(
        tags={"room": "lab"},
        desired=Section({"a": {"b": 1, "c": [2]}}, {**now, "a": {**now, "b": now, "c": now}}),
        reported=Section({}, now),
    )


def test_neither_nulls_nor_read_only_entries_of_an_initial_twin_become_values() -> None:
    read_only = {"$version": 9, "$metadata": {"$lastUpdated": at(9)}}
    initial = {"a": {"b": None, "c": 2}, "d": None} | read_only
    now = {"$lastUpdated": at()}
    assert twin.new({"tags": {"a": None, "b": 1}, "properties": {"desired": initial}}, stamp()) == Twin(
        tags={"b": 1},
        desired=Section({"a": {"c": 2}}, {**now, "a": {**now, "c": now}}),
        reported=Section({}, now),
    )


# --- what a device reports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [b"", b" ", b"{", b"{'a': 1}", b"\xff", b'{"a": NaN}', b'{"a": -Infinity}', b"{}{}", b'{"a": 1,}']
)
def test_a_report_that_is_no_json_is_refused(payload: bytes) -> None:
    assert refusal(lambda: twin.report(fresh(), payload, stamp())) == bad_report("the body is not JSON")


@pytest.mark.parametrize("payload", [b"null", b"true", b"7", b'"text"', b"[]", b'[{"a": 1}]'])
def test_a_report_that_is_no_object_is_refused(payload: bytes) -> None:
    assert refusal(lambda: twin.report(fresh(), payload, stamp())) == bad_report("the body is not a JSON object")


def test_a_report_merges_and_touches_nothing_else() -> None:
    before = fresh(tags={"t": 1}, desired={"d": 1}, reported={"a": 1, "b": {"c": 2, "d": 3}})
    after = reporting(before, {"b": {"c": None, "e": 4}, "f": 5})
    assert after.reported.values == {"a": 1, "b": {"d": 3, "e": 4}, "f": 5}
    assert (after.reported.version, after.version) == (before.reported.version + 1, before.version + 1)
    assert (after.tags, after.desired) == (before.tags, before.desired)


def test_a_report_of_what_was_read_ignores_the_read_only_entries() -> None:
    before = fresh(reported={"a": 1})
    after = reporting(before, twin.for_device(before)["reported"] | {"$metadata": {"x": 1}})
    assert after.reported.values == {"a": 1}
    assert after.reported.version == before.reported.version + 1


def test_an_empty_report_is_a_change_of_nothing() -> None:
    before = fresh(reported={"a": 1})
    after = reporting(before, {})
    assert after.reported == Section({"a": 1}, before.reported.metadata, before.reported.version + 1)


# --- merging (RFC 7396, appendix A, as far as a twin can hold it) ---------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "foo"}, {"b": None}, {"a": "foo"}),
        ({"a": 1}, {"a": {"b": {"c": 2}}}, {"a": {"b": {"c": 2}}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}),
        ({"a": 1}, {"a": {}}, {"a": {}}),
        ({"a": [1]}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"a": 1}, {}, {"a": 1}),
    ],
)
def test_a_patch_merges_as_rfc_7396_says(section: str, before: Json, patch: Json, after: Json) -> None:
    current = fresh(**{section.rpartition(".")[2]: before})
    if section == "properties.reported":
        changed = reporting(current, patch)
    else:
        changed = patched(current, {"tags": patch} if section == "tags" else desired(patch))
    assert values_of(changed, section) == after


def test_a_merge_patch_that_is_no_object_has_no_place_in_a_twin() -> None:
    assert refusal(lambda: patched(fresh(tags={"a": "b"}), {"tags": ["c"]})) == bad_at_hub("tags is not an object")
    assert refusal(lambda: patched(fresh(desired={"a": "b"}), desired("bar"))) == bad_at_hub("desired is not an object")


# --- what the service changes -----------------------------------------------------------------------------------------


def test_a_patch_of_the_service_merges_tags_and_desired_properties() -> None:
    before = fresh(tags={"a": 1, "b": 2}, desired={"a": 1, "b": {"c": 2}}, reported={"r": 1})
    document = {"tags": {"a": None, "c": 3}, "properties": {"desired": {"b": {"c": None, "d": 4}}}}
    after, news = twin.change(before, document, stamp(1), whole=False)
    assert (after.tags, after.desired.values) == ({"b": 2, "c": 3}, {"a": 1, "b": {"d": 4}})
    assert (after.version, after.desired.version) == (before.version + 1, 2)
    assert after.reported == before.reported
    assert news == {"b": {"c": None, "d": 4}, "$version": 2}


def test_a_put_of_the_service_replaces_tags_and_desired_properties() -> None:
    before = fresh(tags={"a": 1, "b": 2}, desired={"a": 1, "b": {"c": 2}}, reported={"r": 1})
    document = {"tags": {"c": 3, "d": None}, "properties": {"desired": {"e": 4, "f": None}}}
    after, news = twin.change(before, document, stamp(1), whole=True)
    assert (after.tags, after.desired.values) == ({"c": 3}, {"e": 4})
    assert (after.version, after.desired.version) == (before.version + 1, 2)
    assert after.reported == before.reported
    assert news is not None
    assert {name: value for name, value in news.items() if name != "f"} == {"a": None, "b": None, "e": 4, "$version": 2}
    assert news.get("f") is None


@pytest.mark.parametrize("document", [{}, {"tags": None, "properties": None}, {"tags": {}, "properties": {}}])
def test_a_put_of_nothing_leaves_nothing(document: Json) -> None:
    before = fresh(tags={"a": 1}, desired={"b": 2}, reported={"c": 3})
    after, news = twin.change(before, document, stamp(1), whole=True)
    assert (after.tags, after.desired.values, after.reported) == ({}, {}, before.reported)
    assert news == {"b": None, "$version": 2}


@pytest.mark.parametrize(
    "document",
    [{}, {"tags": None, "properties": None}, {"properties": {}}, {"properties": {"desired": None}}],
)
def test_in_a_patch_a_null_section_is_as_good_as_none(document: Json) -> None:
    before = fresh(tags={"a": 1}, desired={"b": 2})
    after, news = twin.change(before, document, stamp(1), whole=False)
    assert (after.tags, after.desired, news) == (before.tags, before.desired, None)
    assert after.version == before.version + 1


def test_of_tags_a_device_hears_nothing() -> None:
    before = fresh(tags={"a": 1}, desired={"b": 2})
    after, news = twin.change(before, {"tags": {"c": 3}}, stamp(1), whole=False)
    assert (after.tags, after.desired, news) == ({"a": 1, "c": 3}, before.desired, None)


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_read_can_be_written_back(whole: bool) -> None:
    before = fresh(tags={"a": 1}, desired={"b": {"c": 2}}, reported={"d": 3})
    document = {
        "deviceId": "thermo-01",
        "etag": before.etag,
        "version": 7,
        "status": "enabled",
        "tags": before.tags,
        "properties": {"desired": before.desired.document(), "reported": before.reported.document()},
    }
    after, news = twin.change(before, document, stamp(1), whole=whole)
    assert (after.tags, after.desired.values, after.reported) == (before.tags, before.desired.values, before.reported)
    assert after.desired.version == 2
    assert news == {"b": {"c": 2}, "$version": 2}


@pytest.mark.parametrize("whole", [False, True])
def test_the_service_cannot_set_versions_metadata_or_reported_properties(whole: bool) -> None:
    patch = {"a": 1, "$version": 99, "$metadata": {"$lastUpdated": at(99), "a": {"$lastUpdated": at(99)}}}
    document = {"properties": {"desired": patch, "reported": {"a": 1, "$version": 99}}}
    after, news = twin.change(fresh(), document, stamp(1), whole=whole)
    now = {"$lastUpdated": at(1)}
    assert after.desired == Section({"a": 1}, {**now, "a": now}, 2)
    assert after.reported == fresh().reported
    assert news == {"a": 1, "$version": 2}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "the body is not a JSON object"),
        ([], "the body is not a JSON object"),
        ("text", "the body is not a JSON object"),
        (7, "the body is not a JSON object"),
        ({"tags": []}, "tags is not an object"),
        ({"tags": "text"}, "tags is not an object"),
        ({"tags": False}, "tags is not an object"),
        ({"properties": []}, "properties is not an object"),
        ({"properties": 7}, "properties is not an object"),
        ({"properties": {"desired": []}}, "desired is not an object"),
        ({"properties": {"desired": 0}}, "desired is not an object"),
        ({"properties": {"wanted": {}}}, "properties has desired and reported, nothing else"),
        ({"properties": {"desired": {}, "interval": 5}}, "properties has desired and reported, nothing else"),
        ({"tags": {"a b": 1}}, "the key 'a b' in tags is empty, too long, or has a control sign, space or . $ #"),
        ({"properties": {"desired": {"a": [None]}}}, "properties.desired.a[] holds null"),
        ({"tags": {"a": [None]}, "properties": {"desired": {"b": [None]}}}, "tags.a[] holds null"),
        ({"tags": {"a": 1}, "properties": {"desired": {"b": [None]}}}, "properties.desired.b[] holds null"),
    ],
)
def test_a_document_that_is_no_twin_is_refused_and_changes_nothing(whole: bool, document: Any, why: str) -> None:
    before = fresh(tags={"a": 1}, desired={"b": {"c": 2}}, reported={"d": 3})
    untouched = deepcopy(before)
    assert refusal(lambda: twin.change(before, document, stamp(1), whole=whole)) == bad_at_hub(why)
    assert before == untouched


def test_a_change_leaves_the_twin_before_it_as_it_was() -> None:
    before = fresh(tags={"a": {"b": 1}}, desired={"a": {"b": 1}}, reported={"a": {"b": 1}})
    untouched = deepcopy(before)
    patch = {"a": {"b": None, "c": 2}}
    for whole in (False, True):
        twin.change(before, {"tags": patch, "properties": {"desired": patch}}, stamp(1), whole=whole)
    reporting(before, patch)
    twin.migrated(before, stamp(1))
    assert before == untouched


# --- what a device is told --------------------------------------------------------------------------------------------


def test_a_put_tells_null_for_what_it_removed() -> None:
    before = fresh(desired={"stays": 1, "goes": 2, "object": {"x": 1}})
    assert told(before, desired({"stays": 1, "comes": 3}), whole=True) == {
        "stays": 1,
        "comes": 3,
        "goes": None,
        "object": None,
        "$version": 2,
    }


def test_a_put_tells_null_for_what_it_removed_further_in_too() -> None:
    before = fresh(desired={"a": {"x": 1, "y": {"p": 2, "q": 3}}, "b": 4})
    assert told(before, desired({"a": {"x": 1, "y": {"p": 2}}, "b": {"z": 5}}), whole=True) == {
        "a": {"x": 1, "y": {"p": 2, "q": None}},
        "b": {"z": 5},
        "$version": 2,
    }


def patches(levels: int = 3) -> st.SearchStrategy[Json]:
    """Patches that keep to every rule, with few names, so that they meet."""
    values: st.SearchStrategy[Any] = st.sampled_from([None, True, 7, 0.5, "é", [], [1, "x", {"k": False}]])
    if levels:
        values |= patches(levels - 1)
    return st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def merge(target: Any, patch: Any) -> Any:
    """MergePatch of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    merged = deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


@given(patches(), st.lists(st.tuples(st.booleans(), patches()), max_size=5))
def test_a_device_that_merges_what_it_is_told_has_what_the_hub_has(
    first: Json, changes: list[tuple[bool, Json]]
) -> None:
    current = patched(fresh(), desired(first))
    copy = twin.for_device(current)["desired"]
    for whole, patch in changes:
        current, news = twin.change(current, desired(patch), stamp(1), whole=whole)
        copy = merge(copy, news)
        assert copy == twin.for_device(current)["desired"]


# --- versions and etags -----------------------------------------------------------------------------------------------


def test_an_etag_is_the_version_as_azure_writes_it() -> None:
    assert Twin(version=7).etag == "AAAAAAAAAAc=", "as the example of the documentation has it"
    assert int.from_bytes(b64decode(Twin(version=2**40 + 3).etag), "big") == 2**40 + 3


@pytest.mark.parametrize(
    "change",
    [
        lambda current: reporting(current, {}),
        lambda current: reporting(current, {"a": 1}),
        lambda current: patched(current, {}),
        lambda current: patched(current, {"tags": {"a": 1}}),
        lambda current: patched(current, desired({"a": 1})),
        lambda current: replaced(current, {}),
    ],
)
def test_every_change_moves_the_etag(change: Callable[[Twin], Twin]) -> None:
    before = fresh()
    once = change(before)
    twice = change(once)
    assert len({before.etag, once.etag, twice.etag}) == 3


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_only_what_a_patch_touches_moves() -> None:
    before = fresh(desired={"a": {"b": 1, "c": 2}, "d": {"e": 3}, "f": 4})
    after = patched(before, desired({"a": {"b": 1}, "g": {"h": [5]}}), 1)
    old, now = {"$lastUpdated": at()}, {"$lastUpdated": at(1)}
    assert after.desired.metadata == {
        **now,
        "a": {**now, "b": now, "c": old},
        "d": {**old, "e": old},
        "f": old,
        "g": {**now, "h": now},
    }


def test_reported_properties_have_their_times_too() -> None:
    after = reporting(fresh(reported={"a": 1, "b": 2}), {"b": 3}, 1)
    old, now = {"$lastUpdated": at()}, {"$lastUpdated": at(1)}
    assert after.reported.metadata == {**now, "a": old, "b": now}


def test_a_deletion_moves_the_objects_that_it_took_a_key_from() -> None:
    before = fresh(desired={"a": {"b": {"c": 1, "d": 2}}, "e": 3})
    after = patched(before, desired({"a": {"b": {"c": None}}}), 1)
    old, now = {"$lastUpdated": at()}, {"$lastUpdated": at(1)}
    assert after.desired.metadata == {**now, "a": {**now, "b": {**now, "d": old}}, "e": old}


@pytest.mark.parametrize(
    ("before", "value"),
    [
        (1, 2),
        (1, 1),
        (1, [3]),
        (1, {}),
        (1, {"b": None}),
        (1, {"b": 1}),
        ([1], {}),
        ([1], {"b": 1}),
        ([1], [1]),
        ({"b": {"c": 1}}, 2),
        ({"b": {"c": 1}}, [3]),
        ({"b": {"c": 1}}, {"b": 1}),
        ({"b": {"c": 1}}, {"b": None}),
        ({"b": 1}, {"b": 1}),
        ({"b": 1}, {"b": {}}),
    ],
)
def test_a_value_that_takes_the_place_of_another_is_of_now(before: Any, value: Any) -> None:
    after = reporting(fresh(reported={"a": before}), {"a": value}, 1).reported
    places = [(after.values["a"], after.metadata["a"])]
    if isinstance(after.values["a"], dict):
        places += [(item, after.metadata["a"][name]) for name, item in after.values["a"].items()]
    for item, metadata in places:
        assert metadata["$lastUpdated"] == at(1)
        assert set(metadata) - {"$lastUpdated"} == (set(item) if isinstance(item, dict) else set())


def test_a_key_that_comes_again_is_of_now() -> None:
    gone = reporting(fresh(reported={"a": {"b": 1}}), {"a": None}, 1)
    assert reporting(gone, {"a": {"b": 1}}, 2).reported.metadata["a"]["b"] == {"$lastUpdated": at(2)}


def test_a_put_sets_everything_anew_and_so_it_is_of_now() -> None:
    after = replaced(fresh(desired={"a": 1, "b": 2}), desired({"a": 1}), 1)
    now = {"$lastUpdated": at(1)}
    assert after.desired == Section({"a": 1}, {**now, "a": now}, 2)


def test_tags_have_neither_times_nor_version() -> None:
    assert patched(fresh(), {"tags": {"a": {"b": 1}}}).tags == {"a": {"b": 1}}


# --- any sequence of changes ------------------------------------------------------------------------------------------


def stamped(patch: Any, second: int) -> Any:
    """A patch that writes the time where the other writes values."""
    if isinstance(patch, dict):
        return {name: stamped(value, second) for name, value in patch.items()}
    return None if patch is None else at(second)


def leaves(values: Any, metadata: Json) -> Any:
    """The time of each value that is no object, in an object of the same shape."""
    if not isinstance(values, dict):
        assert set(metadata) == {"$lastUpdated"}
        return metadata["$lastUpdated"]
    assert set(metadata) == {*values, "$lastUpdated"}
    assert all(metadata[name]["$lastUpdated"] <= metadata["$lastUpdated"] for name in values)
    return {name: leaves(value, metadata[name]) for name, value in values.items()}


OPTIONAL = st.none() | patches()
CHANGES = st.lists(
    st.tuples(st.just("report"), patches(), st.none())
    | st.tuples(st.just("PATCH"), OPTIONAL, OPTIONAL)
    | st.tuples(st.just("PUT"), OPTIONAL, OPTIONAL),
    max_size=8,
)


@settings(max_examples=200)
@given(CHANGES)
def test_any_sequence_of_changes_ends_where_a_plain_model_does(changes: list[tuple[str, Any, Any]]) -> None:
    current = fresh()
    values: Json = {"tags": {}, "desired": {}, "reported": {}}
    times: Json = {"desired": {}, "reported": {}}
    versions, etags = {"desired": 1, "reported": 1}, {current.etag}
    for second, (kind, first, second_part) in enumerate(changes, 1):
        if kind == "report":
            current = reporting(current, first, second)
            written = {"reported": first}
        else:
            document = {"tags": first, "properties": {"desired": second_part}}
            current, _ = twin.change(current, document, stamp(second), whole=kind == "PUT")
            written = {"tags": first, "desired": second_part}
            if kind == "PUT":
                values |= {"tags": {}, "desired": {}}
                times["desired"] = {}
                written = {name: patch or {} for name, patch in written.items()}
        for name, patch in written.items():
            if patch is None:
                continue
            values[name] = merge(values[name], patch)
            if name in times:
                times[name] = merge(times[name], stamped(patch, second))
                versions[name] += 1
        sections = {"desired": current.desired, "reported": current.reported}
        assert {"tags": current.tags} | {name: section.values for name, section in sections.items()} == values
        assert {name: section.version for name, section in sections.items()} == versions
        assert {name: leaves(section.values, section.metadata) for name, section in sections.items()} == times
        assert current.version == second + 1
        assert current.etag not in etags
        etags.add(current.etag)
        assert Twin.load(json.loads(json.dumps(asdict(current)))) == current


# --- any JSON at all --------------------------------------------------------------------------------------------------


def sound(current: Twin) -> bool:
    """Whether a twin can be stored, read and shown, and holds no null and no name of the service."""
    shown = json.dumps([asdict(current), twin.for_device(current)], allow_nan=False)
    sections = current.tags, current.desired.values, current.reported.values
    return Twin.load(json.loads(shown)[0]) == current and not any(map(is_odd, sections))


def is_odd(value: Any) -> bool:
    """Whether there is a null in it, or a name with $."""
    if isinstance(value, dict):
        return any("$" in name for name in value) or any(map(is_odd, value.values()))
    return any(map(is_odd, value)) if isinstance(value, list) else value is None


@given(objects(any_json()) | any_json())
def test_any_json_that_a_device_reports_is_taken_or_refused(value: Any) -> None:
    found = outcome(lambda: reporting(fresh(reported={"a": 1}), value))
    assert row_of(found) is refusals.BAD_TWIN_PATCH if isinstance(found, Refused) else sound(found)


@given(st.binary(max_size=40) | any_json().map(lambda value: json.dumps(value).encode()[:-1]))
def test_any_bytes_that_a_device_reports_are_taken_or_refused(payload: bytes) -> None:
    found = outcome(lambda: twin.report(fresh(), payload, stamp()))
    assert row_of(found) is refusals.BAD_TWIN_PATCH if isinstance(found, Refused) else sound(found)


SECTION = objects(any_json()) | any_json()
PROPERTIES = st.fixed_dictionaries({}, optional={"desired": SECTION, "reported": SECTION}) | any_json()
DOCUMENTS = st.fixed_dictionaries({}, optional={"tags": SECTION, "properties": PROPERTIES}) | any_json()


@given(DOCUMENTS, st.booleans())
def test_any_json_of_the_service_is_taken_or_refused(document: Any, whole: bool) -> None:
    before = fresh(tags={"a": 1}, desired={"a": {"b": 2}})
    untouched = deepcopy(before)
    found = outcome(lambda: twin.change(before, document, stamp(1), whole=whole))
    if isinstance(found, Refused):
        assert row_of(found) is refusals.HUB_BAD_REQUEST
    else:
        after, news = found
        assert sound(after)
        assert json.dumps(news, allow_nan=False)
    assert before == untouched


# --- to another hub, to the device, to the file -----------------------------------------------------------------------


def test_a_migrated_twin_has_the_same_values_under_new_versions() -> None:
    before = fresh(tags={"t": 1}, desired={"a": {"b": 1}}, reported={"c": [2]})
    before = patched(reporting(before, {"d": 3}), desired({"e": 4}))
    now = {"$lastUpdated": at(9)}
    assert twin.migrated(before, stamp(9)) == Twin(
        tags={"t": 1},
        desired=Section({"a": {"b": 1}, "e": 4}, {**now, "a": {**now, "b": now}, "e": now}, 1),
        reported=Section({"c": [2], "d": 3}, {**now, "c": now, "d": now}, 1),
        version=1,
    )


def test_a_device_reads_no_tags_and_no_metadata() -> None:
    current = fresh(tags={"t": 1}, desired={"a": 1}, reported={"b": 2})
    assert twin.for_device(current) == {"desired": {"a": 1, "$version": 1}, "reported": {"b": 2, "$version": 2}}
    assert twin.for_device(Twin()) == {"desired": {"$version": 1}, "reported": {"$version": 1}}


def test_the_service_reads_metadata_and_version_beside_the_values() -> None:
    current = fresh(desired={"a": 1})
    now = {"$lastUpdated": at()}
    assert current.desired.document() == {"a": 1, "$metadata": {**now, "a": now}, "$version": 1}
    assert current.reported.document() == {"$metadata": now, "$version": 1}


def test_a_twin_is_read_back_as_it_was_stored() -> None:
    current = patched(fresh(tags={"t": [1]}, desired={"a": {"b": 1}}, reported={"c": 2}), desired({"a": {"d": "é"}}))
    assert Twin.load(json.loads(json.dumps(asdict(current)))) == current
