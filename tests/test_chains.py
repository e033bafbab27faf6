"""Chains of certificates: what holds, and every fault by its name, at the link that has it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from test_views import accessible, structure

from dpsx_helpers import chains, views
from dpsx_helpers.certificates import CertificateError
from dpsx_helpers.chains import Link

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()


def make(name: str, issuer: Made | None = None, **options: Any) -> Made:
    """A certificate, by default one that may sign others.

    `by`: whose key signs in fact; `ca`, `may_sign` and `identified` None or False: without that extension.
    """
    key = options.get("key") or ec.generate_private_key(ec.SECP256R1())
    by = options.get("by") or issuer or Made(None, key)  # type: ignore[arg-type]
    subject = named(name)
    names = options.get("issuer_name") or (issuer.certificate.subject if issuer else subject)
    builder = x509.CertificateBuilder(names, subject, key.public_key(), x509.random_serial_number())
    start = options.get("start", NOW - 10 * DAY)
    builder = builder.not_valid_before(start).not_valid_after(start + options.get("days", 365) * DAY)
    ca, may_sign = options.get("ca", True), options.get("may_sign", True)
    if ca is not None:
        basic = x509.BasicConstraints(ca=ca, path_length=options.get("path_length"))
        builder = builder.add_extension(basic, critical=True)
    if ca and may_sign is not None:
        builder = builder.add_extension(usage(may_sign), critical=True)
    if options.get("identified", True):
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        meant = x509.AuthorityKeyIdentifier.from_issuer_public_key((options.get("meant") or by).key.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(meant, critical=False)
    kind = None if isinstance(by.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Made(builder.sign(by.key, kind, **options.get("signing", {})), key)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(may_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=may_sign, crl_sign=False, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


ROOT = make("Root")
FACTORY = make("Factory", ROOT, path_length=0)
DEVICE = make("press-01", FACTORY, ca=False)


def file(*made: Made) -> str:
    return "".join(one.pem for one in made)


def look(*made: Made, trusted: Any = (ROOT,)) -> tuple[Link, ...]:
    anchors = None if trusted is None else [one.pem for one in trusted]
    return chains.links(file(*made), trusted=anchors, now=NOW)


def found(*made: Made, trusted: Any = (ROOT,)) -> list[tuple[str, str]]:
    """(subject, name of a fault), from the device's certificate upwards."""
    seen = look(*made, trusted=trusted)
    return [(link.subject.removeprefix("CN="), fault.name) for link in seen for fault in link.faults]


# --- chains that hold -------------------------------------------------------------------------------------------------


def test_a_chain_up_to_the_certificate_that_the_service_has_holds() -> None:
    device, factory, root = look(DEVICE, FACTORY)
    assert [(one.role, one.place, one.known) for one in (device, factory, root)] == [
        ("device", 1, False),
        ("intermediate", 2, False),
        ("root", None, True),
    ]
    assert (device.subject, device.issuer, device.is_ca) == ("CN=press-01", "CN=Factory", False)
    assert (factory.is_ca, factory.path_length, root.path_length) == (True, 0, None)
    assert device.not_before == NOW - 10 * DAY
    assert device.not_after == NOW + 355 * DAY
    assert device.thumbprint_sha256 == DEVICE.certificate.fingerprint(hashes.SHA256()).hex().upper()
    assert chains.faults((device, factory, root)) == []


def test_the_root_may_be_in_the_file_too() -> None:
    assert found(DEVICE, FACTORY, ROOT) == []
    root = look(DEVICE, FACTORY, ROOT)[-1]
    assert (root.place, root.known) == (3, True)


@pytest.mark.parametrize("trusted", [(FACTORY,), (ROOT, FACTORY)])
def test_a_service_that_knows_the_intermediate_looks_no_further(trusted: Any) -> None:
    assert found(DEVICE, trusted=trusted) == []
    assert found(DEVICE, FACTORY, trusted=trusted) == []
    expired = make("Root", key=ROOT.key, start=NOW - 9 * DAY, days=1)
    assert found(DEVICE, FACTORY, expired, trusted=(FACTORY,)) == []


