"""The scope table: what Azure does, what this emulator does, and what a user notices of the difference.

`python -m dpsx_helpers.emulator.scope` prints it as the page docs/scope.md. A test holds that every refusal has its
row here, that every row that is emulated names a test, and that the page is the table.
"""

import sys
from dataclasses import dataclass
from enum import StrEnum

_DPS_MQTT = "https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps"
_HUB_MQTT = "https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub"
_DPS_X509 = "https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation"
_DPS_REST = "https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment"
_HUB_REST = "https://learn.microsoft.com/rest/api/iothub/service/devices"
_RESULT = "https://learn.microsoft.com/azure/iot-dps/iot-dps-https-x509-support"
_REPROVISION = "https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision"
_ISSUE = "https://github.com/Azure/azure-iot-sdk-{}/issues/{}"


class Ours(StrEnum):
    SAME = "same"
    SIMPLIFIED = "simplified"
    REFUSED = "refused"
    NOT_APPLICABLE = "not applicable"


class Evidence(StrEnum):
    DOCUMENTED = "documented"
    LOG = "seen in a public log"
    MEASURED = "measured with the client"
    OPEN = "not settled publicly"


@dataclass(frozen=True, slots=True)
class Row:
    """One feature. `refusals` are the names in `refusals.ALL` that belong to it; `tests` a file below tests/."""

    feature: str
    azure: str
    source: str
    ours: Ours
    notice: str
    evidence: Evidence
    tests: str = ""
    refusals: tuple[str, ...] = ()


SAME, SIMPLIFIED, REFUSED, NOT_APPLICABLE = Ours
DOCUMENTED, LOG, MEASURED, OPEN = Evidence

