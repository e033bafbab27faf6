"""What lets the cells do the operator's work on Azure, at the "dps" and at the "hub": a connection string, which holds
a key, or the name of a host for whoever is signed in on this machine. Nothing secret is written anywhere.
"""

import binascii
import re
from base64 import b64decode
from functools import cache
from typing import TYPE_CHECKING

from dpsx_helpers import tutorial
from dpsx_helpers.tutorial import Stop

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

#: What the tutorial calls these inputs.
CONNECTION_STRINGS = {"dps": "dps_connection_string", "hub": "iothub_connection_string"}
HOSTS = {"dps": "service_endpoint", "hub": "iothub_host"}
#: Whose connection string or host: its name in a sentence, the other one's, what the other's host ends with, and a host
#: as an example.
_OWNERS = {
    "dps": ("provisioning service", "an IoT hub", r"\.azure-devices\.\w+", "my-dps.azure-devices-provisioning.net"),
    "hub": ("IoT hub", "a provisioning service", r"\.azure-devices-provisioning\.\w+", "my-hub.azure-devices.net"),
}


@cache
def credential() -> "TokenCredential":
    """Whoever is signed in on this machine; one for the whole kernel, as it keeps its tokens.

    https://learn.microsoft.com/python/api/azure-identity/azure.identity.defaultazurecredential
    """
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        raise Stop(
            "To act as who is signed in takes the package azure-identity, which is not installed here: run `python -m "
            "pip install -r requirements-azure.txt` in the tutorial's folder, restart the kernel, and run this cell "
            "again."
        ) from None
    signed_in: TokenCredential = DefaultAzureCredential()
    return signed_in


def connection_string(owner: str) -> tutorial.Secret | None:
    """What was entered, else the environment variable; None when neither is there."""
    found = tutorial.known(CONNECTION_STRINGS[owner])
    return check_connection_string(found[0], owner, found[1]) if found and found[0].strip() else None


def check_connection_string(text: str, owner: str, where: str = "entered") -> tutorial.Secret:
    """HostName=…;SharedAccessKeyName=…;SharedAccessKey=… of the "dps" or the "hub", without blanks around it. The
    sentence of the Stop does not show it.
    """
    whose, other, others, _ = _OWNERS[owner]
    parts = dict(part.strip().partition("=")[::2] for part in text.strip().split(";"))
    if not all(parts.get(part) for part in ("HostName", "SharedAccessKeyName", "SharedAccessKey")):
        raise Stop(
            f"The connection string of the {whose} ({where}) is not one with HostName, SharedAccessKeyName and "
            f"SharedAccessKey: copy it again from Shared access policies of your {whose} in the portal, and run this "
            "cell again."
        )
    if re.search(f"{others}$", parts["HostName"].lower()):
        raise Stop(
            f"The connection string of the {whose} ({where}) is that of {other}: copy the one from Shared access "
            f"policies of your {whose} in the portal, and run this cell again."
        )
    try:
        b64decode(parts["SharedAccessKey"], validate=True)
    except binascii.Error:
        raise Stop(
            f"The key in the connection string of the {whose} ({where}) is not whole: copy the connection string again "
            f"from Shared access policies of your {whose} in the portal, and run this cell again."
        ) from None
    names = ("HostName", "SharedAccessKeyName", "SharedAccessKey")
    return tutorial.Secret(";".join(f"{part}={parts[part]}" for part in names))


def host_name(connection_string: str) -> str:
    """The HostName in it."""
    return connection_string.split("HostName=", 1)[1].split(";", 1)[0]


def service_host(owner: str) -> str | None:
    """The host that was entered, or is in the environment, or remembered; None when it is not known."""
    found = tutorial.known(HOSTS[owner])
    return check_service_host(found[0], owner, found[1]) if found and found[0].strip() else None


def check_service_host(text: str, owner: str, where: str = "entered") -> str:
    """The host at which the "dps" or the "hub" answers whoever is signed in. Stop when it cannot be one.

    Tokens are asked for in the public cloud only, as Microsoft's client for DPS does.
    """
    whose, other, others, example = _OWNERS[owner]
    host = text.strip().lower()
    if "sharedaccesskey" in host:
        raise Stop(
            f"What was given for the host of your {whose} ({where}) is a connection string, and there is a key in it: "
            "delete it there, put the host alone, or enter it in the secret fields of forms.service_access(target), "
            "and run this cell again."
        )
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::\d+)?", host) or host.startswith("global."):
        raise Stop(
            f"The host of your {whose} ({where}) is not of the right form: its Overview page in the portal shows one "
            f"like {example}; copy that without https:// and run this cell again."
        )
    if re.search(f"{others}$", host):
        raise Stop(
            f"The host of your {whose} ({where}) is that of {other}: its Overview page in the portal shows one like "
            f"{example}; copy that and run this cell again."
        )
    if re.search(r"\.(?:us|cn)$", host):
        raise Stop(
            f"{host} is in a national cloud, where these notebooks cannot sign you in: give them the connection "
            f"strings instead, unset {' and '.join(tutorial.INPUTS[name] for name in HOSTS.values())}, and "
            "run this cell again."
        )
    return host
