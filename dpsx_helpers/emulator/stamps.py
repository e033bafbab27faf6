"""When something happened and under which id: the only clock and the only source of chance that the rules see."""

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime


def written(moment: datetime) -> str:
    """An aware moment as Azure writes it, ISO 8601 with seven digits and Z: `2022-08-27T17:53:19.5143497Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "0Z"


@dataclass(frozen=True, slots=True)
class Stamp:
    """`now` is an aware datetime in UTC, `guid` a fresh UUID in its usual spelling. One stamp serves one request."""

    now: datetime
    guid: str

    @property
    def text(self) -> str:
        """`now` as Azure writes it."""
        return written(self.now)

    @property
    def etag(self) -> str:
        """Base64 of a quoted version whose last group starts with the unix time in hex, as in Azure's own example:
        https://learn.microsoft.com/azure/iot-dps/iot-dps-https-x509-support
        """
        return b64encode(f'"{self.version}"'.encode()).decode()

    @property
    def version(self) -> str:
        """The version inside an etag: `120086f2-0000-0300-0000-630a5a0f0000`."""
        return f"{self.guid[:8]}-0000-0300-0000-{int(self.now.timestamp()):08x}0000"
