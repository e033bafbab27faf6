"""Which enrollment decides about a device, and which issuers lead to a verified certificate.

https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations, permutations
from typing import Any

import in_memory
import pytest
import refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import ca
from pki import Authority, Device

from dpsx_helpers.certificates import describe
from dpsx_helpers.emulator import attestation, dps, refusals
from dpsx_helpers.emulator.attestation import Known, Session
from dpsx_helpers.emulator.records import CaCertificate, Enrollment, Group
from dpsx_helpers.emulator.refusals import Refusal, Refused
from dpsx_helpers.emulator.stamps import Stamp

RID = "thermo-01"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
SERVICE = dps.Service("0ne00111111", {"hub-1": "hub.example"})


def leaf(issuer: Authority, **options: Any) -> Device:
    return in_memory.leaf(RID, issuer, **options)


def self_signed(**options: Any) -> Device:
    return in_memory.leaf(RID, **options)


@cache
def root() -> Authority:
    return ca("Root")


@cache
def factory() -> Authority:
    return ca("Factory", root())


@cache
def line() -> Authority:
    return ca("Line", factory())


@cache
def device() -> Device:
    """Issued by the line, which the factory has issued, which the root has issued."""
    return leaf(line())


# --- a DPS, and what it decides ---------------------------------------------------------------------------------------


def verified(authority: Authority, **changes: Any) -> CaCertificate:
    """A CA certificate of this DPS whose owner has proved to hold its key."""
    plain = CaCertificate(authority.common_name, authority.der, verified=True, code="", etag="", created="", updated="")
    return replace(plain, **changes)


def group(authority: Authority, group_id: str | None = None, **changes: Any) -> Group:
    """A group with a certificate of its own, by default named after it."""
    plain = Group(
        group_id=group_id or f"of-{authority.common_name.lower()}",
        primary=authority.der,
        secondary=None,
        primary_ca=None,
        secondary_ca=None,
        enabled=True,
        hubs=(),
        initial_twin={},
        settings={},
        etag='"e"',
        created="",
        updated="",
    )
    return replace(plain, **changes)


def enrollment(primary: Device, **changes: Any) -> Enrollment:
    plain = Enrollment(
        registration_id=RID,
        primary=primary.der,
        secondary=None,
        device_id=None,
        enabled=True,
        hubs=(),
        initial_twin={},
        settings={},
        etag='"e"',
        created="",
        updated="",
    )
    return replace(plain, **changes)


def known(
    *,
    own: Enrollment | None = None,
    verified_by: Iterable[Authority | CaCertificate] = (),
    groups: Iterable[Authority | Group] = (),
) -> Known:
    """What this DPS knows. An authority stands for its verified certificate, or for a group with its certificate."""
    certificates = [one if isinstance(one, CaCertificate) else verified(one) for one in verified_by]
    there = [one if isinstance(one, Group) else group(one) for one in groups]
    return Known(own, lambda: certificates, lambda der: [one for one in there if der in (one.primary, one.secondary)])


def session(shown: Device, sent: Iterable[Device | bytes] = ()) -> Session:
    ders = tuple(one if isinstance(one, bytes) else one.der for one in sent)
    return Session(RID, describe(shown.der), ders)


def decide(shown: Device, sent: Iterable[Device | bytes], by: Known, now: datetime = NOW) -> str:
    """The name of the enrollment that decides, or of the row that refuses."""
    try:
        decider, certificate = attestation.prove(session(shown, sent), by, refusals.NOT_ENROLLED, now)
    except Refused as found:
        return found.refusal.name
    assert certificate.der == shown.der
    return decider.name


def refusal(shown: Device, sent: Iterable[Device | bytes], by: Known, now: datetime = NOW) -> tuple[Refusal, str]:
    return refused.refusal(lambda: attestation.prove(session(shown, sent), by, refusals.NOT_ENROLLED, now))


# --- which enrollment decides -----------------------------------------------------------------------------------------


def test_the_enrollment_of_the_registration_id_decides_before_any_group() -> None:
    everything = known(own=enrollment(device()), verified_by=line().chain, groups=line().chain)
    assert decide(device(), line().chain, everything) == RID


def test_for_an_enrolled_device_no_group_and_no_ca_certificate_is_looked_at() -> None:
    def never(*_: object) -> Any:
        raise AssertionError("this is not to be asked for")

    assert decide(device(), line().chain, Known(enrollment(device()), never, never)) == RID


@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_an_enrolled_certificate_needs_no_issuer_to_be_known(slot: str) -> None:
    other = self_signed()
    slots: dict[str, Any] = {"primary": other.der, "secondary": other.der, slot: device().der}
    assert decide(device(), (), known(own=replace(enrollment(other), **slots))) == RID


def test_with_another_certificate_than_the_enrolled_one_no_group_lets_the_device_in() -> None:
    everything = known(own=enrollment(self_signed()), verified_by=line().chain, groups=line().chain)
    row, reason = refusal(device(), line().chain, everything)
    assert row is refusals.OTHER_CERTIFICATE
    assert device().thumbprint in reason


def test_the_issuers_of_an_enrolled_certificate_may_have_expired() -> None:
    old = ca("Old", valid_from=-90 * DAY)
    enrolled = leaf(old)
    assert decide(enrolled, [old], known(own=enrollment(enrolled), verified_by=[old], groups=[old])) == RID


LEVELS: list[Callable[[], Authority]] = [line, factory, root]  # closest first


def subsets(smallest: int) -> list[tuple[int, ...]]:
    return [some for size in range(smallest, 4) for some in combinations(range(3), size)]


@pytest.mark.parametrize("sent", ["all", "all but those that DPS has"])
@pytest.mark.parametrize("of_groups", subsets(0), ids=str)
@pytest.mark.parametrize("proved", subsets(1), ids=str)
def test_the_group_of_the_closest_issuer_decides(
    proved: tuple[int, ...], of_groups: tuple[int, ...], sent: str
) -> None:
    """The certificate of a group is verified, or leads to one that is. What is above all of these counts nothing."""
    authorities = [level() for level in LEVELS]
    by = known(verified_by=[authorities[at] for at in proved], groups=[authorities[at] for at in of_groups])
    chosen = [at for at in of_groups if at <= max(proved)]
    expected = f"of-{authorities[min(chosen)].common_name.lower()}" if chosen else "not-enrolled"
    shown = authorities if sent == "all" else [authorities[at] for at in range(3) if at not in proved]
    assert decide(device(), shown, by) == expected


def test_the_secondary_certificate_of_a_group_lets_devices_in_like_the_primary_one() -> None:
    rolled = group(root(), "rolled", primary=ca("Before").der, secondary=factory().der)
    assert decide(device(), line().chain, known(verified_by=[root()], groups=[rolled])) == "rolled"


def test_a_group_of_another_issuer_lets_nobody_in() -> None:
    sibling = ca("Sibling", root())
    by = known(verified_by=[root()], groups=[sibling])
    assert decide(device(), [*line().chain, sibling], by) == "not-enrolled"


def disabled(*authorities: Authority) -> list[Group]:
    return [group(one, enabled=False) for one in authorities]


@pytest.mark.parametrize(
    ("own", "groups", "status"),
    [
        (None, lambda: [group(factory())], 202),
        (None, lambda: disabled(factory()), 200),
        (None, lambda: [*disabled(factory()), group(root())], 200),
        (None, lambda: [group(factory()), *disabled(root())], 202),
        (False, lambda: [group(factory()), group(root())], 200),
        (True, lambda: disabled(factory(), root()), 202),
    ],
)
def test_the_enrollment_that_decides_may_be_disabled(
    own: bool | None, groups: Callable[[], list[Group]], status: int
) -> None:
    """The next one is not asked, whatever it would say."""
    enrolled = None if own is None else enrollment(device(), enabled=own)
    by = known(own=enrolled, verified_by=[root()], groups=groups())
    stamp = Stamp(NOW, "120086f2-76fe-4341-9214-bb6cfb891b8a")
    outcome = dps.register(session(device(), line().chain), b"", by, None, SERVICE, stamp)
    assert outcome.answer.status == status
    assert outcome.answer.body["status"] == ("disabled" if status == 200 else "assigning")
    assert outcome.registration.group_id == (None if enrolled else "of-factory")
    assert (outcome.refused is not None) == (status == 200)
    assert (outcome.assignment is None) == (status == 200)


def test_five_devices_as_in_the_documentation() -> None:
    """https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation#dps-order-of-operations-with-certificates"""
    a, b = ca("A", root()), ca("B", root())
    devices = {number: (leaf(a if number <= 3 else b), a if number <= 3 else b) for number in range(1, 6)}

    def admitted(groups: list[Group], blocked: int = 0) -> list[int]:
        return [
            number
            for number, (shown, issuer) in devices.items()
            if dps.register(
                session(shown, issuer.chain),
                b"",
                known(
                    own=enrollment(shown, enabled=False) if number == blocked else None,
                    verified_by=[root()],
                    groups=groups,
                ),
                None,
                SERVICE,
                Stamp(NOW, "120086f2-76fe-4341-9214-bb6cfb891b8a"),
            ).assignment
        ]

    assert admitted([group(root())]) == [1, 2, 3, 4, 5]
    assert admitted([group(root()), *disabled(b)]) == [1, 2, 3]
    assert admitted([group(root()), *disabled(b)], blocked=3) == [1, 2]


