"""Which service the cells talk to: the embedded emulator, or the learner's own Azure subscription."""

import os
import re
import socket
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import socks

from dpsx_helpers import access, joining, proxies, tutorial
from dpsx_helpers.display import View, note
from dpsx_helpers.errors import shown
from dpsx_helpers.tutorial import Stop

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.iot.device import ProxyOptions

    from dpsx_helpers.emulator import Emulator

GLOBAL_ENDPOINT = "global.azure-devices-provisioning.net"
#: Python (and the device SDK), Node, and `requests` and `az` look here for the certificates they trust.
TRUST = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
#: What lets the notebooks act for the operator on Azure. Each holds a key.
CONNECTION_STRINGS = tuple(tutorial.INPUTS[name] for name in access.CONNECTION_STRINGS.values())


@dataclass(frozen=True)
class Target:
    """One service to talk to.

    `scope` is None on Azure until it was entered; `id_scope` then stops with a sentence. `emulator` is the one on this
    machine, `join` says how a class's is reached instead. `service_endpoint` is where DPS answers the operator: a host,
    with a port if that is not 443; None on Azure while it is not known.
    """

    name: tutorial.TargetName
    host: str
    scope: str | None
    service_endpoint: str | None = None
    hubs: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    bundle_file: Path | None = None
    dps_connection_string: str | None = field(default=None, repr=False)
    iothub_connection_string: str | None = field(default=None, repr=False)
    credential: "TokenCredential | None" = field(default=None, repr=False)
    emulator: "Emulator | None" = field(default=None, repr=False)
    join: joining.Join | None = field(default=None, repr=False)

    @property
    def is_emulator(self) -> bool:
        return self.name == "emulator"

    @property
    def service(self) -> bool:
        """Whether enrollments and devices can be read and changed from here: always on the emulator, on Azure with both
        connection strings, or with both hosts and somebody who is signed in.
        """
        dps = self.dps_connection_string or (self.credential and self.service_endpoint)
        return bool(dps and (self.iothub_connection_string or (self.credential and self.hubs)))

    @property
    def id_scope(self) -> str:
        """The ID scope of the provisioning service."""
        if self.scope is None:
            raise Stop(
                "The ID scope of your provisioning service is not known yet: copy it from the Overview page "
                "of your Device "
                "Provisioning Service in the portal into the connection form of notebook 04 (or set "
                "DPSX_ID_SCOPE), and run this cell again."
            )
        return self.scope

    def overview(self) -> list[tuple[str, str]]:
        """(label, value) as the portal's Overview page of a provisioning service names them."""
        rows = [("ID Scope", self.scope or "not entered yet"), ("Global device endpoint", self.host)]
        rows += [("Service endpoint", self.service_endpoint)] if self.service_endpoint else []
        return rows + list(self.details)

    def messages(self, device_id: str | None) -> list[dict[str, Any]]:
        """What the hub has stored from this device (None: from all); only where the hub can be read.

        Of a class's emulator the last thousand of the student's own device.
        """
        if self.join is not None:
            return _messages_of_class(self)
        if self.emulator is None:
            raise tutorial.NotReadable(
                "What reached your hub cannot be read from here: run "
                f"`az iot hub monitor-events --hub-name <your hub> --device-id {device_id}` in a terminal "
                "while the device sends."
            )
        return list(self.emulator.messages(device_id))

    def send(self, device_id: str, text: str) -> None:
        """Send a cloud-to-device message, which on Azure goes over AMQP and not from here."""
        if self.join is not None:
            _send_in_class(self, device_id, text)
        elif self.emulator is not None:
            self.emulator.send(device_id, text)
        else:
            raise tutorial.NotReadable(
                f"To send on Azure run `az iot device c2d-message send -n <your hub> -d {device_id} --data ...`."
            )

    def log(self) -> list[str]:
        """The lines of the emulator's own log, oldest first."""
        if self.join is not None:
            raise tutorial.NotReadable(
                "The log of your class's emulator is your teacher's: ask what it says of "
                f"{self.join.registration_id}, which their board shows, too."
            )
        if self.emulator is None:
            raise tutorial.NotReadable(
                "Azure shows no log of this conversation: its side is Azure Monitor, in the portal."
            )
        file = self.emulator.log_file
        try:
            return file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise Stop(
                f"The emulator's log {file} cannot be read ({error.strerror}): run the first cell of this notebook, "
                "which starts the emulator, and run this cell again."
            ) from None


