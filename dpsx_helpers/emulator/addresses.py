"""The addresses of an emulator: bound before anything is written, and the reason in one line when they cannot be."""

import contextlib
import errno
import ipaddress
import os
import re
import socket
import sys
from dataclasses import dataclass

import psutil

from dpsx_helpers.emulator.options import Options, StartError
from dpsx_helpers.errors import shown_value

_NEXT_HOSTS = 254  # how many loopback addresses to try
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - who listens there holds every address


@dataclass(frozen=True, slots=True)
class Bound:
    """The address, and its sockets. `ws` is None when no WebSocket is served."""

    host: str
    mqtt: socket.socket
    https: socket.socket
    ws: socket.socket | None

    @property
    def sockets(self) -> list[socket.socket]:
        return [sock for sock in (self.mqtt, self.https, self.ws) if sock]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@dataclass(eq=False)
class _TakenError(Exception):
    """A port that cannot be bound. Why is looked up when somebody is told: that takes a walk over all processes, and
    the hundredth learner of a machine meets ninety-nine addresses that are taken.
    """

    host: str
    address: str
    port: int
    error: OSError


def bind(options: Options, before: str | None = None) -> Bound:
    """Bind all ports on the address asked for, or on the next free loopback address where that is allowed.

    There the one that it had `before` comes first: devices look for it where they have left it.
    """
    for host in _hosts(options, before):
        with contextlib.ExitStack() as taken:
            try:
                mqtt = taken.enter_context(_bound(host, options.mqtt_port, options))
                https = taken.enter_context(_bound_https(host, options))
                ws = _bound_ws(host, options)
            except _TakenError as error:
                last = error
                continue
            taken.pop_all()
            return Bound(host, mqtt, https, ws)
    raise StartError(_why_taken(last))


def _hosts(options: Options, before: str | None) -> list[str]:
    """The addresses to try: that of the options, and after it those that are loopback too, where one will do."""
    if not options.next_free_host or sys.platform != "linux":
        return [options.host]
    try:
        first = ipaddress.IPv4Address(options.host)
    except ValueError:
        return [options.host]
    others = (first + number for number in range(1, _NEXT_HOSTS))
    hosts = [options.host, *(str(other) for other in others if other.is_loopback)]
    return sorted(hosts, key=lambda host: host != before)


def _bound_https(host: str, options: Options) -> socket.socket:
    if options.https_port is not None:
        return _bound(host, options.https_port, options)
    try:
        return _bound(host, 8443, options)
    except _TakenError:
        return _bound(host, 0, options)


def _bound_ws(host: str, options: Options) -> socket.socket | None:
    if not options.websocket:
        return None
    if options.ws_port is not None:
        return _bound(host, options.ws_port, options)
    try:
        return _bound(host, 443, options)
    except _TakenError:
        return None


def _bound(host: str, port: int, options: Options) -> socket.socket:
    """A bound socket that does not listen yet: clients see the port only when everything is on disk."""
    try:
        if not re.fullmatch(r"[A-Za-z0-9_.:%-]{1,253}", host):  # a blank one would be found, as this machine
            raise UnicodeError
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise StartError(
            f"{shown_value(host)} is no address of this machine: give one such as --host 127.0.0.2."
        ) from None
    _check_reach(host, str(address[0]), options)
    # Without SO_REUSEADDR nobody else gets the port between here and `listen`. With it a start succeeds while old
    # connections linger (see `_allow_a_restart`), but so does another process that starts in this very moment.
    for reuse in (False, True) if os.name == "posix" else (False,):
        bound = socket.socket(family, kind)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            bound.bind(address)
            return bound
        except OSError as error:
            bound.close()
            refused = error
    raise _TakenError(host, str(address[0]), port, refused)


def _check_reach(host: str, address: str, options: Options) -> None:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_unspecified:
        raise StartError(
            f"{host} means every address, which no device can connect to: name the one to listen on"
            f"{_which_there_are()}."
        )
    if not ip.is_loopback and not options.allow_network:
        raise StartError(f"{host} can be reached from the network: add --allow-network if that is meant.")


def _which_there_are() -> str:
    """The addresses of this machine that others can reach, to choose from."""
    found = [one.address for every in psutil.net_if_addrs().values() for one in every if one.family == socket.AF_INET]
    others = [address for address in found if not ipaddress.ip_address(address).is_loopback]
    return f" ({', '.join(others)})" if others else ""


def _why_taken(taken: _TakenError) -> str:
    host, port, error = taken.host, taken.port, taken.error
    if isinstance(error, PermissionError):
        return f"Port {port} on {host} needs rights that this user does not have: choose a port above 1023."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine{_which_there_are()}: give one such as --host 127.0.0.2."
    why = _holder(taken.address, port) or error.strerror
    return f"Port {port} on {host} cannot be used ({why}): stop that program or name another --host."


def _holder(address: str, port: int) -> str | None:
    """Who listens there, where this user may know it."""
    try:
        for connection in psutil.net_connections("tcp"):
            ip, taken, *_ = connection.laddr or ("", 0)
            if connection.status == psutil.CONN_LISTEN and taken == port and ip in (address, *_EVERYWHERE):
                name = psutil.Process(connection.pid).name() if connection.pid else "a program of another user"
                return f"taken by {name}, process {connection.pid or 'unknown'}"
    except psutil.Error:
        return None
    return None