# --- the registration of a group's device -----------------------------------------------------------------------------


def registered(shown: Device, asked: str, **changes: Any) -> dps.Outcome:
    """Registered by the group of the root, and polled once."""
    by = known(verified_by=[root()], groups=[group(root(), "Fleet", **changes)])
    stamp = Stamp(NOW, "120086f2-76fe-4341-9214-bb6cfb891b8a")
    talk = replace(session(shown, line().chain), registration_id=asked)
    first = dps.register(talk, b"", by, None, SERVICE, stamp)
    polled = dps.poll(talk, first.registration.operation_id, by, first.registration, SERVICE, stamp)
    return replace(polled, assignment=first.assignment)


def test_the_common_name_names_the_device_and_its_own_certificate_proves_it_to_the_hub() -> None:
    assignment = registered(device(), RID.upper()).assignment
    assert assignment is not None
    assert (assignment.hub, assignment.device_id) == ("hub-1", RID)
    assert assignment.primary_thumbprint == assignment.secondary_thumbprint == device().thumbprint


def test_the_state_of_the_registration_names_the_group() -> None:
    outcome = registered(device(), RID)
    state = outcome.answer.body["registrationState"]
    assert outcome.answer.status == 200
    assert state["x509"] == {"enrollmentGroupId": "Fleet"}
    assert (state["registrationId"], state["deviceId"], state["status"]) == (RID, RID, "assigned")
    assert (outcome.registration.group_id, outcome.registration.registration_id) == ("Fleet", RID)


