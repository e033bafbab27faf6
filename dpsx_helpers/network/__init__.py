"""Whether the target's endpoint can be reached, and how: what `dpsx doctor` says of the network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import certifi

from dpsx_helpers import proxies, tutorial
from dpsx_helpers.machine import Finding
from dpsx_helpers.network import probes, verdicts
from dpsx_helpers.network.verdicts import MQTT, WEBSOCKETS, Seen


def azure(host: str) -> tuple[list[Finding], str]:
    """What was found on the way to the endpoint, and the sentence that says which transport to use."""
    seen = look(host)
    return verdicts.findings(seen), verdicts.transport(seen)[1]


def look(host: str, *, mqtt: int = MQTT, websockets: int = WEBSOCKETS, public: str | None = None) -> Seen:
    """Look at an endpoint of Azure, within some twelve seconds. `public`: a file of other authorities than certifi's,
    whom everybody trusts. Stop when DPSX_PROXY or DPSX_TRANSPORT cannot be used.
    """
    everybody = public or certifi.where()
    proxy = proxies.chosen()
    looks: dict[str, Callable[[], Any]] = {
        "addresses": partial(probes.addresses, host),
        "mqtt": partial(probes.door, host, mqtt, everybody),
        "websockets": partial(probes.door, host, websockets, everybody, ask_time=True),
    }
    if proxy is not None:
        looks["through"] = partial(probes.door, host, websockets, everybody, dial=proxy.dial, ask_time=True)
    seen = probes.together(looks)
    return Seen(host, **seen, proxy=proxy, system=proxies.of_the_system(host), transport=_asked_for())


def emulator(host: str) -> tuple[list[Finding], str]:
    """The same for an emulator that runs there. This process has to trust it already."""
    doors = probes.together({str(port): partial(probes.door, host, port, None) for port in (MQTT, WEBSOCKETS)})
    seen = Seen(host, (host,), doors[str(MQTT)], doors[str(WEBSOCKETS)], transport=_asked_for())
    return verdicts.of_emulator(seen), verdicts.transport(seen)[1]


def _asked_for() -> str:
    return tutorial.transport() if tutorial.known("transport") else ""
