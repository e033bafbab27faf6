"""Names and extensions of a certificate in words: names as RFC 4514 writes them, extensions as OpenSSL words
them.

`cryptography` decodes both, but refuses some that exist all the same (names in Latin-1, one malformed
extension among good ones). So names and raw extensions are read from the DER here, and its decoding serves
where it works.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier


class Extension(NamedTuple):
    """One extension: `name` is OpenSSL's without its "X509v3", or the dotted OID of one we do not know."""

    name: str
    critical: bool
    text: str


class Element(NamedTuple):
    """One DER element: its tag byte, what it contains, and all of it."""

    tag: int
    content: bytes
    whole: bytes


def elements(data: bytes) -> Iterator[Element]:
    """The DER elements that follow one another in `data` (X.690 §8.1, §10.1); ValueError when not."""
    at = 0
    while at < len(data):
        one = first_element(data[at:])
        yield one
        at += len(one.whole)


def first_element(data: bytes) -> Element:
    """The first DER element of `data`; what follows it is left alone. ValueError when there is none."""
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise ValueError("not DER")
    start, length = 2, data[1]
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
        if not 3 <= start <= 6:
            raise ValueError("not DER")
    if len(data) < start + length:
        raise ValueError("DER cut short")
    return Element(data[0], data[start : start + length], data[: start + length])


# --- names ----------------------------------------------------------------------------------------

COMMON_NAME = "2.5.4.3"
_ATTRIBUTES = {  # OpenSSL's short names, so that `openssl x509 -subject -nameopt RFC2253` says the same
    "2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L",
    "2.5.4.8": "ST", "2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title",
    "2.5.4.13": "description", "2.5.4.15": "businessCategory", "2.5.4.17": "postalCode", "2.5.4.41": "name",
    "2.5.4.42": "GN", "2.5.4.43": "initials", "2.5.4.44": "generationQualifier", "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym", "2.5.4.97": "organizationIdentifier", "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName", "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionL",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionST", "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionC",
}  # fmt: skip
_STRINGS = {
    12: "utf-8", 18: "latin-1", 19: "latin-1", 20: "latin-1", 22: "latin-1", 26: "latin-1", 28: "utf-32-be",
    30: "utf-16-be",
}  # fmt: skip


def name_text(name: bytes) -> str:
    """A distinguished name (its DER) in RFC 4514 form, last part first: `CN=Python-device-01,O=Contoso`."""
    parts = ["+".join(_attribute_text(*pair) for pair in reversed(rdn)) for rdn in _rdns(name)]
    return ",".join(reversed(parts))


def common_name(name: bytes) -> str | None:
    """The first common name in a distinguished name (its DER), as it is; None when it has none."""
    values = (_string(value) for rdn in _rdns(name) for oid, value in rdn if oid == COMMON_NAME)
    return next(values, None)


def _rdns(name: bytes) -> list[list[tuple[str, Element]]]:
    return [[_attribute(pair) for pair in elements(rdn.content)] for rdn in elements(first_element(name).content)]


def _attribute(pair: Element) -> tuple[str, Element]:
    oid, value = elements(pair.content)
    return oid_text(oid.content), value


def _attribute_text(oid: str, value: Element) -> str:
    text = _string(value)
    if oid not in _ATTRIBUTES or text is None:
        return f"{_ATTRIBUTES.get(oid, oid)}=#{value.whole.hex().upper()}"
    return f"{_ATTRIBUTES[oid]}={escaped(text)}"


def _string(value: Element) -> str | None:
    codec = _STRINGS.get(value.tag)
    return None if codec is None else value.content.decode(codec, errors="replace")


def escaped(text: str) -> str:
    """`text` as a value of RFC 4514 §2.4, unprintable characters as hex pairs to keep it on one line."""
    marked = "".join("\\" + sign if sign in '\\,+"<>;' else _visible(sign) for sign in text)
    if marked.endswith(" ") and text.strip() != "":
        marked = marked[:-1] + "\\ "
    return "\\" + marked if marked.startswith(("#", " ")) else marked


