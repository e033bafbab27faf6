"""What the looks of `probes` mean: findings with a remedy each, and which transport to use. No I/O."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import certifi

from dpsx_helpers.machine import Finding
from dpsx_helpers.network.probes import Door, Handshake
from dpsx_helpers.proxies import Proxy

MQTT, WEBSOCKETS = 8883, 443
_NAMES = {MQTT: "port 8883, MQTT over TLS", WEBSOCKETS: "port 443, MQTT over WebSockets"}
OFF = 300.0  # seconds that two clocks may differ
_NOT_YET, _EXPIRED, _OTHER_NAMES = 9, 10, (62, 64)  # of OpenSSL, see probes.Handshake
_EXEMPT = (
    "ask who runs this network to exempt *.azure-devices-provisioning.net and *.azure-devices.net from inspection: a "
    "device that proves itself with a certificate cannot do so through an inspecting proxy"
)


@dataclass(frozen=True)
class Seen:
    """All that was looked at. `addresses` is a text where the name could not be looked up, `through` the door of port
    443 by way of a proxy, `transport` what DPSX_TRANSPORT says ("" when it is not set).
    """

    host: str
    addresses: tuple[str, ...] | str | None
    mqtt: Door | None
    websockets: Door | None
    through: Door | None = None
    proxy: Proxy | None = None
    system: Mapping[str, str] = field(default_factory=dict)
    transport: str = ""


def good(door: Door | None) -> bool:
    """Whether a device with a certificate gets through: TLS with a server that this machine trusts, and nobody between
    who decrypts it. (The key that proves a certificate signs this very handshake, which cannot be passed on:
    https://www.rfc-editor.org/rfc/rfc8446#section-4.4.3)
    """
    if door is None or door.machine is None or door.machine.code != 0:
        return False
    return door.public is None or door.public.code == 0


def findings(seen: Seen) -> list[Finding]:
    """In the order in which a connection comes about. What need not be mended, as another way is open, is not
    `required`.
    """
    open_way = transport(seen)[0] != "none"
    found = [_lookup(seen, open_way)]
    direct = ((seen.mqtt, MQTT), (seen.websockets, WEBSOCKETS)) if found[0].ok else ()
    for door, port in direct:
        needed = not open_way or (seen.transport == _called(port) and seen.proxy is None)
        found += _door(_NAMES[port], door, needed)
    if seen.proxy is not None:
        found += _door(f"port 443 through the proxy {seen.proxy}", seen.through, True)
    found += _clock(seen)
    found.append(_proxies(seen))
    return found


def of_emulator(seen: Seen) -> list[Finding]:
    """The emulator serves port 443 only where this machine lets it have that port."""
    found = _door(_NAMES[MQTT], seen.mqtt, True)
    if good(seen.websockets):
        return [*found, Finding(_NAMES[WEBSOCKETS], True, "served")]
    wanted = seen.transport == "websockets"
    remedy = "unset DPSX_TRANSPORT, as port 8883 is there" if wanted else ""
    return [
        *found,
        Finding(_NAMES[WEBSOCKETS], not wanted, "not served, and not needed" if not wanted else "not served", remedy),
    ]


def transport(seen: Seen) -> tuple[str, str]:
    """(mqtt, websockets or none; one sentence on why and what to set)."""
    mqtt, websockets = good(seen.mqtt), good(seen.websockets)
    if seen.proxy is not None and good(seen.through):
        if seen.transport == "websockets":
            return "websockets", f"websockets, through the proxy {seen.proxy}, as DPSX_TRANSPORT and DPSX_PROXY say."
        return "websockets", f"websockets, through the proxy {seen.proxy}: set DPSX_TRANSPORT=websockets."
    if websockets and seen.transport == "websockets":
        return "websockets", "websockets, as DPSX_TRANSPORT says."
    if mqtt:
        change = " (DPSX_TRANSPORT says websockets: unset it)" if seen.transport == "websockets" else ""
        return "mqtt", f"mqtt, on port 8883{change}."
    if websockets:
        return "websockets", "websockets, on port 443, as 8883 is of no use here: set DPSX_TRANSPORT=websockets."
    if seen.system and seen.proxy is None:
        name = next(name for name in ("mqtt", "https", "all", "http") if name in seen.system)
        return "none", (
            f"none directly, but a proxy is set up here: set DPSX_PROXY to it ({seen.system[name]}) and "
            "DPSX_TRANSPORT=websockets, and start `dpsx doctor` again."
        )
    if not isinstance(seen.addresses, tuple):
        return "none", "none: this machine cannot look up the name of the endpoint, so begin there."
    return "none", "none: mend what is marked above, or take a network without a firewall in between."


def _called(port: int) -> str:
    return "mqtt" if port == MQTT else "websockets"


def _lookup(seen: Seen, open_way: bool) -> Finding:
    name = f"name {seen.host}"
    if isinstance(seen.addresses, tuple):
        return Finding(name, True, ", ".join(seen.addresses))
    why = seen.addresses or "the name server does not answer"
    remedy = (
        "see whether this machine is online, whether its network looks up names of the internet, and whether "
        "DPSX_PROVISIONING_HOST, if set, is spelled right"
    )
    return Finding(name, False, f"cannot be looked up ({why})", remedy, required=not open_way)


def _door(name: str, door: Door | None, needed: bool) -> list[Finding]:
    """The port, and what TLS showed behind it."""
    shut = "ask who runs this network to let it out, or use the other transport (the last line says which)"
    if door is None:
        return [Finding(name, False, "no answer in time", shut, needed)]
    if door.fault:
        return [Finding(name, False, door.fault, shut, needed)]
    assert door.machine is not None
    found, remedy = _tls(door.machine, door.public)
    return [
        Finding(name, True, "open"),
        Finding(f"certificate on {name.partition(',')[0]}", not remedy, found, remedy, needed),
    ]


def _tls(machine: Handshake, public: Handshake | None) -> tuple[str, str]:
    """What was found, and the remedy ("" when all is well)."""
    by = f"issued by {machine.issuer}"
    if machine.code is None:
        return f"TLS breaks off ({machine.fault})", "something on the way lets no TLS through there: use the other port"
    if machine.code in (_NOT_YET, _EXPIRED):
        span = f"valid from {machine.valid_from:%Y-%m-%d} to {machine.valid_until:%Y-%m-%d} ({by})"
        return f"not valid at this time: {span}", f"set the machine's clock; if that is right, {_EXEMPT}"
    if machine.code in _OTHER_NAMES:
        return (
            f"for another name ({by})",
            "open a web page first, in case this network asks for a sign-in; else look for a mistake in the host name",
        )
    if public is None or public.code is None:
        return (f"good, {by}", "") if machine.code == 0 else (f"not trusted ({by})", _trust())
    if public.code == 0:
        return (
            (f"good, {by}", "") if machine.code == 0 else (f"good, {by}, but this machine does not trust it", _trust())
        )
    whose = "this machine trusts it, but it is no public authority" if machine.code == 0 else "no authority known here"
    return f"{by} ({whose}): the connection is intercepted", _EXEMPT


def _trust() -> str:
    if named := os.environ.get("SSL_CERT_FILE"):
        return f"unset SSL_CERT_FILE, or add the public authorities to what it names ({named})"
    return f"set SSL_CERT_FILE={certifi.where()}, the public authorities"


def _clock(seen: Seen) -> list[Finding]:
    ahead = next((one.ahead for one in (seen.websockets, seen.through) if one and one.ahead is not None), None)
    if ahead is None:
        return []
    name = "clock against the server's"
    if abs(ahead) <= OFF:
        return [Finding(name, True, f"{abs(ahead):.0f} s apart")]
    minutes = f"{abs(ahead) / 60:,.0f} minutes {'behind' if ahead > 0 else 'ahead'}"
    return [
        Finding(name, False, minutes, "set the machine's clock (or turn on its setting by network): certificates and "
                "access tokens of a wrong time are refused")
    ]  # fmt: skip


def _proxies(seen: Seen) -> Finding:
    name = "proxies"
    told = [f"{scheme}: {address}" for scheme, address in seen.system.items()]
    told += [f"DPSX_PROXY: {seen.proxy}"] if seen.proxy else []
    if not told:
        return Finding(name, True, "none set up for this host")
    if seen.proxy is None and "mqtt" in seen.system:
        remedy = "unset MQTT_PROXY, and set DPSX_PROXY to it, so that what is looked at here is what the device does"
        return Finding(
            name, False, f"{', '.join(told)}; the device takes that for mqtt by itself", remedy, required=False
        )
    used = "" if seen.proxy else "; the device goes past them, unless DPSX_PROXY names one"
    return Finding(name, True, f"{', '.join(told)}{used}")
