"""Notebook 08: ten mistakes that are heard from both sides, and a hidden fault that is found and mended."""

import ast
import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import beyond
import pytest
from azure.iot.device.aio import ProvisioningDeviceClient
from azure.iot.device.exceptions import ClientError
from devices import credentials, register, send
from executed import errors, files_with, read, said, tagged

from dpsx_helpers import certificates, checks, clinic, enrollments, registry, targets, tutorial
from dpsx_helpers.diagnosis import mistakes
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]
CANARY = "canary-08-7be1"
NOTHING = "nothing: the device never got as far as DPS"
# The card of each of the ten, what the SDK says, what the service really said.
HEARD = {
    1: (1, "OSError: [Errno 22]", NOTHING),
    2: (2, "ValueError: Registration Id can not be none", NOTHING),
    3: (3, "gaierror", NOTHING),
    4: (10, "KEY_VALUES_MISMATCH", NOTHING),
    5: (5, "broker unavailable", "DPS: CONNACK 3, server unavailable"),
    6: (6, "not authorised", "DPS: CONNACK 5, not authorised"),
    7: (7, "Unexpected failure", '"message": "Invalid certificate."'),
    8: (9, "Unexpected failure", '"message": "Invalid certificate."'),
    9: (11, "Unexpected failure", '"message": "Invalid certificate."'),
    10: (14, "not authorised", "the hub: CONNACK 5, not authorised"),
}
NOT_WELL = (
    "clinic-patient-02 is not well: its settings, files and enrollment are expected to agree, and then a registration "
    "that is assigned."
)
WELL = "The device was assigned to its hub and connected to it: it is well."


def hears(executed: Any) -> None:
    for number, (card, sdk, service) in HEARD.items():
        text = said(tagged(executed, f"mistake-{number}"))
        first, second = text.split("2. The service really said")
        assert first.startswith("1. The SDK says\n")
        assert sdk in first, number
        assert service in second, number
        assert f"(mistake {card} of 23)" in second, number
    assert said(tagged(executed, "patient")).strip() == WELL
    assert said(tagged(executed, "mistake-10")).endswith(WELL)


def test_the_notebook_tells_both_sides_of_ten_mistakes_and_ends_with_a_healthy_patient(tmp_path: Path) -> None:
    first, second = beyond.runs_as_a_story(8, tmp_path)
    hears(first)
    hears(second)
    untouched = {number: beyond.open_verdict(text) for number, text in beyond.verdicts(first).items()}
    assert untouched[1].startswith("clinic-patient-02 was admitted, but nothing is named: clinic.name is expected")
    assert untouched[2] == NOT_WELL
    for number, text in beyond.verdicts(first).items():
        assert "of 23)" not in text, f"exercise {number}: an examination without the card gives nothing away"
    # Each card and the emulator's log are about the same thing: one mistake at a time was made.
    assert "CA:TRUE" in said(tagged(first, "mistake-7")).split("the emulator's log says")[1]
    assert "neither the primary nor the secondary" in said(tagged(first, "mistake-8"))


def test_on_azure_it_runs_to_its_end_with_the_learners_pass_phrase_in_no_file(tmp_path: Path) -> None:
    with (
        beyond.azure(tmp_path) as known,
        beyond.desk(tmp_path, **known, DPSX_PASS_PHRASE=CANARY, DPSX_CLINIC_SEED="3") as learner,
    ):
        executed = learner.run(beyond.solved(8))
        assert errors(executed) == []
        assert not (learner.work / "emulator").exists()
        assert files_with(CANARY, tmp_path) == []
    for number, (card, _, _) in HEARD.items():
        assert f"(mistake {card} of 23)" in said(tagged(executed, f"mistake-{number}")), number
    assert all(text.splitlines()[-1].startswith("✔ clinic-patient-02") for text in beyond.verdicts(executed).values())


def test_without_connection_strings_it_stops_with_one_sentence(tmp_path: Path) -> None:
    assert "DPS_CONNECTION_STRING and IOTHUB_CONNECTION_STRING" in beyond.stops_without_values(8, tmp_path)


# --- the hidden fault -------------------------------------------------------------------------------------------------

SEEDS = {clinic._draw(seed): seed for seed in range(100)}


async def device() -> None:
    await send(0, (await register()).registration_state)


def examined(card: bool = True) -> clinic.Examination:
    os.environ.update(clinic.settings())
    visit: Callable[[], Coroutine[Any, Any, None]] = device
    return asyncio.run(clinic.examine(visit(), card=card))


def verdict(number: int) -> str:
    return checks.exercise(8, number).text


def test_at_least_six_faults_may_be_drawn_and_each_seed_draws_the_same_again() -> None:
    assert len(SEEDS) == len(clinic._HIDE) >= 6
    assert set(SEEDS) <= set(mistakes.BY_NUMBER)
    assert [clinic._draw(seed) for seed in range(50)] == [clinic._draw(seed) for seed in range(50)]