def test_without_a_service_nobody_asks_where_the_chain_ends() -> None:
    assert found(DEVICE, FACTORY, trusted=None) == []
    assert found(DEVICE, FACTORY, ROOT, trusted=None) == []
    assert found(DEVICE, trusted=None) == [("press-01", "link missing")]


def test_key_usage_and_key_identifiers_that_are_not_there_forbid_nothing() -> None:
    root = make("Bare root", may_sign=None, identified=False)
    factory = make("Bare factory", root, may_sign=None, identified=False)
    assert found(make("bare", factory, ca=None, identified=False), factory, trusted=(root,)) == []


@pytest.mark.parametrize("kind", ["rsa", "pss", "ed25519"])
def test_every_usual_kind_of_key_can_be_verified(kind: str) -> None:
    key: Any = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, 2048)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    signing = {"signing": {"rsa_padding": pss}} if kind == "pss" else {}
    root = make("Root", key=key, **signing)
    factory = make("Factory", root, **signing)
    assert found(make("device", factory, ca=False), factory, trusted=(root,)) == []
    renamed = make("Factory", root, issuer_name=named("Ruth"), **signing)
    assert found(make("device", renamed, ca=False), renamed, root, trusted=(root,)) == [("Factory", "issuer name")]


def test_a_renewed_root_of_the_same_key_ends_the_chain_too() -> None:
    renewed = make("Root", key=ROOT.key)
    assert found(DEVICE, FACTORY, trusted=(renewed,)) == []
    assert found(DEVICE, FACTORY, ROOT, trusted=(renewed,)) == []
    assert look(DEVICE, FACTORY, ROOT, trusted=(renewed,))[-1].role == "extra"


# --- one fault each ---------------------------------------------------------------------------------------------------


def test_an_issuer_of_another_name_is_named() -> None:
    odd = make("press-02", FACTORY, ca=False, issuer_name=named("Factroy"))
    assert found(odd, FACTORY) == [("press-02", "issuer name")]
    assert "CN=Factroy as its issuer; the next certificate is CN=Factory" in look(odd, FACTORY)[0].faults[0].sentence


def test_a_signature_by_another_key_is_named() -> None:
    forged = make("press-02", FACTORY, ca=False, by=make("Factory"), meant=FACTORY)
    assert found(forged, FACTORY) == [("press-02", "signature")]


def test_a_key_identifier_that_means_another_key_is_named() -> None:
    odd = make("press-02", FACTORY, ca=False, meant=ROOT)
    assert found(odd, FACTORY) == [("press-02", "key identifier")]


def test_an_intermediate_that_was_made_anew_has_another_key() -> None:
    again = make("Factory", ROOT, path_length=0)
    assert found(DEVICE, again) == [("press-01", "signature"), ("press-01", "key identifier")]


@pytest.mark.parametrize("ca", [False, None], ids=["CA:FALSE", "no basic constraints"])
def test_a_signer_that_is_no_authority_is_named(ca: bool | None) -> None:
    signer = make("press-02", FACTORY, ca=ca)
    (fault,) = chains.faults(look(make("press-03", signer, ca=False), signer, make("Factory", ROOT, key=FACTORY.key)))
    assert fault.name == "not a CA"
    assert ("CA:FALSE" in fault.sentence) == (ca is False)


def test_a_key_that_must_not_sign_certificates_is_named() -> None:
    factory = make("Weak factory", ROOT, may_sign=False)
    assert found(make("press-02", factory, ca=False), factory) == [("Weak factory", "keyCertSign missing")]


def test_an_authority_too_many_is_named_at_the_one_that_forbids_it() -> None:
    line = make("Line", FACTORY)
    assert found(make("press-02", line, ca=False), line, FACTORY) == [("Factory", "path length exceeded")]
    narrow = make("Root", path_length=1)
    factory = make("Factory", narrow)
    line = make("Line", factory)
    device = make("press-02", line, ca=False)
    assert found(device, line, factory, trusted=(narrow,)) == [("Root", "path length exceeded")]
    assert found(make("press-03", factory, ca=False), factory, trusted=(narrow,)) == []


