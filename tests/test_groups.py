"""Notebook 07: what a learner reads in it, on the emulator and on Azure, and what its checks make of wrong answers."""

import asyncio
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import X509
from azure.iot.device.aio import ProvisioningDeviceClient
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from beyond import azure, desk, open_verdict, runs_as_a_story, solved, stops_without_values, verdicts
from devices import PASS_PHRASE
from executed import errors, files_with, only_sentence, read, said, tagged

from dpsx_helpers import authorities, chains, checks, diagnosis, enrollments, registry, tutorial, views
from dpsx_helpers.authorities import Authority
from dpsx_helpers.certificates import Pair
from dpsx_helpers.checks.exercises import of_notebook
from dpsx_helpers.conversation import Conversation
from dpsx_helpers.diagnosis.evidence import Evidence
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]

PRESSES = ("press-01", "press-02", "press-03")


# --- the notebook -----------------------------------------------------------------------------------------------------


def test_the_notebook_tells_its_story_twice(tmp_path: Path) -> None:
    for executed in runs_as_a_story(7, tmp_path):
        whole = said(tagged(executed, "chain"))
        assert "holds: 2 certificates in the file, and DPS knows CN=Contoso-Root-CA." in whole
        assert whole.count("↓ is signed by") == 2
        assert "not in the file: DPS has it" in whole
        assert "Contoso-Root-CA  ✔ verified" in said(tagged(executed, "proof"))
        group = said(tagged(executed, "group"))
        assert "'subjectName': 'CN=Contoso-Factory-CA'" in group
        assert "press" not in group.replace("factory-presses", "")
        assert said(tagged(executed, "switch-on")).count("initialAssignment") == 3
        records = said(tagged(executed, "records"))
        assert records.startswith("press-01 assigned\npress-02 assigned\npress-03 assigned\n")
        assert re.findall(r"^ +(press-\d\d) +enabled", records, re.MULTILINE) == list(PRESSES)
        _look_at_the_missing_link(executed)
        outcomes = said(tagged(executed, "disable")).splitlines()
        assert outcomes[:2] == ["press-01 assigned", "press-02 assigned"]
        assert outcomes[2].startswith("press-03 is refused: ")
        assert "status disabled" in outcomes[2]
        assert re.search(r"press-03 +enabled", said(tagged(executed, "still-there")))
        assert "assigned" in said(tagged(executed, "mend-device"))
        assert len(said(tagged(executed, "check")).splitlines()) == 4
    assert files_with("BEGIN PRIVATE KEY", tmp_path / "work" / "notebook-07") == []
    assert not [file for file in tmp_path.glob("*.ipynb") if "PRIVATE KEY-----\\n" in file.read_text()]
    for key in (tmp_path / "work" / "notebook-07").rglob("*.key.pem"):
        assert "ENCRYPTED" in key.read_text()
        assert key.stat().st_mode & 0o777 == 0o600


def _look_at_the_missing_link(executed: Any) -> None:
    card, *_ = said(tagged(executed, "leaf-only")).split("The conversation, step by step")
    assert "(mistake 8 of 23)" in card
    assert '"errorCode": 401002' in card
    assert '"message": "CA certificate not found."' in card
    assert "without its issuer CN=Contoso-Factory-CA" in card
    mended = said(tagged(executed, "mend-chain"))
    assert mended.startswith("✘ The chain of CN=press-02 has 1 fault: link missing.")
    assert "✘ missing: CN=Contoso-Factory-CA" in mended
    assert mended.rstrip().endswith("press-02 with its whole file: assigned")


def test_without_connection_strings_it_stops_on_azure(tmp_path: Path) -> None:
    assert "DPS_CONNECTION_STRING and IOTHUB_CONNECTION_STRING" in stops_without_values(7, tmp_path)


def test_on_azure_it_stops_until_the_root_is_verified_and_then_runs_to_its_end(tmp_path: Path) -> None:
    pass_phrase = "a phrase of 07"
    with azure(tmp_path) as environment, desk(tmp_path, **environment, DPSX_PASS_PHRASE=pass_phrase) as learner:
        first = learner.run(read(7))
        line = said(tagged(first, "proof"))
        root = learner.work / "notebook-07" / "Contoso-Root-CA.pem"
        assert "az iot dps certificate create" in line
        assert f'--certificate-name Contoso-Root-CA --path "{root}" --verified true' in line
        assert "verify the root in DPS" in only_sentence(first)
        _as_the_line_does(tmp_path / "stand-in", root)
        second = learner.run(solved(7))
        assert errors(second) == []
        assert said(tagged(second, "check")).startswith("✔")
        assert all("✔" in text for text in verdicts(second).values())
        assert not (learner.work / "emulator").exists()
    assert files_with(pass_phrase, tmp_path) == []