def current() -> Target:
    """The target in use; the emulator is started when it does not run yet, and trusted from then on.

    Trust has to be set before the first client object is made: the device SDK reads it in the constructor.
    """
    tutorial.choose_transport()
    if tutorial.target() == "azure":
        return _azure()
    if (join := tutorial.joined()) is not None:
        _check_class(join)
        return _of_class(join)
    from dpsx_helpers.emulator import Emulator

    return _trusted(Emulator.start(tutorial.work_dir() / "emulator"))


def for_operator(device: str | None = None) -> Target:
    """The target in use, for a notebook that acts for the operator too. Stop when that needs access to the services:
    then the form for it is shown.

    `device` is the only one that the notebook makes: in a class it works when that is the student's own.
    """
    join = tutorial.joined()
    if join is not None and (device is None or device.casefold() != join.registration_id.casefold()):
        raise Stop(
            f"This notebook makes devices of other names, and in your class your key opens {join.registration_id} "
            "alone: run `dpsx leave` in a terminal, then this cell again, and it works on an emulator of your own."
        )
    target = current()
    if not target.service:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if get_ipython() is not None:
            from dpsx_helpers import forms

            display(forms.service_access(target))  # type: ignore[no-untyped-call]
        raise Stop(
            "This notebook does the operator's work too, which on Azure takes both connection strings: enter them in "
            f"the form above, or set {' and '.join(CONNECTION_STRINGS)} before you start Jupyter (portal, Shared "
            "access policies: provisioningserviceowner of your provisioning service, iothubowner of your IoT hub), "
            "and run this cell again."
        )
    return target


def proxy_options() -> "ProxyOptions | None":
    """The proxy of DPSX_PROXY as the device SDK takes it; None when there is none, and on the emulator.

    Stop when DPSX_PROXY is not of a form that the SDK can use.
    """
    proxy = proxies.chosen()
    if proxy is None:
        return None
    from azure.iot.device import ProxyOptions

    login = proxy.user, proxy.password
    return ProxyOptions(proxy.kind, proxy.host, proxy.port, *login)  # type: ignore[no-untyped-call]


def attached() -> Target | None:
    """The target in use if it needs no starting: None when the emulator is the target and is not running."""
    if tutorial.target() == "azure":
        return _azure()
    if (join := tutorial.joined()) is not None:
        return _of_class(join)
    from dpsx_helpers.emulator import Emulator, EmulatorError

    try:
        return _trusted(Emulator.attach(tutorial.work_dir() / "emulator"))
    except EmulatorError:
        return None


def stop() -> View:
    """Stop the emulator, if one runs and a notebook started it."""
    target = attached()
    if target is None:
        return note("The emulator is not running.")
    if target.join is not None:
        return note("The emulator of your class runs on: it is your teacher's to stop.")
    if target.emulator is None:
        return note("Nothing runs on this machine for Azure: there is nothing to stop.")
    if target.emulator.overview.started_by != "notebook":
        return note(
            "The emulator was started with `run` in a terminal, not by this tutorial: stop it there with Ctrl-C."
        )
    target.emulator.stop()
    return note("The emulator is stopped.")


def environment(target: Target) -> dict[str, str]:
    """The six variables that the device code reads, and the pass phrase under its second name too."""
    pass_phrase = tutorial.pass_phrase()
    values = (target.host, target.id_scope, tutorial.registration_id(), str(tutorial.certificate_file()))
    return dict(zip(tutorial.VARIABLES, (*values, str(tutorial.key_file()), pass_phrase, pass_phrase), strict=True))