@pytest.mark.parametrize("fault", sorted(clinic._HIDE))
def test_each_hidden_fault_is_told_by_its_card_alone_and_mended_by_the_solution(fault: int, emulated: Target) -> None:
    clinic.admit(seed=SEEDS[fault])
    assert clinic.fault() == fault
    assert verdict(1).startswith("☐ Not yet: clinic-patient-02 was admitted, but nothing is named")
    assert verdict(2) == f"☐ Not yet: {NOT_WELL}"
    silent = examined(card=False)
    assert f"mistake {fault}" not in silent.text
    seen = examined()
    assert seen.number == fault
    wrong = next(number for number in mistakes.BY_NUMBER if number != fault)
    clinic.name(wrong)
    assert f"☐ Not yet: you named {wrong}, " in verdict(1)
    assert mistakes.BY_NUMBER[fault].name not in verdict(1), "a wrong answer does not tell the right one"
    assert verdict(2) == f"☐ Not yet: {NOT_WELL}", "nor does the exercise beside it"
    clinic.name(seen.number)
    assert verdict(1) == (
        f"✔ clinic-patient-02 was admitted with a hidden fault, and you found it: {fault}, "
        f"{mistakes.BY_NUMBER[fault].name}"
    )
    assert verdict(2).startswith("☐ Not yet: clinic-patient-02 is not well: ")
    assert verdict(2) != f"☐ Not yet: {NOT_WELL}", "who has found it is told what is left to do"