@pytest.mark.parametrize("which", ["device", "intermediate", "root"])
@pytest.mark.parametrize("fault", ["expired", "not yet valid"])
def test_a_link_out_of_its_time_is_named(which: str, fault: str) -> None:
    when = {"start": NOW - 30 * DAY, "days": 1} if fault == "expired" else {"start": NOW + DAY}
    root = make("Root", **when if which == "root" else {})
    factory = make("Factory", root, **when if which == "intermediate" else {})
    device = make("press-02", factory, ca=False, **when if which == "device" else {})
    for made in ((device, factory), (device, factory, root)):
        (seen,) = [link for link in look(*made, trusted=(root,)) if link.faults]
        assert (seen.role, [one.name for one in seen.faults]) == (which, [fault])


def test_the_last_second_counts_and_the_next_does_not() -> None:
    end = DEVICE.certificate.not_valid_after_utc
    last, after = (chains.links(DEVICE.pem, now=end + timedelta(seconds=more)) for more in (0, 1))
    assert [fault.name for fault in chains.faults(last)] == ["link missing"]
    assert [fault.name for fault in chains.faults(after)] == ["link missing", "expired"]


def test_a_device_that_is_an_authority_is_named() -> None:
    factory = make("Factory", ROOT)
    device = make("press-02", factory)
    assert found(device, factory) == [("press-02", "leaf is a CA")]


# --- links that are missing, twice there, or elsewhere ----------------------------------------------------------------


@pytest.mark.parametrize("root_sent", [False, True])
def test_the_missing_intermediate_is_named_where_it_belongs(root_sent: bool) -> None:
    made = (DEVICE, ROOT) if root_sent else (DEVICE,)
    assert found(*made) == [("press-01", "link missing")]
    device, root = look(*made)
    assert "CN=Factory" in device.faults[0].sentence
    assert (root.role, root.known, root.place) == ("root", True, 2 if root_sent else None)


def test_of_two_intermediates_either_can_be_missing() -> None:
    upper = make("Upper", ROOT)
    lower = make("Lower", upper)
    device = make("press-02", lower, ca=False)
    assert found(device, lower, upper) == []
    assert found(device, upper) == [("press-02", "link missing")]
    assert found(device, lower) == [("Lower", "link missing"), ("Lower", "unknown end")]
    assert found(device, lower, ROOT) == [("Lower", "link missing")]
    assert found(device, ROOT) == [("press-02", "link missing")]


def test_every_other_order_of_a_good_chain_is_a_wrong_order_and_nothing_else() -> None:
    upper = make("Upper", ROOT)
    lower = make("Lower", upper)
    chain = (make("press-02", lower, ca=False), lower, upper, ROOT)
    for order in permutations(chain):
        faults = {name for _, name in found(*order)}
        assert faults == (set() if order == chain else {"wrong order"}), [one.certificate.subject for one in order]
        assert [link.subject for link in look(*order)] == ["CN=press-02", "CN=Lower", "CN=Upper", "CN=Root"]


def test_an_authority_of_a_wrong_order_says_where_it_stands() -> None:
    device, factory, root = look(DEVICE, ROOT, FACTORY)
    assert not device.faults
    assert not factory.faults
    assert "certificate 2 of the file, and the one that it has signed is certificate 3" in root.faults[0].sentence
    device, factory, root = look(FACTORY, DEVICE)
    assert "certificate 2 of the file: the device's certificate has to come first" in device.faults[0].sentence


@pytest.mark.parametrize("which", [DEVICE, FACTORY, ROOT], ids=["device", "intermediate", "root"])
def test_a_certificate_that_is_there_twice_is_named_once(which: Made) -> None:
    chain = [DEVICE, FACTORY, ROOT]
    for place in range(4):
        made = [*chain[:place], which, *chain[place:]]
        if made[0] is not DEVICE:
            continue  # the first is then another: the order is wrong, too
        extra = [link for link in look(*made) if link.role == "extra"]
        assert [fault.name for link in extra for fault in link.faults] == ["duplicate"]
        assert {name for _, name in found(*made)} == {"duplicate"}