def test_what_the_service_side_shows_of_it_is_a_registration_like_any_other() -> None:
    shown = dps.record(registered(device(), RID).registration, SERVICE.hubs)
    assert "x509" not in shown
    assert (shown["registrationId"], shown["status"], shown["assignedHub"]) == (RID, "assigned", "hub.example")


def test_twin_and_capabilities_of_the_group_go_to_the_device() -> None:
    twin = {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}
    outcome = registered(device(), RID, initial_twin=twin, settings={"capabilities": {"iotEdge": True}})
    assert outcome.assignment is not None
    assert (outcome.assignment.initial_twin, outcome.assignment.edge) == (twin, True)


# --- what leads nowhere -----------------------------------------------------------------------------------------------


def everywhere(*authorities: Authority) -> Known:
    """All of them verified, and a group for each."""
    return known(verified_by=authorities, groups=authorities)


@pytest.mark.parametrize(
    ("row", "status", "code", "text"),
    [
        (refusals.NOT_ENROLLED, 401, 401002, "Unauthorized"),
        (refusals.CA_NOT_FOUND, 401, 401002, "CA certificate not found."),
        (refusals.CA_CERTIFICATE, 401, 401002, "Invalid certificate."),
        (refusals.EXPIRED_CERTIFICATE, 401, 401002, "Invalid certificate."),
        (refusals.FUTURE_CERTIFICATE, 401, 401002, "Invalid certificate."),
        (refusals.ISSUER_NOT_VALID, 401, 401002, "Invalid certificate."),
        (refusals.OTHER_CERTIFICATE, 401, 401002, "Invalid certificate."),
    ],
)
def test_what_the_device_is_told(row: Refusal, status: int, code: int, text: str) -> None:
    assert (row.answer, row.status, row.code, row.text) == (refusals.Answer.RESPONSE, status, code, text)