ROWS: tuple[Row, ...] = (
    # --- connecting ---
    Row("MQTT 3.1.1 over TLS, port 8883", "one endpoint for DPS, one for each hub", _DPS_MQTT, SIMPLIFIED,
        "one listener serves DPS and hub; the CONNECT user name tells them apart", DOCUMENTED,
        "emulator/test_acceptance.py", ("protocol-violation", "other-protocol-version", "bad-login")),
    Row("TLS 1.2, any client certificate", "the handshake takes every certificate; the refusal comes later, in MQTT",
        _ISSUE.format("c", 2270), SAME, "an unknown certificate meets CONNACK or 401, never a TLS alert", LOG,
        "emulator/test_tls.py"),
    Row("TLS 1.3", "not offered to devices", "https://learn.microsoft.com/azure/iot-dps/tls-support", SAME,
        "the version is 1.2 on the MQTT port", DOCUMENTED, "emulator/test_tls.py"),
    Row("cipher suites", "ECDHE with an RSA or an ECDSA certificate",
        "https://learn.microsoft.com/azure/iot-dps/tls-support", SIMPLIFIED,
        "the server's key is P-256: a client that offers RSA suites alone cannot connect", DOCUMENTED,
        "emulator/test_tls.py"),
    Row("trust of the server certificate", "public roots", "https://learn.microsoft.com/azure/iot-dps/tls-support",
        SIMPLIFIED, "a CA of the emulator's own, which SSL_CERT_FILE must name", DOCUMENTED, "emulator/test_tls.py"),
    Row("wrong ID scope", "CONNACK 3", _ISSUE.format("python", 670), SAME, "«broker unavailable»", LOG,
        "emulator/test_dps.py", ("unknown-id-scope",)),
    Row("registration ID and common name differ", "CONNACK 5", _ISSUE.format("c", 2255), SAME, "«not authorised»", LOG,
        "emulator/test_dps.py", ("common-name-differs", "client-id-differs", "bad-registration-id")),
    Row("no client certificate", "not known", _DPS_X509, SAME, "CONNACK 5", OPEN,
        "emulator/test_dps.py", ("no-certificate", "unreadable-certificate")),
    Row("api-version of a device", "each client sends the one it was built for", _DPS_MQTT, SIMPLIFIED,
        "every version that has been public behaves as 2019-03-31; others meet CONNACK 5", OPEN,
        "emulator/test_dps.py", ("unknown-api-version",)),
    Row("second connection of a device", "the newer one wins, the older is closed",
        "https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes", SAME,
        "two programs with one device ID throw each other out", DOCUMENTED, "emulator/test_sessions.py", ("evicted",)),
    Row("keep-alive", "the service waits one and a half times the keep-alive, 1767 s at most", _HUB_MQTT, SAME,
        "a silent connection is closed; before CONNECT after 60 s", DOCUMENTED, "emulator/test_server.py", ("silent",)),
    Row("violations of the protocol, unknown topics, QoS 2", "the connection is closed without a word", _HUB_MQTT, SAME,
        "an unexpected disconnection; the reason is in the emulator's log", DOCUMENTED, "emulator/test_sessions.py",
        ("unknown-topic", "unknown-filter", "not-subscribed", "foreign-topic", "qos-2", "too-large")),
    Row("MQTT over WebSocket, port 443", "path /$iothub/websocket", _HUB_MQTT, REFUSED,
        "nothing listens there: websockets=True cannot connect", DOCUMENTED),
    Row("Will of a device", "delivered by the hub as telemetry", _HUB_MQTT, REFUSED, "the connection is closed",
        DOCUMENTED, "emulator/test_sessions.py", ("not-emulated",)),
    # --- registration ---
    Row("register and poll", "202 with an operation and retry-after, then 200", _RESULT, SAME,
        "by default the first poll is answered with 200; --assign makes it take longer", DOCUMENTED,
        "emulator/test_dps.py", ("unknown-operation", "bad-body", "other-registration-id")),
    Row("registration result", "x509 is {}, dates with seven fractional digits, etag in base64", _RESULT, SAME,
        "the seventh digit is always 0", DOCUMENTED, "emulator/test_dps.py"),
    Row("not enrolled", "401 with 401002 Unauthorized; one test of Microsoft's own expects 404201",
        "https://github.com/MicrosoftDocs/azure-docs/issues/57082", SAME, "--not-enrolled chooses", OPEN,
        "emulator/test_dps.py", ("not-enrolled", "not-enrolled-404")),
    Row("another certificate, CA:TRUE, expired", "401 with 401002 Invalid certificate.", _ISSUE.format("c", 2270), SAME,
        "the Python SDK says «Unexpected failure»; the emulator's log says which of them it was", LOG,
        "emulator/test_dps.py",
        ("other-certificate", "ca-certificate", "expired-certificate", "future-certificate")),
    Row("enrollment disabled", "200 with status disabled",
        "https://github.com/Azure/azure-sdk-for-c/blob/main/sdk/tests/iot/provisioning/test_az_iot_provisioning_client_parser.c",
        SAME, "the SDK reports an invalid registration status", MEASURED, "emulator/test_dps.py",
        ("enrollment-disabled",)),
    Row("no linked hub", "the registration ends failed with 400208", _ISSUE.format("c", 2362), SAME,
        "--hubs 0 shows it; the wording of the message is ours", OPEN, "emulator/test_dps.py", ("no-linked-hub",)),
    Row("primary and secondary certificate", "either provisions", _DPS_X509, SAME,
        "the presented one becomes the hub's primary thumbprint", DOCUMENTED, "emulator/test_dps.py"),
    Row("registration ID", "compared without regard to case",
        "https://learn.microsoft.com/azure/iot-dps/concepts-service#registration-id", SAME,
        "the device ID keeps the spelling of the enrollment", DOCUMENTED, "emulator/test_dps.py"),
    Row("re-provisioning to another hub", "by the policy of the enrollment", _REPROVISION, REFUSED,
        "one hub can be linked; a second registration returns the same hub", DOCUMENTED),
    Row("custom payload, custom allocation, CSR", "passed on to a webhook or a CA",
        "https://learn.microsoft.com/azure/iot-dps/how-to-use-custom-allocation-policies", SIMPLIFIED,
        "a payload in the request is read and has no effect; custom allocation is refused when it is enrolled",
        DOCUMENTED, "emulator/test_enrollment.py"),
    Row("rate limits of DPS", "429 with retry-after",
        "https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits", NOT_APPLICABLE,
        "requests are never throttled", DOCUMENTED),
    Row("enrollment groups", "certificates of an issuer enroll many devices", _DPS_X509, REFUSED,
        "501 from the data plane", DOCUMENTED, "emulator/test_service_api.py"),
    Row("symmetric keys and TPM", "other attestation mechanisms",
        "https://learn.microsoft.com/azure/iot-dps/concepts-service#attestation-mechanism", REFUSED,
        "501 from the data plane, CONNACK 5 for a device", DOCUMENTED, "emulator/test_enrollment.py"),
    Row("DPS over HTTPS and AMQP", "other transports of the device side", _RESULT, REFUSED,
        "no such path or port; 501 over HTTPS", DOCUMENTED, "emulator/test_service_api.py"),
    # --- the hub's device side ---
    Row("identity made by DPS", "type selfSigned, SHA-256 thumbprints, upper-case hex",
        "https://github.com/Azure/iotedge/issues/2951", SAME, "both slots hold the same value for one certificate", LOG,
        "emulator/test_hub.py"),
    Row("CONNECT by thumbprint", "CONNACK 5 for an unknown device or another certificate",
        _ISSUE.format("python", 324), SAME, "«Credentials invalid»", LOG, "emulator/test_hub.py",
        ("unknown-device", "thumbprint-differs", "hub-client-id-differs", "unknown-hub")),
    Row("disabled device", "refused; whether with CONNACK 3 or 5 is not public",
        "https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes", SAME, "CONNACK 5", OPEN,
        "emulator/test_hub.py", ("device-disabled",)),
    Row("telemetry", "topic with a property bag, acknowledged at QoS 1", _HUB_MQTT, SAME,
        "stored before the PUBACK; read it with `messages`", DOCUMENTED, "emulator/test_hub.py"),
    Row("deleting a connected device", "its connection ends",
        "https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes", SAME, "an unexpected disconnection",
        DOCUMENTED, "emulator/test_service_api.py", ("removed",)),
    Row("initial twin", "written when DPS creates the identity",
        "https://learn.microsoft.com/azure/iot-dps/concepts-service#individual-enrollment", SAME,
        "to be seen in the hub's query; the device cannot read it yet", DOCUMENTED, "emulator/test_hub.py"),
    Row("twins, direct methods, cloud-to-device messages on the device side", "MQTT topics of their own", _HUB_MQTT,
        REFUSED, "the connection is closed, the log names the feature; the Python SDK connects again and keeps waiting",
        DOCUMENTED, "emulator/test_sessions.py"),
    Row("file upload, routes, jobs, modules, edge", "other services of a hub", _HUB_REST, REFUSED, "501", DOCUMENTED,
        "emulator/test_service_api.py"),
    # --- data planes ---
    Row("shared access signatures", "checked on every request",
        "https://learn.microsoft.com/azure/iot-dps/how-to-control-access", SAME,
        "one policy each: provisioningserviceowner and iothubowner; Microsoft Entra tokens are refused", DOCUMENTED,
        "emulator/test_sas.py", ("dps-unauthorized", "hub-unauthorized")),
    Row("individual enrollments", "PUT, GET, DELETE, query with If-Match and etags", _DPS_REST, SAME,
        "the number of 409 and 412 is ours: no public source has it", DOCUMENTED, "emulator/test_service_api.py",
        ("enrollment-exists", "enrollment-changed", "enrollment-not-found", "dps-bad-request")),
    Row("other requests to DPS", "groups, registrations, bulk, attestation mechanism", _DPS_REST, REFUSED,
        "501, a status Azure does not send", DOCUMENTED, "emulator/test_service_api.py", ("dps-not-emulated",)),
    Row("devices of the hub", "GET, DELETE, query of all", _HUB_REST, SAME,
        "the one query is SELECT * FROM devices", DOCUMENTED, "emulator/test_service_api.py",
        ("device-not-found", "device-changed", "hub-bad-request")),
    Row("other requests to the hub", "PUT, twins, methods, statistics", _HUB_REST, REFUSED,
        "501, a status Azure does not send", DOCUMENTED, "emulator/test_service_api.py", ("hub-not-emulated",)),
)  # fmt: skip


def page() -> str:
    """docs/scope.md."""
    lines = [
        "# What the emulator does, and what it does not",
        "",
        "This page is printed by `python -m dpsx_helpers.emulator.scope`. *Same* means as Azure answers it, as far as",
        "public sources tell; *refused* means that the emulator says no and writes into its log that this is its own",
        "limit, not Azure's.",
        "",
        "| feature | Azure | here | what you notice | evidence | test |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        test = f"[{row.tests.rpartition('/')[2]}](../tests/{row.tests})" if row.tests else "none"
        azure = f"{row.azure} ([source]({row.source}))"
        lines.append(f"| {row.feature} | {azure} | {row.ours} | {row.notice} | {row.evidence} | {test} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
