"""The faults that can be switched on: the table of them, how long one lasts, and which one a device meets."""

from collections.abc import Sequence
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsx_helpers.emulator import faults, refusals
from dpsx_helpers.emulator.faults import KINDS, Fault, Kind, Stage
from dpsx_helpers.emulator.refusals import Answer

NAME = "thermo-01"
ANSWERS = {
    Stage.DPS_CONNECT: {Answer.CONNACK},
    Stage.REGISTER: {Answer.RESPONSE, Answer.REGISTRATION, Answer.CLOSE},
    Stage.SETTLE: {Answer.REGISTRATION},
    Stage.HUB_CONNECT: {Answer.CONNACK},
    Stage.HUB_PACKET: {Answer.CLOSE},
}


# --- the table --------------------------------------------------------------------------------------------------------


def test_these_are_the_faults() -> None:
    assert {
        name: (kind.stage, kind.refusal.status, kind.refusal.code) for name, kind in KINDS.items() if kind.refusal
    } == {
        "connack-3": (Stage.DPS_CONNECT, 3, 0),
        "connack-5": (Stage.DPS_CONNECT, 5, 0),
        "401-unauthorized": (Stage.REGISTER, 401, 401002),
        "401-invalid-certificate": (Stage.REGISTER, 401, 401002),
        "401-ca-not-found": (Stage.REGISTER, 401, 401002),
        "401-bad-token": (Stage.REGISTER, 401, 401000),
        "401-hub-not-found": (Stage.REGISTER, 401, 401001),
        "404-not-enrolled": (Stage.REGISTER, 404, 404201),
        "409": (Stage.REGISTER, 409, 409203),
        "429": (Stage.REGISTER, 429, 429001),
        "500": (Stage.REGISTER, 500, 500000),
        "disabled": (Stage.REGISTER, 200, 0),
        "drop": (Stage.REGISTER, 0, 0),
        "failed-400207": (Stage.SETTLE, 200, 400207),
        "failed-400208": (Stage.SETTLE, 200, 400208),
        "failed-400209": (Stage.SETTLE, 200, 400209),
        "hub-connack-3": (Stage.HUB_CONNECT, 3, 0),
        "hub-connack-5": (Stage.HUB_CONNECT, 5, 0),
        "hub-eviction": (Stage.HUB_PACKET, 0, 400027),
    }
    assert {name: kind.stage for name, kind in KINDS.items() if not kind.refusal} == {
        "silence": Stage.REGISTER,
        "slow": Stage.REGISTER,
    }


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_fault_is_found_under_its_name_and_says_what_it_does(kind: Kind) -> None:
    assert KINDS[kind.name] is kind
    assert kind.what
    if kind.refusal and kind.refusal.answer is Answer.RESPONSE:
        assert kind.what.startswith((f"{kind.refusal.code} {kind.refusal.text}", f"{kind.refusal.status} "))
    if kind.refusal and kind.refusal.answer is Answer.CONNACK:
        assert kind.what.endswith(f"CONNACK {kind.refusal.status}")


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.refusal], ids=lambda kind: kind.name)
def test_a_fault_answers_as_is_possible_at_its_stage(kind: Kind) -> None:
    assert kind.refusal is not None
    assert kind.refusal.answer in ANSWERS[kind.stage]
    injected = refusals.injected(kind.refusal, kind.name)
    assert injected.reason == f"the fault {kind.name} is switched on"
    shown = (injected.refusal.answer, injected.refusal.status, injected.refusal.code, injected.refusal.text)
    assert shown == (kind.refusal.answer, kind.refusal.status, kind.refusal.code, kind.refusal.text)


# --- how long ---------------------------------------------------------------------------------------------------------


def test_a_fault_is_on_for_all_and_until_cleared_unless_told_otherwise() -> None:
    assert asdict(Fault("429")) == {"kind": "429", "device": None, "left": None, "retry_after": 3, "seconds": 10.0}


