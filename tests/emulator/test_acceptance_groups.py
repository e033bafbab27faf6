"""Enrollment groups: Microsoft's unmodified clients against a real emulator process, and CA certificates by REST."""

import re
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.iot.device.exceptions import ClientError
from clients import bodies, cause, connected, enroll, group_document, register, send, service
from connections import at_dps
from pki import Authority, Device, issue, make_ca, make_device
from processes import RunningEmulator
from rest import ask, done, dps_error, pages

REFUSED = "register request returned a service error status code 401"
DISABLED = "invalid registration status disabled with a status code of 200"


# --- what the operator does -------------------------------------------------------------------------------------------


def upload(emulator: RunningEmulator, name: str, authority: Authority, **properties: Any) -> dict[str, Any]:
    body = {"properties": {"certificate": b64encode(authority.der).decode(), **properties}}
    return dict(done(ask(emulator, "PUT", f"/certificates/{name}", body)))


def code_for(emulator: RunningEmulator, name: str) -> dict[str, Any]:
    """The certificate with a fresh verification code."""
    path = f"/certificates/{name}"
    etag = done(ask(emulator, "GET", path))["etag"]
    return dict(done(ask(emulator, "POST", f"{path}/generateVerificationCode", If_Match=etag)))


def prove(emulator: RunningEmulator, name: str, proof: Device, etag: str = "*") -> requests.Response:
    return ask(emulator, "POST", f"/certificates/{name}/verify", {"certificate": proof.pem}, If_Match=etag)


def verify(emulator: RunningEmulator, authority: Authority, directory: Path, name: str | None = None) -> str:
    """Upload a certificate and prove to hold its key, as the documentation tells; its name in this DPS."""
    name = name or authority.common_name
    upload(emulator, name, authority)
    made = code_for(emulator, name)
    proof = issue(directory, made["properties"]["verificationCode"], authority)
    assert done(prove(emulator, name, proof, made["etag"]))["properties"]["isVerified"] is True
    return name


def open_group(emulator: RunningEmulator, group_id: str, primary: Authority | str, **fields: Any) -> dict[str, Any]:
    return dict(service(emulator).enrollment_group.create_or_update(group_id, group_document(primary, **fields)))


def change(emulator: RunningEmulator, group_id: str, **fields: Any) -> dict[str, Any]:
    """Read, change, write."""
    groups = service(emulator).enrollment_group
    shown = dict(groups.get(group_id)) | fields
    return dict(groups.create_or_update(group_id, shown, if_match=shown["etag"]))


def members(emulator: RunningEmulator, group_id: str) -> list[str]:
    """The registration IDs of a group, page by page."""
    return [row["registrationId"] for row in service(emulator).device_registration_state.query(group_id, top=2)]