def _azure() -> Target:
    dps, hub = access.connection_string("dps"), access.connection_string("hub")
    service_endpoint = access.host_name(dps) if dps else access.service_host("dps")
    hub_host = access.host_name(hub) if hub else access.service_host("hub")
    signed_in = (service_endpoint and not dps) or (hub_host and not hub)
    return Target(
        "azure",
        endpoint(),
        _id_scope(None),
        service_endpoint,
        (hub_host,) if hub_host else (),
        dps_connection_string=dps,
        iothub_connection_string=hub,
        credential=access.credential() if signed_in else None,
    )


def _trusted(emulator: "Emulator") -> Target:
    names = emulator.environment()
    os.environ.update({name: names[name] for name in TRUST})
    seen = emulator.overview
    _reach_without_proxy(seen.host)
    details = (
        ("Linked IoT hubs", ", ".join(seen.hubs) or "none"),
        ("MQTT port", str(seen.mqtt_port)),
        ("CA file", str(seen.ca_file)),
    )
    return Target(
        name="emulator",
        host=_host(seen.host),
        scope=_id_scope(seen.id_scope),
        service_endpoint=seen.service_endpoint,
        hubs=tuple(seen.hubs),
        details=details,
        bundle_file=seen.bundle_file,
        dps_connection_string=tutorial.Secret(seen.dps_connection_string),
        iothub_connection_string=tutorial.Secret(seen.iothub_connection_string),
        emulator=emulator,
    )


def _of_class(join: joining.Join) -> Target:
    """The emulator of a class, trusted from now on."""
    bundle, ca = joining.trust(tutorial.work_dir(), join)
    os.environ.update(dict(zip(TRUST, map(str, (bundle, ca, bundle)), strict=True)))
    _reach_without_proxy(join.host)
    details = (
        ("Linked IoT hubs", ", ".join(join.hubs) or "none"),
        ("MQTT port", str(join.mqtt_port)),
        ("CA file", str(ca)),
        ("You are", join.registration_id),
    )
    return Target(
        name="emulator",
        host=_host(join.host),
        scope=_id_scope(join.id_scope),
        service_endpoint=join.endpoint,
        hubs=join.hubs,
        details=details,
        bundle_file=bundle,
        dps_connection_string=tutorial.Secret(join.connection_string),
        iothub_connection_string=tutorial.Secret(join.connection_string),
        join=join,
    )


def _check_class(join: joining.Join) -> None:
    if fault := listens(join.host, join.https_port):
        raise Stop(
            f"{fault[0].upper()}{fault[1:]}, where the emulator of your class should be: ask your teacher whether it "
            "runs (it may have moved, then you get a new file), or go back to your own with `dpsx leave`."
        )


def _messages_of_class(target: Target) -> list[dict[str, Any]]:
    return list(_asked_of_class(target, "GET", "messages"))


def _send_in_class(target: Target, device_id: str, text: str) -> None:
    body = b64encode(text.encode()).decode()
    _asked_of_class(target, "POST", "send", {"deviceId": device_id, "body": body})


def _asked_of_class(target: Target, method: str, what: str, document: Any = None) -> Any:
    """The answer to one of the emulator's own requests that are open to students."""
    from dpsx_helpers import registry

    answer = registry.request(target, method, f"/emulator/{what}", json=document)
    if answer.ok:
        return answer.json()
    if answer.status_code == 404:
        raise Stop("The hub of your class does not know your device: let it register first, and run this cell again.")
    raise Stop(
        f"The emulator of your class answered {answer.status_code} when it was asked to {method} {what}: ask your "
        "teacher whether you are still in the class."
    )