def test_a_fault_without_a_number_is_never_used_up() -> None:
    fault = Fault("429", NAME)
    assert fault.used() is fault


def test_a_fault_with_a_number_acts_that_often_and_no_more() -> None:
    fault: Fault | None = Fault("429", NAME, left=3, retry_after=7, seconds=1.5)
    acted = []
    while fault:
        acted.append(fault)
        fault = fault.used()
    assert acted == [Fault("429", NAME, left, 7, 1.5) for left in (3, 2, 1)]


# --- which one --------------------------------------------------------------------------------------------------------


OWN, FOR_ALL, OTHER = Fault("429", NAME), Fault("500"), Fault("drop", "thermo-02")


@pytest.mark.parametrize(
    ("on", "found"),
    [
        ([], None),
        ([OTHER], None),
        ([FOR_ALL], FOR_ALL),
        ([OWN], OWN),
        ([FOR_ALL, OWN], OWN),
        ([OWN, FOR_ALL], OWN),
        ([OTHER, FOR_ALL], FOR_ALL),
        ([OTHER, FOR_ALL, OWN, Fault("silence", NAME)], OWN),
        ([OTHER, Fault("silence"), FOR_ALL], Fault("silence")),
    ],
)
def test_a_fault_of_its_own_comes_before_one_for_all_and_the_older_before_the_newer(
    on: Sequence[Fault], found: Fault | None
) -> None:
    assert faults.pick(iter(on), Stage.REGISTER, NAME) is found or found == Fault("silence")
    assert faults.pick(on, Stage.REGISTER, NAME) == found


@pytest.mark.parametrize("named", ["thermo-01", "THERMO-01", "Thermo-01"])
@pytest.mark.parametrize("device", ["thermo-01", "THERMO-01", "tHermo-01"])
def test_the_case_of_a_name_does_not_matter(named: str, device: str) -> None:
    fault = Fault("429", named)
    assert faults.pick([FOR_ALL, fault], Stage.REGISTER, device) is fault


@pytest.mark.parametrize("device", ["thermo-1", "thermo-011", "thermo", "", "*"])
def test_a_fault_of_one_device_is_no_other_ones(device: str) -> None:
    assert faults.pick([OWN], Stage.REGISTER, device) is None


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("device", [None, NAME])
def test_a_fault_acts_at_its_stage_and_at_no_other(kind: Kind, device: str | None) -> None:
    fault = Fault(kind.name, device)
    found = {stage for stage in Stage if faults.pick([fault], stage, NAME) is fault}
    assert found == {kind.stage}


def test_a_fault_of_its_own_at_another_stage_does_not_hide_one_for_all() -> None:
    on = [Fault("hub-connack-5", NAME), FOR_ALL, Fault("connack-3")]
    assert faults.pick(on, Stage.REGISTER, NAME) is FOR_ALL
    assert faults.pick(on, Stage.DPS_CONNECT, NAME) is on[2]
    assert faults.pick(on, Stage.HUB_CONNECT, NAME) is on[0]
    assert faults.pick(on, Stage.SETTLE, NAME) is None


NAMES = st.sampled_from(["a", "A", "b", "c"])
FAULTS = st.lists(
    st.builds(Fault, st.sampled_from([*KINDS]), st.none() | NAMES, st.none() | st.integers(1, 3)), max_size=8
)


@given(FAULTS, st.sampled_from(Stage), NAMES)
def test_whatever_is_on_the_first_that_fits_best_is_picked(on: list[Fault], stage: Stage, device: str) -> None:
    def rank(fault: Fault) -> int:
        return 0 if fault.device is None else 1 if fault.device.upper() == device.upper() else -1

    fitting = [fault for fault in on if KINDS[fault.kind].stage is stage and rank(fault) >= 0]
    assert faults.pick(on, stage, device) is max(fitting, key=rank, default=None)