@pytest.fixture
def root(emulator: RunningEmulator, tmp_path: Path, request: pytest.FixtureRequest) -> Authority:
    """A verified root of this test's own."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    authority = make_ca(tmp_path, f"root-{name[-48:]}")
    verify(emulator, authority, tmp_path)
    return authority


def refused(emulator: RunningEmulator, device: Device) -> str:
    """What the SDK says of a registration that fails."""
    with pytest.raises(ClientError) as failure:
        register(emulator, device)
    return cause(failure)


def talk(emulator: RunningEmulator, device: Device) -> tuple[int, dict[str, Any]]:
    """Register with a plain client, which leaves at the end; status and document of the last answer.

    The client of Microsoft stays connected after a refusal, and comes back when the next one takes its place.
    """
    with at_dps(emulator, device) as wire:
        return wire.outcome()


def assigned(emulator: RunningEmulator, device: Device) -> dict[str, Any]:
    """`registrationState` of a registration that works."""
    status, answer = talk(emulator, device)
    assert (status, answer["status"]) == (200, "assigned"), answer
    return dict(answer["registrationState"])


def reasons(emulator: RunningEmulator, device: Device) -> list[str]:
    """The warnings of the log that speak of a device."""
    return [line for line in emulator.log().splitlines() if "WARNING" in line and f"'{device.common_name}'" in line]


# --- devices of a group -----------------------------------------------------------------------------------------------


def test_three_devices_of_a_group_provision_and_send_at_the_same_time(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    factory = make_ca(tmp_path, "Factory of three", root)
    twin = {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}
    open_group(emulator, "three", factory, initialTwin=twin)
    devices = [issue(tmp_path, f"three-{number}", factory) for number in range(3)]

    def live(device: Device) -> list[str]:
        result = register(emulator, device)
        state = result.registration_state
        assert (result.status, state.device_id, state.assigned_hub, state.sub_status) == (
            "assigned",
            device.common_name,
            emulator.host,
            "initialAssignment",
        )
        with connected(emulator, device) as client:
            send(client, *(f"{device.common_name}/{count}" for count in range(10)))
        return bodies(emulator, device.common_name)

    with ThreadPoolExecutor(3) as pool:
        heard = list(pool.map(live, devices))
    assert heard == [[f"{device.common_name}/{count}" for count in range(10)] for device in devices]
    assert members(emulator, "three") == [device.common_name for device in devices]
    for device in devices:
        shown = done(ask(emulator, "GET", f"/devices/{device.common_name}"))
        assert shown["authentication"]["type"] == "selfSigned"
        assert set(shown["authentication"]["x509Thumbprint"].values()) == {device.thumbprint}
        twin_shown = done(ask(emulator, "GET", f"/twins/{device.common_name}"))
        assert (twin_shown["tags"], twin_shown["properties"]["desired"]["interval"]) == ({"room": "lab"}, 5)


@pytest.mark.parametrize("kind", ["certificate of its own", "reference"])
def test_the_topmost_certificate_need_not_be_sent(
    emulator: RunningEmulator, tmp_path: Path, root: Authority, kind: str
) -> None:
    """DPS has the verified one itself."""
    factory = make_ca(tmp_path, f"Factory at the {kind}", root)
    open_group(emulator, f"top-{len(kind)}", root if kind != "reference" else root.common_name)
    device = issue(tmp_path, f"top-{len(kind)}-1", factory, chain=[factory])
    assert assigned(emulator, device)["status"] == "assigned"
    assert members(emulator, f"top-{len(kind)}") == [device.common_name]


def test_the_device_is_told_its_group(emulator: RunningEmulator, tmp_path: Path, root: Authority) -> None:
    open_group(emulator, "Told", root)
    state = assigned(emulator, issue(tmp_path, "told-1", root))
    assert state["x509"] == {"enrollmentGroupId": "Told"}
    assert (state["status"], state["substatus"], state["deviceId"]) == ("assigned", "initialAssignment", "told-1")


def test_the_secondary_certificate_of_a_group_provisions_too(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    old, new = make_ca(tmp_path, "Old of two", root), make_ca(tmp_path, "New of two", root)
    service(emulator).enrollment_group.create_or_update("two", group_document(old, new))
    devices = [issue(tmp_path, "two-old", old), issue(tmp_path, "two-new", new)]
    assert [assigned(emulator, device)["status"] for device in devices] == ["assigned"] * 2
    assert members(emulator, "two") == ["two-new", "two-old"]


def test_a_device_that_sends_what_is_no_certificate_beside_its_chain_provisions(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    """Its TLS library takes X.509 of a version that does not exist; the emulator has to get over it."""
    version_3, version_4 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03"
    odd = root.der.replace(version_3, version_4, 1)
    pem = f"-----BEGIN CERTIFICATE-----\n{b64encode(odd).decode()}\n-----END CERTIFICATE-----\n"
    open_group(emulator, "odd", root)
    device = issue(tmp_path, "odd-1", root, chain=[replace(root, pem=pem), root])
    assert assigned(emulator, device)["x509"] == {"enrollmentGroupId": "odd"}


def test_a_group_outlives_the_emulator(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    first = start()
    root = make_ca(tmp_path, "Root")
    verify(first, root, tmp_path)
    open_group(first, "fleet", "Root")
    first.kill()
    second = start(host=first.host)
    assert assigned(second, issue(tmp_path, "after", root))["status"] == "assigned"
    assert members(second, "fleet") == ["after"]


# --- devices that are refused -----------------------------------------------------------------------------------------


def strangers(directory: Path, root: Authority) -> dict[str, tuple[Callable[[str], Device], str]]:
    """Devices that the group of the root does not let in, and what the log says of each."""
    factory = make_ca(directory, "Refused factory", root)
    day = timedelta(days=1)

    def by(issuer: Authority, **options: Any) -> Callable[[str], Device]:
        return lambda name: issue(directory, name, issuer, **options)

    return {
        "leaf-alone": (by(factory, chain=()), "issued by 'CN=Refused factory', does not lead to a verified"),
        "middle-missing": (by(make_ca(directory, "Line", factory), chain=[root]), "with the 1 issuer certificates"),
        "unproved": (by(make_ca(directory, "Unproved")), "does not lead to a verified CA certificate"),
        "forged": (by(make_ca(directory, root.common_name), chain=[root]), "does not lead to a verified"),
        "powerless": (by(make_ca(directory, "Powerless", root, key_cert_sign=False)), "does not lead to a verified"),
        "no-ca": (by(make_ca(directory, "No CA", root, ca=False)), "does not lead to a verified"),
        "too-deep": (
            by(make_ca(directory, "Deep", make_ca(directory, "Narrow", root, path_length=0))),
            "does not lead to a verified",
        ),
        "self-signed": (lambda name: make_device(directory, name), "there is no enrollment"),
        "ca": (by(factory, ca=True), "is a CA certificate (basic constraints CA:TRUE)"),
        "expired": (by(factory, valid_from=-60 * day), "expired at"),
        "future": (by(factory, valid_from=day), "is not valid before"),
        "expired-issuer": (
            by(make_ca(directory, "Old factory", root, valid_from=-60 * day)),
            "the issuer 'CN=Old factory' in the chain",
        ),
        "future-issuer": (
            by(make_ca(directory, "New factory", root, valid_from=day)),
            "the issuer 'CN=New factory' in the chain",
        ),
    }


def test_every_refusal_is_a_401_and_its_reason_is_in_the_log(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    open_group(emulator, "refusing", root)
    for case, (make, words) in strangers(tmp_path, root).items():
        device = make(f"refused-{case}")
        status, answer = talk(emulator, device)
        assert (status, answer["errorCode"]) == (401, 401002), case
        (warning,) = reasons(emulator, device)
        assert words in warning, case
        assert "Remedy: " in warning, case
        assert ask(emulator, "GET", f"/registrations/{device.common_name}").status_code == 404, case
    assert members(emulator, "refusing") == []


def test_a_verified_issuer_without_a_group_lets_nobody_in(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    device = issue(tmp_path, "groupless-1", root)
    assert refused(emulator, device) == REFUSED
    assert "there is no enrollment" in reasons(emulator, device)[0]
    assert "401 401002 Unauthorized:" in reasons(emulator, device)[0]


def test_the_certificate_in_a_group_is_not_verified_by_being_there(emulator: RunningEmulator, tmp_path: Path) -> None:
    authority = make_ca(tmp_path, "Nobody's root")
    open_group(emulator, "unproved", authority)
    device = issue(tmp_path, "unproved-1", authority)
    status, answer = talk(emulator, device)
    assert (status, answer["errorCode"], answer["message"]) == (401, 401002, "CA certificate not found.")
    verify(emulator, authority, tmp_path, "nobodys-root")
    assert assigned(emulator, device)["x509"] == {"enrollmentGroupId": "unproved"}


# --- which group ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intermediate_verified", [False, True])
def test_the_closest_group_decides_and_when_it_is_gone_the_next(
    emulator: RunningEmulator, tmp_path: Path, root: Authority, intermediate_verified: bool
) -> None:
    prefix = f"near-{intermediate_verified}".lower()
    factory = make_ca(tmp_path, f"{prefix}-factory", root)
    if intermediate_verified:
        verify(emulator, factory, tmp_path)
    open_group(emulator, f"{prefix}-all", root)
    open_group(emulator, f"{prefix}-some", factory)
    device = issue(tmp_path, f"{prefix}-1", factory)
    assert assigned(emulator, device)["x509"] == {"enrollmentGroupId": f"{prefix}-some"}
    assert (members(emulator, f"{prefix}-all"), members(emulator, f"{prefix}-some")) == ([], [device.common_name])
    change(emulator, f"{prefix}-some", provisioningStatus="disabled")
    status, answer = talk(emulator, device)
    assert (status, answer["status"]) == (200, "disabled")
    assert f"the enrollment '{prefix}-some' of '{device.common_name}' is disabled" in reasons(emulator, device)[-1]
    service(emulator).enrollment_group.delete(f"{prefix}-some")
    assert assigned(emulator, device)["x509"] == {"enrollmentGroupId": f"{prefix}-all"}
    assert members(emulator, f"{prefix}-all") == [device.common_name]


AGAIN = """
import sys
from azure.iot.device import X509, ProvisioningDeviceClient