def test_what_has_signed_nothing_of_the_chain_does_not_belong() -> None:
    other = make("Other factory", ROOT)
    assert found(DEVICE, FACTORY, other) == [("Other factory", "does not belong")]
    assert found(DEVICE, FACTORY, make("press-02", FACTORY, ca=False)) == [("press-02", "does not belong")]
    assert found(DEVICE, other, FACTORY) == [("Other factory", "does not belong")]
    assert found(DEVICE, FACTORY, other, other) == [
        ("Other factory", "does not belong"),
        ("Other factory", "duplicate"),
    ]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_another_root_of_the_same_name_is_not_the_one_that_the_service_knows() -> None:
    false = make("Root")
    factory = make("Factory", false)
    device = make("press-02", factory, ca=False)
    assert found(device, factory, false) == [("Root", "unknown end")]
    assert "another CN=Root" in look(device, factory, false)[-1].faults[0].sentence
    assert found(device, factory) == [("Factory", name) for name in ("signature", "key identifier", "unknown end")]


def test_a_root_that_nobody_knows_is_the_end_of_the_chain() -> None:
    other = make("Other root")
    factory = make("Factory", other)
    device = make("press-02", factory, ca=False)
    assert found(device, factory, other) == [("Other root", "unknown end")]
    assert found(device, factory, other, trusted=()) == [("Other root", "unknown end")]
    assert found(device, factory) == [("Factory", "link missing"), ("Factory", "unknown end")]


def test_a_certificate_that_is_signed_by_itself_has_no_chain() -> None:
    alone = make("press-02", ca=False)
    assert found(alone) == [("press-02", "unknown end")]
    assert found(alone, trusted=None) == []
    assert found(alone, trusted=(alone,)) == []


def test_a_root_whose_own_signature_is_false_is_named() -> None:
    false = make("False root", by=ROOT)
    device = make("press-02", false, ca=False)
    assert found(device, false, trusted=None) == [("False root", "signature")]


def test_every_fault_of_a_bad_chain_is_named() -> None:
    factory = make("Factory", ROOT, ca=None, start=NOW - 30 * DAY, days=1)
    device = make("press-02", factory, start=NOW + DAY, meant=ROOT)
    assert found(device, factory, factory) == [
        ("press-02", "leaf is a CA"),
        ("press-02", "not yet valid"),
        ("press-02", "key identifier"),
        ("Factory", "expired"),
        ("Factory", "not a CA"),
        ("Factory", "duplicate"),
    ]


def test_certificates_that_all_have_one_name_end_somewhere() -> None:
    many = [make("Same", make("Same")) for _ in range(30)]
    assert len(look(*many)) >= 30


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_a_text_and_bytes_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "chain.pem"
    path.write_text("subject=CN = press-01\n" + file(DEVICE, FACTORY).replace("\n", "\r\n") + "the end\n")
    expected = look(DEVICE, FACTORY)
    for source in (path, str(path), path.read_text(), path.read_bytes()):
        assert chains.links(source, trusted=ROOT.pem, now=NOW) == expected
    root = tmp_path / "root.der"
    root.write_bytes(ROOT.certificate.public_bytes(Encoding.DER))
    assert chains.links(path, trusted=[root], now=NOW) == expected
    assert chains.links(path, trusted=root, now=NOW) == expected


def test_a_private_key_beside_the_certificates_is_named_and_not_shown() -> None:
    key = DEVICE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    seen = chains.links(key + file(DEVICE, FACTORY), trusted=ROOT.pem, now=NOW)
    assert [fault.name for fault in chains.faults(seen)] == ["private key"]
    assert key.splitlines()[1] not in repr(seen)


