"""The arithmetic of a launch day as a table."""

from dpsx_helpers.display import View, block, table
from dpsx_helpers.errors import shown_value
from dpsx_helpers.fleet import arithmetic
from dpsx_helpers.fleet.arithmetic import IN_BULK, LINKED_HUBS, POLLS, POLLS_IN, RECORDS, REGISTRATIONS, SERVICES
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop


def launch_day(devices: int) -> View:
    """What each documented limit means for so many devices."""
    if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= SERVICES * RECORDS:
        raise Stop(
            f"{shown_value(devices)} is no number of devices for a launch day: give a whole number from 1 to "
            "10,000,000."
        )
    rows = [
        ("registrations at one DPS", f"{REGISTRATIONS:,} a minute", _minutes(devices)),
        (
            f"the same at {SERVICES} DPS, the most of one subscription",
            f"{REGISTRATIONS:,} a minute each",
            _minutes(devices, SERVICES),
        ),
        ("polls of one device", f"{POLLS} in {POLLS_IN} s", _polls()),
        ("connections to one hub, tier S1, one unit", "100 a second", _seconds(devices, "S1")),
        ("connections to one hub, tier S2, one unit", "120 a second", _seconds(devices, "S2")),
        ("connections to two hubs, tier S1", "100 a second each", _seconds(devices, "S1", hubs=2)),
        (
            "individual enrollments in bulk",
            f"{IN_BULK} in a request",
            f"{-(-devices // IN_BULK):,} requests; a group is one",
        ),
        ("registrations that one DPS keeps", f"{RECORDS:,}", f"{devices / RECORDS:.1%} of them"),
        (
            "devices of one hub",
            f"{RECORDS:,}",
            f"{devices / RECORDS:.1%} of them, and {LINKED_HUBS} hubs can be linked",
        ),
    ]
    return table(f"A launch of {devices:,} devices", ("What", "Documented limit", f"{devices:,} devices"), rows)


def attempts(target: Target) -> View:
    """Where Azure shows how often devices tried to register, and with which result: a metric of DPS.

    https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-devices-provisioningservices-metrics
    """
    parts = dict(part.partition("=")[::2] for part in (target.dps_connection_string or "").split(";"))
    name = parts.get("HostName", "").split(".", 1)[0] or "<your provisioning service>"
    line = (
        f"az monitor metrics list --resource {name} --resource-group <group> "
        "--resource-type Microsoft.Devices/provisioningServices --metric RegistrationAttempts "
        "--filter \"Status eq '*'\""
    )
    return block("429 cannot be ordered on Azure; this line shows how registrations ended in the last hour", line)


def _minutes(devices: int, services: int = 1) -> str:
    took = arithmetic.minutes(devices, services)
    return f"{took:.0f} minutes" if took >= 2 else f"{took * 60:.0f} seconds"


def _seconds(devices: int, tier: str, hubs: int = 1) -> str:
    return f"{arithmetic.connecting(devices, tier, hubs=hubs):.0f} seconds"


def _polls() -> str:
    most = arithmetic.busiest(arithmetic.polls(POLLS_IN * 6), POLLS_IN)
    return f"{most} at most: this SDK asks after 2 s, then every 3 s"
