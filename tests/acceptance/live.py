"""A provisioning service with its hub, as the acceptance suite sees both Azure and the emulator."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.exceptions import ResourceNotFoundError
from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient
from azure.iot.device.exceptions import ClientError
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from clients import cause, credentials, document, group_document
from pki import Device, issue, make_ca, make_device

from dpsx_helpers import conversation, enrollments, registry, targets
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Secret

#: All of them have to be set before anything of the suite goes to Azure.
NEEDED = ("DPSX_ID_SCOPE", *targets.CONNECTION_STRINGS)
PREFIX = "dpsx-test-"


def on_emulator(emulator: Emulator) -> Target:
    seen = emulator.overview
    return Target(
        "emulator",
        seen.host,
        seen.id_scope,
        hubs=seen.hubs,
        bundle_file=seen.bundle_file,
        dps_connection_string=Secret(seen.dps_connection_string),
        iothub_connection_string=Secret(seen.iothub_connection_string),
        emulator=emulator,
    )


def on_azure(environment: Mapping[str, str]) -> Target:
    """What the tutorial itself would talk to with this environment."""
    dps, hub = (Secret(environment[name]) for name in targets.CONNECTION_STRINGS)
    host = environment.get("DPSX_PROVISIONING_HOST") or targets.GLOBAL_ENDPOINT
    address = dict(part.split("=", 1) for part in hub.split(";"))["HostName"].partition(":")[0]
    return Target(
        "azure",
        targets.check_host(host),
        targets.check_id_scope(environment["DPSX_ID_SCOPE"]),
        hubs=(address,),
        dps_connection_string=dps,
        iothub_connection_string=hub,
    )


class Live:
    """What one test does there. Its names are its own, and what it made is deleted by `clean_up` and nothing else."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self._own = PREFIX + secrets.token_hex(6)
        self._enrolled: set[str] = set()
        self._groups: set[str] = set()
        self._authorities: set[str] = set()
        self._identities: set[str] = set()
        # A port that is blocked is no reason to fail: https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-protocols
        blocked = not target.is_emulator and os.environ.get("DPSX_TRANSPORT") == "websockets"
        self._how = {"websockets": True} if blocked else {}

    def name(self, label: str) -> str:
        return f"{self._own}-{label}"

    # --- the operator ---

    @property
    def hub_host(self) -> str:
        """The hub that the suite may look into: devices are sent there whatever else is linked."""
        return self.target.hubs[0]

    @contextmanager
    def service(self) -> Iterator[DeviceProvisioningClient]:
        """Microsoft's client for the service side, and its own exceptions."""
        with enrollments.client(self.target) as client:
            yield client

    def device(self, label: str = "device", **options: Any) -> Device:
        """A certificate of this test's own; options as `pki.make_device` takes them."""
        return make_device(self.folder, self.name(label), **options)

    def enroll(self, device: Device, *, if_match: str | None = None, **fields: Any) -> Any:
        """Create the individual enrollment, or change it, if `if_match` says so."""
        body = document(device, **{"iotHubs": [self.hub_host], **fields})
        self._enrolled.add(device.common_name)
        self._identities |= {device.common_name, fields.get("deviceId", device.common_name)}
        with self.service() as service:
            return service.enrollment.create_or_update(device.common_name, body, if_match=if_match)

    def group_of_a_factory(self) -> tuple[Device, Device]:
        """A group of a factory, which is an intermediate of a verified root; a device of it, and one that sends its
        certificate without the chain. Only where proof of possession is possible.
        """
        assert self.target.emulator is not None
        root = make_ca(self.folder, self.name("root"))
        factory = make_ca(self.folder, self.name("factory"), root)
        self.target.emulator.add_ca_certificate(root.common_name, root.pem)
        proof = issue(self.folder, self.target.emulator.verification_code(root.common_name), root)
        self.target.emulator.verify_ca_certificate(root.common_name, proof.pem)
        self._authorities.add(root.common_name)
        self._groups.add(self.name("group"))
        body = group_document(factory, iotHubs=[self.hub_host])
        with self.service() as service:
            service.enrollment_group.create_or_update(self.name("group"), body)
        devices = [self.name("member"), self.name("chainless")]
        self._identities |= set(devices)
        return issue(self.folder, devices[0], factory), issue(self.folder, devices[1], factory, chain=())

    def hub(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        """The hub's answer, whatever its status. `_` in the name of a header stands for `-`."""
        own = path.startswith(("/devices/", "/twins/")) and path.split("/")[2]
        if own:
            assert own.startswith(self._own), f"{own} is not this test's"
            self._identities.add(own)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return registry.request(self.target, method, path, headers=named, json=body, within=30)

    def twin(self, device_id: str) -> Any:
        answer = self.hub("GET", f"/twins/{device_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    # --- the device ---

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Trust the service as a learner's machine does: by SSL_CERT_FILE, set before a client object exists."""
        before = os.environ.get("SSL_CERT_FILE")
        if self.target.bundle_file:
            os.environ["SSL_CERT_FILE"] = str(self.target.bundle_file)
        try:
            yield
        finally:
            if before is not None:
                os.environ["SSL_CERT_FILE"] = before
            elif self.target.bundle_file:
                del os.environ["SSL_CERT_FILE"]

    def at_dps(self, device: Device, kind: Any = ProvisioningDeviceClient, **other: str) -> Any:
        """A client of `kind`, sync or aio. `other`: registration_id or id_scope."""
        known = {"registration_id": device.common_name, "id_scope": self.target.id_scope, **other}
        with self.trusted():
            return kind.create_from_x509_certificate(
                provisioning_host=self.target.host, x509=credentials(device), **known, **self._how
            )

    def register(self, device: Device, **other: str) -> Any:
        """`register()` of the SDK; the state in its result, or its exception."""
        result = self.at_dps(device, **other).register()
        assert result.status == "assigned"
        return result.registration_state

    def refused(self, device: Device, **other: str) -> tuple[int, int]:
        """Status and error code of the answer to a registration. The SDK's exception tells of the status alone."""
        with conversation.recording(quiet=True) as talk, pytest.raises(ClientError) as failure:
            self.register(device, **other)
        answer = talk.last_answer
        assert answer is not None
        assert answer.status is not None
        assert cause(failure) == f"register request returned a service error status code {answer.status}"
        return answer.status, int(answer.json["errorCode"])

    def at_hub(self, device: Device, device_id: str | None = None, kind: Any = IoTHubDeviceClient) -> Any:
        """A client for the hub, not connected yet, that does not come back by itself."""
        with self.trusted():
            return kind.create_from_x509_certificate(
                x509=credentials(device),
                hostname=self.hub_host,
                device_id=device_id or device.common_name,
                connection_retry=False,
                **self._how,
            )

    @contextmanager
    def connected(self, device: Device, device_id: str | None = None) -> Iterator[Any]:
        client = self.at_hub(device, device_id)
        try:
            client.connect()
            yield client
        finally:
            client.shutdown()

    # --- the end ---

    def clean_up(self) -> None:
        """Delete what has a name of this test. The first failure is raised when all the rest is gone."""
        failures: list[Exception] = []
        with self.service() as service:
            deletions = [(service.enrollment.delete, name) for name in self._enrolled]
            deletions += [(service.enrollment_group.delete, name) for name in self._groups]
            for delete, name in deletions:
                try:
                    with suppress(ResourceNotFoundError):
                        delete(name, if_match="*")
                except Exception as failure:  # noqa: BLE001 - raised below
                    failures.append(failure)
        for name in self._authorities:
            assert self.target.emulator is not None
            self.target.emulator.delete_ca_certificate(name)
        for name in self._identities:
            answer = self.hub("DELETE", f"/devices/{name}", If_Match="*")
            if answer.status_code not in (204, 404):
                failures.append(AssertionError(f"{name} is still in the hub: {answer.status_code} {answer.text}"))
        if failures:
            raise failures[0]