def _visible(sign: str) -> str:
    if sign.isprintable():
        return sign
    return "".join(f"\\{byte:02X}" for byte in sign.encode("utf-8", "surrogatepass"))


def oid_text(content: bytes) -> str:
    """The dotted form of an object identifier's content octets (X.690 §8.19)."""
    numbers, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    if not numbers or content[-1] & 0x80:
        raise ValueError("not an OID")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


# --- extensions -----------------------------------------------------------------------------------

_EXTENSIONS = {
    "2.5.29.9": "Subject Directory Attributes", "2.5.29.14": "Subject Key Identifier",
    "2.5.29.15": "Key Usage", "2.5.29.16": "Private Key Usage Period",
    "2.5.29.17": "Subject Alternative Name", "2.5.29.18": "Issuer Alternative Name",
    "2.5.29.19": "Basic Constraints", "2.5.29.30": "Name Constraints",
    "2.5.29.31": "CRL Distribution Points", "2.5.29.32": "Certificate Policies",
    "2.5.29.33": "Policy Mappings", "2.5.29.35": "Authority Key Identifier",
    "2.5.29.36": "Policy Constraints", "2.5.29.37": "Extended Key Usage", "2.5.29.46": "Freshest CRL",
    "2.5.29.54": "Inhibit Any Policy", "1.3.6.1.5.5.7.1.1": "Authority Information Access",
    "1.3.6.1.5.5.7.1.11": "Subject Information Access", "1.3.6.1.5.5.7.1.24": "TLS Feature",
    "1.3.6.1.4.1.11129.2.4.2": "CT Precertificate SCTs", "2.16.840.1.113730.1.1": "Netscape Cert Type",
    "2.16.840.1.113730.1.13": "Netscape Comment",
}  # fmt: skip
_USAGES = {
    "1.3.6.1.5.5.7.3.1": "TLS Web Server Authentication",
    "1.3.6.1.5.5.7.3.2": "TLS Web Client Authentication", "1.3.6.1.5.5.7.3.3": "Code Signing",
    "1.3.6.1.5.5.7.3.4": "E-mail Protection", "1.3.6.1.5.5.7.3.8": "Time Stamping",
    "1.3.6.1.5.5.7.3.9": "OCSP Signing", "2.5.29.37.0": "Any Extended Key Usage",
}  # fmt: skip
_KEY_USAGES = {
    "digital_signature": "Digital Signature", "content_commitment": "Non Repudiation",
    "key_encipherment": "Key Encipherment", "data_encipherment": "Data Encipherment",
    "key_agreement": "Key Agreement", "key_cert_sign": "Certificate Sign", "crl_sign": "CRL Sign",
}  # fmt: skip


def extensions_of(raw: bytes, decoded: x509.Extensions | None) -> tuple[Extension, ...]:
    """The extensions in `raw` (what the DER `Extensions` contain), worded from `decoded` if it is there."""
    known = {one.oid.dotted_string: one.value for one in decoded or ()}
    return tuple(_extension(one, known) for one in elements(raw))


def raw_is_ca(raw: bytes) -> bool:
    """Whether basic constraints among the extensions in `raw` say CA:TRUE (RFC 5280 §4.2.1.9)."""
    for one in elements(raw):
        oid, *_, value = elements(one.content)
        if oid_text(oid.content) == "2.5.29.19":
            return value.content.startswith(b"\x30") and value.content[2:5] == b"\x01\x01\xff"
    return False


def _extension(one: Element, known: dict[str, x509.ExtensionType]) -> Extension:
    oid, *flag, value = elements(one.content)
    dotted = oid_text(oid.content)
    critical = bool(flag) and flag[0].content != b"\0"
    wording = _WORDINGS.get(type(known.get(dotted)))
    text = wording(known[dotted]) if wording else _raw_text(value.content)
    return Extension(_EXTENSIONS.get(dotted, dotted), critical, text)


def _raw_text(value: bytes) -> str:
    """An extension that nobody explains: its text when it is one string, else its octets in hex."""
    try:
        only = first_element(value)
        text = _string(only) if only.whole == value else None
    except ValueError:
        text = None
    return colons(value) if text is None else escaped(text)