def _as_the_line_does(state_dir: Path, root: Path) -> None:
    """Add the certificate as one that is verified."""
    document = {"properties": {"certificate": root.read_text(), "isVerified": True}}
    Emulator.attach(state_dir)._dps("PUT", "certificates/Contoso-Root-CA", document)


# --- the world of the notebook, without it ----------------------------------------------------------------------------


def make(name: str, issuer: Authority | None = None, **options: Any) -> Authority:
    return authorities.create(name, PASS_PHRASE, tutorial.own_folder(7), issuer=issuer, **options)


def issue(name: str, by: Authority, **options: Any) -> Pair:
    return authorities.issue(name, by, PASS_PHRASE, tutorial.own_folder(7) / name, **options)


def verify(target: Target, root: Authority) -> None:
    assert target.emulator is not None
    target.emulator.add_ca_certificate(root.name, root.pem)
    code = target.emulator.verification_code(root.name)
    target.emulator.verify_ca_certificate(root.name, authorities.proof_of_possession(root, code, PASS_PHRASE))


def service(target: Target) -> DeviceProvisioningClient:
    return DeviceProvisioningClient.from_connection_string(target.dps_connection_string)


def open_group(target: Target, name: str, by: Authority, **terms: Any) -> None:
    enrollments.delete_group(target, name)
    slots = {"primary": {"certificate": by.pem}}
    document = {"enrollmentGroupId": name, "attestation": {"type": "x509", "x509": {"signingCertificates": slots}}}
    service(target).enrollment_group.create_or_update(name, document | terms)


def enroll(target: Target, name: str, pair: Pair, **terms: Any) -> None:
    enrollments.delete(target, name)
    slots = {"primary": {"certificate": authorities.leaf(pair.certificate_file)}}
    document = {"registrationId": name, "attestation": {"type": "x509", "x509": {"clientCertificates": slots}}}
    service(target).enrollment.create_or_update(name, document | terms)


def register(target: Target, **pairs: Pair) -> None:
    """All at once; the names have _ for -."""

    async def one(name: str, pair: Pair) -> Any:
        identity = X509(str(pair.certificate_file), str(pair.key_file), PASS_PHRASE)  # type: ignore[no-untyped-call]
        device = ProvisioningDeviceClient.create_from_x509_certificate(target.host, name, target.id_scope, identity)
        return await device.register()

    async def every() -> list[Any]:
        return await asyncio.gather(*(one(name.replace("_", "-"), pair) for name, pair in pairs.items()))

    assert all(result.status == "assigned" for result in asyncio.run(every()))


@pytest.fixture
def factory(emulated: Target) -> Authority:
    """The three devices are assigned."""
    root = make("Contoso-Root-CA")
    factory = make("Contoso-Factory-CA", root, path_length=0)
    verify(emulated, root)
    open_group(emulated, "factory-presses", factory)
    register(emulated, **{name.replace("-", "_"): issue(name, factory) for name in PRESSES})
    return factory


def stopped() -> str:
    with pytest.raises(Stop) as stop:
        checks.groups()
    return str(stop.value)


def not_yet(exercise: int) -> str:
    return open_verdict(checks.exercise(7, exercise).text)


def test_three_devices_that_are_refused_at_once_are_told_the_reason(emulated: Target) -> None:
    factory = make("Contoso-Factory-CA", make("Contoso-Root-CA"))
    open_group(emulated, "factory-presses", factory)
    pairs = {name.replace("-", "_"): issue(name, factory) for name in PRESSES}
    os.environ["X509_CERT_FILE"] = str(pairs["press_03"].certificate_file)
    os.environ["DPS_X509_REGISTRATION_ID"] = "press-03"
    with pytest.raises(Stop, match=r"no verified CA certificate .* verify the root in DPS"), diagnosis.explain():
        register(emulated, **pairs)


def test_an_answer_without_its_text_so_far_is_read_from_the_one_before() -> None:
    """Of several devices at once, the first fails while the log has yet to tell the text of the next answer."""
    talk = Conversation()

    def hear(logger: str, line: str) -> None:
        talk.hear(logging.LogRecord(f"azure.iot.device.{logger}", logging.DEBUG, "", 0, line, None, None))

    for number in (1, 2):
        topic = f"$dps/registrations/res/401/?$rid={number}"
        hear("paho", f"Received PUBLISH (d0, q0, r0, m0), '{topic}', ...  (60 bytes)")
        if number == 1:
            said = b'{"errorCode": 401002, "message": "CA certificate not found."}'
            hear(
                "provisioning.pipeline.pipeline_stages_provisioning_mqtt", f"Received payload:{said!r} on topic:{topic}"
            )
    assert talk.last_answer is not None
    assert (talk.last_answer.status, talk.last_answer.body) == (401, None)
    seen = Evidence(talk=talk)
    assert (seen.status, seen.code, seen.message) == (401, 401002, "CA certificate not found.")


