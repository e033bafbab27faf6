"""Every refusal of the emulator: what the client is told, when, the remedy, and the public source.

Clients get Azure's own terse answer. The sentence in `when` and the remedy in `hint` go to the emulator's log, where
a learner finds what Azure keeps to itself. No other module words a refusal.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

_DPS_MQTT = "https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps"
_HUB_MQTT = "https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub"
_DPS_CONCEPTS = "https://learn.microsoft.com/azure/iot-dps/concepts-service"
_DPS_X509 = "https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation"
_DPS_ERRORS = "https://learn.microsoft.com/azure/iot-dps/how-to-troubleshoot-dps"
_HUB_ERRORS = "https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes"
_DPS_ACCESS = "https://learn.microsoft.com/azure/iot-dps/how-to-control-access"
_ISSUES = "https://github.com/Azure/azure-iot-sdk-{}/issues/{}"
_MQTT_3_1_1 = "https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html"


class Answer(Enum):
    """The shape in which a refusal reaches the client."""

    CONNACK = "CONNACK with a return code, then the connection is closed"
    RESPONSE = "a message on the DPS response topic: status in the topic, error document in the body"
    REGISTRATION = "a message on the DPS response topic with status 200 and the state of the registration in the body"
    CLOSE = "the connection is closed without a word"
    DPS_HTTP = "an HTTP status with the error document of DPS"
    HUB_HTTP = "an HTTP status with the error envelope of IoT Hub"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row. `status`: CONNACK code or HTTP status, 0 when closing; `code`: Azure's error code, 0 when there is none.

    `text` is what the client reads. `when` is a template for the log, filled with the facts of the case.
    """

    name: str
    answer: Answer
    status: int
    code: int
    text: str
    when: str
    hint: str
    source: str


class Refused(Exception):
    """A rule said no. Carries the row of the table and the facts of this case, never a secret."""

    def __init__(self, refusal: Refusal, **facts: object) -> None:
        self.refusal = refusal
        self.reason = refusal.when.format_map({name: _shown(name, value) for name, value in facts.items()})
        super().__init__(f"{self.reason} -> {refusal.hint}")


_OUR_WORDS = frozenset({"feature", "violation", "why"})  # facts that are a phrase of the rule that refuses


def _shown(name: str, value: object) -> str:
    """Facts come from the wire: quoted, so that no control character reaches a log, and at most 100 characters."""
    if name in _OUR_WORDS and str(value).isprintable():
        return str(value)[:300]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else text[:99] + "…"


def dps_error(refusal: Refusal, tracking_id: str, timestamp: str) -> dict[str, Any]:
    """The error document of DPS, over MQTT and HTTP alike (ProvisioningServiceErrorDetails)."""
    return {
        "errorCode": refusal.code,
        "trackingId": tracking_id,
        "message": refusal.text,
        "timestampUtc": timestamp,
    }


def hub_error(refused: Refused, tracking_id: str, timestamp: str) -> dict[str, str]:
    """The error envelope of IoT Hub's data plane. `text` of the row is the error's name."""
    detail = "Unauthorized" if refused.refusal.status == 401 else refused.reason
    tracking = f"Tracking ID:{tracking_id.replace('-', '').upper()}-TimeStamp:{timestamp}"
    return {"Message": f"ErrorCode:{refused.refusal.text};{detail}", "ExceptionMessage": tracking}


# --- CONNECT to DPS ---------------------------------------------------------------------------------------------------