def notebook(*codes: str) -> None:
    """Run code of the notebook's cells as a kernel does, with the notebook's own device program."""
    names: dict[str, Any] = {"display": print}
    executed = read(8)
    for code in (tagged(executed, "map").source, tagged(executed, "device-code").source, *codes):
        made = eval(compile(code, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if made is not None:
            asyncio.run(made)


@pytest.mark.parametrize("fault", sorted(clinic._HIDE))
def test_the_solutions_in_the_notebook_find_and_mend_each_fault(
    fault: int, emulated: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(clinic.SEED, str(SEEDS[fault]))
    first, second = beyond.stubs(8)
    notebook(first.solution)
    assert (clinic.fault(), clinic.named()) == (fault, fault)
    notebook(second.solution)
    for number in (1, 2):
        assert verdict(number).startswith("✔ clinic-patient-02")


def test_a_patient_that_is_mended_has_to_register(emulated: Target) -> None:
    clinic.admit(seed=SEEDS[5])
    clinic.name(5)
    clinic.prescribe(id_scope=emulated.id_scope)
    assert "it has not registered since it was admitted" in verdict(2)
    assert examined().text == WELL
    assert verdict(2).startswith("✔ clinic-patient-02 is mended")


def test_the_same_patient_stays_until_it_is_well(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(clinic.SEED, str(SEEDS[5]))
    clinic.admit()
    monkeypatch.setenv(clinic.SEED, str(SEEDS[6]))
    clinic.admit()
    assert clinic.fault() == 5
    clinic.name(5)
    clinic.prescribe(id_scope=emulated.id_scope)
    assert examined().text == WELL
    clinic.admit()
    assert clinic.fault() == 6
    assert clinic.named() is None


def test_what_a_learner_may_do_wrong_is_one_sentence(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        assert verdict(number).startswith(
            "☐ Not yet: there is no clinic-patient-02 yet: run the cell with clinic.admit"
        )
    with pytest.raises(Stop, match="There is no second patient yet"):
        clinic.name(3)
    clinic.admit(seed=1)
    with pytest.raises(Stop, match=r"found nothing to name: .* run clinic\.admit"):
        clinic.name(None)
    for odd in (0, 24, "5", 5.5, 5.0, True, [5]):
        with pytest.raises(Stop, match=r"There is no mistake .*: give the number of a card"):
            clinic.name(odd)  # type: ignore[arg-type]
    with pytest.raises(Stop, match="has no setting scope: give host, id_scope or registration_id"):
        clinic.prescribe(scope="x")
    monkeypatch.setenv(clinic.SEED, "seven")
    with pytest.raises(Stop, match="DPSX_CLINIC_SEED is not a whole number"):
        clinic.admit()


def _write(text: str) -> Callable[[], object]:
    return lambda: clinic.pair().certificate_file.write_text(text)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "another scope": (lambda: clinic.prescribe(id_scope="0ne00000000"), "its settings on the disk do not lead to"),
    "another host": (lambda: clinic.prescribe(host=""), "its settings on the disk do not lead to"),
    "another name": (lambda: clinic.prescribe(registration_id="x"), "its settings name another device"),
    "no certificate": (lambda: clinic.pair().certificate_file.unlink(), "not a pair that opens"),
    "no key": (lambda: clinic.pair().key_file.unlink(), "not a pair that opens"),
    "a file of nothing": (_write(""), "not a pair that opens"),
    "a pair not enrolled": (clinic.new_pair, "DPS expects another certificate"),
    "nobody enrolled": (lambda: enrollments.delete(targets.current(), clinic.SECOND), "no enrollment that is enabled"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_cure_is_told_in_one_sentence_to_who_has_named_the_fault(emulated: Target, what: str) -> None:
    clinic.admit(seed=SEEDS[5])
    clinic.name(5)
    clinic.prescribe(id_scope=emulated.id_scope)
    spoil, expected = WRONG[what]
    spoil()
    assert expected in verdict(2)
    assert verdict(2).startswith("☐ Not yet: clinic-patient-02 is not well: ")
    assert verdict(2).endswith("a registration that is assigned is expected.")


@pytest.mark.parametrize("name", ["case.json", "settings.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"seed": "x", "host": 1}'])
def test_damaged_papers_are_one_sentence_and_a_new_patient_mends_them(
    emulated: Target, name: str, content: str
) -> None:
    clinic.admit(seed=SEEDS[9])
    (clinic.folder(clinic.SECOND) / name).write_text(content)
    assert "papers in" in verdict(2)
    assert verdict(2).endswith("for a new patient.")
    clinic.admit(seed=SEEDS[9])
    assert verdict(2).startswith("☐ Not yet: clinic-patient-02 is not well")


def test_nothing_on_the_disk_tells_the_fault(emulated: Target) -> None:
    clinic.admit(seed=SEEDS[10])
    names = {path.name for path in clinic.folder(clinic.SECOND).iterdir()}
    assert names == {certificates.CERTIFICATE_FILE, certificates.KEY_FILE, "settings.json", "case.json"}
    assert json.loads((clinic.folder(clinic.SECOND) / "case.json").read_text()) == {"seed": SEEDS[10]}
    assert "1234" not in repr(clinic.settings())


# --- the check --------------------------------------------------------------------------------------------------------


def test_the_check_wants_the_first_patient_well(emulated: Target) -> None:
    def stopped() -> str:
        with pytest.raises(Stop) as found:
            checks.clinic()
        return str(found.value)

    assert "has no certificate yet" in stopped()
    os.environ.update(clinic.patient(emulated))
    assert "DPS remembers clinic-patient-01 as one that never registered" in stopped()
    asyncio.run(device())
    assert checks.clinic().text.startswith("✔ clinic-patient-01 is enrolled")
    registry.set_status(emulated, clinic.FIRST, "disabled")
    assert "clinic-patient-01 is disabled" in stopped()
    clinic.patient(emulated)
    assert registry.get(emulated, clinic.FIRST).status == "enabled"  # type: ignore[union-attr]
    asyncio.run(device())
    certificates.create(
        clinic.FIRST, tutorial.pass_phrase(new_key=True), clinic.folder(clinic.FIRST), key_type="ec-p256",
        existing="replace",
    )  # fmt: skip
    assert "not enrolled with the certificate on disk" in stopped()
    enrollments.delete(emulated, clinic.FIRST)
    assert "not enrolled with the certificate on disk" in stopped()


def test_a_device_that_is_not_in_the_hub_cannot_be_disabled(emulated: Target) -> None:
    with pytest.raises(Stop, match="The hub has no device nobody: let it register first"):
        registry.set_status(emulated, "nobody", "disabled")


def test_a_mistake_of_the_learners_own_code_is_raised(emulated: Target) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(clinic.examine(broken()))


@pytest.mark.parametrize("spoil", [{"PROVISIONING_IDSCOPE": "0ne00000000"}, {"DPS_X509_REGISTRATION_ID": "other"}, {}])
def test_a_client_that_was_refused_is_ended(emulated: Target, spoil: dict[str, str]) -> None:
    os.environ.update(clinic.patient(emulated) | spoil)
    if not spoil:  # with its own settings and no entry, it comes as far as the 401
        enrollments.delete(emulated, clinic.FIRST)
    clients: list[Any] = []

    async def registers() -> None:
        client = ProvisioningDeviceClient.create_from_x509_certificate(
            os.environ["PROVISIONING_HOST"],
            os.environ["DPS_X509_REGISTRATION_ID"],
            os.environ["PROVISIONING_IDSCOPE"],
            credentials(),
        )
        clients.append(client)
        await client.register()

    with pytest.raises(ClientError):
        asyncio.run(registers())
    assert clients[0]._pipeline._running, "the SDK leaves it"
    asyncio.run(clinic.examine(registers()))
    assert not clients[1]._pipeline._running
    if not spoil:
        assert _log(emulated)[-2].endswith("< DISCONNECT"), "it has left the connection on which it was refused"


def _log(target: Target) -> list[str]:
    assert target.emulator is not None
    file = target.emulator.state_dir / "emulator.log"
    deadline = time.monotonic() + 5
    while not (lines := file.read_text().splitlines())[-1].endswith("has gone") and time.monotonic() < deadline:
        time.sleep(0.02)
    return lines