def test_a_self_signed_certificate_that_is_not_enrolled_is_unauthorized() -> None:
    assert decide(self_signed(), line().chain, everywhere(root())) == "not-enrolled"


@pytest.mark.parametrize("row", [refusals.NOT_ENROLLED, refusals.NOT_ENROLLED_404])
@pytest.mark.parametrize("case", ["self-signed", "without a group"])
def test_how_a_device_without_enrollment_is_refused_is_the_callers_choice(row: Refusal, case: str) -> None:
    shown = self_signed() if case == "self-signed" else device()
    verified = known(verified_by=[root()])
    found, why = refused.refusal(lambda: attestation.prove(session(shown, line().chain), verified, row, NOW))
    assert found is row
    assert repr(RID) in why


def test_without_a_certificate_there_is_nothing_to_prove() -> None:
    nobody = Session(RID, None)
    found, _ = refused.refusal(lambda: attestation.prove(nobody, everywhere(root()), refusals.NOT_ENROLLED, NOW))
    assert found is refusals.TOKEN_REFUSED


@pytest.mark.parametrize(
    ("sent", "proved"),
    [
        ((), (2,)),  # the leaf alone
        ((0,), (2,)),
        ((1,), (2,)),
        ((1, 2), (2,)),  # the issuer of the device is missing
        ((0, 2), (2,)),  # one in the middle is missing
        ((0,), ()),
        ((0, 1, 2), ()),  # nothing is verified
    ],
    ids=str,
)
def test_an_issuer_that_is_missing_ends_the_chain(sent: tuple[int, ...], proved: tuple[int, ...]) -> None:
    """The certificate that a group holds stands for none that the device has not sent."""
    authorities = [level() for level in LEVELS]
    shown = [authorities[at] for at in sent]
    by = known(verified_by=[authorities[at] for at in proved], groups=authorities)
    row, reason = refusal(device(), shown, by)
    assert row is refusals.CA_NOT_FOUND
    assert "issued by 'CN=Line'," in reason
    assert f"the {len(sent)} issuer certificates that the device sent" in reason


@pytest.mark.parametrize("sent", [(), (0,), (0, 1), (0, 1, 2)], ids=str)
def test_the_topmost_certificate_sent_may_be_issued_by_a_verified_one(sent: tuple[int, ...]) -> None:
    authorities = [level() for level in LEVELS]
    by = known(verified_by=[authorities[min(len(sent), 2)]], groups=[line()])
    assert decide(device(), [authorities[at] for at in sent], by) == "of-line"


def test_a_ca_certificate_that_is_not_verified_proves_nothing() -> None:
    by = known(verified_by=[verified(root(), verified=False, code="CODE")], groups=line().chain)
    assert decide(device(), line().chain, by) == "ca-not-found"


