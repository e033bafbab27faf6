"""The mistakes that people make with this quickstart: what the card of each says.

The numbers 1 to 23 follow the way of a device: its settings, its certificate, its service, its hub. The sources are
public reports of people who met them, above all https://github.com/Azure/azure-iot-sdk-python/issues/543, 552, 670,
730, 797, 914, 915, 929, 960, 1090 and 1195; https://github.com/Azure/azure-iot-sdk-c/issues/756, 1066, 1281, 1367,
1789, 1844, 2255 and 2362; https://github.com/Azure/azure-iot-sdk-csharp/issues/347, 534, 1010, 3076 and 3479;
https://github.com/Azure/azure-iot-sdk-java/issues/203 and 573; https://github.com/Azure/iotedge/issues/1671 and 2951;
https://github.com/MicrosoftDocs/azure-docs/issues/54373, 69882, 105553 and 119463.
"""

from dataclasses import dataclass

PYTHON = "https://github.com/Azure/azure-iot-sdk-python/issues/{}"
_C = "https://github.com/Azure/azure-iot-sdk-c/issues/{}"
_CSHARP = "https://github.com/Azure/azure-iot-sdk-csharp/issues/{}"
_DOCS = "https://github.com/MicrosoftDocs/azure-docs/issues/{}"
LEARN = "https://learn.microsoft.com/azure/{}"
TROUBLE_DPS = LEARN.format("iot-dps/how-to-troubleshoot-dps")
HUB_ERRORS = LEARN.format("iot-hub/troubleshoot-error-codes")
ENTRY = "your provisioning service, Manage enrollments, Individual enrollments, the entry of the device"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One card. Everything is plain text; `more` holds public URLs.

    `remedy` is what to do in the notebooks, `portal` where to look on Azure. `evidence` is what it is recognised by.
    `limits` says what of it cannot be made on the emulator, and why; "" when all of it can. `emulator_only`: the remedy
    is one for the emulator, and on Azure `portal` is all there is to do.
    """

    name: str
    happened: str
    why: str
    remedy: str
    portal: str
    more: tuple[str, ...]
    evidence: str
    limits: str = ""
    emulator_only: bool = False


BY_NUMBER: dict[int, Mistake] = {
    1: Mistake(
        "The pass phrase is set under the wrong name",
        "The private key is encrypted and the program had no pass phrase for it.",
        "The quickstart and the notes of the SDK say PASS_PHRASE, while the SDK's sample reads X509_PASS_PHRASE. "
        "Without a pass phrase OpenSSL asks for one: in a terminal the program stops at 'Enter PEM pass phrase:', in a "
        "notebook, where nobody can answer, it fails with 'Invalid argument'.",
        "Run the cell of notebook 04 that sets the pass phrase under both names. After a restart of the kernel type it "
        "into the pass phrase form first.",
        "Nothing in the portal has to do with it: the pass phrase never leaves this machine.",
        (_DOCS.format(119463),),
        "OSError 22 or OpenSSL's prompt, an encrypted key on disk, and no pass phrase in the environment",
        "On Windows the prompt may wait in a console that is not visible; that console is not here.",
    ),
    2: Mistake(
        "The registration ID is not set",
        "The SDK was given no registration ID and did not even connect.",
        "The variable DPS_X509_REGISTRATION_ID is not set in this process. It was set in another terminal, or by "
        "'$export …', where the '$' is the prompt of the quickstart and not a part of the command.",
        "Run the cell of notebook 04 that sets the variables, then this cell.",
        "In the portal it is the Registration ID column of Manage enrollments, Individual enrollments.",
        (PYTHON.format(1090),),
        "ValueError 'Registration Id can not be none, empty or blank', or KeyError with the variable's name",
    ),
    3: Mistake(
        "The global device endpoint is not a bare host name",
        "The name in PROVISIONING_HOST could not be looked up, so no connection was made.",
        "The SDK looks up exactly what it is given. With https:// before it, a slash or a blank behind it, or a slip "
        "of the pen in it, no such machine exists. Without a network the symptom is the same.",
        "Type the bare name into the connection form of notebook 04, run the cell that sets the variables, then this "
        "cell.",
        "In the portal see your provisioning service, Overview, Global device endpoint. It is "
        "global.azure-devices-provisioning.net for everybody.",
        (PYTHON.format(730),),
        "gaierror, or UnicodeError for a name that cannot be one",
    ),
    4: Mistake(
        "A host name or device ID is missing altogether",
        "The SDK was given no host, or no device ID, and did not connect.",
        "A variable that is not set becomes None, and the SDK only notices when it is about to connect: 'Invalid "
        "host.' or 'A client id must be provided if clean session is False'.",
        "Run the cell of notebook 04 that sets the variables. Host and device ID of the hub come out of the "
        "registration result, so run the cell that registers before one that connects.",
        "In the portal, the endpoint stands in the Overview of your provisioning service, device IDs in Devices of "
        "your IoT hub.",
        (PYTHON.format(552),),
        "ValueError 'Invalid host.' or 'A client id must be provided if clean session is False'",
    ),
    5: Mistake(
        "Wrong ID scope",
        "DPS refused the connection with CONNACK 3, 'broker unavailable'.",
        "DPS answers so to an ID scope that it does not know, although it is perfectly well. A variable that is not "
        "set goes out as the word None.",
        "Correct the ID scope in the connection form of notebook 04 and run the cell that sets the variables, then "
        "this cell.",
        "In the portal see your provisioning service, Overview, ID Scope.",
        (PYTHON.format(670),),
        "CONNACK 3 at DPS",
        "An outage of Azure looks the same; the emulator plays it as the fault connack-3.",
    ),
    6: Mistake(
        "Registration ID and certificate name different devices",
        "DPS refused the connection with CONNACK 5, 'not authorised'.",
        "With an X.509 certificate the registration ID has to be the common name (CN) of the certificate's subject. "
        "DPS compares the two before it looks for an enrollment.",
        "Either type the certificate's common name into the registration ID form of notebook 02, or create a "
        "certificate for your registration ID there and enroll it in notebook 03; then run the cell of notebook 04 "
        "that sets the variables.",
        f"In the portal see {ENTRY}; the Registration ID there is the common name of the certificate it was made with.",
        (_C.format(2255), _DOCS.format(69882)),
        "CONNACK 5 at DPS, and another CN in the certificate on disk",
    ),
    7: Mistake(
        "The certificate is a CA's, not a device's",
        "DPS answered 401, 'Invalid certificate.'",
        "The basic constraints of the certificate say CA:TRUE. OpenSSL makes it so when -extensions usr_cert is left "
        "out, and DPS takes no CA certificate from a device.",
        "Create a new pair in notebook 02 (its cell makes CA:FALSE), save the enrollment with it in notebook 03, and "
        "run this cell again.",
        f"In the portal see {ENTRY}; put the new certificate into the field Primary certificate.",
        ("https://github.com/Azure/iotedge/issues/1671", _CSHARP.format(347)),
        "401 'Invalid certificate.', and CA:TRUE in the certificate on disk",
    ),
    8: Mistake(
        "The chain of a group's device does not reach a CA that DPS knows",
        "DPS answered 401, 'CA certificate not found.'",
        "A device of an enrollment group has to send the certificates of its issuers too, up to one that is uploaded "
        "and verified in DPS. The SDK sends what is in the certificate file: with the device's own certificate alone "
        "in it, DPS cannot find the way.",
        "Append the certificate of each issuer to the file (the device's own first), or name another file in the "
        "certificate files form of notebook 02, and run this cell again. For the one device of this tutorial an "
        "individual enrollment (notebook 03) is enough.",
        "In the portal see your provisioning service, Certificates: is the root there, with Status Verified?",
        (PYTHON.format(797), "https://github.com/Azure/azure-iot-sdk-java/issues/203", _CSHARP.format(1010)),
        "401 'CA certificate not found.', issuer and number of the certificates in the file on disk",
    ),
    9: Mistake(
        "Another certificate is enrolled than the device shows",
        "DPS answered 401, 'Invalid certificate.'",
        "The certificate was made anew after it had been enrolled, or another file was uploaded. Same name or not, DPS "
        "compares the certificate itself.",
        "Save the enrollment again in notebook 03: its cell uploads the file as it is now. Then run this cell again.",
        f"In the portal see {ENTRY}; compare its thumbprint with the file's (diagnosis.thumbprint helps), or upload "
        "the file again.",
        (_DOCS.format(119463), "https://github.com/Azure/azure-iot-sdk-java/issues/203"),
        "401 'Invalid certificate.', and thumbprints of enrollment and file that differ (on Azure: no fault in the "
        "file)",
    ),
    10: Mistake(
        "Certificate, key and pass phrase do not go together",
        "The SDK could not load the certificate with its key, so no connection was made.",
        "OpenSSL reads the two files before anything is sent. It fails when a file is missing (a relative path counts "
        "from where the program was started), is not PEM, when the key belongs to another certificate, or when the "
        "pass phrase does not open it.",
        "Choose the two files that were made together in the certificate files form of notebook 02, type the key's "
        "pass phrase into the pass phrase form, and run the cell of notebook 04 that sets the variables.",
        "Nothing in the portal has to do with it: the key never leaves this machine.",
        (PYTHON.format(543), PYTHON.format(929), _C.format(1281)),
        "SSLError KEY_VALUES_MISMATCH, PEM lib or no start line, FileNotFoundError, and a trial with the files on disk",
    ),
    11: Mistake(
        "The certificate has expired",
        "DPS answered 401, 'Invalid certificate.'",
        "The certificate was valid for a limited time (openssl makes 30 days when -days is left out), and that time is "
        "over. What worked for a month then stops from one day to the next.",
        "Create a new pair in notebook 02, save the enrollment with it in notebook 03, and run this cell again.",
        f"In the portal see {ENTRY}; put the new certificate into the field Primary certificate.",
        (PYTHON.format(1195), _C.format(1367)),
        "401 'Invalid certificate.', and an end of validity in the past in the certificate on disk",
    ),
    12: Mistake(
        "DPS may no longer enter the linked hub",
        "DPS knew the device, but could not create it in the hub.",
        "DPS keeps a key of each linked hub. When that key was regenerated, or the hub was deleted and made anew, the "
        "hub refuses DPS (400209 or 'IotHubUnauthorizedAccess') or is not found (401001).",
        "On the emulator only a fault does this: run a cell with target.emulator.clear_faults() and register again in "
        "notebook 04.",
        "In the portal see your provisioning service, Linked IoT hubs: remove the hub and add it again.",
        (_C.format(1789), _C.format(2362), "https://github.com/hashicorp/terraform-provider-azurerm/issues/10224"),
        "a failed registration with 400209 or IotHubUnauthorizedAccess, or 401001 'IotHub not found.'",
        "The emulator's hubs share one process with its DPS, so no key of theirs can be stale; its faults "
        "failed-400209 and 401-hub-not-found answer as Azure does.",
        emulator_only=True,
    ),
    13: Mistake(
        "No IoT hub is linked to the provisioning service",
        "DPS knew the device, but had no hub to give to it (error 400208).",
        "A provisioning service assigns devices to the hubs in its list of linked hubs. That list is empty, or the "
        "enrollment allows none of them.",
        "On the emulator: stop it with a cell that runs targets.stop(), start it with --hubs 1, and register again in "
        "notebook 04.",
        "In the portal see your provisioning service, Linked IoT hubs, Add.",
        (LEARN.format("iot-dps/how-to-manage-linked-iot-hubs"),),
        "a failed registration with error 400208, or an emulator without hubs",
        emulator_only=True,
    ),
    14: Mistake(
        "The hub does not let the device in",
        "DPS assigned the device, then the hub refused its connection with CONNACK 5, 'not authorised'.",
        "The hub keeps a list of its own. There the device was deleted, is disabled, or is known with the thumbprint "
        "of another certificate.",
        "Register again in notebook 04: DPS then writes device and certificate into the hub anew. A device that is "
        "disabled has to be enabled first, or deleted from the list (the clean-up cell of notebook 05).",
        "In the portal see your IoT hub, Devices, the device: is it there, enabled, with the thumbprint of your "
        "certificate?",
        (PYTHON.format(324), _DOCS.format(54373), HUB_ERRORS),
        "CONNACK 5 at the hub, and on the emulator the hub's list",
    ),
    15: Mistake(
        "Two thumbprints of one certificate",
        "The thumbprint in one place is not the thumbprint in another.",
        "A thumbprint is a digest of the whole certificate, and there are two kinds: the portal's enrollment shows "
        "SHA-1 (40 digits), the hub stores SHA-256 (64 digits). They never look alike and may still be of the same "
        "file.",
        "Run a cell with diagnosis.thumbprint('…') and what the page shows: it says to which file it belongs. The "
        "check of notebook 03 compares for you.",
        f"In the portal see {ENTRY} (SHA-1); your IoT hub, Devices, the device (SHA-256).",
        ("https://github.com/Azure/iotedge/issues/2951", _DOCS.format(105553)),
        "the number of digits, and the digests of the certificates on disk",
    ),
    16: Mistake(
        "The connection string of an IoT hub was used for DPS",
        "The service refused a request about enrollments.",
        "A provisioning service and an IoT hub have connection strings of their own. A hub knows no enrollments (400 "
        "'Unknown api version; uri: /enrollments…'), and DPS does not know the policy or the key of a hub (401).",
        "Here the connection string comes with the target: run the first cell (target = "
        "targets.current()) and use target.dps_connection_string.",
        "In the portal see your provisioning service (not the IoT hub), Shared access policies, "
        "provisioningserviceowner, Primary connection string.",
        (_CSHARP.format(3479), _C.format(1844)),
        "400 with 'Unknown api version', or 401 to a token of a hub's policy",
    ),
    17: Mistake(
        "The service's certificate is not trusted here",
        "The TLS handshake ended before anything was said: this machine does not trust the certificate that it was "
        "shown.",
        "The root certificate is missing here, the clock of this machine is wrong, or a proxy between here and there "
        "shows a certificate of its own. Trust is read when a client object is made.",
        "Run the first cell of this notebook (it sets SSL_CERT_FILE for the emulator), then make the client anew by "
        "running its cell. The check of notebook 00 looks at the clock.",
        "Nothing in the portal has to do with it: set this machine's clock; behind a company's proxy, ask for the "
        "exception *.azure-devices-provisioning.net and *.azure-devices.net.",
        (PYTHON.format(914), PYTHON.format(960), _C.format(1066)),
        "SSLCertVerificationError with OpenSSL's reason",
        "A wrong clock and a proxy that opens TLS are not set up for a test; a server whose certificate is not valid "
        "yet, and one of an unknown issuer, answer as these would.",
        emulator_only=True,
    ),
    18: Mistake(
        "Port 8883 is blocked",
        "The connection was neither accepted nor refused: no answer came in time.",
        "MQTT over TLS uses port 8883, and many networks of companies and schools let only web traffic out. A firewall "
        "that swallows packets leaves the SDK waiting (about five seconds) for each try.",
        "Set os.environ['DPSX_TRANSPORT'] = 'websockets' in a cell of notebook 04 and run the cells of the device's "
        "program again: they then use port 443.",
        "Nothing in the portal has to do with it: it is the network between here and Azure.",
        (_CSHARP.format(534), _C.format(756), LEARN.format("iot/iot-mqtt-connect-to-iot-hub")),
        "TimeoutError while connecting",
        "A firewall cannot be set up in a test; a socket whose queue is full leaves a client waiting in the same way.",
    ),
    19: Mistake(
        "The enrollment exists already",
        "The service answered 409, 'Enrollment already exists.'",
        "A program that saves an enrollment a second time has to say which version it means to replace (If-Match); "
        "otherwise DPS refuses, so that nobody overwrites an entry unseen.",
        "Use the cell of notebook 03 that saves: enrollments.save looks first. In a program of your own pass the etag, "
        "or if_match='*' to replace whatever is there.",
        f"In the portal see {ENTRY}; edit or delete it there.",
        (_CSHARP.format(3076), "https://github.com/Azure/azure-sdk-for-python/issues/35187"),
        "409 (exists) or 412 (changed meanwhile) from the service",
    ),
    20: Mistake(
        "Two programs connect as the same device",
        "The hub dropped the connection again and again.",
        "A hub keeps one connection for each device ID. When a second program (or a second notebook, or a client that "
        "was never shut down) connects as the same device, the hub closes the first, that one comes back, and so on.",
        "Shut the other one down: its cell with client.shutdown(), or the kernel of the other notebook (menu Kernel). "
        "Then run this cell again.",
        "In the portal see your IoT hub, Metrics, Connected devices; the error is 400027.",
        (f"{HUB_ERRORS}#400027-connectionforcefullyclosedonnewconnection",),
        "connections that were accepted and then lost, and on the emulator its log",
    ),
    21: Mistake(
        "The subject of the certificate was mangled",
        "DPS refused the connection with CONNACK 5, 'not authorised': the certificate names no device.",
        "Git Bash takes /CN=… for a path and makes C:/Program Files/Git/CN=… of it; hence the quickstart's //CN=… "
        "there. Typed on Linux or macOS, that second slash makes openssl skip the name (it warns, and goes on), and "
        "the subject is empty.",
        'Create the pair in notebook 02: its cell needs no shell. With openssl: -subj "/CN=…" on Linux, macOS and in '
        'PowerShell, -subj "//CN=…" in Git Bash only, with winpty before openssl when it asks for something.',
        f"In the portal see {ENTRY}; with the new certificate it gets its Registration ID from the common name.",
        (LEARN.format("iot-dps/quick-create-simulated-device-x509"),),
        "CONNACK 5 at DPS, and a subject without CN, or with a path in it",
        "Git Bash and winpty (without which openssl waits for ever) are Windows programs; what is made is what openssl "
        "makes of the mangled subjects.",
    ),
    22: Mistake(
        "The enrollment is deleted, and the device still sends",
        "The hub accepts messages of a device that DPS no longer knows.",
        "An enrollment is only asked for when a device registers. By then the hub has the device in a list of its own, "
        "and deleting one does not touch the other.",
        "Delete (or disable) the device in the hub too: the clean-up cell of notebook 05 does both.",
        "In the portal see your IoT hub, Devices, the device, Delete; and your provisioning service, Manage "
        "enrollments.",
        (LEARN.format("iot-dps/how-to-unprovision-devices"),),
        "messages that the hub acknowledged, and no enrollment of that name",
    ),
    23: Mistake(
        "'Unexpected failure', and no reason",
        "The SDK raised its general error and left out what DPS had answered.",
        "DPS does say why, in the body of its answer; the Python SDK keeps only the status code and writes the body to "
        "its debug log.",
        "Run the cell again inside `with diagnosis.explain():`, which reads that log: the card then shows DPS's own "
        "words.",
        "In the portal see your provisioning service, Diagnostic settings, which send such answers to a log; the cell "
        "is quicker.",
        (PYTHON.format(1195), TROUBLE_DPS),
        "ClientError 'Unexpected failure' from ServiceError, and no record of the conversation",
    ),
}


def number_of(mistake: Mistake) -> int | None:
    """Its number, when it is one of the 23."""
    return next((number for number, known in BY_NUMBER.items() if known is mistake), None)
