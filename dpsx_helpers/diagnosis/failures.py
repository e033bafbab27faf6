"""The failures that are none of the 23 mistakes, and look like one: what each card says."""

from dpsx_helpers.diagnosis.mistakes import ENTRY, HUB_ERRORS, LEARN, PYTHON, TROUBLE_DPS, Mistake

LEARN_REST = "https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment/create-or-update"
#: By a name of ours.
OTHERS: dict[str, Mistake] = {
    "not-enrolled": Mistake(
        "The device is not enrolled",
        "DPS answered 401, 'Unauthorized': no enrollment fits this device.",
        "DPS lets in only devices that are in its list, by their registration ID (or, in a group, by their issuer).",
        "Save the enrollment in notebook 03, then run this cell again.",
        "In the portal see your provisioning service, Manage enrollments, Individual enrollments: is the device there, "
        "in the service whose ID scope you use?",
        (TROUBLE_DPS, "https://github.com/Azure/azure-iot-sdk-node/issues/721"),
        "401 'Unauthorized' or 404, and no entry of that name",
    ),
    "not-yet-valid": Mistake(
        "The certificate is not valid yet",
        "DPS answered 401, 'Invalid certificate.'",
        "Its validity begins in the future: the clock of the machine that made it was ahead, or the clock here is "
        "behind.",
        "Set this machine's clock, create a new pair in notebook 02 and save it in notebook 03.",
        f"In the portal see {ENTRY}; put the new certificate into the field Primary certificate.",
        (LEARN.format("iot-dps/concepts-x509-attestation"),),
        "401 'Invalid certificate.', and a beginning of validity in the future in the certificate on disk",
    ),
    "disabled": Mistake(
        "The enrollment is disabled",
        "DPS knew the device and refused it: the entry's provisioning status is disabled.",
        "An entry can be switched off without being deleted.",
        "In the form of notebook 03 choose Enable under Enable entry, and run the cell below it, which saves; then run "
        "this cell again.",
        f"In the portal see {ENTRY}: tick Enable this enrollment.",
        (LEARN.format("iot-dps/how-to-unprovision-devices"),),
        "an answer with the status disabled",
    ),
    "no-hub": Mistake(
        "The device was not assigned to a hub",
        "DPS knew the device, but the registration failed.",
        "No hub is linked to the provisioning service, a linked hub refuses DPS, or a custom allocation went wrong. "
        "DPS's answer tells which.",
        "Run the cell again inside `with diagnosis.explain():` to see the answer.",
        "In the portal see your provisioning service, Linked IoT hubs.",
        (LEARN.format("iot-dps/how-to-manage-linked-iot-hubs"), TROUBLE_DPS),
        "a failed registration without a known error code",
    ),
    "busy": Mistake(
        "The service is busy, or had a fault of its own",
        "The service answered that it cannot serve you just now.",
        "Too many requests came in a short time (429), or something went wrong inside the service (5xx).",
        "Wait a minute, then run this cell again.",
        "In the portal, Service Health shows outages; your provisioning service, Metrics, shows throttling.",
        (LEARN.format("iot-dps/about-iot-dps#quotas-and-limits"), TROUBLE_DPS),
        "status 429 or 5xx",
    ),
    "concurrent": Mistake(
        "Two programs register the same device at once",
        "DPS answered 409: another registration of this device is under way.",
        "A device can have one registration at a time.",
        "Wait until the other cell or program has ended, then run this cell again.",
        f"In the portal see {ENTRY}, Registration status.",
        (TROUBLE_DPS,),
        "status 409 to a registration",
    ),
    "silence": Mistake(
        "DPS took the connection and then said nothing",
        "No answer to the registration came within 30 seconds, the time that the SDK waits.",
        "The connection was lost after the request, or the service is overloaded. The SDK tells the two apart in "
        "neither its text nor its class.",
        "Run this cell again; on the emulator the cell with views.log(target) shows the service's side.",
        "In the portal, Service Health shows outages.",
        (PYTHON.format(797),),
        "'Operation timed out before provisioning service could respond'",
    ),
    "nothing-listens": Mistake(
        "Nothing listens there",
        "The connection was refused: no program listens at this address.",
        "The address is another machine's, or a firewall refuses the port.",
        "Compare the host in the connection form of notebook 04 with the Overview page, run the cell that sets the "
        "variables, then this cell.",
        "In the portal see your provisioning service, Overview, Global device endpoint; compare it with "
        "PROVISIONING_HOST.",
        (PYTHON.format(730),),
        "ConnectionRefusedError",
    ),
    "emulator-gone": Mistake(
        "The emulator does not run",
        "The emulator of this tutorial does not run.",
        "It ends by itself after some idle hours, and a program that fails or the machine may have ended it. What it "
        "has stored is still there.",
        "Run the first cell of this notebook, which starts the emulator (perhaps at another address), then the cell "
        "that sets the variables, then this cell.",
        "Nothing in the portal has to do with it.",
        (PYTHON.format(730),),
        "a connection that fails while no emulator of this tutorial runs",
        emulator_only=True,
    ),
    "no-handshake": Mistake(
        "TLS could not be agreed upon",
        "The TLS handshake failed.",
        "Something else than DPS listens at that address and port, or a proxy between here and there interferes.",
        "Compare the host in the connection form of notebook 04 with the Overview page, run the cell that sets the "
        "variables, then this cell.",
        "In the portal see your provisioning service, Overview, Global device endpoint.",
        (LEARN.format("iot-dps/tls-support"),),
        "an SSLError that is about neither a certificate nor a key",
    ),
    "hub-unavailable": Mistake(
        "The hub is not available",
        "The hub refused the connection with CONNACK 3, 'broker unavailable'.",
        "The hub cannot serve the device at present: it is being moved, or over its quota for the day.",
        "Wait a moment, then run this cell again.",
        "In the portal see your IoT hub, Overview and Metrics (the free edition has 8,000 messages a day).",
        (HUB_ERRORS,),
        "CONNACK 3 at the hub",
    ),
    "dropped": Mistake(
        "The connection was lost",
        "A connection that stood was lost.",
        "The service went away, the network broke, or a second program connected as the same device.",
        "Make sure that one program only runs as this device, then run this cell again.",
        "In the portal see your IoT hub, Devices, the device: is it still there?",
        (HUB_ERRORS,),
        "ConnectionDroppedError, NoConnectionError or a reset connection",
    ),
    "shut-down": Mistake(
        "The client object was shut down",
        "A client that has been shut down was used again.",
        "shutdown() is for good; connect() on the same object does not bring it back.",
        "Run the cell that makes the client, then this one.",
        "Nothing in the portal has to do with it.",
        ("https://learn.microsoft.com/python/api/azure-iot-device/azure.iot.device.aio.iothubdeviceclient",),
        "ClientError 'Client has already been shut down'",
    ),
    "bad-request": Mistake(
        "The service does not take the document",
        "The service answered 400: something in the document is not as it has to be.",
        "A field has another name or another place than in the REST reference, or a value of another kind; or a "
        "certificate is in another enrollment group already.",
        "Mend the document in the cell that sends it, and run that cell again.",
        "In the portal a form makes the document: compare the fields of Add individual enrollment with yours.",
        (LEARN_REST, TROUBLE_DPS),
        "status 400 from the service",
    ),
    "not-there": Mistake(
        "There is no such entry",
        "The service answered 404: what was asked for is not there.",
        "The entry was never saved, was deleted, or has another registration ID (device IDs also mind upper and lower "
        "case).",
        "Look at the list in notebook 03 (views.enrollments(target)) and save the entry there.",
        "In the portal see your provisioning service, Manage enrollments.",
        (TROUBLE_DPS,),
        "status 404 from the service",
    ),
    "unknown": Mistake(
        "A failure that this tutorial does not know",
        "The device SDK gave up.",
        "The parts below say what it raised, and what the service answered where that was recorded.",
        "Look at the last lines of the cell with views.log(target), and run this cell again.",
        "In the portal, Service Health shows outages.",
        ("https://github.com/Azure/azure-iot-sdk-python/issues", TROUBLE_DPS),
        "none of the symptoms above",
        emulator_only=True,
    ),
}