def test_one_unverified_certificate_takes_nothing_from_the_verified_ones() -> None:
    by = known(verified_by=[verified(factory(), verified=False), verified(root())], groups=[factory()])
    assert decide(device(), line().chain, by) == "of-factory"


def broken() -> dict[str, tuple[Device, Sequence[Device], Authority]]:
    """Devices whose certificates do not lead to the last one given: themselves, what they send, what is verified."""
    short, shorter = ca("Short", path_length=0), ca("Shorter", path_length=1)
    namesake = ca("Root")
    forged_factory = ca("Factory", namesake)
    mute, end, plain = ca("Mute", key_cert_sign=False), ca("End", ca=False), ca("Plain", ca=None)
    below_short = ca("Below", short)
    deep = ca("Deep", ca("Middle", shorter))
    narrow = ca("Narrow", root(), path_length=0)
    below_narrow = ca("Below", narrow)
    powerless, unfit = ca("Powerless", root(), key_cert_sign=False), ca("Unfit", root(), ca=False)
    other_name = ca("Other name", key=root().key)
    return {
        "forged by a namesake of the root": (leaf(namesake), [root()], root()),
        "forged by a namesake that is sent, too": (leaf(namesake), [namesake, root()], root()),
        "forged by a namesake of the issuer": (leaf(forged_factory), [factory(), root()], root()),
        "a forged issuer in between": (leaf(forged_factory), [forged_factory, root()], root()),
        "the root may not sign": (leaf(mute), [mute], mute),
        "the root is CA:FALSE": (leaf(end), [end], end),
        "the root says nothing of CA": (leaf(plain), [plain], plain),
        "an issuer may not sign": (leaf(powerless), powerless.chain, root()),
        "an issuer is CA:FALSE": (leaf(unfit), unfit.chain, root()),
        "path length 0 of the root": (leaf(below_short), below_short.chain, short),
        "path length 1 of the root": (leaf(deep), deep.chain, shorter),
        "path length 0 of an issuer": (leaf(below_narrow), below_narrow.chain, root()),
        "the right key under another name": (leaf(other_name), [other_name], root()),
        "another root": (leaf(ca("Elsewhere")), [root()], root()),
    }


@pytest.mark.parametrize("case", [*broken()])
def test_a_broken_chain_leads_nowhere(case: str) -> None:
    shown, sent, top = broken()[case]
    groups = [one for one in (*sent, top) if isinstance(one, Authority)]
    assert decide(shown, sent, known(verified_by=[top], groups=groups)) == "ca-not-found"


def sound() -> dict[str, Authority]:
    """Issuers whose devices are let in with all that they send, by the last of their chain."""
    exact = ca("Exact", path_length=2)
    return {
        "a root alone": root(),
        "a root without a key usage": ca("Plain", key_cert_sign=None),
        "a root with path length 0": ca("Short", path_length=0),
        "as many issuers as the path length allows": ca("Two", ca("One", exact, path_length=1), path_length=0),
        "an issuer without a key usage": ca("Usual", root(), key_cert_sign=None),
        "two of one name": ca("Same", ca("Same")),
        "three": line(),
        "twenty": deep_authority(20),
    }


def deep_authority(levels: int) -> Authority:
    made = ca("Level 1")
    for number in range(2, levels + 1):
        made = ca(f"Level {number}", made)
    return made


@pytest.mark.parametrize("case", [*sound()])
@pytest.mark.parametrize("with_root", [True, False])
def test_a_sound_chain_is_followed_up_to_the_verified_issuer(case: str, with_root: bool) -> None:
    issuer = sound()[case]
    shown, sent, top = leaf(issuer), issuer.chain if with_root else issuer.chain[:-1], issuer.chain[-1]
    for order in (sent, sent[::-1]):
        for level in (issuer, top):
            assert decide(shown, order, known(verified_by=[top], groups=[group(level, "it")])) == "it"


