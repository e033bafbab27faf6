"""The rate limits of DPS as sliding windows: how many pass, when the next may come, and who counts apart.

https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits
"""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsx_helpers.emulator.limits import Limits, Window

NOW = 1_661_622_799.0  # unix seconds


def outcomes(window: Window, *seconds: float) -> list[int | None]:
    """What requests at these seconds are answered."""
    return [window.wait(NOW + second) for second in seconds]


# --- one window -------------------------------------------------------------------------------------------------------


def test_so_many_pass_and_one_more_does_not() -> None:
    assert outcomes(Window(3, 10), 0, 0, 0, 0) == [None, None, None, 10]


@pytest.mark.parametrize(
    ("second", "wait"),
    [(4, 6), (4.001, 6), (4.999, 6), (5, 5), (9, 1), (9.5, 1), (9.999, 1), (10, None), (10.5, None), (1000, None)],
)
def test_the_wait_is_the_whole_seconds_until_the_window_frees(second: float, wait: int | None) -> None:
    assert outcomes(Window(5, 10), 0, 1, 2, 3, 4, second) == [None] * 5 + [wait]


def test_the_window_slides() -> None:
    window = Window(2, 10)
    assert outcomes(window, 0, 6, 7) == [None, None, 3]
    assert outcomes(window, 10, 11, 15.5) == [None, 5, 1], "that of second 0 is over, that of second 6 is not"
    assert outcomes(window, 16, 17) == [None, 3]


def test_what_was_refused_does_not_count() -> None:
    window = Window(2, 10)
    assert outcomes(window, 0, 0, *range(1, 10)) == [None, None, *range(9, 0, -1)]
    assert outcomes(window, 10, 10) == [None, None]


def test_a_clock_that_goes_back_makes_nobody_wait_until_it_has_come_round() -> None:
    window = Window(2, 10)
    assert outcomes(window, 100, 101, 50, 51, 52) == [None, None, None, None, 8]
    assert outcomes(window, 50, 52) == [None, 8], "only what lies in the future is left out"
    assert not window.idle(NOW + 52)
    assert window.idle(NOW + 40)


def test_a_window_is_idle_when_nothing_in_it_counts_any_more() -> None:
    window = Window(2, 10)
    assert window.idle(NOW)
    outcomes(window, 0, 5)
    assert not window.idle(NOW + 5)
    assert not window.idle(NOW + 14.999)
    assert window.idle(NOW + 15)


@given(st.integers(1, 4), st.integers(1, 20), st.lists(st.integers(0, 40), max_size=40))
def test_a_window_never_lets_more_through_and_never_lets_wait_too_long(
    count: int, length: int, pauses: list[int]
) -> None:
    """Times are in quarters of a second, so that the arithmetic of the test is exact."""
    window = Window(count, length / 4)
    passed: list[int] = []
    now = 0

    def counting(moment: int) -> int:
        return sum(moment - length < one <= now for one in passed)

    for pause in pauses:
        now += pause
        wait = window.wait(NOW + now / 4)
        assert (wait is None) == (counting(now) < count)
        if wait is None:
            passed.append(now)
        else:
            assert counting(now + 4 * wait) < count, "after the wait a request passes"
            assert wait == 1 or counting(now + 4 * (wait - 1)) == count, "a second earlier it would not"


# --- the limits of a DPS ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Limits.register, Limits.operation])
def test_a_thousand_in_a_minute_pass(kind: Callable[[Limits, float], int | None]) -> None:
    limits = Limits()
    assert {kind(limits, NOW + number / 100) for number in range(1000)} == {None}
    assert kind(limits, NOW + 10) == 50
    assert kind(limits, NOW + 59.5) == 1
    assert kind(limits, NOW + 60) is None, "the first of them is a minute old"
    assert kind(limits, NOW + 60) == 1, "the second is not"
    assert {kind(limits, NOW + 120) for _ in range(999)} == {None}
    assert kind(limits, NOW + 120) is None, "the one of second 60 is a minute old"
    assert kind(limits, NOW + 120) == 60


def test_registrations_and_operations_count_apart() -> None:
    limits = Limits()
    assert {limits.register(NOW) for _ in range(1000)} == {None}
    assert limits.register(NOW) == 60
    assert limits.operation(NOW) is None
    assert limits.poll("thermo-01", NOW) is None


def test_a_device_may_poll_five_times_in_ten_seconds() -> None:
    limits = Limits()
    assert [limits.poll("thermo-01", NOW + second) for second in (0, 2, 4, 6, 8, 8.5, 9.999)] == [None] * 5 + [2, 1]
    assert [limits.poll("thermo-01", NOW + second) for second in (10, 11, 12)] == [None, 1, None]


def test_every_device_has_polls_of_its_own_whatever_the_case_of_its_name() -> None:
    limits = Limits()
    assert [limits.poll(name, NOW) for name in ("Thermo-01", "thermo-01", "THERMO-01", "thermo-01", "tHERMO-01")] == (
        [None] * 5
    )
    assert limits.poll("thermo-01", NOW) == 10
    assert limits.poll("THERMO-01", NOW) == 10
    assert limits.poll("thermo-02", NOW) is None


def test_two_services_count_apart() -> None:
    first, second = Limits(), Limits()
    assert [first.poll("thermo-01", NOW) for _ in range(6)][-1] == 10
    assert second.poll("thermo-01", NOW) is None


def test_devices_that_are_long_gone_are_forgotten_and_the_others_are_not() -> None:
    limits = Limits()
    for number in range(10_000):
        limits.poll(f"device-{number}", NOW)
    for _ in range(5):
        limits.poll("busy", NOW + 9)
    assert len(limits._polls) == 10_001, "their polls still count"
    assert limits.poll("busy", NOW + 15) == 4
    assert set(limits._polls) == {"busy"}
    assert limits.poll("device-1", NOW + 15) is None


def test_up_to_ten_thousand_devices_nobody_looks_for_those_that_are_gone() -> None:
    limits = Limits()
    for number in range(10_000):
        limits.poll(f"device-{number}", NOW)
    limits.poll("device-0", NOW + 15)
    assert len(limits._polls) == 10_000
