"""What is on the way to an endpoint: thin looks, each with a time limit of its own. `verdicts` says what they mean.

Nothing is sent but TLS handshakes and, on port 443, one HEAD request for the server's clock.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar

from OpenSSL import SSL, crypto

T = TypeVar("T")
Dial = Callable[[str, int, float], socket.socket]
EACH = 4.0  # seconds for each step of a look
ALL = 12.0  # seconds for all looks together


@dataclass(frozen=True)
class Handshake:
    """How far TLS came. `code` is OpenSSL's verdict on the server's certificate, 0 when it is good:
    https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/. None: TLS broke off before, and `fault` says how.
    """

    code: int | None
    issuer: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    fault: str = ""


@dataclass(frozen=True)
class Door:
    """One port: why it cannot be reached (half a sentence), or how TLS went there, with the authorities that this
    machine trusts and with the public ones alone (None: not asked for). `ahead`: seconds that the server's clock is
    ahead of this one's.
    """

    port: int
    fault: str = ""
    machine: Handshake | None = None
    public: Handshake | None = None
    ahead: float | None = None


def direct(host: str, port: int, timeout: float) -> socket.socket:
    """A plain TCP connection. Raises OSError."""
    return socket.create_connection((host, port), timeout=timeout)


def addresses(host: str) -> tuple[str, ...] | str:
    """The addresses of a name; a text when it has none, which says why (half a sentence)."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or "it is not a host name"
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


def door(host: str, port: int, public: str | None, *, dial: Dial = direct, ask_time: bool = False) -> Door:
    """Look at one port. `public`: the file of the public authorities; None leaves that comparison out."""
    try:
        dial(host, port, EACH).close()
    except (OSError, UnicodeError) as error:
        return Door(port, fault=_why_not(error))
    seen = Door(port, machine=_handshake(host, port, None, dial))
    if public is not None:
        seen = replace(seen, public=_handshake(host, port, public, dial))
    if ask_time and seen.machine and seen.machine.code == 0:
        seen = replace(seen, ahead=_ahead(host, port, dial))
    return seen


def together(looks: Mapping[str, Callable[[], T]], within: float = ALL) -> dict[str, T | None]:
    """All looks at the same time; None for one that has not come back in time (a thread that waits for a name server
    cannot be stopped, and is left behind).
    """
    found: dict[str, T | None] = dict.fromkeys(looks)

    def look(name: str) -> None:
        found[name] = looks[name]()

    threads = [threading.Thread(target=look, args=(name,), name=f"look at {name}", daemon=True) for name in looks]
    deadline = time.monotonic() + within
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def _why_not(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {EACH:.0f} seconds"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "the name cannot be looked up"
    return str(getattr(error, "strerror", None) or error)


def _context(authorities: str | None) -> ssl.SSLContext:
    """The device SDK's own settings. Without `authorities`: those of this machine, or of SSL_CERT_FILE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(authorities)
    return context


def _handshake(host: str, port: int, authorities: str | None, dial: Dial) -> Handshake:
    try:
        with dial(host, port, EACH) as plain, _context(authorities).wrap_socket(plain, server_hostname=host) as tls:
            shown = crypto.X509.from_cryptography(_load(tls.getpeercert(binary_form=True) or b""))
            return _of(0, shown)
    except ssl.SSLCertVerificationError as error:
        return _refused(host, port, authorities, dial, error.verify_code)
    except (OSError, UnicodeError) as error:
        return Handshake(None, fault=_why_not(error))


def _load(der: bytes) -> Any:
    from cryptography import x509

    return x509.load_der_x509_certificate(der)


def _refused(host: str, port: int, authorities: str | None, dial: Dial, code: int) -> Handshake:
    """Shake hands once more, to see the certificate at fault: `ssl` does not show one that it refused."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if authorities is None:
        context.set_default_verify_paths()
    else:
        context.load_verify_locations(authorities)
    looked_at: list[crypto.X509] = []

    def look(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, good: int) -> bool:
        looked_at.append(certificate)
        return bool(good)

    context.set_verify(SSL.VERIFY_PEER, look)
    try:
        with dial(host, port, EACH) as plain:
            connection = SSL.Connection(context, plain)
            connection.set_tlsext_host_name(host.encode("idna"))
            connection.set_connect_state()
            _shake(connection, plain)
    except (OSError, SSL.Error, UnicodeError):
        pass  # what was looked at until then is what is wanted
    return _of(code, looked_at[-1]) if looked_at else Handshake(code)


def _shake(connection: SSL.Connection, plain: socket.socket) -> None:
    deadline = time.monotonic() + EACH
    while time.monotonic() < deadline:
        try:
            connection.do_handshake()
            return
        except SSL.WantReadError:
            select.select([plain], [], [], 0.1)


def _of(code: int, certificate: crypto.X509) -> Handshake:
    seen = certificate.to_cryptography()
    names = {attribute.rfc4514_attribute_name: str(attribute.value) for attribute in seen.issuer}
    issuer = ", ".join(dict.fromkeys(names[part] for part in ("CN", "O") if part in names))
    return Handshake(code, issuer or "nobody that it names", seen.not_valid_before_utc, seen.not_valid_after_utc)


def _ahead(host: str, port: int, dial: Dial) -> float | None:
    """Seconds that the clock of the server is ahead, by the Date of its answer; None when it tells none.

    https://www.rfc-editor.org/rfc/rfc9110#name-date
    """
    try:
        with dial(host, port, EACH) as plain, _context(None).wrap_socket(plain, server_hostname=host) as tls:
            connection = HTTPConnection(host)
            connection.sock = tls
            connection.request("HEAD", "/", headers={"Connection": "close"})
            told = parsedate_to_datetime(connection.getresponse().headers["Date"])
            return (told - datetime.now(UTC)).total_seconds()
    except (OSError, HTTPException, ValueError, TypeError):
        return None
