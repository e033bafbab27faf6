"""Every refusal of the emulator: what the client is told, when, the remedy, and the public source.

Clients get Azure's own terse answer. The sentence in `when` and the remedy in `hint` go to the emulator's log, where
a learner finds what Azure keeps to itself. No other module words a refusal.
"""

import json
import re
from dataclasses import dataclass, replace
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
_HUB_REST = "https://learn.microsoft.com/rest/api/iothub/service/devices"
_HUB_IDENTITIES = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-identity-registry"
_HUB_TWINS = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins"
_HUB_METHODS = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-direct-methods"
_HUB_LIMITS = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling"
_DPS_LIMITS = "https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits"
_DPS_CA = "https://learn.microsoft.com/rest/api/iot-dps/dps-certificate"
_MQTT_3_1_1 = "https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html"


class Answer(Enum):
    """The shape in which a refusal reaches the client."""

    CONNACK = "CONNACK with a return code, then the connection is closed"
    RESPONSE = "a message on the DPS response topic: status in the topic, error document in the body"
    REGISTRATION = "a message on the DPS response topic with status 200 and the state of the registration in the body"
    TWIN = "a message on the hub's twin response topic: the status is in the topic, the body is empty"
    CLOSE = "the connection is closed without a word"
    UPGRADE = "an HTTP status instead of the upgrade to a WebSocket"
    DPS_HTTP = "an HTTP status with the error document of DPS"
    HUB_HTTP = "an HTTP status with the error envelope of IoT Hub"
    HUB_METHOD = "an HTTP status with the envelope of direct methods: a JSON document within the error envelope"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row. `status`: CONNACK code or HTTP status, 0 when closing; `code`: Azure's error code, 0 when there is none.

    `text` is what the client reads. `when` is a template for the log, filled with the facts of the case. `error_name`
    goes into the header of a hub where it is not `text`.
    """

    name: str
    answer: Answer
    status: int
    code: int
    text: str
    when: str
    hint: str
    source: str
    error_name: str = ""


class Refused(Exception):
    """A rule said no. Carries the row of the table and the facts of this case, never a secret.

    `retry_after`: seconds after which the same request may be answered.
    """

    def __init__(self, refusal: Refusal, *, retry_after: int | None = None, **facts: object) -> None:
        self.refusal = refusal
        self.retry_after = retry_after
        self.reason = refusal.when.format_map({name: _shown(name, value) for name, value in facts.items()})
        super().__init__(f"{self.reason} -> {refusal.hint}")


def bad_at_hub(why: str) -> "Refused":
    """A bad request to a hub; `why` is one phrase that names what is wrong."""
    return Refused(HUB_BAD_REQUEST, why=why)


def injected(refusal: Refusal, fault: str) -> Refused:
    """The same refusal without its cause, because a fault is switched on."""
    row = replace(
        refusal,
        when="the fault {feature} is switched on",
        hint="switch it off with python -m dpsx_helpers.emulator fault --clear",
    )
    return Refused(row, feature=fault)


_SIGNATURE = re.compile(r"sig=[^&]*")
_OUR_WORDS = frozenset(
    {"feature", "violation", "why", "limit", "seconds"}
)  # facts that are a phrase of the rule that refuses


def _shown(name: str, value: object) -> str:
    """Facts come from the wire: quoted, so that no control character reaches a log, and at most 100 characters.

    A token that somebody has put in the wrong place loses its signature.
    """
    if isinstance(value, str):
        value = _SIGNATURE.sub("sig=***", value)
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
    """The error envelope of IoT Hub's data plane. `text` of the row is the error's name, or a method's message."""
    row = refused.refusal
    if row.answer is Answer.HUB_METHOD:
        document = {"errorCode": row.code, "trackingId": tracking_id.replace("-", ""), "message": row.text}
        inner = json.dumps(document | {"info": {}, "timestampUtc": timestamp}, separators=(",", ":"))
        return {"Message": inner, "ExceptionMessage": ""}
    detail = "Unauthorized" if row.status == 401 else refused.reason
    tracking = f"Tracking ID:{tracking_id.replace('-', '').upper()}-TimeStamp:{timestamp}"
    return {"Message": f"ErrorCode:{row.text};{detail}", "ExceptionMessage": tracking}


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
    "enroll the device's certificate (individual) or that of its issuer (group), then run the device again",
    _ISSUES.format("node", 721),
)  # fmt: skip
NOT_ENROLLED_404 = Refusal(
    "not-enrolled-404", Answer.RESPONSE, 404, 404201, "Enrollment not found.",
    "there is no enrollment for registration ID {registration_id}",
    "enroll the device's certificate (individual) or that of its issuer (group), then run the device again",
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
TOKEN_REFUSED = Refusal(
    "token-refused", Answer.RESPONSE, 401, 401000, "Unauthorized",
    "{registration_id} showed a token instead of a certificate; only X.509 enrollments are emulated",
    "give the client its certificate and key",
    "https://github.com/MicrosoftDocs/azure-docs/issues/43157",
)  # fmt: skip
CA_NOT_FOUND = Refusal(
    "ca-not-found", Answer.RESPONSE, 401, 401002, "CA certificate not found.",
    "the certificate of {registration_id}, issued by {issuer}, does not lead to a verified CA certificate of this DPS "
    "with the {sent} issuer certificates that the device sent",
    "send the whole chain (in the file: the device's certificate first, then each issuer), and verify the root in DPS",
    _ISSUES.format("python", 797),
)  # fmt: skip
ISSUER_NOT_VALID = Refusal(
    "issuer-not-valid", Answer.RESPONSE, 401, 401002, "Invalid certificate.",
    "the issuer {subject} in the chain of {registration_id} is valid from {not_before} to {not_after} only",
    "renew the certificate of that issuer",
    _DPS_X509,
)  # fmt: skip
CSR_REFUSED = Refusal(
    "csr-refused", Answer.RESPONSE, 400, 400004, "Bad Request.",
    "limit of this emulator, not of Azure: {registration_id} asks for a certificate (csr), which is not emulated",
    "register without a certificate signing request",
    "https://learn.microsoft.com/azure/iot/concept-certificate-issuance",
)  # fmt: skip
HUB_NOT_FOUND = Refusal(
    "hub-not-found", Answer.RESPONSE, 401, 401001, "IotHub not found.",
    "the hub that {registration_id} would be assigned to is linked to this DPS but does not exist any more",
    "link the hub again",
    "https://github.com/hashicorp/terraform-provider-azurerm/issues/10224",
)  # fmt: skip
CONCURRENT = Refusal(
    "concurrent", Answer.RESPONSE, 409, 409203, "Precondition failed.",
    "another registration of {registration_id} is under way",
    "register from one program only, and again when that one has ended",
    "https://github.com/Azure/azure-iot-sdk-c/tree/main/provisioning_client/tests",
)  # fmt: skip
THROTTLED = Refusal(
    "throttled", Answer.RESPONSE, 429, 429001, "Throttled.",
    "{registration_id} asks more often than the limit allows ({limit})",
    "wait for the retry-after, and spread the registrations of a fleet over time",
    _DPS_LIMITS,
)  # fmt: skip
INTERNAL_ERROR = Refusal(
    "internal-error", Answer.RESPONSE, 500, 500000, "Internal server error.",
    "DPS failed to answer {registration_id}",
    "try again; the SDKs do so themselves",
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
    "the enrollment {enrollment} of {registration_id} is disabled",
    "set its provisioning status to enabled",
    "https://github.com/Azure/azure-sdk-for-c/blob/main/sdk/tests/iot/provisioning/test_az_iot_provisioning_client_parser.c",
)  # fmt: skip
NO_LINKED_HUB = Refusal(
    "no-linked-hub", Answer.REGISTRATION, 200, 400208, "IoT Hub not found.",
    "no IoT hub that {registration_id} may go to is linked to this DPS",
    "link a hub: start the emulator with --hubs 1",
    "https://github.com/Azure/azure-iot-sdk-c/blob/main/provisioning_client/src/prov_device_ll_client.c",
)  # fmt: skip
ALLOCATION_FAILED = Refusal(
    "allocation-failed", Answer.REGISTRATION, 200, 400207, "Custom allocation failed with status code: 400",
    "the webhook that should choose a hub for {registration_id} answered with an error",
    "look into the log of the function that the custom allocation policy calls",
    "https://github.com/Azure/iotedge/issues/3233",
)  # fmt: skip
HUB_REFUSED = Refusal(
    "hub-refused", Answer.REGISTRATION, 200, 400209,
    '{"Message":"ErrorCode:IotHubUnauthorizedAccess;Unauthorized","ExceptionMessage":""}',
    "the linked hub refused DPS the device {registration_id}, as it does when its key was regenerated",
    "update the linked hub's policy key in DPS",
    _ISSUES.format("c", 1789),
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
HUB_UNAVAILABLE = Refusal(
    "hub-unavailable", Answer.CONNACK, 3, 0, "Connection Refused: broker unavailable",
    "the hub cannot serve {device} at present",
    "try again later",
    _ISSUES.format("c", 756),
)  # fmt: skip
TOKEN_NOT_VALID = Refusal(
    "token-not-valid", Answer.CONNACK, 5, 401003, "Connection Refused: not authorised",
    "device {device_id} has keys, and its password is no token of theirs: {why}",
    "sign {hub}/devices/{deviceId} with the primary or secondary key of the device",
    "https://learn.microsoft.com/azure/iot-hub/authenticate-authorize-sas",
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
HUB_UNKNOWN_FILTER = Refusal(
    "hub-unknown-filter", Answer.CLOSE, 0, 0, "",
    "{device} asked for the topic filter {topic}, which a hub does not have",
    "a hub has devices/{deviceId}/messages/devicebound/#, $iothub/twin/res/#, "
    "$iothub/twin/PATCH/properties/desired/# and $iothub/methods/POST/#",
    _HUB_MQTT,
)  # fmt: skip
BAD_WILL = Refusal(
    "bad-will", Answer.CLOSE, 0, 0, "",
    "the Will of {device} has the topic {topic} or QoS 2",
    "give it the device's own devices/{deviceId}/messages/events/ and QoS 0 or 1",
    _HUB_MQTT,
)  # fmt: skip
BAD_TWIN_PATCH = Refusal(
    "bad-twin-patch", Answer.TWIN, 400, 400004, "Bad Request",
    "reported properties cannot be taken: {why}",
    "send one JSON object that keeps to the format and size of a twin",
    _HUB_TWINS,
)  # fmt: skip
UPGRADE_REFUSED = Refusal(
    "upgrade-refused", Answer.UPGRADE, 400, 0, "Bad Request",
    "{why}",
    "speak MQTT in binary frames on a WebSocket at /$iothub/websocket with the sub-protocol mqtt",
    "https://github.com/MicrosoftDocs/azure-docs/issues/21306",
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
    _HUB_LIMITS,
)  # fmt: skip
NOT_EMULATED = Refusal(
    "not-emulated", Answer.CLOSE, 0, 0, "",
    "limit of this emulator, not of Azure: {feature} (asked for by {device}) is not emulated in this version",
    "see docs/scope.md for what is",
    _HUB_MQTT,
)  # fmt: skip
NO_CONNECT = Refusal(
    "no-connect", Answer.CLOSE, 0, 0, "",
    "no CONNECT came within {seconds} s of the connection",
    "speak TLS, then MQTT 3.1.1, and begin with CONNECT",
    "https://github.com/Azure/azure-iot-protocol-gateway/blob/master/src/ProtocolGateway.Core/Mqtt/MqttAdapter.cs",
)  # fmt: skip
SILENT = Refusal(
    "silent", Answer.CLOSE, 0, 0, "",
    "{device} said nothing for {seconds} s",
    "send PINGREQ within the keep-alive time of the CONNECT",
    _HUB_MQTT,
)  # fmt: skip
NOT_READ = Refusal(
    "not-read", Answer.CLOSE, 0, 0, "",
    "{device} does not read: more than {limit} MiB wait for it",
    "read from the connection at all times, also while nothing is expected",
    _MQTT_3_1_1,
)  # fmt: skip
EVICTED = Refusal(
    "evicted", Answer.CLOSE, 0, 400027, "",
    "a newer connection of {device} took this one's place",
    "run one program per device ID",
    _HUB_ERRORS,
)  # fmt: skip
DISABLED_MEANWHILE = Refusal(
    "disabled-meanwhile", Answer.CLOSE, 0, 403012, "",
    "device {device} was disabled in the hub's identity registry while it was connected",
    "set its status to enabled",
    _HUB_ERRORS,
)  # fmt: skip
DROPPED = Refusal(
    "dropped", Answer.CLOSE, 0, 0, "",
    "DPS closed the connection of {device} without an answer",
    "register again",
    _ISSUES.format("python", 797),
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
DPS_NOT_YOURS = Refusal(
    "dps-not-yours", Answer.DPS_HTTP, 401, 401000, "Unauthorized",
    "the key of {policy} opens what carries its own registration ID, and {feature} does not",
    "use the registration ID that you joined the class with; all else is the teacher's",
    _DPS_ERRORS,
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
GROUP_NOT_FOUND = Refusal(
    "group-not-found", Answer.DPS_HTTP, 404, 404202, "Enrollment group not found.",
    "there is no enrollment group {group_id}",
    "list the enrollment groups to see what there is",
    "https://github.com/MicrosoftDocs/azure-docs/issues/57082",
)  # fmt: skip
GROUP_EXISTS = Refusal(
    "group-exists", Answer.DPS_HTTP, 409, 409202, "Enrollment group already exists.",
    "an enrollment group {group_id} exists already and the request has no If-Match",
    "send If-Match with the etag of the group, or * to replace it whatever it is",
    _ISSUES.format("csharp", 3076),
)  # fmt: skip
GROUP_CHANGED = Refusal(
    "group-changed", Answer.DPS_HTTP, 412, 412202, "Precondition failed.",
    "the If-Match of the request is not the etag of enrollment group {group_id}",
    "read the group again and repeat the change on what it is now",
    _DPS_ERRORS,
)  # fmt: skip
REGISTRATION_NOT_FOUND = Refusal(
    "registration-not-found", Answer.DPS_HTTP, 404, 404201, "Registration not found.",
    "no device has registered as {registration_id}",
    "run the device first",
    "https://github.com/MicrosoftDocs/azure-docs/issues/57082",
)  # fmt: skip
REGISTRATION_CHANGED = Refusal(
    "registration-changed", Answer.DPS_HTTP, 412, 412203, "Precondition failed.",
    "the If-Match of the request is not the etag of the registration of {registration_id}",
    "read the registration again",
    _DPS_ERRORS,
)  # fmt: skip
CERTIFICATE_NOT_FOUND = Refusal(
    "certificate-not-found", Answer.DPS_HTTP, 404, 404000, "Certificate not found.",
    "this DPS has no CA certificate {name}",
    "list the certificates to see what there is",
    _DPS_CA,
)  # fmt: skip
CERTIFICATE_CHANGED = Refusal(
    "certificate-changed", Answer.DPS_HTTP, 412, 412000, "Precondition failed.",
    "the request has no If-Match with the etag of the CA certificate {name}",
    "read the certificate again and send its etag, or *",
    _DPS_CA,
)  # fmt: skip
CERTIFICATE_IN_USE = Refusal(
    "certificate-in-use", Answer.DPS_HTTP, 409, 409000, "Certificate is in use.",
    "the enrollment group {group_id} names the CA certificate {name}",
    "delete the group first, or let it name another certificate",
    _DPS_CA,
)  # fmt: skip
DPS_THROTTLED = Refusal(
    "dps-throttled", Answer.DPS_HTTP, 429, 429001, "Throttled.",
    "more requests came than the limit allows ({limit})",
    "wait for the time in Retry-After",
    _DPS_LIMITS,
)  # fmt: skip
DPS_NOT_STORED = Refusal(
    "dps-not-stored", Answer.DPS_HTTP, 500, 500000, "Internal server error.",
    "{why}",
    "ask again when that is mended",
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
HUB_NOT_YOURS = Refusal(
    "hub-not-yours", Answer.HUB_HTTP, 401, 401002, "IotHubUnauthorizedAccess",
    "the key of {policy} opens what carries its own registration ID, and {feature} does not",
    "use the registration ID that you joined the class with; all else is the teacher's",
    "https://learn.microsoft.com/rest/api/iothub/common-error-codes",
)  # fmt: skip
HUB_BAD_REQUEST = Refusal(
    "hub-bad-request", Answer.HUB_HTTP, 400, 400004, "ArgumentInvalid",
    "{why}",
    "compare with the REST reference of IoT Hub",
    _HUB_REST,
)  # fmt: skip
DEVICE_NOT_FOUND = Refusal(
    "device-not-found", Answer.HUB_HTTP, 404, 404001, "DeviceNotFound",
    "The requested device {device_id} was not found in the hub's identity registry",
    "device IDs are case-sensitive; list the devices to see what there is",
    _HUB_ERRORS,
)  # fmt: skip
DEVICE_EXISTS = Refusal(
    "device-exists", Answer.HUB_HTTP, 409, 409001, "DeviceAlreadyExists",
    "A device with ID {device_id} is already registered",
    "send If-Match to change it",
    _HUB_ERRORS,
)  # fmt: skip
BAD_THUMBPRINT = Refusal(
    "bad-thumbprint", Answer.HUB_HTTP, 400, 400004, "StringIsNotThumbprint",
    "{given} is no thumbprint",
    "give 40 (SHA-1) or 64 (SHA-256) hex digits and nothing between them",
    _HUB_IDENTITIES,
)  # fmt: skip
WRONG_SERVICE = Refusal(
    "wrong-service", Answer.HUB_HTTP, 400, 400004, "ArgumentInvalid",
    "Unknown api version; uri: {why}",
    "this is the connection string of a hub: requests about enrollments need that of DPS",
    _ISSUES.format("csharp", 3479),
)  # fmt: skip
COMMAND_TOO_LARGE = Refusal(
    "command-too-large", Answer.HUB_HTTP, 413, 413001, "MessageTooLarge",
    "the cloud-to-device message has {size} bytes; the limit is {limit}",
    "send less",
    _HUB_LIMITS,
)  # fmt: skip
QUEUE_FULL = Refusal(
    "queue-full", Answer.HUB_HTTP, 403, 403004, "DeviceMaximumQueueDepthExceeded",
    "{limit} cloud-to-device messages wait for device {device_id}, which is the limit",
    "let the device connect and take them, or purge the queue",
    _HUB_ERRORS,
)  # fmt: skip
DEVICE_NOT_ONLINE = Refusal(
    "device-not-online", Answer.HUB_METHOD, 404, 404103,
    "The operation failed because the requested device isn't online or hasn't registered the direct method callback.",
    "device {device_id} is not connected, or has not subscribed to direct methods",
    "start the device and let it set its method handler; connectTimeoutInSeconds waits for it",
    _HUB_METHODS,
    "DeviceNotOnline",
)  # fmt: skip
METHOD_TIMED_OUT = Refusal(
    "method-timed-out", Answer.HUB_METHOD, 504, 504101, "Timed out waiting for the response from device.",
    "device {device_id} did not answer the method {method} within {seconds} s",
    "answer sooner, or ask with a longer responseTimeoutInSeconds",
    _HUB_ERRORS,
    "GatewayTimeout",
)  # fmt: skip
BAD_METHOD_ANSWER = Refusal(
    "bad-method-answer", Answer.HUB_METHOD, 500, 500001, "The response of the device is not valid JSON.",
    "device {device_id} answered the method with something that is not JSON",
    "answer with a JSON document",
    _HUB_METHODS,
    "ServerError",
)  # fmt: skip
METHOD_TOO_LARGE = Refusal(
    "method-too-large", Answer.HUB_METHOD, 413, 413001, "The payload of a direct method may have 128 KB.",
    "the payload of the method has {size} bytes; the limit is {limit}",
    "send less",
    _HUB_METHODS,
    "MessageTooLarge",
)  # fmt: skip
DEVICE_CHANGED = Refusal(
    "device-changed", Answer.HUB_HTTP, 412, 412002, "PreconditionFailed",
    "{why}",
    'send If-Match with the etag of the device, or "*"',
    _HUB_ERRORS,
)  # fmt: skip
HUB_NOT_STORED = Refusal(
    "hub-not-stored", Answer.HUB_HTTP, 500, 500001, "ServerError",
    "{why}",
    "ask again when that is mended",
    _HUB_ERRORS,
)  # fmt: skip
HUB_NOT_EMULATED = Refusal(
    "hub-not-emulated", Answer.HUB_HTTP, 501, 501000, "NotImplemented",
    "limit of this emulator, not of Azure: {feature} is not emulated in this version",
    "see docs/scope.md for what is",
    "https://learn.microsoft.com/rest/api/iothub/",
)  # fmt: skip

# --- the emulator's own requests --------------------------------------------------------------------------------------

CONTROL_UNAUTHORIZED = Refusal(
    "control-unauthorized", Answer.HUB_HTTP, 401, 401002, "IotHubUnauthorizedAccess",
    "the request {path} lacks the control token of this emulator",
    "ask with python -m dpsx_helpers.emulator, as the user whose emulator it is",
    _HUB_ERRORS,
)  # fmt: skip

NO_STUDENT = Refusal(
    "no-student", Answer.HUB_HTTP, 404, 404001, "DeviceNotFound",
    "there is no student {registration_id} in this class",
    "see who there is with python -m dpsx_helpers.emulator students list",
    _HUB_ERRORS,
)  # fmt: skip

ALL: dict[str, Refusal] = {row.name: row for row in list(globals().values()) if isinstance(row, Refusal)}