# --- the check --------------------------------------------------------------------------------------------------------


def test_the_check_on_an_empty_folder_names_what_is_missing(emulated: Target) -> None:
    assert stopped().startswith("There is no certificate of Contoso-Root-CA on disk: run the cells of this notebook")
    root = make("Contoso-Root-CA")
    assert "no certificate of press-01 on disk" in stopped()
    factory = make("Contoso-Factory-CA", root)
    for name in PRESSES:
        issue(name, factory)
    assert "Contoso-Root-CA is not among the verified certificates of DPS" in stopped()
    verify(emulated, root)
    assert "DPS has no enrollment group factory-presses" in stopped()
    open_group(emulated, "factory-presses", root)
    assert "does not have the certificate of Contoso-Factory-CA that is on disk" in stopped()
    open_group(emulated, "factory-presses", factory, provisioningStatus="disabled")
    assert "The group factory-presses is disabled" in stopped()
    open_group(emulated, "factory-presses", factory)
    assert "press-01 is not among the registration records of the group factory-presses" in stopped()


def test_the_check_passes_and_sees_each_thing_go(emulated: Target, factory: Authority) -> None:
    assert checks.groups().text.count("✔") == 4
    registry.delete(emulated, "press-02")
    assert "press-02 is not in the hub: run the cell that registers" in stopped()
    again = issue("press-02", factory, existing="replace")
    register(emulated, press_02=again)
    assert checks.groups().text.count("✔") == 4
    issue("press-02", factory, existing="replace")
    assert "The hub knows press-02 by another certificate than the one on disk" in stopped()
    file = again.certificate_file
    file.write_text(authorities.leaf(file))
    assert "The chain of press-02 does not hold (link missing): run the cells" in stopped()
    file.write_text("nonsense")
    assert "The chain of press-02 cannot be read (" in stopped()
    file.unlink()
    assert "There is no certificate of press-02 on disk" in stopped()


def test_another_root_of_the_same_name_is_not_the_verified_one(emulated: Target) -> None:
    other = authorities.create("Contoso-Root-CA", PASS_PHRASE, tutorial.work_dir() / "elsewhere")
    verify(emulated, other)
    factory = make("Contoso-Factory-CA", make("Contoso-Root-CA"))
    for name in PRESSES:
        issue(name, factory)
    assert "Contoso-Root-CA is not among the verified certificates of DPS" in stopped()


# --- the exercises ----------------------------------------------------------------------------------------------------


def test_wrong_ways_to_let_the_second_factory_in(emulated: Target, factory: Authority) -> None:
    assert "There is no certificate of mixer-01 on disk" in not_yet(1)
    second = make("Contoso-Second-Factory-CA", factory.issuer, path_length=0)
    mixer = issue("mixer-01", second)
    assert "DPS has no enrollment group factory-mixers" in not_yet(1)
    enroll(emulated, "mixer-01", mixer)
    assert "has an individual enrollment of its own" in not_yet(1)
    enrollments.delete(emulated, "mixer-01")
    assert factory.issuer is not None
    open_group(emulated, "factory-mixers", factory.issuer)
    assert "does not have the certificate of Contoso-Second-Factory-CA" in not_yet(1)
    open_group(emulated, "factory-mixers", second, provisioningStatus="disabled")
    assert "The group factory-mixers is disabled" in not_yet(1)
    open_group(emulated, "factory-mixers", second)
    assert "mixer-01 is not among the registration records of the group factory-mixers" in not_yet(1)
    register(emulated, mixer_01=mixer)
    registry.delete(emulated, "mixer-01")
    assert "mixer-01 is not in the hub" in not_yet(1)
    register(emulated, mixer_01=mixer)
    enrollments.delete_group(emulated, "factory-presses")
    assert "the first factory is expected to stay as it was" in not_yet(1)
    open_group(emulated, "factory-presses", factory)
    assert "The group factory-presses was made anew, and no press has registered since" in not_yet(1)
    register(emulated, press_01=issue("press-01", factory, existing="reuse"))
    assert "let mixer-01 in, which no entry names" in checks.exercise(7, 1).text
    slots = {"primary": {"certificate": factory.pem}, "secondary": {"certificate": make("Contoso-Third-CA").pem}}
    document = service(emulated).enrollment_group.get("factory-presses")
    document["attestation"] = {"type": "x509", "x509": {"signingCertificates": slots}}
    service(emulated).enrollment_group.create_or_update("factory-presses", document, if_match="*")
    assert "The group factory-presses has a second certificate now" in not_yet(1)