host, id_scope, name, certificate_file, key_file = sys.argv[1:]
for attempt in ("first", "second"):
    client = ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=host, registration_id=name, id_scope=id_scope, x509=X509(certificate_file, key_file)
    )
    try:
        print(attempt, client.register().status, flush=True)
    except Exception as error:
        print(attempt, type(error).__name__, flush=True)
    sys.stdin.readline()
"""


def test_a_device_that_was_refused_may_try_again_from_the_same_program(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    """As in a notebook, where the client of the first attempt is still there, and still connected."""
    device, overview = issue(tmp_path, "again-1", root), emulator.emulator.overview
    arguments = [overview.host, overview.id_scope, "again-1", str(device.certificate_file), str(device.key_file)]
    command = [sys.executable, "-c", AGAIN, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=emulator.environment, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "first ClientError\n"
            open_group(emulator, "again", root)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "second assigned\n"
        finally:
            process.kill()


def test_a_compromised_issuer_is_shut_out_by_a_disabled_group_of_its_own(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    """https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation#dps-order-of-operations-with-certificates"""
    good, lost = make_ca(tmp_path, "Good factory", root), make_ca(tmp_path, "Lost factory", root)
    open_group(emulator, "good-and-lost", root)
    open_group(emulator, "lost", lost, provisioningStatus="disabled")
    assert DISABLED in refused(emulator, issue(tmp_path, "lost-1", lost))
    assert assigned(emulator, issue(tmp_path, "good-1", good))["status"] == "assigned"


