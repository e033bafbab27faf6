"""The scope table: what Azure does, what this emulator does, and what a user notices of the difference.

`python -m dpsx_helpers.emulator.scope` prints it as the page docs/scope.md. Tests hold that every refusal, every path
of the data planes and everything that a device may send has its row, that every row names a test that is there, and
that the page is the table.
"""

import sys
from dataclasses import dataclass
from enum import StrEnum

from dpsx_helpers.emulator import refusals

_DPS_MQTT = "https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps"
_HUB_MQTT = "https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub"
_DPS_CONCEPTS = "https://learn.microsoft.com/azure/iot-dps/concepts-service"
_DPS_X509 = "https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation"
_DPS_LIMITS = "https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits"
_DPS_TLS = "https://learn.microsoft.com/azure/iot-dps/tls-support"
_DPS_ERRORS = "https://learn.microsoft.com/azure/iot-dps/how-to-troubleshoot-dps"
_DPS_REST = "https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment"
_GROUP_REST = "https://learn.microsoft.com/rest/api/iot-dps/service/enrollment-group"
_RECORD_REST = "https://learn.microsoft.com/rest/api/iot-dps/service/device-registration-state"
_CA_REST = "https://learn.microsoft.com/rest/api/iot-dps/dps-certificate"
_HUB_REST = "https://learn.microsoft.com/rest/api/iothub/service/devices"
_HUB_ERRORS = "https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes"
_HUB_IDENTITIES = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-identity-registry"
_HUB_LIMITS = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling"
_HUB_QUERY = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-query-language"
_TWINS = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins"
_METHODS = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-direct-methods"
_COMMANDS = "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-c2d"
_RESULT = "https://learn.microsoft.com/azure/iot-dps/iot-dps-https-x509-support"
_REPROVISION = "https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision"
_DOCS_57082 = "https://github.com/MicrosoftDocs/azure-docs/issues/57082"
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
    """One feature. `test` shows it: `file::function` below tests/.

    `refusals` are the names in `refusals.ALL` that belong to it, `handlers` the paths of the data planes, the requests
    and subscriptions of devices (names in `topics`) and the faults.
    """

    feature: str
    azure: str
    source: str
    ours: Ours
    notice: str
    evidence: Evidence
    test: str
    refusals: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ()


SAME, SIMPLIFIED, REFUSED, NOT_APPLICABLE = Ours
DOCUMENTED, LOG, MEASURED, OPEN = Evidence

