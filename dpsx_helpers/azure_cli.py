"""The `az` lines that make, use and take away what the tutorial needs on Azure, filled with the learner's values.

They follow https://learn.microsoft.com/azure/iot-dps/quick-setup-auto-provision-cli, but for two things: the hub is of
the free tier, and it is linked by its name, so that no key stands in a command line
(https://learn.microsoft.com/cli/azure/iot/dps/linked-hub).
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpsx_helpers.tutorial import Stop

Shell = Literal["sh", "powershell"]


@dataclass(frozen=True)
class Names:
    """What the learner's things are called. Stop when Azure would not take a name: the rules are those of
    https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules (of a resource group's name
    only what a shell takes unquoted, too).
    """

    resource_group: str
    location: str
    hub: str
    dps: str

    def __post_init__(self) -> None:
        _check(
            "resource group",
            self.resource_group,
            r"[\w.-]{0,89}[\w-]",
            "1 to 90 letters, digits, - _ . and no . at its end",
        )
        _check("location", self.location, r"[A-Za-z][A-Za-z0-9 ]{1,40}", "a region, such as westeurope")
        _check(
            "IoT hub", self.hub, r"[A-Za-z0-9-]{2,49}[A-Za-z0-9]", "3 to 50 letters, digits and - with no - at its end"
        )
        _check(
            "provisioning service", self.dps, r"[A-Za-z0-9-]{2,63}[A-Za-z0-9]",
            "3 to 64 letters, digits and - with a letter or digit at its end",
        )  # fmt: skip

    @property
    def service_endpoint(self) -> str:
        return f"{self.dps}.azure-devices-provisioning.net".lower()

    @property
    def iothub_host(self) -> str:
        return f"{self.hub}.azure-devices.net".lower()


@dataclass(frozen=True)
class Step:
    """Some lines that belong together, and what they are good for."""

    title: str
    why: str
    lines: tuple[str, ...]


def steps(names: Names, registration_id: str, certificate_file: Path, shell: Shell = "sh") -> list[Step]:
    """All steps in their order; each stands alone."""
    group, hub, dps = names.resource_group, names.hub, names.dps
    here = f"--resource-group {group}"
    location = _quoted(names.location, shell)
    certificate = _quoted(str(certificate_file), shell)
    return [
        Step(
            "Sign in",
            "Once for each machine. The extension brings the commands for enrollments and devices.",
            ("az login", "az extension add --upgrade --name azure-iot"),
        ),
        Step(
            "Create both services and link them",
            "The hub is of the free tier (F1), of which a subscription can have one: where that is taken, leave out "
            "--sku and --partition-count, and the hub is of tier S1 and costs money by the day.",
            (
                f"az group create --name {group} --location {location}",
                f"az iot hub create --name {hub} {here} --location {location} --sku F1 --partition-count 2",
                f"az iot dps create --name {dps} {here} --location {location}",
                f"az iot dps linked-hub create --dps-name {dps} {here} --hub-name {hub}",
            ),
        ),
        Step(
            "What notebook 04 asks for",
            "ID scope and global device endpoint, as the Overview page shows them.",
            (
                f"az iot dps show --name {dps} {here} --output table --query "
                '"{idScope: properties.idScope, endpoint: properties.deviceProvisioningHostName}"',
            ),
        ),
        Step(
            "Enroll the device",
            "In place of the portal's part in notebook 03. The certificate has to be there.",
            (
                f"az iot dps enrollment create --dps-name {dps} {here} --enrollment-id {registration_id} "
                f"--attestation-type x509 --certificate-path {certificate}",
                f"az iot dps enrollment list --dps-name {dps} {here} --output table",
            ),
        ),
        Step(
            "Let the cells act, by keys",
            "Then start Jupyter in the same terminal. The keys are in its environment only, and on no screen.",
            (
                _set("DPS_CONNECTION_STRING", f"az iot dps connection-string show --dps-name {dps} {here} "
                     "--query connectionString --output tsv", shell),
                _set("IOTHUB_CONNECTION_STRING", f"az iot hub connection-string show --hub-name {hub} {here} "
                     "--query connectionString --output tsv", shell),
            ),
        ),
        Step(
            "Let the cells act, without keys",
            "In place of the step before: two roles for you (they take some minutes), and two names. It takes "
            "requirements-azure.txt. Then start Jupyter in the same terminal.",
            (
                _role("Device Provisioning Service Data Contributor", f"az iot dps show --name {dps} {here}"),
                _role("IoT Hub Data Contributor", f"az iot hub show --name {hub} {here}"),
                _set("DPSX_SERVICE_ENDPOINT", names.service_endpoint, shell, is_command=False),
                _set("DPSX_IOTHUB_HOST", names.iothub_host, shell, is_command=False),
            ),
        ),
        Step(
            "Watch what the device sends",
            "While the device of notebook 04 runs.",
            (f"az iot hub monitor-events --hub-name {hub} {here} --device-id {registration_id}",),
        ),
        Step(
            "Take it all away",
            "After notebook 05. What is deleted cannot be brought back; the last line deletes all that is in the "
            "resource group, whoever made it, and makes the other two needless.",
            (
                f"az iot dps delete --name {dps} {here}",
                f"az iot hub delete --name {hub} {here}",
                f"az group delete --name {group}",
            ),
        ),
    ]  # fmt: skip


def _check(what: str, name: str, pattern: str, rule: str) -> None:
    if not re.fullmatch(pattern, name, re.ASCII):
        raise Stop(f'"{name}" cannot be the name of your {what}: it has to be {rule}; mend it and run this cell again.')


def _quoted(text: str, shell: Shell) -> str:
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return text
    return shlex.quote(text) if shell == "sh" else "'{}'".format(text.replace("'", "''"))


def _set(name: str, value: str, shell: Shell, is_command: bool = True) -> str:
    """The line that sets a variable to a text, or to what a command prints."""
    if shell == "powershell":
        return f"$env:{name} = {value}" if is_command else f"$env:{name} = '{value}'"
    return f'export {name}="$({value})"' if is_command else f"export {name}={value}"


def _role(role: str, show: str) -> str:
    """https://learn.microsoft.com/azure/role-based-access-control/role-assignments-cli"""
    return (
        f'az role assignment create --role "{role}" --assignee-object-id "$(az ad signed-in-user show --query id '
        f'--output tsv)" --assignee-principal-type User --scope "$({show} --query id --output tsv)"'
    )