def test_wrong_ways_to_take_a_device_out(emulated: Target, factory: Authority) -> None:
    pair = issue("press-03", factory)
    assert "no entry of its own for press-03" in not_yet(2)
    enroll(emulated, "press-03", pair)
    assert "The entry of press-03 is enabled" in not_yet(2)
    enroll(emulated, "press-03", pair, provisioningStatus="disabled")
    assert "still enabled in the hub and can go on sending" in not_yet(2)
    open_group(emulated, "factory-presses", factory, provisioningStatus="disabled")
    assert "the group is expected to stay open" in not_yet(2)
    open_group(emulated, "factory-presses", factory)
    registry.delete(emulated, "press-03")
    assert checks.exercise(7, 2).text == (
        "✔ press-03 is disabled in DPS and is not in the hub; press-01 and press-02 go on working"
    )
    assert "press-03 has an entry of its own, which is disabled, as exercise 2 leaves it" in stopped()
    registry.delete(emulated, "press-01")
    assert "press-01 is not in the hub; its siblings are expected to go on working" in not_yet(2)


@pytest.mark.parametrize(
    ("instead", "sentence"),
    [
        (
            'await provision("mixer-01", mixer)',
            "no group lets mixer-01 in: make a group with the certificate of CN=Cont",
        ),
        ('open_group("factory-mixers", factory)', "group factory-presses has the certificate CN=Contoso-Factory-CA"),
    ],
)
def test_a_slip_in_the_first_exercise_is_one_sentence(tmp_path: Path, instead: str, sentence: str) -> None:
    notebook = read(7)
    stub = tagged(notebook, "exercise-1")
    stub.source = stub.source.replace("    ...", f"    {instead}")
    with desk(tmp_path) as learner:
        assert sentence in only_sentence(learner.run(notebook))


def test_a_device_that_is_disabled_in_the_hub_is_out_too(emulated: Target, factory: Authority) -> None:
    enroll(emulated, "press-03", issue("press-03", factory), provisioningStatus="disabled")
    found = registry._request(emulated, "GET", "/devices/press-03")
    registry._request(
        emulated, "PUT", "/devices/press-03", {"If-Match": "*"}, {**found, "status": "disabled", "etag": None}
    )
    assert "is disabled in the hub" in checks.exercise(7, 2).text


WRONG_ANSWERS: dict[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "none": (lambda right: {}, "There is no answer for chain-a.pem yet"),
    "a list": (list, "The answers are no dictionary"),
    "one": (lambda right: {"chain-a.pem": right["chain-a.pem"]}, "There is no answer for chain-b.pem yet"),
    "turned": (
        lambda right: dict(zip(right, [*list(right.values())[1:], right["chain-a.pem"]], strict=True)),
        "chain-a.pem does not have the fault",
    ),
    "odd": (lambda right: {name: ["expired", None] for name in right}, "['expired', None] is not the name of a fault"),
    "misspelt": (lambda right: dict.fromkeys(right, "expred"), "'expred' is not the name of a fault; chains.NAMES has"),
}


def test_wrong_names_of_faults(emulated: Target) -> None:
    root = make("Contoso-Root-CA")
    factory = make("Contoso-Factory-CA", root)
    folder = tutorial.own_folder(7)
    assert "There are no chains in" in not_yet(3)
    files = authorities.broken_chains(factory, PASS_PHRASE, folder / "broken")
    right = {
        file.name: fault.name
        for file in files
        for fault in chains.faults(chains.links(file, trusted=root.certificate_file))
    }
    assert "There is no answer for chain-a.pem yet" in not_yet(3)
    (folder / "answers.json").write_text("{")
    assert "cannot be read as JSON" in not_yet(3)
    for wrong, words in WRONG_ANSWERS.values():
        (folder / "answers.json").write_text(json.dumps(wrong(right)))
        assert words in not_yet(3)
    (folder / "answers.json").write_text(json.dumps(right))
    assert checks.exercise(7, 3).text.startswith("✔ the faults are found: chain-a.pem: ")
    files[1].write_text("nonsense")
    assert not_yet(3)


def test_every_exercise_says_what_to_do_on_an_empty_folder(emulated: Target) -> None:
    for number in range(1, len(of_notebook(7)) + 1):
        assert "expected" in (text := not_yet(number)) or "run the cell" in text


def test_the_certificates_of_dps_are_shown_with_their_status(emulated: Target) -> None:
    root = make("Contoso-Root-CA")
    assert "CA certificates of DPS: nothing here yet" in views.ca_certificates(emulated, root).text
    assert emulated.emulator is not None
    emulated.emulator.add_ca_certificate(root.name, root.pem)
    assert "Contoso-Root-CA  ✘ not verified" in views.ca_certificates(emulated, root).text
    verify(emulated, root)
    assert "Contoso-Root-CA  ✔ verified" in views.ca_certificates(emulated, root).text
