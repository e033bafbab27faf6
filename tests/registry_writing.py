"""Device identities as the service side of a hub writes them, for tests of what the tutorial then reads."""

from typing import Any

from dpsx_helpers import registry
from dpsx_helpers.targets import Target


def put_device(target: Target, device_id: str, primary: str, secondary: str | None = None) -> None:
    """A device with these thumbprints (both the same when one is given), in place of any of that name."""
    registry.delete(target, device_id)
    thumbprints = {"primaryThumbprint": primary, "secondaryThumbprint": secondary or primary}
    document: dict[str, Any] = {
        "deviceId": device_id,
        "authentication": {"type": "selfSigned", "x509Thumbprint": thumbprints},
    }
    registry._request(target, "PUT", f"/devices/{device_id}", json=document)
