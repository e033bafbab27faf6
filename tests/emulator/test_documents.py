"""JSON as clients send it: what is none is a ValueError, however it is broken."""

import pytest

from dpsx_helpers.emulator.documents import deeper_than, load, matches


def test_json_is_read() -> None:
    assert load(b"[" * 100 + b"]" * 100)
    assert load(b"1e308") == 1e308
    assert load(b' {"a": [1, 2.5, null, "\xc3\xa4"]} ') == {"a": [1, 2.5, None, "ä"]}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"1e999", b"[-1e999]", b"'x'",
        b"[" * 100_000, b'{"a":' * 100_000, b"[" * 101 + b"]" * 101, b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
)  # fmt: skip
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load(data)


@pytest.mark.parametrize(("value", "depth"), [(1, 0), ({}, 1), ([], 1), ({"a": 1}, 1), ({"a": [{}]}, 3)])
def test_depth_counts_objects_and_lists(value: object, depth: int) -> None:
    assert not deeper_than(value, depth)
    assert depth == 0 or deeper_than(value, depth - 1)


@pytest.mark.parametrize("if_match", ["*", '"*"', "MQ==", '"MQ=="', ' "MQ==" ', 'W/"MQ=="', '"zz", "MQ=="', '"a",*'])
@pytest.mark.parametrize("etag", ["MQ==", '"MQ=="'])
def test_an_if_match_means_an_etag_quoted_weak_or_among_others(if_match: str, etag: str) -> None:
    assert matches(if_match, etag)


@pytest.mark.parametrize("if_match", ["", '""', "Mg==", '"MQ="', "MQ==x", '"a", "b"'])
def test_another_if_match_does_not(if_match: str) -> None:
    assert not matches(if_match, "MQ==")