BAD_LOGIN = Refusal(
    "bad-login", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the user name {username} has neither the form of DPS nor that of a hub",
    "DPS: {idScope}/registrations/{registrationId}/api-version=2019-03-31; "
    "hub: {hub}/{deviceId}/?api-version=2021-04-12",
    _DPS_MQTT,
)  # fmt: skip
UNKNOWN_ID_SCOPE = Refusal(
    "unknown-id-scope", Answer.CONNACK, 3, 0, "Connection Refused: broker unavailable",
    "the device asked for ID scope {asked}; this DPS has {id_scope}",
    "copy the ID scope from the Overview; 'None' means that the variable PROVISIONING_IDSCOPE was not set",
    _ISSUES.format("python", 670),
)  # fmt: skip
UNKNOWN_API_VERSION = Refusal(
    "unknown-api-version", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the user name asks for api-version {api_version}, which is none that the service has had",
    "use api-version=2019-03-31 for DPS and 2021-04-12 for a hub",
    _DPS_MQTT,
)  # fmt: skip
BAD_REGISTRATION_ID = Refusal(
    "bad-registration-id", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "{registration_id} is no registration ID",
    "use at most 128 letters, digits and - . _ : with a letter, a digit or - at the end",
    _DPS_CONCEPTS,
)  # fmt: skip
NO_CERTIFICATE = Refusal(
    "no-certificate", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the device {device} sent no client certificate",
    "give the client its certificate and key; symmetric keys and TPM are not emulated",
    _DPS_X509,
)  # fmt: skip
UNREADABLE_CERTIFICATE = Refusal(
    "unreadable-certificate", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the client certificate of {device} cannot be read as X.509",
    "make a new certificate",
    _DPS_X509,
)  # fmt: skip
CLIENT_ID_DIFFERS = Refusal(
    "client-id-differs", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the MQTT ClientId is {client_id}, the registration ID in the user name is {registration_id}",
    "send the registration ID in both places",
    _DPS_MQTT,
)  # fmt: skip
COMMON_NAME_DIFFERS = Refusal(
    "common-name-differs", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the registration ID is {registration_id}, the certificate's subject says CN={common_name}",
    "set DPS_X509_REGISTRATION_ID to the common name, or make a certificate whose CN is the registration ID",
    _ISSUES.format("c", 2255),
)  # fmt: skip

# --- registration -----------------------------------------------------------------------------------------------------

NOT_ENROLLED = Refusal(
    "not-enrolled", Answer.RESPONSE, 401, 401002, "Unauthorized",
    "there is no enrollment for registration ID {registration_id}",
    "enroll the device's certificate (individual enrollment), then run the device again",
    _ISSUES.format("node", 721),
)  # fmt: skip
NOT_ENROLLED_404 = Refusal(
    "not-enrolled-404", Answer.RESPONSE, 404, 404201, "Enrollment not found.",
    "there is no enrollment for registration ID {registration_id}",
    "enroll the device's certificate (individual enrollment), then run the device again",
    "https://github.com/MicrosoftDocs/azure-docs/issues/57082",
)  # fmt: skip
OTHER_CERTIFICATE = Refusal(
    "other-certificate", Answer.RESPONSE, 401, 401002, "Invalid certificate.",
    "the device {registration_id} presented the certificate {thumbprint}, which is neither the primary nor the "
    "secondary one of its enrollment",
    "enroll the certificate that the device uses now, or give the device the one that is enrolled",
    "https://github.com/MicrosoftDocs/azure-docs/issues/119463",
)  # fmt: skip
CA_CERTIFICATE = Refusal(
    "ca-certificate", Answer.RESPONSE, 401, 401002, "Invalid certificate.",
    "the certificate of {registration_id} is a CA certificate (basic constraints CA:TRUE)",
    "make it with the usr_cert extensions: openssl req … -extensions usr_cert",
    "https://github.com/Azure/iotedge/issues/1671",
)  # fmt: skip
EXPIRED_CERTIFICATE = Refusal(
    "expired-certificate", Answer.RESPONSE, 401, 401002, "Invalid certificate.",
    "the certificate of {registration_id} expired at {not_after}",
    "make a new certificate and put it into the enrollment",
    _ISSUES.format("c", 1367),
)  # fmt: skip
FUTURE_CERTIFICATE = Refusal(
    "future-certificate", Answer.RESPONSE, 401, 401002, "Invalid certificate.",
    "the certificate of {registration_id} is not valid before {not_before}",
    "set the clock of the machine that made it, or wait",
    _DPS_ERRORS,
)  # fmt: skip
BAD_BODY = Refusal(
    "bad-body", Answer.RESPONSE, 400, 400004, "Bad Request.",
    "the body of the registration request of {registration_id} is not a JSON object",
    'send nothing, or {"registrationId": "…", "payload": …}',
    _DPS_ERRORS,
)  # fmt: skip
OTHER_REGISTRATION_ID = Refusal(
    "other-registration-id", Answer.RESPONSE, 400, 400004, "Bad Request.",
    "the connection belongs to {registration_id}, the body asks to register {asked}",
    "send the same registration ID in the user name and in the body",
    _DPS_ERRORS,
)  # fmt: skip
UNKNOWN_OPERATION = Refusal(
    "unknown-operation", Answer.RESPONSE, 404, 404203, "Operation not found.",
    "{registration_id} asked for operation {operation_id}, which is not its latest one",
    "register again and poll with the operationId of that answer",
    _DPS_ERRORS,
)  # fmt: skip
ENROLLMENT_DISABLED = Refusal(
    "enrollment-disabled", Answer.REGISTRATION, 200, 0, "disabled",
    "the enrollment of {registration_id} is disabled",
    "set its provisioning status to enabled",
    "https://github.com/Azure/azure-sdk-for-c/blob/main/sdk/tests/iot/provisioning/test_az_iot_provisioning_client_parser.c",
)  # fmt: skip
NO_LINKED_HUB = Refusal(
    "no-linked-hub", Answer.REGISTRATION, 200, 400208, "IoT Hub not found.",
    "no IoT hub that {registration_id} may go to is linked to this DPS",
    "link a hub: start the emulator with --hubs 1",
    "https://github.com/Azure/azure-iot-sdk-c/blob/main/provisioning_client/src/prov_device_ll_client.c",
)  # fmt: skip

