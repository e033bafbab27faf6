"""The proxy that the device's traffic goes through, where a network lets nothing out but by one: DPSX_PROXY."""

import socket
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import socks

from dpsx_helpers import tutorial
from dpsx_helpers.tutorial import Stop

Kind = Literal["HTTP", "SOCKS4", "SOCKS5"]
#: By the scheme of a proxy's address: what the device SDK calls it, and its usual port.
#: https://learn.microsoft.com/python/api/azure-iot-device/azure.iot.device.proxyoptions
_KINDS: dict[str, tuple[Kind, int]] = {
    "http": ("HTTP", 8080),
    "socks4": ("SOCKS4", 1080),
    "socks5": ("SOCKS5", 1080),
    "socks5h": ("SOCKS5", 1080),
}


@dataclass(frozen=True)
class Proxy:
    """Where it is; what it is shown as (`str`) has no user name and no password in it."""

    kind: Kind
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind.lower()}://{host}:{self.port}"

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connection through the proxy, as the device SDK makes it. The proxy looks the name up. Raises OSError."""
        return socks.create_connection(  # type: ignore[no-any-return]
            (host, port),
            timeout=timeout,
            proxy_type=socks.PROXY_TYPES[self.kind],
            proxy_addr=self.host,
            proxy_port=self.port,
            proxy_username=self.user,
            proxy_password=self.password,
        )


def parse(text: str, where: str) -> Proxy:
    """The proxy of an address like http://proxy.example:8080 or socks5://user:password@proxy.example:1080.

    Stop when it is none; the sentence does not show it, for there may be a password in it.
    """
    try:
        parts = urlsplit(text.strip())
        kind, usual = _KINDS[parts.scheme.lower()]
        host, port = parts.hostname, parts.port or usual
    except (KeyError, ValueError):
        host = None
    if not host:
        raise Stop(
            f"The proxy ({where}) is not of the form http://HOST:PORT or socks5://HOST:PORT, which the device SDK can "
            "use: set it so (its user name and password, if any, go before the host, as in http://USER:PASSWORD@HOST), "
            "and run this cell again."
        )
    return Proxy(kind, host, port, *(unquote(one) if one else None for one in (parts.username, parts.password)))


def chosen() -> Proxy | None:
    """The proxy of DPSX_PROXY; None when it is not set, and on the emulator, which no proxy leads to."""
    found = tutorial.known("proxy")
    if found is None or not found[0].strip() or tutorial.target() == "emulator":
        return None
    return parse(*found)


def why(error: socks.ProxyError) -> str:
    """What a proxy answered, or why it did not (half a sentence)."""
    return " ".join(str(error.socket_err or error.msg).split())


def of_the_system(host: str) -> dict[str, str]:
    """(scheme, address without credentials) of the proxies that are set up for traffic to this host.

    HTTPS_PROXY and its like, on Windows and macOS also the system's settings:
    https://docs.python.org/3/library/urllib.request.html#urllib.request.getproxies. The device takes none of them but
    that for mqtt, by itself: the MQTT library under the SDK asks for it in this very way.
    """
    if proxy_bypass(host):
        return {}
    return {
        name: _shown(text) for name, text in sorted(getproxies().items()) if name in ("http", "https", "all", "mqtt")
    }


def _shown(text: str) -> str:
    try:
        return str(parse(text if "://" in text else f"http://{text}", "of the system"))
    except Stop:
        return "of a form that is not known here"