ROWS: tuple[Row, ...] = (
    # --- connecting ---
    Row("MQTT 3.1.1 over TLS, port 8883", "one endpoint for DPS, one for each hub", _DPS_MQTT, SIMPLIFIED,
        "one listener serves DPS and hubs; the CONNECT user name tells them apart", DOCUMENTED,
        "acceptance/test_live_registration.py::test_a_device_is_enrolled_provisioned_and_heard",
        ("protocol-violation", "other-protocol-version", "bad-login")),
    Row("MQTT over WebSocket, port 443", "path /$iothub/websocket, sub-protocol mqtt in any case, else HTTP 400",
        "https://github.com/MicrosoftDocs/azure-docs/issues/21306", SAME,
        "served where port 443 can be bound, which often takes an administrator; the Overview says whether it is", LOG,
        "emulator/test_acceptance_websocket.py::test_the_sdk_goes_by_websocket", ("upgrade-refused",)),
    Row("TLS 1.2, any client certificate", "the handshake takes every certificate; the refusal comes later, in MQTT",
        _ISSUE.format("c", 2270), SAME, "an unknown certificate meets CONNACK or 401, never a TLS alert", LOG,
        "emulator/test_tls.py::test_any_client_certificate_is_taken_and_handed_on"),
    Row("TLS 1.3", "not offered to devices", _DPS_TLS, SAME, "the version is 1.2 on the ports for devices", DOCUMENTED,
        "emulator/test_tls.py::test_a_client_that_offers_more_gets_tls_1_2"),
    Row("cipher suites", "ECDHE with an RSA or an ECDSA certificate", _DPS_TLS, SIMPLIFIED,
        "the server's key is P-256: a client that offers RSA suites alone cannot connect", DOCUMENTED,
        "emulator/test_tls.py::test_the_ciphers_that_azure_documents_are_taken"),
    Row("trust of the server certificate", "public roots", _DPS_TLS, SIMPLIFIED,
        "a CA of the emulator's own, which SSL_CERT_FILE must name", DOCUMENTED,
        "emulator/test_tls.py::test_a_client_that_trusts_the_bundle_connects"),
    Row("wrong ID scope", "CONNACK 3", _ISSUE.format("python", 670), SAME, "«broker unavailable»", LOG,
        "acceptance/test_live_registration.py::test_a_wrong_id_scope_is_an_unavailable_broker", ("unknown-id-scope",)),
    Row("registration ID and common name differ", "CONNACK 5", _ISSUE.format("c", 2255), SAME, "«not authorised»", LOG,
        "acceptance/test_live_registration.py::test_a_common_name_that_differs_is_not_authorised",
        ("common-name-differs", "client-id-differs", "bad-registration-id")),
    Row("no client certificate and no token", "not known", _DPS_X509, SAME, "CONNACK 5", OPEN,
        "emulator/test_sessions.py::test_without_a_certificate_nobody_enters",
        ("no-certificate", "unreadable-certificate")),
    Row("api-version of a device", "each client sends the one it was built for", _DPS_MQTT, SIMPLIFIED,
        "every version that has been public is taken; others meet CONNACK 5", OPEN,
        "emulator/test_dps.py::test_a_wrong_connect_is_refused_with_its_reason", ("unknown-api-version",)),
    Row("second connection of a device", "the newer one wins, the older is closed", _HUB_ERRORS, SAME,
        "two programs with one device ID throw each other out; at DPS, where nothing is documented, both stay",
        DOCUMENTED,
        "emulator/test_sessions.py::test_a_newer_connection_of_a_device_takes_the_place_of_the_older", ("evicted",)),
    Row("keep-alive", "the service waits one and a half times the keep-alive, 1767 s at most", _HUB_MQTT, SAME,
        "a silent connection is closed, whole packets count and not bytes; before CONNECT after 60 s", DOCUMENTED,
        "emulator/test_server.py::test_a_silent_device_is_closed_after_one_and_a_half_keep_alives",
        ("silent", "no-connect")),
    Row("a device that does not read", "not known", _HUB_MQTT, SIMPLIFIED,
        "nothing more of it is handled; it is closed when its keep-alive is over, or 6 MiB wait for it", OPEN,
        "emulator/test_rude_clients.py::test_a_device_that_does_not_read_what_the_service_sends_is_parted_from",
        ("not-read",)),
    Row("connections at once", "a hub has a million devices; new connections are throttled by its tier", _HUB_LIMITS,
        SIMPLIFIED, "9,500 for devices and 500 for clients of the service side, or as many as the process may have "
        "descriptors; who has not come to CONNECT, or has no request under way, makes room for others", DOCUMENTED,
        "emulator/test_rude_clients.py::test_with_256_descriptors_who_is_there_stays_and_others_are_turned_away"),
    Row("violations at DPS: protocol, topics, QoS 2, size", "the connection is closed without a word", _DPS_MQTT, SAME,
        "an unexpected disconnection; the reason is in the emulator's log", OPEN,
        "emulator/test_sessions.py::test_a_violation_at_dps_closes_without_a_word_and_is_explained",
        ("unknown-topic", "unknown-filter", "not-subscribed", "qos-2", "too-large")),
    Row("violations at a hub: protocol, topics, QoS 2, size, a second CONNECT",
        "the connection is closed without a word", _HUB_MQTT, SAME,
        "an unexpected disconnection; the reason is in the emulator's log", DOCUMENTED,
        "emulator/test_sessions.py::test_a_violation_at_the_hub_closes_without_a_word_and_is_explained",
        ("foreign-topic", "hub-unknown-filter")),
    Row("a Will at DPS", "not documented", _DPS_MQTT, REFUSED, "the connection is closed", OPEN,
        "emulator/test_sessions.py::test_a_will_at_dps_is_named_as_a_limit_of_the_emulator", ("not-emulated",)),
    # --- registration ---
    Row("register and poll", "202 with an operation and retry-after, then 200", _RESULT, SAME,
        "by default the first poll is answered with 200; --assign makes it take longer", DOCUMENTED,
        "emulator/test_dps.py::test_a_poll_of_an_assigned_registration_shows_the_documented_result",
        ("unknown-operation", "bad-body", "other-registration-id"), ("Register", "Poll")),
    Row("registration result", "x509 is {}, dates with seven fractional digits, etag in base64", _RESULT, SAME,
        "the seventh digit is always 0", DOCUMENTED,
        "emulator/test_dps.py::test_a_poll_of_an_assigned_registration_shows_the_documented_result"),
    Row("not enrolled", "401 with 401002 Unauthorized; one test of Microsoft's own expects 404201", _DOCS_57082, SAME,
        "--not-enrolled chooses", OPEN,
        "emulator/test_acceptance.py::test_a_never_enrolled_device_is_a_401_or_a_404_where_that_is_chosen",
        ("not-enrolled", "not-enrolled-404")),
    Row("another certificate, CA:TRUE, expired", "401 with 401002 Invalid certificate.", _ISSUE.format("c", 2270), SAME,
        "the Python SDK says «Unexpected failure»; the emulator's log says which of them it was", LOG,
        "acceptance/test_live_registration.py::test_a_certificate_that_is_not_wanted_is_401002",
        ("other-certificate", "ca-certificate", "expired-certificate", "future-certificate")),
    Row("enrollment disabled", "200 with status disabled",
        "https://github.com/Azure/azure-sdk-for-c/blob/main/sdk/tests/iot/provisioning/test_az_iot_provisioning_client_parser.c",
        SAME, "the SDK reports an invalid registration status", MEASURED,
        "acceptance/test_live_registration.py::test_a_disabled_enrollment_is_an_invalid_registration_status",
        ("enrollment-disabled",)),
    Row("no linked hub", "the registration ends failed with 400208", _ISSUE.format("c", 2362), SAME,
        "--hubs 0 shows it; the wording of the message is ours", OPEN,
        "emulator/test_acceptance.py::test_without_a_linked_hub_the_registration_fails", ("no-linked-hub",)),
    Row("primary and secondary certificate", "either provisions", _DPS_X509, SAME,
        "the presented one becomes the hub's primary thumbprint", DOCUMENTED,
        "acceptance/test_live_registration.py::test_the_secondary_certificate_provisions_too"),
    Row("registration ID", "compared without regard to case", f"{_DPS_CONCEPTS}#registration-id", SAME,
        "the device ID keeps the spelling of the enrollment", DOCUMENTED,
        "acceptance/test_live_registration.py::test_registration_ids_compare_without_regard_to_case"),
    Row("device ID of its own", "the enrollment may name one", f"{_DPS_CONCEPTS}#device-id", SAME,
        "the device gets it instead of its registration ID", DOCUMENTED,
        "acceptance/test_live_registration.py::test_a_device_id_of_its_own_is_assigned"),
    Row("allocation policies", "evenly weighted, lowest latency, static", f"{_DPS_CONCEPTS}#allocation-policy",
        SIMPLIFIED,
        "hashed spreads devices always the same way; all hubs are equally near, so that geoLatency takes the first",
        DOCUMENTED, "emulator/test_dps.py::test_hashed_spreads_devices_evenly_and_always_the_same_way"),
    Row("re-provisioning to another hub", "by the policy of the enrollment; the device leaves its old hub",
        _REPROVISION,
        SAME, "--hubs 2 links a second hub, localhost; moved twins begin with version 1", DOCUMENTED,
        "emulator/test_acceptance_hubs.py::test_a_device_that_is_sent_to_another_hub"),
    Row("deleting an enrollment", "ends registrations; the device keeps its hub",
        "https://learn.microsoft.com/azure/iot-dps/how-to-unprovision-devices", SAME,
        "to shut a device out, delete it from the hub too", DOCUMENTED,
        "acceptance/test_live_registration.py::test_deleting_the_enrollment_leaves_the_device_its_hub"),
    Row("substatus of a device that comes again", "clients before 2019-04-15 see initialAssignment",
        "https://github.com/Azure/azure-iot-sdk-csharp/pull/2397", SAME,
        "the Python SDK sees initialAssignment, the service side reprovisionedToInitialAssignment", LOG,
        "emulator/test_dps.py::test_only_newer_clients_are_told_that_they_come_again"),
    Row("reset policy on the same hub", "initial twin again, without a change of hub", _REPROVISION, SAME,
        "the substatus is that of a device which comes again", OPEN,
        "emulator/test_dps.py::test_the_policy_says_whether_it_moves_and_what_becomes_of_its_twin"),
    Row("payload of the device", "handed to a custom allocation webhook",
        "https://learn.microsoft.com/azure/iot-dps/how-to-send-additional-data", SIMPLIFIED,
        "kept with the registration (`registrations` shows it); nothing comes back", DOCUMENTED,
        "emulator/test_dps.py::test_what_the_device_sends_along_is_kept"),
    Row("custom allocation", "a webhook chooses the hub",
        "https://learn.microsoft.com/azure/iot-dps/how-to-use-custom-allocation-policies", REFUSED,
        "refused when it is enrolled; its failure 400207 can be switched on as a fault", DOCUMENTED,
        "emulator/test_enrollment.py::test_custom_allocation_is_not_emulated", ("allocation-failed",)),
    Row("certificate signing requests", "a preview: DPS has a certificate issued",
        "https://learn.microsoft.com/azure/iot/concept-certificate-issuance", REFUSED, "400 to the registration",
        DOCUMENTED, "emulator/test_dps.py::test_a_request_for_a_certificate_is_refused_as_a_limit_of_the_emulator",
        ("csr-refused",)),
    Row("rate limits of DPS", "1000 registrations a minute, 5 polls in 10 s of one device, then 429", _DPS_LIMITS, SAME,
        "only with --rate-limit; the number 429001 and its text are ours", OPEN,
        "emulator/test_hub_peer.py::test_all_devices_together_may_register_a_thousand_times_a_minute", ("throttled",
        "dps-throttled")),
    Row("concurrent registrations of one device", "409203 has been seen", refusals.CONCURRENT.source, NOT_APPLICABLE,
        "the later registration simply goes on; 409 can be switched on as a fault", LOG,
        "emulator/test_dps.py::test_the_operation_before_the_latest_is_not_found", ("concurrent",)),
    # --- enrollment groups ---
    Row("enrollment groups", "certificates of an issuer let in every device whose chain leads to them", _DPS_X509, SAME,
        "the registration shows enrollmentGroupId", DOCUMENTED,
        "emulator/test_acceptance_groups.py::test_three_devices_of_a_group_provision_and_send_at_the_same_time"),
    Row("which enrollment decides", "the individual one, else the group of the closest issuer, enabled or not",
        _DPS_X509,
        SAME, "a disabled individual enrollment blocks one device of a group", DOCUMENTED,
        "emulator/test_acceptance_groups.py::test_one_device_of_a_group_is_blocked_by_a_disabled_enrollment_of_its_own"),
    Row("chain of a device", "it must be sent up to a certificate verified by proof of possession", _DPS_X509, SAME,
        "the verified certificate itself need not be sent: DPS has it", DOCUMENTED,
        "emulator/test_attestation.py::test_an_issuer_that_is_missing_ends_the_chain", ("ca-not-found",)),
    Row("an issuer out of date", "401 with 401002", _DPS_X509, SAME, "the text Invalid certificate. is our choice",
        OPEN,
        "emulator/test_attestation.py::test_every_issuer_up_to_the_verified_one_is_valid_now", ("issuer-not-valid",)),
    Row("CA certificates and proof of possession", "in Azure's Resource Manager and its portal", _CA_REST, SIMPLIFIED,
        "`certificate` of the command line, or /certificates beside the data plane; not az iot dps certificate",
        DOCUMENTED, "emulator/test_group.py::test_a_certificate_with_the_code_signed_by_the_key_proves_its_possession",
        ("certificate-not-found", "certificate-changed", "certificate-in-use"),
        ("/certificates", "/certificates/{}", "/certificates/{}/generateVerificationCode", "/certificates/{}/verify")),
    Row("groups of symmetric keys and TPM", "other attestation mechanisms", f"{_DPS_CONCEPTS}#attestation-mechanism",
        REFUSED, "501 from the data plane", DOCUMENTED,
        "emulator/test_enrollment.py::test_other_attestation_is_not_emulated"),
    Row("devices with a token", "401 with 401000 for a token that no enrollment wants",
        "https://github.com/MicrosoftDocs/azure-docs/issues/43157", SAME,
        "so for every token, since symmetric keys cannot be enrolled", LOG,
        "emulator/test_dps.py::test_a_device_with_a_token_is_let_in_and_refused_when_it_registers", ("token-refused",)),
    Row("DPS over HTTPS and AMQP", "other transports of the device side", _RESULT, REFUSED,
        "no such port; 501 over HTTPS", DOCUMENTED,
        "emulator/test_service_api.py::test_what_is_not_emulated_is_501_and_in_the_log"),
    # --- the hub's device side ---
    Row("identity made by DPS", "type selfSigned, SHA-256 thumbprints, upper-case hex",
        "https://github.com/Azure/iotedge/issues/2951", SAME, "both slots hold the same value for one certificate", LOG,
        "emulator/test_identity.py::test_dps_makes_a_device_with_the_thumbprints_of_its_enrollment"),
    Row("CONNECT by thumbprint", "CONNACK 5 for an unknown device or another certificate",
        _ISSUE.format("python", 324), SAME, "«Credentials invalid»", LOG,
        "acceptance/test_live_hub.py::test_a_device_with_another_certificate_cannot_enter_the_hub",
        ("unknown-device", "thumbprint-differs", "hub-client-id-differs", "unknown-hub")),
    Row("CONNECT by token", "a device with keys signs for itself",
        "https://learn.microsoft.com/azure/iot-hub/authenticate-authorize-sas", SAME,
        "for devices that the service has made with keys; the token is checked at CONNECT only", DOCUMENTED,
        "emulator/test_hub.py::test_either_key_opens", ("token-not-valid",)),
    Row("devices trusted through a CA", "type certificateAuthority", _HUB_IDENTITIES, REFUSED,
        "501 when the identity is made", DOCUMENTED,
        "emulator/test_identity.py::test_other_authentication_is_not_emulated"),
    Row("disabled device", "refused; whether with CONNACK 3 or 5 is not public", _HUB_ERRORS, SAME,
        "CONNACK 5; a connected one is closed", OPEN,
        "emulator/test_hub.py::test_a_wrong_connect_is_refused_with_its_reason",
        ("device-disabled", "disabled-meanwhile")),
    Row("hub that cannot serve", "CONNACK 3", _ISSUE.format("c", 756), SAME, "only when the fault is switched on", LOG,
        "emulator/test_acceptance_faults.py::test_the_sdk_meets_the_fault_when_it_connects", ("hub-unavailable",)),
    Row("telemetry", "topic with a property bag, acknowledged at QoS 1, 256 KB", _HUB_MQTT, SAME,
        "stored before the PUBACK, kept until `reset`; read it with `messages`", DOCUMENTED,
        "emulator/test_sessions.py::test_telemetry_is_stored_before_it_is_acknowledged", (), ("Telemetry",)),
    Row("Will of a device", "stored as telemetry with iothub-MessageType = Will", _HUB_MQTT, SAME,
        "also when a newer connection throws the older one out; not when the emulator stops", DOCUMENTED,
        "emulator/test_hub_peer.py::test_the_will_is_stored_when_the_connection_breaks", ("bad-will",)),
    Row("deleting a connected device", "its connection ends", _HUB_ERRORS, SAME, "an unexpected disconnection",
        DOCUMENTED, "emulator/test_service_api.py::test_deleting_a_connected_device_ends_its_connection", ("removed",)),
    Row("twin of a device", "GET answers desired and reported with their versions, without tags and metadata", _TWINS,
        SAME, "who has not subscribed to $iothub/twin/res/# gets no answer", DOCUMENTED,
        "emulator/test_hub_peer.py::test_a_device_gets_its_twin_without_tags_and_metadata", (), ("TwinGet",
        "Subscription.TWIN")),
    Row("reported properties", "JSON merge patch; 204 with the new version", _TWINS, SAME,
        "a patch that cannot be taken is answered with 400, also one that is too large", DOCUMENTED,
        "emulator/test_hub_peer.py::test_reported_properties_merge_and_count_up",
        ("bad-twin-patch",), ("TwinPatch",)),
    Row("desired properties", "a change is pushed to a connected device, and not kept for others", _TWINS, SAME,
        "sent at QoS 0", DOCUMENTED,
        "emulator/test_hub_peer.py::test_a_change_of_desired_properties_is_told_to_who_has_subscribed", (),
        ("Subscription.DESIRED",)),
    Row("initial twin", "written when DPS creates the identity", f"{_DPS_CONCEPTS}#individual-enrollment", SAME,
        "desired properties arrive at the device, tags do not", DOCUMENTED,
        "emulator/test_identity.py::test_a_first_twin_is_that_of_the_enrollment"),
    Row("size and format of twins", "8 KB of tags, 32 KB of properties each, ten levels, names without . $ and space",
        f"{_TWINS}#device-twin-size", SAME, "beyond them a change is refused with 400; the number is our choice", OPEN,
        "emulator/test_twin.py::test_exactly_the_limit_passes_and_one_byte_more_does_not"),
    Row("direct methods", "called over HTTPS, sent and answered over MQTT, with time-outs for both", _METHODS, SAME,
        "sent at QoS 0; a device that goes before it answers is not online", DOCUMENTED,
        "emulator/test_hub_api.py::test_a_device_answers_its_methods",
        ("device-not-online", "method-timed-out", "bad-method-answer", "method-too-large"),
        ("MethodAnswer", "Subscription.METHODS", "/twins/{}/methods")),
    Row("cloud-to-device messages", "queued at QoS 1 for an offline device, 50 at most, 64 KB, one hour", _COMMANDS,
        SAME,
        "sent with `send` or Emulator.send: Azure's service side takes them over AMQP only", DOCUMENTED,
        "emulator/test_hub_peer.py::test_messages_wait_for_an_offline_device_and_come_in_order",
        ("command-too-large", "queue-full"), ("Subscription.COMMANDS", "/devices/{}/commands", "/emulator/send")),
    Row("feedback on cloud-to-device messages", "a queue over AMQP", _COMMANDS, NOT_APPLICABLE,
        "an acknowledged message is deleted, an expired one is named in the log", DOCUMENTED,
        "emulator/test_hub_peer.py::test_a_message_expires_at_its_second"),
    Row("CleanSession", "0 keeps the subscriptions, 1 begins anew", _HUB_MQTT, SAME,
        "SessionPresent is 1 when one was kept; [for all four subscriptions](https://github.com/Azure/iotedge/pull/5048)",
        DOCUMENTED,
        "emulator/test_hub_peer.py::test_a_kept_subscription_outlives_connection_and_process"),
    Row("modules, and devices below an edge device", "identities of their own",
        "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-module-twins", REFUSED,
        "501 from the data plane, a closed connection for a module; the mark iotEdge is kept and shown", DOCUMENTED,
        "emulator/test_hub.py::test_a_wrong_connect_is_refused_with_its_reason"),
    Row("file upload, routes, jobs, configurations", "other services of a hub", _HUB_REST, REFUSED, "501", DOCUMENTED,
        "emulator/test_service_api.py::test_what_is_not_emulated_is_501_and_in_the_log", ("hub-not-emulated",)),
    Row("throttling and daily quota of a hub", "429 and 403", _HUB_LIMITS, NOT_APPLICABLE,
        "a hub here takes everything",
        DOCUMENTED, "emulator/test_acceptance.py::test_devices_provision_and_send_at_the_same_time"),
    Row("AMQP", "port 5671, for devices and for the service side", _HUB_REST, REFUSED, "nothing listens there",
        DOCUMENTED,
        "emulator/test_server.py::test_nothing_listens_but_the_ports_of_the_overview"),
    # --- data planes ---
    Row("HTTPS of the data planes, port 443", "DPS and each hub have a name of their own", _HUB_REST, SIMPLIFIED,
        "one port for all, 8443 or the next free one; --https-port 443 --ws-port none for clients that take no port",
        DOCUMENTED, "emulator/test_server.py::test_an_explicit_https_port_does_not_move_but_the_default_does"),
    Row("shared access signatures", "checked on every request",
        "https://learn.microsoft.com/azure/iot-dps/how-to-control-access", SAME,
        "one policy each: provisioningserviceowner and iothubowner, for all paths or a part of them; Microsoft Entra "
        "tokens are refused", DOCUMENTED,
        "emulator/test_service_api.py::test_a_bad_signature_is_unauthorized", ("dps-unauthorized", "hub-unauthorized")),
    Row("connection string of the other service", "a hub that is asked about enrollments knows no such api-version",
        _ISSUE.format("csharp", 3479), SAME, "400 in the envelope of a hub", LOG,
        "emulator/test_service_api.py::"
        "test_who_asks_for_enrollments_with_the_connection_string_of_the_hub_is_answered_as_by_a_hub",
        ("wrong-service",)),
    Row("api-versions of the data planes", "an unknown one is a bad request", _HUB_REST, SAME,
        "2021-10-01 for DPS, 2021-04-12 and 2024-03-31 for a hub, and some older ones", DOCUMENTED,
        "emulator/test_service_api.py::test_an_unknown_api_version_is_refused_by_name",
        ("dps-bad-request", "hub-bad-request")),
    Row("individual enrollments", "PUT, GET, DELETE, query with If-Match and etags", _DPS_REST, SAME,
        "the number of 409 and 412 is ours: no public source has it", DOCUMENTED,
        "acceptance/test_live_service.py::test_the_service_client_sees_conflict_change_and_absence",
        ("enrollment-exists", "enrollment-changed", "enrollment-not-found"),
        ("/enrollments/{}", "/enrollments/query")),
    Row("enrollment groups in the data plane", "PUT, GET, DELETE, query with If-Match and etags", _GROUP_REST, SAME,
        "a certificate that cannot let anybody in is taken, and the log says so; the numbers of 409 and 412 are ours",
        DOCUMENTED,
        "emulator/test_acceptance_groups.py::test_the_service_client_sees_conflict_change_and_absence",
        ("group-exists", "group-changed", "group-not-found"), ("/enrollmentGroups/{}", "/enrollmentGroups/query")),
    Row("attestation mechanism", "POST returns it", f"{_DPS_REST}/get-attestation-mechanism", SAME,
        "of certificates the facts, not the certificates", DOCUMENTED,
        "emulator/test_dps_api.py::test_the_mechanism_of_an_enrollment", (),
        ("/enrollments/{}/attestationmechanism", "/enrollmentGroups/{}/attestationmechanism")),
    Row("bulk operations", "up to ten in one request, each with its own outcome", f"{_DPS_REST}/run-bulk-operation",
        SAME,
        "update of one that is not there is refused", DOCUMENTED,
        "emulator/test_dps_api.py::test_each_is_created_or_refused_for_itself", (),
        ("/enrollments", "/enrollmentGroups")),
    Row("registration records", "GET, DELETE, query of a group", _RECORD_REST, SAME,
        "they go with an individual enrollment, and outlive a group; the device in the hub stays", DOCUMENTED,
        "emulator/test_dps_api.py::test_a_registration_is_shown_and_deleted",
        ("registration-not-found", "registration-changed"), ("/registrations/{}", "/registrations/{}/query")),
    Row("queries of DPS", "SELECT * is all that is documented", _DPS_REST, SAME, "any other is 501, by name in the log",
        DOCUMENTED,
        "emulator/test_dps_api.py::test_a_query_that_is_not_emulated_is_named_in_the_log"),
    Row("other requests to DPS", "whatever else there is", _DPS_REST, REFUSED, "501, a status Azure does not send",
        DOCUMENTED, "emulator/test_service_api.py::test_what_is_not_emulated_is_501_and_in_the_log",
        ("dps-not-emulated",), ("/.*",)),
    Row("device identities", "GET, PUT, DELETE, list, with etags quoted or not", _HUB_REST, SAME,
        "PUT without If-Match only creates, with it only updates; lastActivityTime moves at connect and disconnect",
        DOCUMENTED,
        "emulator/test_hub_api.py::test_a_device_is_made_shown_changed_and_deleted",
        ("device-not-found", "device-changed", "device-exists", "bad-thumbprint"), ("/devices", "/devices/{}")),
    Row("twins over HTTPS", "GET, PATCH merges, PUT replaces, If-Match", _HUB_REST, SAME,
        "version is the sum of the changes of identity and twin", DOCUMENTED,
        "emulator/test_hub_api.py::test_a_patch_merges_and_a_put_replaces", (), ("/twins/{}",)),
    Row("query of devices", "the IoT Hub query language", _HUB_QUERY, SIMPLIFIED,
        "SELECT, WHERE, GROUP BY, aggregates, IS_DEFINED, STARTSWITH on devices; what is left out is refused by name",
        DOCUMENTED, "emulator/test_query.py::test_a_documented_query_selects_its_devices", (), ("/devices/query",)),
    Row("statistics", "counts of devices and of connected ones", _HUB_REST, SAME, "of the hub that is asked",
        DOCUMENTED,
        "emulator/test_acceptance_hubs.py::test_each_hub_has_devices_and_statistics_of_its_own", (),
        ("/statistics/devices", "/statistics/service")),
    # --- the emulator's own ---
    Row("faults that a teacher switches on", "what Azure would answer then", _DPS_ERRORS, SAME,
        "`fault` lists and makes them, for one device or for all; the wording of 400209, 500 and 429 is ours", OPEN,
        "emulator/test_acceptance_faults.py::test_the_sdk_meets_the_fault_when_it_registers",
        ("hub-refused", "hub-not-found", "internal-error", "dropped"), ("/emulator/faults",)),
    Row("a fault inside the service", "500, to be asked again", _HUB_ERRORS, SIMPLIFIED,
        "when the emulator's disk is full: what cannot be stored is not acknowledged, the device's connection is "
        "closed, and a request that changes something gets 500; it goes on by itself when there is room", DOCUMENTED,
        "emulator/test_faults_of_the_machine.py::test_on_a_full_disk_nothing_is_acknowledged_that_is_not_stored",
        ("dps-not-stored", "hub-not-stored")),
    Row("keys of the students of a class", "a policy holds for a whole service, whatever the ID",
        "https://learn.microsoft.com/azure/iot-dps/how-to-control-access", NOT_APPLICABLE,
        "a policy of their own, student-ID, that opens what carries that registration ID alone; lists show their own; "
        "all else is 401, as for a token that does not apply to a request", DOCUMENTED,
        "emulator/test_students.py::test_what_is_anothers_is_refused_whatever_the_etag",
        ("dps-not-yours", "hub-not-yours", "no-student"),
        ("/emulator/messages", "/emulator/students", "/emulator/students/{}", "/emulator/board")),
    Row("control requests", "there is nothing like it", _DPS_ERRORS, NOT_APPLICABLE,
        "for whoever can read the state directory: the token is in it", DOCUMENTED,
        "emulator/test_control_api.py::test_every_request_needs_the_token", ("control-unauthorized",),
        ("/emulator/ping", "/emulator/stop", "/emulator/reset")),
)  # fmt: skip


def page() -> str:
    """docs/scope.md."""
    lines = [
        "# What the emulator does, and what it does not",
        "",
        "This page is printed by `python -m dpsx_helpers.emulator.scope`. *Same* means as Azure answers it, as far as",
        "public sources tell; *refused* means that the emulator says no and writes into its log that this is its own",
        "limit, not Azure's; *not applicable* means that nothing of the kind happens here.",
        "",
        "| feature | Azure | here | what you notice | evidence | test |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        file, _, name = row.test.partition("::")
        test = f"[{name.removeprefix('test_').replace('_', ' ')}](../tests/{file})"
        azure = f"{row.azure} ([source]({row.source}))"
        lines.append(f"| {row.feature} | {azure} | {row.ours} | {row.notice} | {row.evidence} | {test} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