# --- CONNECT to a hub -------------------------------------------------------------------------------------------------

UNKNOWN_DEVICE = Refusal(
    "unknown-device", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "hub {host} has no device {device_id}",
    "provision the device through DPS first; device IDs are case-sensitive",
    _ISSUES.format("python", 324),
)  # fmt: skip
HUB_CLIENT_ID_DIFFERS = Refusal(
    "hub-client-id-differs", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the MQTT ClientId is {client_id}, the device ID in the user name is {device_id}",
    "send the device ID in both places",
    _HUB_MQTT,
)  # fmt: skip
UNKNOWN_HUB = Refusal(
    "unknown-hub", Answer.CONNACK, 5, 0, "Connection Refused: not authorised",
    "the device asked for hub {host}; this is {hubs}",
    "connect to the assignedHub of the registration result",
    _HUB_MQTT,
)  # fmt: skip
THUMBPRINT_DIFFERS = Refusal(
    "thumbprint-differs", Answer.CONNACK, 5, 401003, "Connection Refused: not authorised",
    "device {device_id} presented the certificate {thumbprint}; its identity has other thumbprints",
    "register through DPS with this certificate once more, or use the one that was registered",
    _HUB_ERRORS,
)  # fmt: skip
DEVICE_DISABLED = Refusal(
    "device-disabled", Answer.CONNACK, 5, 403012, "Connection Refused: not authorised",
    "device {device_id} is disabled in the hub's identity registry",
    "set its status to enabled",
    _HUB_ERRORS,
)  # fmt: skip

# --- on an open connection --------------------------------------------------------------------------------------------

PROTOCOL = Refusal(
    "protocol-violation", Answer.CLOSE, 0, 0, "",
    "{violation}",
    "use an MQTT 3.1.1 client",
    _MQTT_3_1_1,
)  # fmt: skip
OTHER_PROTOCOL_VERSION = Refusal(
    "other-protocol-version", Answer.CONNACK, 1, 0, "Connection Refused: unacceptable protocol version",
    "{violation}",
    "set the client to MQTT 3.1.1 (protocol level 4)",
    _MQTT_3_1_1,
)  # fmt: skip
UNKNOWN_TOPIC = Refusal(
    "unknown-topic", Answer.CLOSE, 0, 0, "",
    "{device} published to {topic}, which the service does not have",
    "publish to the documented topics only",
    _HUB_MQTT,
)  # fmt: skip
UNKNOWN_FILTER = Refusal(
    "unknown-filter", Answer.CLOSE, 0, 0, "",
    "{device} asked for the topic filter {topic}, which the service does not have",
    "DPS has $dps/registrations/res/# and nothing else",
    _DPS_MQTT,
)  # fmt: skip
NOT_SUBSCRIBED = Refusal(
    "not-subscribed", Answer.CLOSE, 0, 0, "",
    "{device} published a request before it subscribed to the answers",
    "subscribe to $dps/registrations/res/# first",
    _DPS_MQTT,
)  # fmt: skip
FOREIGN_TOPIC = Refusal(
    "foreign-topic", Answer.CLOSE, 0, 0, "",
    "{device} used the topic {topic} of another device",
    "a device has only the topics that carry its own device ID",
    _HUB_MQTT,
)  # fmt: skip
QOS_2 = Refusal(
    "qos-2", Answer.CLOSE, 0, 0, "",
    "{device} published at QoS 2",
    "publish at QoS 0 or 1",
    _HUB_MQTT,
)  # fmt: skip
TOO_LARGE = Refusal(
    "too-large", Answer.CLOSE, 0, 413001, "",
    "{device} sent a message of {size} bytes; the limit is {limit}",
    "send smaller messages",
    "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling",
)  # fmt: skip
NOT_EMULATED = Refusal(
    "not-emulated", Answer.CLOSE, 0, 0, "",
    "limit of this emulator, not of Azure: {feature} (asked for by {device}) is not emulated in this version",
    "see docs/scope.md for what is",
    _HUB_MQTT,
)  # fmt: skip
SILENT = Refusal(
    "silent", Answer.CLOSE, 0, 0, "",
    "{device} said nothing for {seconds} s",
    "send PINGREQ within the keep-alive time of the CONNECT",
    _HUB_MQTT,
)  # fmt: skip
EVICTED = Refusal(
    "evicted", Answer.CLOSE, 0, 400027, "",
    "a newer connection of {device} took this one's place",
    "run one program per device ID",
    _HUB_ERRORS,
)  # fmt: skip
REMOVED = Refusal(
    "removed", Answer.CLOSE, 0, 404001, "",
    "device {device} was deleted while it was connected",
    "provision the device again",
    _HUB_ERRORS,
)  # fmt: skip

