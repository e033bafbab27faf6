"""Authorities and the devices that they vouch for: made once, reused when whole, refused with one sentence if not."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dpsx_helpers import authorities, certificates, chains
from dpsx_helpers.authorities import Authority
from dpsx_helpers.certificates import CertificateError

SECRET = "open sesame"


@pytest.fixture
def root(tmp_path: Path) -> Authority:
    return authorities.create("Root-CA", SECRET, tmp_path)


@pytest.fixture
def factory(tmp_path: Path, root: Authority) -> Authority:
    return authorities.create("Factory-CA", SECRET, tmp_path, issuer=root, path_length=0)


def sentence(call: Callable[[], object]) -> str:
    """What is said instead of doing it: one sentence, without the pass phrase."""
    with pytest.raises(CertificateError) as refusal:
        call()
    text = str(refusal.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert SECRET not in text
    return text


def basic(authority: Authority) -> tuple[bool, int | None]:
    found = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    return found.ca, found.path_length


# --- authorities ------------------------------------------------------------------------------------------------------


def test_a_root_signs_itself_and_an_intermediate_is_signed_by_it(root: Authority, factory: Authority) -> None:
    root.certificate.verify_directly_issued_by(root.certificate)
    factory.certificate.verify_directly_issued_by(root.certificate)
    assert factory.chain == (factory, root)
    assert (basic(root), basic(factory)) == ((True, None), (True, 0))
    usage = factory.certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert x509.load_pem_x509_certificate(root.pem.encode()) == root.certificate


def test_the_key_is_encrypted_and_for_its_owner_only(root: Authority) -> None:
    assert "ENCRYPTED" in root.key_file.read_text()
    assert root.key_file.stat().st_mode & 0o777 == 0o600
    assert certificates.open_key(root.key_file, SECRET)
    assert SECRET not in repr(root)


def test_what_is_there_is_reused(tmp_path: Path, root: Authority, factory: Authority) -> None:
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    again = authorities.create("Root-CA", SECRET, tmp_path)
    assert authorities.create("Factory-CA", SECRET, tmp_path, issuer=again, path_length=0) == factory
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_is_there_and_is_another_authority_is_refused(tmp_path: Path, root: Authority, factory: Authority) -> None:
    def create(name: str = "Factory-CA", **options: object) -> Callable[[], object]:
        settings = {"issuer": root, "path_length": 0, **options}
        return lambda: authorities.create(name, str(settings.pop("phrase", SECRET)), tmp_path, **settings)  # type: ignore[arg-type]

    assert "path length 0, not None" in sentence(create(path_length=None))
    assert "was not signed by the authority Factory-CA" in sentence(create(issuer=None))
    assert "does not open with this pass phrase" in sentence(create(phrase="another"))
    factory.certificate_file.rename(tmp_path / "Other-CA.pem")
    assert "is there without its other half" in sentence(create())
    factory.key_file.rename(tmp_path / "Other-CA.key.pem")
    assert "is not the authority Other-CA" in sentence(create("Other-CA"))


def test_a_root_that_was_made_anew_is_told_from_the_one_that_signed(tmp_path: Path, factory: Authority) -> None:
    root = factory.issuer
    assert root is not None
    root.certificate_file.unlink()
    root.key_file.unlink()
    anew = authorities.create("Root-CA", SECRET, tmp_path)
    words = sentence(lambda: authorities.create("Factory-CA", SECRET, tmp_path, issuer=anew, path_length=0))
    assert "was not signed by the authority Root-CA that is here now" in words


def test_an_authority_that_is_out_of_date_is_not_reused(
    tmp_path: Path, root: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorities, "_now", lambda: datetime.now(UTC) + timedelta(days=4000))
    assert "is valid from" in sentence(lambda: authorities.create("Root-CA", SECRET, tmp_path))


@pytest.mark.parametrize("name", ["", "a b", "../up", "x" * 65])
def test_a_name_that_makes_no_file_is_refused(tmp_path: Path, name: str) -> None:
    sentence(lambda: authorities.create(name, SECRET, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pass_phrase", ["", "123"])
def test_a_short_pass_phrase_is_refused(tmp_path: Path, pass_phrase: str) -> None:
    sentence(lambda: authorities.create("Root-CA", pass_phrase, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made" in sentence(lambda: authorities.create("Root-CA", SECRET, tmp_path / "file" / "in"))


# --- devices ----------------------------------------------------------------------------------------------------------


def test_a_device_has_its_intermediates_behind_it_and_not_the_root(tmp_path: Path, factory: Authority) -> None:
    line = authorities.create("Line-CA", SECRET, tmp_path, issuer=factory.issuer)
    below = authorities.create("Cell-CA", SECRET, tmp_path, issuer=line)
    pair = authorities.issue("press-01", below, SECRET, tmp_path / "press-01")
    assert pair.created
    links = chains.links(pair.certificate_file, trusted=below.chain[-1].pem)
    assert [link.subject for link in links] == ["CN=press-01", "CN=Cell-CA", "CN=Line-CA", "CN=Root-CA"]
    assert [link.place for link in links] == [1, 2, 3, None]
    assert chains.faults(links) == []
    assert not certificates.check_pair(pair.certificate_file, pair.key_file, SECRET).is_ca
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(pair.certificate_file, pair.key_file, SECRET)


def test_a_device_of_the_root_stands_alone_in_its_file(tmp_path: Path, root: Authority) -> None:
    pair = authorities.issue("press-01", root, SECRET, tmp_path / "press-01")
    assert pair.certificate_file.read_text().count("BEGIN CERTIFICATE") == 1
    assert chains.faults(chains.links(pair.certificate_file, trusted=root.pem)) == []


def test_a_pair_is_reused_replaced_or_refused_as_asked(tmp_path: Path, factory: Authority) -> None:
    folder = tmp_path / "press-01"
    made = authorities.issue("press-01", factory, SECRET, folder)
    before = made.certificate_file.read_bytes()
    assert not authorities.issue("press-01", factory, SECRET, folder).created
    assert made.certificate_file.read_bytes() == before
    words = sentence(lambda: authorities.issue("press-01", factory, SECRET, folder, existing="refuse"))
    assert "There is a pair in" in words
    assert authorities.issue("press-01", factory, SECRET, folder, existing="replace").created
    assert made.certificate_file.read_bytes() != before


def test_a_pair_that_is_not_whole_or_another_is_not_reused(tmp_path: Path, root: Authority, factory: Authority) -> None:
    folder = tmp_path / "press-01"
    pair = authorities.issue("press-01", factory, SECRET, folder)
    whole = pair.certificate_file.read_text()

    def again(name: str = "press-01", by: Authority = factory) -> str:
        return sentence(lambda: authorities.issue(name, by, SECRET, folder))

    assert "names 'press-01', not press-02" in again("press-02")
    assert "was not signed by the authority Root-CA" in again(by=root)
    pair.certificate_file.write_text(authorities.leaf(pair.certificate_file))
    assert "does not hold (link missing): choose existing='replace'" in again()
    pair.certificate_file.write_text(authorities.leaf(pair.certificate_file) + root.pem + factory.pem)
    assert "does not hold (wrong order)" in again()
    pair.certificate_file.write_text(whole)
    pair.key_file.unlink()
    assert "is there without its other half" in again()
    assert "There is a pair in" in sentence(
        lambda: authorities.issue("press-01", factory, SECRET, folder, existing="refuse")
    )
    assert authorities.issue("press-01", factory, SECRET, folder, existing="replace").created
    assert not authorities.issue("press-01", factory, SECRET, folder).created


def test_the_leaf_is_the_device_alone(tmp_path: Path, factory: Authority) -> None:
    pair = authorities.issue("press-01", factory, SECRET, tmp_path / "press-01")
    alone = authorities.leaf(pair.certificate_file)
    assert alone.count("BEGIN CERTIFICATE") == 1
    assert pair.certificate_file.read_text().startswith(alone)


# --- proof of possession, and chains for practice ---------------------------------------------------------------------


def test_a_proof_is_named_like_the_code_and_signed_by_the_authority(root: Authority) -> None:
    code = "0123456789ABCDEF" * 3
    proof = x509.load_pem_x509_certificate(authorities.proof_of_possession(root, code, SECRET).encode())
    assert proof.subject.rfc4514_string() == f"CN={code}"
    proof.verify_directly_issued_by(root.certificate)
    assert "does not open" in sentence(lambda: authorities.proof_of_possession(root, code, "another"))


def test_three_chains_have_one_fault_each_and_stay_as_they_are(tmp_path: Path, factory: Authority) -> None:
    root = factory.chain[-1].pem
    files = authorities.broken_chains(factory, SECRET, tmp_path / "broken")
    assert [file.name for file in files] == ["chain-a.pem", "chain-b.pem", "chain-c.pem"]
    found = [[fault.name for fault in chains.faults(chains.links(file, trusted=root))] for file in files]
    assert sorted(found) == [["expired"], ["leaf is a CA"], ["wrong order"]]
    before = [file.read_bytes() for file in files]
    assert authorities.broken_chains(factory, SECRET, tmp_path / "broken") == files
    assert [file.read_bytes() for file in files] == before
    assert "PRIVATE KEY" not in b"".join(before).decode()


def test_which_chain_has_which_fault_is_left_to_chance(tmp_path: Path, factory: Authority) -> None:
    seen = set()
    for number in range(40):
        files = authorities.broken_chains(factory, SECRET, tmp_path / str(number))
        seen.add(tuple(certificates.describe(file).common_name for file in files))
    assert len(seen) > 1


def test_the_certificate_is_written_as_pem(root: Authority) -> None:
    assert root.certificate_file.read_bytes() == root.certificate.public_bytes(Encoding.PEM)