_DAMAGED = DEVICE.pem.replace("MII", "AAA", 1)
GARBAGE = {
    "empty": ("", "is empty"),
    "blank": (" \n", "is empty"),
    "words": ("not a chain\nat all\n", "The text holds no certificate (neither PEM nor DER)"),
    "cut short": (file(DEVICE, FACTORY)[:-40], "is cut short (its line END CERTIFICATE is missing)"),
    "not base64": (DEVICE.pem.replace("MII", "M!!", 1), "is not base64"),
    "no certificate inside": (file(FACTORY) + _DAMAGED, "Certificate 2 of 2 in The text is damaged"),
    "a line too few": (DEVICE.pem + FACTORY.pem.split("\n", 1)[1], "is damaged (a line BEGIN or END CERTIFICATE"),
    "dashes too few": (DEVICE.pem + FACTORY.pem[1:], "is damaged (a line BEGIN or END CERTIFICATE"),
    "two on a line": (DEVICE.pem.rstrip() + FACTORY.pem, "or shares its line with another"),
    "one in another": (DEVICE.pem[:200] + "\n" + FACTORY.pem, "is not base64"),
    "a key": (
        DEVICE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "The text holds a private key, not a certificate",
    ),
    "far too many": (DEVICE.pem * 101, "holds 101 certificates: a chain has a handful"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    text, words = GARBAGE[case]
    path = tmp_path / "chain.pem"
    path.write_text(text)
    for source in (text, text.encode(), path):
        with pytest.raises(CertificateError) as refusal:
            chains.links(source, trusted=[ROOT.pem])
        sentence = str(refusal.value)
        assert words.replace("The text", str(path) if source == path else "The text") in sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence
        with pytest.raises(CertificateError):
            views.chain(source)


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"\xff\xfe-\x00-\x00", b"\x30\x82\x01\x00junk"])
def test_bytes_that_are_no_certificates_are_refused_too(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chain.pem"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(CertificateError):
            chains.links(source)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"There is no certificate file .*nothing\.pem"):
        chains.links(tmp_path / "nothing.pem")
    with pytest.raises(CertificateError, match="is a folder"):
        chains.links(tmp_path)


def test_a_certificate_with_extensions_that_cannot_be_read_is_judged_all_the_same() -> None:
    """Twice the same extension: `cryptography` reads the certificate and refuses all its extensions."""
    twice = make("press-02", FACTORY, ca=False)
    der = twice.certificate.public_bytes(Encoding.DER)
    own, meant = bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d23")  # subject and authority key identifier
    assert der.count(own) == der.count(meant) == 1
    pem = x509.load_der_x509_certificate(der.replace(meant, own)).public_bytes(Encoding.PEM).decode()
    seen = chains.links(pem + FACTORY.pem, trusted=ROOT.pem, now=NOW)
    assert [fault.name for fault in chains.faults(seen)] == ["signature"]


# --- the drawing ------------------------------------------------------------------------------------------------------


def test_a_chain_that_holds_is_drawn_link_by_link() -> None:
    made = (make("press-01", FACTORY, ca=False, start=NOW), FACTORY)
    view = views.chain(file(*made), trusted=[ROOT.pem])
    accessible(view)
    assert view.text.splitlines()[0] == (
        "✔ The chain of CN=press-01 holds: 2 certificates in the file, and DPS knows CN=Root."
    )
    assert view.text.count("↓ is signed by") == view.html.count("↓ is signed by") == 2
    for words in (
        "✔ CN=press-01 (device, certificate 1 of the file)",
        "✔ CN=Factory (intermediate authority, certificate 2 of the file)",
        "✔ CN=Root (root authority, not in the file: DPS has it)",
        "may sign certificates: yes (CA:TRUE), of devices only",
        "may sign certificates: no (CA:FALSE)",
    ):
        assert words in view.text
        assert words in view.html


def test_every_fault_is_written_at_its_link_not_in_colour_alone() -> None:
    view = views.chain(file(make("odd & co", make("Gone", ROOT)), ROOT), trusted=[ROOT.pem])
    accessible(view)
    assert view.text.splitlines()[0] == "✘ The chain of CN=odd & co has 2 faults: link missing, leaf is a CA."
    assert "✘ missing: CN=Gone" in view.text
    assert "✘ missing: CN=Gone" in view.html
    assert "<strong>leaf is a CA</strong>" in view.html
    assert "odd &amp; co" in view.html
    assert "odd & co" not in view.html
    items = [attributes for tag, attributes in structure(view).seen if tag == "li"]
    assert len(items) == 2 + 2


def test_what_is_not_part_of_the_chain_is_drawn_apart() -> None:
    view = views.chain(file(DEVICE, FACTORY, FACTORY), trusted=[ROOT.pem])
    accessible(view)
    assert "✘ CN=Factory (not part of the chain, certificate 3 of the file)" in view.text
    assert view.text.count("is signed by") == 2