# --- DPS data plane ---------------------------------------------------------------------------------------------------

DPS_UNAUTHORIZED = Refusal(
    "dps-unauthorized", Answer.DPS_HTTP, 401, 401000, "Unauthorized",
    "{why}",
    "use the connection string of this DPS (python -m dpsx_helpers.emulator env)",
    _DPS_ACCESS,
)  # fmt: skip
DPS_BAD_REQUEST = Refusal(
    "dps-bad-request", Answer.DPS_HTTP, 400, 400004, "Bad Request.",
    "{why}",
    "compare with the REST reference of DPS",
    "https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment/create-or-update",
)  # fmt: skip
ENROLLMENT_NOT_FOUND = Refusal(
    "enrollment-not-found", Answer.DPS_HTTP, 404, 404201, "Enrollment not found.",
    "there is no enrollment {registration_id}",
    "list the enrollments to see what there is",
    "https://github.com/MicrosoftDocs/azure-docs/issues/57082",
)  # fmt: skip
ENROLLMENT_EXISTS = Refusal(
    "enrollment-exists", Answer.DPS_HTTP, 409, 409201, "Enrollment already exists.",
    "an enrollment {registration_id} exists already and the request has no If-Match",
    "send If-Match with the etag of the enrollment, or * to replace it whatever it is",
    _ISSUES.format("csharp", 3076),
)  # fmt: skip
ENROLLMENT_CHANGED = Refusal(
    "enrollment-changed", Answer.DPS_HTTP, 412, 412201, "Precondition failed.",
    "the If-Match of the request is not the etag of enrollment {registration_id}",
    "read the enrollment again and repeat the change on what it is now",
    _DPS_ERRORS,
)  # fmt: skip
DPS_NOT_EMULATED = Refusal(
    "dps-not-emulated", Answer.DPS_HTTP, 501, 501000, "Not emulated.",
    "limit of this emulator, not of Azure: {feature} is not emulated in this version",
    "see docs/scope.md for what is",
    "https://learn.microsoft.com/rest/api/iot-dps/",
)  # fmt: skip

# --- hub data plane ---------------------------------------------------------------------------------------------------

HUB_UNAUTHORIZED = Refusal(
    "hub-unauthorized", Answer.HUB_HTTP, 401, 401002, "IotHubUnauthorizedAccess",
    "{why}",
    "use the connection string of this hub (python -m dpsx_helpers.emulator env)",
    _HUB_ERRORS,
)  # fmt: skip
HUB_BAD_REQUEST = Refusal(
    "hub-bad-request", Answer.HUB_HTTP, 400, 400004, "ArgumentInvalid",
    "{why}",
    "compare with the REST reference of IoT Hub",
    "https://learn.microsoft.com/rest/api/iothub/service/devices",
)  # fmt: skip
DEVICE_NOT_FOUND = Refusal(
    "device-not-found", Answer.HUB_HTTP, 404, 404001, "DeviceNotFound",
    "The requested device {device_id} was not found in the hub's identity registry",
    "device IDs are case-sensitive; list the devices to see what there is",
    _HUB_ERRORS,
)  # fmt: skip
DEVICE_CHANGED = Refusal(
    "device-changed", Answer.HUB_HTTP, 412, 412002, "PreconditionFailed",
    "{why}",
    'send If-Match with the etag of the device, or "*"',
    _HUB_ERRORS,
)  # fmt: skip
HUB_NOT_EMULATED = Refusal(
    "hub-not-emulated", Answer.HUB_HTTP, 501, 501000, "NotImplemented",
    "limit of this emulator, not of Azure: {feature} is not emulated in this version",
    "see docs/scope.md for what is",
    "https://learn.microsoft.com/rest/api/iothub/",
)  # fmt: skip

ALL: dict[str, Refusal] = {row.name: row for row in list(globals().values()) if isinstance(row, Refusal)}