def octets_of(number: int) -> bytes:
    """The magnitude of `number`, big end first, in as few octets as it needs."""
    return abs(number).to_bytes(max(1, (number.bit_length() + 7) // 8), "big")


def colons(octets: bytes) -> str:
    """Octets as OpenSSL prints them: `D6:96:99`."""
    return octets.hex(":").upper()


def _basic_constraints(value: x509.BasicConstraints) -> str:
    length = "" if value.path_length is None else f", pathlen:{value.path_length}"
    return f"CA:{'TRUE' if value.ca else 'FALSE'}{length}"


def _key_usage(value: x509.KeyUsage) -> str:
    names = [name for attribute, name in _KEY_USAGES.items() if getattr(value, attribute)]
    if value.key_agreement:
        names += ["Encipher Only"] * value.encipher_only + ["Decipher Only"] * value.decipher_only
    return ", ".join(names)


def _extended_key_usage(value: x509.ExtendedKeyUsage) -> str:
    return ", ".join(_USAGES.get(one.dotted_string, one.dotted_string) for one in value)


def _authority_key(value: x509.AuthorityKeyIdentifier) -> str:
    parts = [f"keyid:{colons(value.key_identifier)}"] if value.key_identifier else []
    parts += [_general_name(one) for one in value.authority_cert_issuer or ()]
    if value.authority_cert_serial_number is not None:
        parts.append(f"serial:{colons(octets_of(value.authority_cert_serial_number))}")
    return ", ".join(parts)


def _general_name(name: x509.GeneralName) -> str:
    if isinstance(name, x509.DirectoryName):
        return f"DirName:{name_text(name.value.public_bytes())}"
    if isinstance(name, x509.OtherName):
        return f"othername:{name.type_id.dotted_string}:{_raw_text(name.value)}"
    if isinstance(name, x509.RegisteredID):
        return f"Registered ID:{name.value.dotted_string}"
    labels = {
        x509.DNSName: "DNS",
        x509.RFC822Name: "email",
        x509.UniformResourceIdentifier: "URI",
        x509.IPAddress: "IP Address",
    }
    return f"{labels[type(name)]}:{''.join(_visible(sign) for sign in str(name.value))}"


def _general_names(names: Any) -> str:
    return ", ".join(_general_name(one) for one in names or ())


def _access(value: Any) -> str:
    known = {"1.3.6.1.5.5.7.48.1": "OCSP", "1.3.6.1.5.5.7.48.2": "CA Issuers"}

    def method(oid: ObjectIdentifier) -> str:
        return known.get(oid.dotted_string, oid.dotted_string)

    return ", ".join(f"{method(one.access_method)} - {_general_name(one.access_location)}" for one in value)


def _crl_points(value: Any) -> str:
    return ", ".join(_general_names(point.full_name or point.crl_issuer) for point in value)


def _policies(value: x509.CertificatePolicies) -> str:
    return ", ".join(f"Policy: {one.policy_identifier.dotted_string}" for one in value)


def _name_constraints(value: x509.NameConstraints) -> str:
    kinds = (("Permitted", value.permitted_subtrees), ("Excluded", value.excluded_subtrees))
    return "; ".join(f"{kind}: {_general_names(names)}" for kind, names in kinds if names)


_WORDINGS: dict[type, Callable[[Any], str]] = {
    x509.BasicConstraints: _basic_constraints,
    x509.KeyUsage: _key_usage,
    x509.ExtendedKeyUsage: _extended_key_usage,
    x509.SubjectKeyIdentifier: lambda value: colons(value.digest),
    x509.AuthorityKeyIdentifier: _authority_key,
    x509.SubjectAlternativeName: _general_names,
    x509.IssuerAlternativeName: _general_names,
    x509.AuthorityInformationAccess: _access,
    x509.SubjectInformationAccess: _access,
    x509.CRLDistributionPoints: _crl_points,
    x509.FreshestCRL: _crl_points,
    x509.CertificatePolicies: _policies,
    x509.NameConstraints: _name_constraints,
}