@pytest.mark.parametrize("path_length", [None, 0, 1, 2])
@pytest.mark.parametrize("below_it", [0, 1, 2])
def test_a_path_length_counts_the_authorities_below(path_length: int | None, below_it: int) -> None:
    top = ca("Top", path_length=path_length)
    made, above = (x509.load_der_x509_certificate(one.der) for one in (leaf(top), top))
    assert attestation.issued(made, above, below_it) == (path_length is None or path_length >= below_it)


# --- what leads there, and is not valid -------------------------------------------------------------------------------


def test_a_ca_certificate_is_no_certificate_of_a_device() -> None:
    assert refusal(leaf(root(), ca=True), (), everywhere(root()))[0] is refusals.CA_CERTIFICATE
    posing = ca(RID, factory())
    assert refusal(posing, factory().chain, everywhere(root()))[0] is refusals.CA_CERTIFICATE
    own = self_signed(ca=True)
    assert refusal(own, (), known(own=enrollment(own)))[0] is refusals.CA_CERTIFICATE


def test_a_verified_certificate_is_not_its_own_device() -> None:
    posing = ca(RID)
    assert decide(posing, [posing], everywhere(posing)) == "not-enrolled"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"valid_from": -60 * DAY}, "expired-certificate"),
        ({"valid_from": DAY}, "future-certificate"),
        ({"valid_from": -60 * DAY, "valid_for": 61 * DAY}, "of-root"),
    ],
)
def test_a_device_shows_a_certificate_that_is_valid_now(options: dict[str, timedelta], expected: str) -> None:
    assert decide(leaf(factory(), **options), factory().chain, everywhere(root())) == expected


@pytest.mark.parametrize("options", [{"valid_from": -60 * DAY}, {"valid_from": DAY}], ids=["expired", "future"])
@pytest.mark.parametrize("where", ["root", "issuer"])
def test_every_issuer_up_to_the_verified_one_is_valid_now(options: dict[str, Any], where: str) -> None:
    top = ca("Top", **options if where == "root" else {})
    issuer = ca("Issuer", top, **options if where == "issuer" else {})
    bad = top if where == "root" else issuer
    row, reason = refusal(leaf(issuer), issuer.chain, everywhere(top))
    assert row is refusals.ISSUER_NOT_VALID
    facts = describe(bad.der)
    assert f"'CN={bad.common_name}'" in reason
    assert f"from {facts.not_before} to {facts.not_after} only" in reason


def test_what_is_above_the_verified_issuer_does_not_count() -> None:
    top = ca("Top", valid_from=-60 * DAY)
    issuer = ca("Issuer", top)
    assert decide(leaf(issuer), issuer.chain, everywhere(issuer)) == "of-issuer"


@pytest.mark.parametrize("which", ["device", "issuer"])
@pytest.mark.parametrize("end", ["not_before", "not_after"])
def test_the_first_and_the_last_second_count(which: str, end: str) -> None:
    long: dict[str, Any] = {"valid_from": -400 * DAY, "valid_for": 800 * DAY}
    issuer = ca("Issuer", **{} if which == "issuer" else long)
    shown = leaf(issuer, **{} if which == "device" else long)
    moment: datetime = getattr(describe((shown if which == "device" else issuer).der), end)
    beyond = timedelta(seconds=1 if end == "not_after" else -1)
    out_of_date = {"not_before": "future-certificate", "not_after": "expired-certificate"}[end]
    assert decide(shown, (), everywhere(issuer), moment) == "of-issuer"
    expected = out_of_date if which == "device" else "issuer-not-valid"
    assert decide(shown, (), everywhere(issuer), moment + beyond) == expected