def test_one_device_of_a_group_is_blocked_by_a_disabled_enrollment_of_its_own(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    open_group(emulator, "blocking", root)
    blocked, other = issue(tmp_path, "blocked-1", root), issue(tmp_path, "blocked-2", root)
    enroll(emulator, blocked, provisioningStatus="disabled")
    status, answer = talk(emulator, blocked)
    assert (status, answer["status"]) == (200, "disabled")
    assert assigned(emulator, other)["status"] == "assigned"
    assert members(emulator, "blocking") == ["blocked-2"]
    service(emulator).enrollment.delete("blocked-1")
    assert assigned(emulator, blocked)["x509"] == {"enrollmentGroupId": "blocking"}
    assert members(emulator, "blocking") == ["blocked-1", "blocked-2"]


def test_an_enrollment_of_its_own_gives_a_device_of_a_group_other_terms(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    open_group(emulator, "usual", root, initialTwin={"tags": {"of": "group"}})
    device = issue(tmp_path, "unusual-1", root)
    enroll(emulator, device, deviceId="unusual:1", initialTwin={"tags": {"of": "device"}})
    assert assigned(emulator, device)["deviceId"] == "unusual:1"
    assert done(ask(emulator, "GET", "/twins/unusual:1"))["tags"] == {"of": "device"}
    assert members(emulator, "usual") == []


def test_deleting_a_group_lets_nobody_in_and_leaves_the_devices_their_hub(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    open_group(emulator, "leaving", root)
    device = issue(tmp_path, "leaving-1", root)
    assigned(emulator, device)
    with connected(emulator, device) as client:
        send(client, "before")
        service(emulator).enrollment_group.delete("leaving")
        send(client, "after")
        assert done(ask(emulator, "GET", "/devices/leaving-1"))["connectionState"] == "Connected"
    assert refused(emulator, device) == REFUSED
    assert refused(emulator, issue(tmp_path, "leaving-2", root)) == REFUSED
    with connected(emulator, device) as client:
        send(client, "again")
    assert bodies(emulator, "leaving-1") == ["before", "after", "again"]
    with pytest.raises(ResourceNotFoundError):
        members(emulator, "leaving")
    assert done(ask(emulator, "GET", "/registrations/leaving-1"))["status"] == "assigned", "the record stays"


# --- the terms of a group ---------------------------------------------------------------------------------------------


def test_hubs_and_reprovision_policy_of_a_group_move_its_devices(
    start: Callable[..., RunningEmulator], tmp_path: Path
) -> None:
    emulator = start("--hubs", "2")
    root = make_ca(tmp_path, "Root")
    verify(emulator, root, tmp_path)
    open_group(emulator, "fleet", "Root", iotHubs=[emulator.host], initialTwin={"tags": {"room": "lab"}})
    device = issue(tmp_path, "mover", root)

    def registered() -> tuple[str, str]:
        state = assigned(emulator, device)
        return state["assignedHub"], state["substatus"]

    stay = {"updateHubAssignment": False, "migrateDeviceData": False}
    migrate = {"updateHubAssignment": True, "migrateDeviceData": True}
    reset = {"updateHubAssignment": True, "migrateDeviceData": False}
    assert registered() == (emulator.host, "initialAssignment")
    change(emulator, "fleet", iotHubs=["localhost"], reprovisionPolicy=stay)
    assert registered()[0] == emulator.host
    change(emulator, "fleet", reprovisionPolicy=migrate)
    assert registered() == ("localhost", "deviceDataMigrated")
    change(emulator, "fleet", iotHubs=[emulator.host], reprovisionPolicy=reset)
    assert registered() == (emulator.host, "deviceDataReset")


def test_the_devices_of_a_group_are_listed_page_by_page(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    open_group(emulator, "Paged", root)
    for number in range(5):
        assigned(emulator, issue(tmp_path, f"paged-{number}", root))
    found = list(pages(emulator, "/registrations/paged/query", None, 2, "deviceRegistration"))
    assert [[row["registrationId"] for row in page] for page in found] == [
        ["paged-0", "paged-1"],
        ["paged-2", "paged-3"],
        ["paged-4"],
    ]
    assert {(row["status"], row["assignedHub"]) for page in found for row in page} == {("assigned", emulator.host)}
    states = service(emulator).device_registration_state
    shown = states.get("paged-1")
    assert (shown["deviceId"], shown["substatus"]) == ("paged-1", "initialAssignment")
    states.delete("paged-1", if_match=shown["etag"])
    assert members(emulator, "PAGED") == ["paged-0", "paged-2", "paged-3", "paged-4"]
    assert done(ask(emulator, "GET", "/devices/paged-1"))["status"] == "enabled"


# --- the document of a group, over HTTPS ------------------------------------------------------------------------------


def test_the_service_client_sees_conflict_change_and_absence(emulator: RunningEmulator, tmp_path: Path) -> None:
    groups, authority = service(emulator).enrollment_group, make_ca(tmp_path, "Any")
    etag = open_group(emulator, "Service", authority)["etag"]
    with pytest.raises(ResourceExistsError):
        groups.create_or_update("service", group_document(authority))
    changed = groups.create_or_update(
        "SERVICE", group_document(authority, provisioningStatus="disabled"), if_match=etag
    )
    with pytest.raises(HttpResponseError, match="Precondition failed"):
        groups.create_or_update("service", group_document(authority), if_match=etag)
    with pytest.raises(HttpResponseError, match="Precondition failed"):
        groups.delete("service", if_match=etag)
    shown = groups.get("service")
    assert (shown["enrollmentGroupId"], shown["provisioningStatus"]) == ("Service", "disabled")
    assert shown["etag"] == changed["etag"] != etag
    groups.delete("service", if_match=changed["etag"])
    for call in (groups.get, groups.delete, groups.get_attestation_mechanism):
        with pytest.raises(ResourceNotFoundError):
            call("service")
    assert dps_error(ask(emulator, "GET", "/enrollmentGroups/service")) == (404, 404202, "Enrollment group not found.")


def test_a_group_is_read_changed_and_written_with_the_facts_of_its_certificates_alone(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    one, two = make_ca(tmp_path, "One"), make_ca(tmp_path, "Two")
    service(emulator).enrollment_group.create_or_update("facts", group_document(one, two))
    shown = change(emulator, "facts", provisioningStatus="disabled")
    slots = shown["attestation"]["x509"]["signingCertificates"]
    assert shown["provisioningStatus"] == "disabled"
    assert [list(slots[slot]) for slot in ("primary", "secondary")] == [["info"], ["info"]]
    thumbprints = [slots[slot]["info"]["sha256Thumbprint"] for slot in ("primary", "secondary")]
    assert thumbprints == [one.thumbprint, two.thumbprint]
    slots["secondary"] = None
    again = change(emulator, "facts", attestation=shown["attestation"])
    assert again["attestation"]["x509"]["signingCertificates"]["secondary"] is None
    mechanism = service(emulator).enrollment_group.get_attestation_mechanism("facts")
    assert mechanism == again["attestation"]


@pytest.mark.parametrize("in_bulk", [False, True], ids=["alone", "in bulk"])
@pytest.mark.parametrize("case", ["not verified", "no CA"])
def test_a_group_that_lets_nobody_in_is_taken_and_the_log_says_so(
    emulator: RunningEmulator, tmp_path: Path, case: str, in_bulk: bool
) -> None:
    """Microsoft's own tests of the Azure CLI make such groups."""
    authority = make_ca(tmp_path, "Useless", ca=case != "no CA")
    upload(emulator, "not-verified", make_ca(tmp_path, "Unproved"))
    part = group_document(authority if case == "no CA" else "not-verified")["attestation"]["x509"]
    name = f"useless-{case.replace(' ', '-')}{'-in-bulk' if in_bulk else ''}"
    document = {"enrollmentGroupId": name, "attestation": {"type": "x509", "x509": part}}
    if in_bulk:
        answer = ask(emulator, "POST", "/enrollmentGroups", {"mode": "create", "enrollmentGroups": [document]})
    else:
        answer = ask(emulator, "PUT", f"/enrollmentGroups/{name}", document)
    assert answer.status_code == 200
    assert f"= enrollmentGroup {name}: " in emulator.log()
    assert ask(emulator, "DELETE", f"/enrollmentGroups/{name}").status_code == 204
    assert ask(emulator, "DELETE", "/certificates/not-verified", If_Match="*").status_code == 204


@pytest.mark.parametrize("case", ["both", "neither", "a device's", "unknown"])
def test_what_is_no_group_is_a_400(emulator: RunningEmulator, tmp_path: Path, case: str) -> None:
    authority = make_ca(tmp_path, "Any")
    own, named = group_document(authority)["attestation"]["x509"], group_document("not-verified")["attestation"]["x509"]
    x509_part = {
        "both": own | named,
        "neither": {},
        "a device's": {"clientCertificates": own["signingCertificates"]},
        "unknown": {"caReferences": {"primary": "nobody"}},
    }[case]
    document = {"attestation": {"type": "x509", "x509": x509_part}}
    assert dps_error(ask(emulator, "PUT", "/enrollmentGroups/none", document)) == (400, 400004, "Bad Request.")
    assert ask(emulator, "GET", "/enrollmentGroups/none").status_code == 404


def test_groups_are_made_queried_and_deleted_in_bulk(emulator: RunningEmulator, tmp_path: Path) -> None:
    groups = service(emulator).enrollment_group
    items = [
        {"enrollmentGroupId": f"bulk-{number}", **group_document(make_ca(tmp_path, f"Bulk {number}"))}
        for number in range(3)
    ]
    assert groups.run_bulk_operation({"mode": "create", "enrollmentGroups": items})["isSuccessful"] is True
    again = groups.run_bulk_operation({"mode": "create", "enrollmentGroups": items[:1]})
    assert (again["isSuccessful"], [row["enrollmentGroupId"] for row in again["errors"]]) == (False, ["bulk-0"])
    found = [row["enrollmentGroupId"] for row in groups.query({"query": "SELECT * FROM enrollmentGroups"}, top=2)]
    assert [name for name in found if name.startswith("bulk-")] == ["bulk-0", "bulk-1", "bulk-2"]
    assert groups.run_bulk_operation({"mode": "delete", "enrollmentGroups": items})["isSuccessful"] is True
    left = [row["enrollmentGroupId"] for row in groups.query({"query": "SELECT *"})]
    assert not [name for name in left if name.startswith("bulk-")]


@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_a_certificate_is_in_one_group_only(emulator: RunningEmulator, tmp_path: Path, slot: str) -> None:
    """https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation says so, but not how it fails."""
    shared, other = make_ca(tmp_path, "Shared"), make_ca(tmp_path, "Other")
    open_group(emulator, f"only-{slot}", shared)
    document = group_document(shared) if slot == "primary" else group_document(other, shared)
    answer = ask(emulator, "PUT", f"/enrollmentGroups/again-{slot}", document)
    assert 400 <= answer.status_code < 500
    change(emulator, f"only-{slot}", provisioningStatus="disabled")


# --- CA certificates --------------------------------------------------------------------------------------------------


def names(emulator: RunningEmulator) -> list[str]:
    return [row["name"] for row in done(ask(emulator, "GET", "/certificates"))["value"]]


def test_a_certificate_is_uploaded_shown_listed_replaced_and_deleted(emulator: RunningEmulator, tmp_path: Path) -> None:
    authority, path = make_ca(tmp_path, "Kept"), "/certificates/kept"
    made = upload(emulator, "Kept", authority)
    shown = done(ask(emulator, "GET", path))
    assert shown == made
    assert (shown["name"], shown["properties"]["isVerified"]) == ("Kept", False)
    assert b64decode(shown["properties"]["certificate"]) == authority.der
    assert "Kept" in names(emulator)
    renewed = {"properties": {"certificate": make_ca(tmp_path, "Kept", key=authority.key).pem}}
    assert dps_error(ask(emulator, "PUT", path, renewed))[0] == 412
    assert dps_error(ask(emulator, "PUT", path, renewed, If_Match="stale"))[0] == 412
    again = done(ask(emulator, "PUT", path, renewed, If_Match=made["etag"]))
    assert again["etag"] != made["etag"]
    assert again["properties"]["thumbprint"] != made["properties"]["thumbprint"]
    assert dps_error(ask(emulator, "DELETE", path))[0] == 412
    assert dps_error(ask(emulator, "DELETE", path, If_Match=made["etag"]))[0] == 412
    done(ask(emulator, "DELETE", path, If_Match=again["etag"]))
    assert "Kept" not in names(emulator)
    for method, of in (("GET", ""), ("DELETE", ""), ("POST", "/generateVerificationCode"), ("POST", "/verify")):
        assert dps_error(ask(emulator, method, path + of, If_Match="*"))[0] == 404


def test_a_certificate_can_be_verified_at_its_upload(emulator: RunningEmulator, tmp_path: Path) -> None:
    authority = make_ca(tmp_path, "By word")
    assert upload(emulator, "by-word", authority, isVerified=True)["properties"]["isVerified"] is True
    open_group(emulator, "by-word", "by-word")
    assert assigned(emulator, issue(tmp_path, "by-word-1", authority))["status"] == "assigned"


def test_possession_is_proved_with_the_code_of_today_and_the_right_key(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    authority, other, path = make_ca(tmp_path, "Proved"), make_ca(tmp_path, "Proved"), "/certificates/proved"

    def shown() -> dict[str, Any]:
        return dict(done(ask(emulator, "GET", path))["properties"])

    upload(emulator, "proved", authority)
    assert dps_error(prove(emulator, "proved", issue(tmp_path, "A" * 48, authority))) == (400, 400004, "Bad Request.")
    assert dps_error(ask(emulator, "POST", f"{path}/generateVerificationCode"))[0] == 412
    code = code_for(emulator, "proved")["properties"]["verificationCode"]
    assert shown()["verificationCode"] == code
    for wrong in (
        issue(tmp_path, code[::-1], authority),
        issue(tmp_path, code, other),
        make_device(tmp_path, code),
        authority,
    ):
        assert dps_error(prove(emulator, "proved", wrong)) == (400, 400004, "Bad Request.")
    proof = issue(tmp_path, code, authority)
    assert dps_error(prove(emulator, "proved", proof, "stale"))[0] == 412
    assert (shown()["isVerified"], shown()["verificationCode"]) == (False, code)
    done(prove(emulator, "proved", proof))
    assert (shown()["isVerified"], "verificationCode" in shown()) == (True, False)
    assert dps_error(prove(emulator, "proved", proof))[0] == 400
    assert "has no verification code now" in emulator.log()


def test_a_new_code_makes_the_certificate_unverified_for_devices_too(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    open_group(emulator, "coded", root.common_name)
    made = code_for(emulator, root.common_name)["properties"]
    assert (made["isVerified"], len(made["verificationCode"])) == (False, 48)
    device = issue(tmp_path, "coded-1", root)
    status, answer = talk(emulator, device)
    assert (status, answer["message"]) == (401, "CA certificate not found.")
    done(prove(emulator, root.common_name, issue(tmp_path, made["verificationCode"], root)))
    assert assigned(emulator, device)["status"] == "assigned"


def test_a_certificate_that_a_group_names_cannot_be_deleted(
    emulator: RunningEmulator, tmp_path: Path, root: Authority
) -> None:
    path = f"/certificates/{root.common_name}"
    open_group(emulator, "naming", root.common_name.upper())
    answer = ask(emulator, "DELETE", path, If_Match="*")
    assert dps_error(answer) == (409, 409000, "Certificate is in use.")
    assert "the enrollment group 'naming' names the CA certificate" in emulator.log()
    assert done(ask(emulator, "GET", path))["properties"]["isVerified"] is True
    change(emulator, "naming", attestation=group_document(root)["attestation"])
    done(ask(emulator, "DELETE", path, If_Match="*"))
    assert refused(emulator, issue(tmp_path, "naming-1", root)) == REFUSED
