"""Who gets a place, who makes room and who is turned away; and how the descriptors of a process are shared out."""

import pytest

from dpsx_helpers.emulator.places import DESCRIPTORS, MOST_CLIENTS, MOST_DEVICES, RESERVE, Places, Seldom, share


@pytest.mark.parametrize(
    ("descriptors", "devices", "clients"),
    [
        (256, 162, 54),
        (1024, 738, 246),
        (4096, 3556, 500),
        (DESCRIPTORS, MOST_DEVICES, MOST_CLIENTS),
        (1 << 20, MOST_DEVICES, MOST_CLIENTS),
        (RESERVE, 4, 4),
        (0, 4, 4),
    ],
)
def test_descriptors_are_shared_out_and_some_are_left(descriptors: int, devices: int, clients: int) -> None:
    assert share(descriptors) == (devices, clients)
    assert descriptors <= RESERVE or devices + clients + RESERVE <= descriptors


def test_five_thousand_devices_have_a_place_where_there_are_descriptors_for_them() -> None:
    assert share(8192)[0] >= 5000


def come(places: Places[str], *names: str) -> list[bool]:
    """They come one after the other; whether each got a place."""
    found = []
    for name in names:
        found.append(places.take())
        if found[-1]:
            places.enter(name)
    return found


@pytest.fixture
def gone() -> list[str]:
    return []


@pytest.fixture
def places(gone: list[str]) -> Places[str]:
    return Places(3, gone.append)


def test_who_waits_longest_makes_room(places: Places[str], gone: list[str]) -> None:
    assert come(places, "a", "b", "c", "d", "e") == [True] * 5
    assert gone == ["a", "b"]
    assert (len(places), places.dismissed, places.turned_away) == (3, 2, 0)


def test_who_has_settled_stays_and_when_all_have_nobody_else_comes_in(places: Places[str], gone: list[str]) -> None:
    come(places, "a", "b", "c")
    places.settle("a")
    assert come(places, "d") == [True]
    assert gone == ["b"]
    places.settle("c")
    places.settle("d")
    assert come(places, "e", "f") == [False, False]
    assert (gone, len(places), places.turned_away) == (["b"], 3, 2)
    places.leave("a")
    assert come(places, "g") == [True]


def test_who_waits_again_waits_from_then_on(places: Places[str], gone: list[str]) -> None:
    come(places, "a", "b", "c")
    places.settle("a")
    places.wait("a")
    come(places, "d", "e", "f")
    assert gone == ["b", "c", "a"]


def test_who_is_gone_does_not_wait_again_and_goes_once(places: Places[str], gone: list[str]) -> None:
    come(places, "a")
    places.leave("a")
    places.leave("a")
    places.wait("a")
    places.settle("a")
    assert (len(places), gone) == (0, [])
    assert come(places, "b", "c", "d", "e") == [True] * 4
    assert gone == ["b"]


def test_who_is_just_coming_has_a_place_and_does_not_make_room(places: Places[str], gone: list[str]) -> None:
    assert [places.take() for _ in range(4)] == [True, True, True, False]
    places.give_up()
    assert len(places) == 2
    assert places.take()
    for name in ("a", "b", "c"):
        places.enter(name)
    assert (len(places), gone) == (3, [])


def test_what_happens_often_is_told_once_a_minute() -> None:
    seldom = Seldom()
    assert [seldom.due(now) for now in (0.0, 1.0, 59.9, 60.0, 61.0, 500.0)] == [True, False, False, True, False, True]