def respelled(made: Device, signer: Authority) -> bytes:
    """The certificate, signed anew, with `Fäbric` as a T61String, which OpenSSL reads and `cryptography` does not."""
    tbs = x509.load_der_x509_certificate(made.der).tbs_certificate_bytes
    changed = tbs.replace(_tlv(0x0C, "Fäbric".encode()), _tlv(0x14, "Fäbrik".encode("latin-1") + b"k"))
    assert changed != tbs
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    signature = signer.key.sign(changed, ec.ECDSA(hashes.SHA256()))
    return _tlv(0x30, changed + algorithm + _tlv(0x03, b"\0" + signature))


def _tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + value


@pytest.mark.parametrize("expired", [False, True])
def test_an_issuer_may_spell_its_name_in_the_way_of_old_tools(expired: bool) -> None:
    plain = ca("Fäbric", valid_from=-60 * DAY if expired else -DAY)
    odd = replace(plain, der=respelled(plain, plain))
    shown = leaf(plain)
    shown = replace(shown, der=respelled(shown, plain))
    assert decide(shown, (), everywhere(odd)) == ("issuer-not-valid" if expired else "of-fäbric")


# --- more than one way up ---------------------------------------------------------------------------------------------


def test_a_cross_signed_issuer_leads_to_whichever_root_is_verified() -> None:
    """The same name and key, certified by two roots: the device sends both certificates, in any order."""
    old, new = ca("Old root"), ca("New root")
    by_old = ca("Issuer", old)
    by_new = ca("Issuer", new, key=by_old.key)
    shown = leaf(by_old)
    for order in permutations([by_old, by_new, old, new]):
        assert decide(shown, order, everywhere(old)) == "of-old root"
        assert decide(shown, order, everywhere(new)) == "of-new root"


def test_a_renewed_issuer_takes_the_place_of_the_expired_one() -> None:
    """Devices of before the renewal send what they have, those of after it both."""
    expired = ca("Issuer", root(), valid_from=-60 * DAY)
    renewed = ca("Issuer", root(), key=expired.key)
    by = known(verified_by=[root()], groups=[root()])
    shown = leaf(expired)
    assert decide(shown, [expired, root()], by) == "issuer-not-valid"
    assert decide(shown, [renewed, root()], by) == "of-root"
    for order in permutations([expired, renewed, root()]):
        assert decide(shown, order, by) == "of-root"


def test_authorities_that_certify_each_other_and_nobody_else_lead_nowhere() -> None:
    one, two = ca("One"), ca("Two")
    one_by_two, two_by_one = ca("One", two, key=one.key), ca("Two", one, key=two.key)
    for order in permutations([one_by_two, two_by_one, one, two]):
        assert decide(leaf(one), order, everywhere(root())) == "ca-not-found"


def test_any_number_of_twins_of_an_issuer_costs_no_more_than_a_look_at_each_pair() -> None:
    """All of them have one name and one key, so that each has issued each: there are more ways than can be tried."""
    first = ca("Twin")
    twins = [ca("Twin", key=first.key) for _ in range(30)]
    assert decide(leaf(first), twins, everywhere(root())) == "ca-not-found"


# --- what devices send beside it --------------------------------------------------------------------------------------


def next_version(der: bytes, version: int = 3) -> bytes:
    """The same certificate, but of X.509 version 4, which does not exist."""
    return der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version]), 1)


GARBAGE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a zero": lambda: b"\0",
    "text": lambda: b"no certificate",
    "PEM": lambda: root().pem.encode(),
    "cut": lambda: root().der[:-1],
    "longer": lambda: root().der + b"\0",
    "a root of version 4": lambda: next_version(root().der),
    "an issuer of version 4": lambda: next_version(factory().der),
}


@pytest.mark.parametrize("kind", [*GARBAGE])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_certificate_changes_nothing(kind: str, first: bool) -> None:
    garbage = GARBAGE[kind]()
    sent: list[Device | bytes] = [*factory().chain]
    sent.insert(0 if first else len(sent), garbage)
    assert decide(leaf(factory()), sent, everywhere(root())) == "of-root"
    assert decide(leaf(factory()), [garbage], everywhere(root())) == "ca-not-found"
    assert decide(self_signed(), [garbage], everywhere(root())) == "not-enrolled"