def _reach_without_proxy(host: str) -> None:
    """A proxy that is set up for the internet does not lead to this machine: service clients are to pass it by."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [one for one in os.environ.get(name, "").split(",") if one]
        if host not in hosts:
            os.environ[name] = ",".join([*hosts, host])


def endpoint() -> str:
    """Where a device asks on Azure: the endpoint that was entered, else the global one."""
    return _host(GLOBAL_ENDPOINT)


def _host(default: str) -> str:
    found = tutorial.known("host")
    return check_host(*found) if found else default


def _id_scope(default: str | None) -> str | None:
    found = tutorial.known("id_scope")
    return check_id_scope(*found) if found else default


def check_id_scope(text: str, where: str = "entered") -> str:
    """The ID scope, if it can be one: letters and digits only.

    Its usual form is not specified, so that is only a hint.
    """
    if not text.strip():
        raise Stop(
            f"The ID scope ({where}) is blank: copy it from the Overview page of your Device Provisioning "
            "Service, "
            "where it looks like 0ne00ABC123, and run this cell again."
        )
    if not re.fullmatch(r"[A-Za-z0-9]+", text):
        raise Stop(
            f'The ID scope "{shown(text)}" ({where}) has something other than letters and digits in it: copy it '
            "again from the Overview "
            "page, where it looks like 0ne00ABC123, and run this cell again."
        )
    return text


def id_scope_hint(text: str) -> str | None:
    """A hint when a well-formed ID scope does not look like the usual ones."""
    if re.fullmatch(r"0ne[A-Za-z0-9]{8}", text):
        return None
    usual = "an ID scope is usually 0ne and 8 more characters"
    return f"{usual}, and {text} is not: if the connection is refused, look there first"


def check_host(text: str, where: str = "entered") -> str:
    """The host, if it is a bare name or address.

    A URL, a port or a blank is refused with the bare name to use.
    """
    if not text.strip():
        raise Stop(f"The global device endpoint ({where}) is blank: enter {GLOBAL_ENDPOINT}, and run this cell again.")
    if re.search(r"\.azure-devices\.\w+$", text.strip().lower()):
        raise Stop(
            f'"{shown(text)}" ({where}) is the address of an IoT hub, and a device that is not provisioned yet asks '
            f"DPS: use {GLOBAL_ENDPOINT} and run this cell again."
        )
    if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", text):
        return text
    bare = _bare_host(text)
    raise Stop(
        f'The global device endpoint "{shown(text)}" ({where}) is not a bare host name, and the SDK looks up '
        "exactly what it is given: "
        f"use {shown(bare)} instead and run this cell again."
    )


def host_hint(host: str) -> str | None:
    """A hint when the endpoint is that of one provisioning service: devices use it with private endpoints only.

    https://learn.microsoft.com/azure/iot-dps/virtual-network-support#use-private-endpoints-with-devices
    """
    if not re.fullmatch(r"(?!global[.-])[a-z0-9-]+\.azure-devices-provisioning\.\w+", host.lower()):
        return None
    everybody = host.lower().replace(host.lower().partition(".")[0], "global", 1)
    return f"this is a service endpoint, which devices use only with a private endpoint; else take {everybody}"


def _bare_host(text: str) -> str:
    squeezed = re.sub(r"\s+", "", text)
    try:
        name = urlsplit(squeezed if "//" in squeezed else f"//{squeezed}").hostname or ""
    except ValueError:
        name = ""
    return re.sub(r"[^a-z0-9.-]", "", name) or GLOBAL_ENDPOINT


def listens(host: str, port: int, timeout: float = 3.0, proxy: proxies.Proxy | None = None) -> str | None:
    """None when something accepts TCP connections there within `timeout` seconds (reached through the `proxy`, if there
    is one), else why not (half a sentence).
    """
    try:
        if proxy is not None:
            proxy.dial(host, port, timeout).close()
        else:
            socket.create_connection((host, port), timeout=timeout).close()
    except socks.ProxyError as error:
        return f"the proxy {proxy} lets nothing through to {host} on port {port} ({proxies.why(error)})"
    except socket.gaierror:
        return f"the name {host} cannot be looked up"
    except TimeoutError:
        return f"{host} does not answer on port {port} (a firewall may be in between)"
    except (OSError, UnicodeError):
        return f"nothing listens at {host} on port {port}"
    return None