@cache
def scenarios() -> dict[str, tuple[Device, tuple[Device, ...], Known]]:
    """Devices with all that they send, and what DPS knows. The name of each is what is decided."""
    old = ca("Old", root(), valid_from=-60 * DAY)
    below_narrow = ca("Below", ca("Narrow", root(), path_length=0))
    nested = known(verified_by=[root()], groups=[root(), factory()])
    return {
        "of-factory": (device(), line().chain, nested),
        "of-line": (device(), (line(),), everywhere(line(), factory())),
        "of-root": (leaf(root()), (), everywhere(root())),
        RID: (device(), line().chain, known(own=enrollment(device()), verified_by=[root()], groups=[root()])),
        "not-enrolled": (device(), line().chain, known(verified_by=[root()])),
        "ca-not-found": (device(), (line(), root()), nested),
        "ca-not-found, as the path is too long": (leaf(below_narrow), below_narrow.chain, everywhere(root())),
        "issuer-not-valid": (leaf(old), old.chain, everywhere(root())),
        "expired-certificate": (leaf(factory(), valid_from=-60 * DAY), factory().chain, nested),
        "ca-certificate": (leaf(line(), ca=True), line().chain, nested),
        "other-certificate": (device(), line().chain, known(own=enrollment(self_signed()), verified_by=[root()])),
    }


def test_the_scenarios_are_what_they_are_called() -> None:
    for name, (shown, sent, by) in scenarios().items():
        assert decide(shown, sent, by) == name.partition(",")[0]


@cache
def strangers() -> tuple[bytes, ...]:
    """Certificates that are whole, and do not lead to a verified one: forgeries, cross-signed twins, other people's."""
    namesakes = [ca("Root"), ca("Factory"), ca("Line")]
    upstart = ca("Upstart")
    twins = [ca(one.common_name, upstart, key=one.key) for one in line().chain]
    return tuple(one.der for one in (*namesakes, *twins, ca("Factory", namesakes[0]), self_signed(), ca("Elsewhere")))


@st.composite
def garbage(draw: st.DrawFn) -> bytes:
    """Bytes of any kind: none that were a certificate, a stranger's, or one of ours with one byte changed or cut."""
    kind = draw(st.sampled_from(["bytes", "stranger", "changed", "cut"]))
    if kind == "bytes":
        return draw(st.binary(max_size=40))
    if kind == "stranger":
        return draw(st.sampled_from(strangers()))
    der = draw(st.sampled_from([root().der, factory().der, line().der, device().der]))
    at = draw(st.integers(0, len(der) - 1))
    if kind == "cut":
        return der[:at]
    return der[:at] + bytes([der[at] ^ draw(st.integers(1, 255))]) + der[at + 1 :]


@pytest.mark.filterwarnings("ignore")  # `cryptography` warns of what is odd in a certificate that it reads
@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(scenarios())))
def test_order_copies_and_garbage_change_no_decision(data: st.DataObject, name: str) -> None:
    shown, sent, by = scenarios()[name]
    ders = [one.der for one in sent]
    copies = data.draw(st.lists(st.sampled_from(ders), max_size=4)) if ders else []
    order = data.draw(st.permutations([*ders, *copies, *data.draw(st.lists(garbage(), max_size=3))]))
    assert decide(shown, order, by) == name.partition(",")[0]


# --- the verification code --------------------------------------------------------------------------------------------


def test_a_verification_code_is_one_for_each_guid() -> None:
    guids = ["120086f2-76fe-4341-9214-bb6cfb891b8a", "220086f2-76fe-4341-9214-bb6cfb891b8a"]
    codes = [attestation.verification_code(guid) for guid in guids]
    assert all(re.fullmatch(r"[0-9A-F]{48}", code) for code in codes)
    assert len(set(codes)) == 2
    assert attestation.verification_code(guids[0]) == codes[0]
