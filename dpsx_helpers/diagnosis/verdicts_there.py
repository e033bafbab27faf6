"""Verdicts on what the services answered: DPS to a device, and both services to the operator's programs."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime

from dpsx_helpers import certificates
from dpsx_helpers.diagnosis import verdicts_here
from dpsx_helpers.diagnosis.evidence import Evidence
from dpsx_helpers.diagnosis.verdict import Verdict, again, verdict

# --- what DPS answered ------------------------------------------------------------------------------------------------


def scope_refused(seen: Evidence) -> Verdict:
    if seen.at_hub:
        return verdict("hub-unavailable", again("The hub is not available just now (CONNACK 3): wait a moment"))
    scope = os.environ.get("PROVISIONING_IDSCOPE")
    if not scope:
        return verdict(
            5,
            again(
                "PROVISIONING_IDSCOPE is not set, so DPS was asked for the ID scope None (CONNACK 3): run the cell "
                "that sets the variables"
            ),
            "The variable PROVISIONING_IDSCOPE is not set. The SDK sent the word None; DPS refused it with CONNACK 3.",
        )
    return verdict(
        5,
        again(
            f'DPS knows no ID scope "{scope}" (CONNACK 3): copy the ID scope from the Overview page into the '
            "connection form"
        ),
        f'DPS refused the connection with CONNACK 3. The ID scope that the variables name is "{scope}".',
        ("the ID scope is wrong", "DPS cannot be reached behind its front door (an outage)") if seen.on_azure else (),
    )


def not_authorised(seen: Evidence) -> Verdict:
    return verdicts_here.at_the_hub(seen) if seen.at_hub else at_dps(seen)


def at_dps(seen: Evidence) -> Verdict:
    name, certificate = seen.registration_id, seen.certificate
    if certificate is not None and _mangled(certificate):
        subject = f'"{certificate.subject}"' if certificate.subject else "empty"
        return verdict(
            21,
            again(
                f"DPS refused the connection (CONNACK 5): the certificate's subject is {subject} and names no device: "
                "create the pair in notebook 02, enroll it"
            ),
            f"DPS refused the connection with CONNACK 5. The registration ID is {name}; the subject of the certificate "
            f"is {subject}.",
        )
    if certificate is not None and (certificate.common_name or "").casefold() != name.casefold():
        return verdict(
            6,
            again(
                f'DPS refused the connection (CONNACK 5): the registration ID is "{name}" but the certificate says '
                f"CN={certificate.common_name}: make the two the same"
            ),
            f"DPS refused the connection with CONNACK 5. The registration ID is {name}; the certificate says "
            f"CN={certificate.common_name}.",
        )
    return verdict(
        6,
        again(
            f'DPS refused the connection (CONNACK 5) for registration ID "{name}": check it against the certificate\'s '
            "subject"
        ),
        causes=(
            "the program was given another registration ID, or another certificate, than the variables name",
            "the registration ID has characters that DPS does not take",
        ),
    )


def _mangled(certificate: certificates.Description) -> bool:
    """Whether the subject is what is left of one that a shell or openssl has changed."""
    return not certificate.common_name or any(sign in certificate.subject for sign in ("/CN", "CN=CN=", ":/"))


def refused_with_status(seen: Evidence) -> Verdict:
    """401 and 404 to a registration."""
    if seen.code == 401001 or "IotHub not found" in seen.message:
        return stale_hub(seen)
    if "CA certificate" in seen.message:
        return no_way_to_a_ca(seen)
    unknown_words = not seen.message or "nvalid certificate" in seen.message
    if unknown_words and (found := _flaw(seen)):
        return found
    if seen.service is not None:
        return by_the_list(seen)
    if not seen.recorded:
        return without_reason(seen)
    return other_certificate(seen) if "nvalid certificate" in seen.message else not_enrolled(seen)


def _flaw(seen: Evidence) -> Verdict | None:
    """What is wrong with the certificate on disk, whoever looks at it."""
    certificate = seen.certificate
    if certificate is None:
        return None
    now = datetime.now(UTC)
    if certificate.is_ca:
        return verdict(
            7,
            f"DPS answered {seen.status}: the certificate is marked as a CA (CA:TRUE) and a device must not be one: "
            "make one with CA:FALSE, enroll it and run this cell again.",
        )
    if certificate.not_after < now:
        return verdict(
            11,
            f"DPS answered {seen.status}: the certificate expired on {certificate.not_after:%Y-%m-%d}: make a new one "
            "in notebook 02, enroll it and run this cell again.",
            f"DPS answered 401. The certificate expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC.",
        )
    if certificate.not_before > now:
        return verdict(
            "not-yet-valid",
            f"DPS answered {seen.status}: the certificate is not valid before {certificate.not_before:%Y-%m-%d %H:%M} "
            "UTC: set this machine's clock, make a new one in notebook 02, enroll it and run this cell again.",
        )
    return _flaw_of_an_issuer(seen, now)


def _flaw_of_an_issuer(seen: Evidence, now: datetime) -> Verdict | None:
    for issuer in seen.issuers:
        if issuer.not_after < now:
            return verdict(
                11,
                f"DPS answered {seen.status}: the issuer {issuer.subject} in the certificate file expired on "
                f"{issuer.not_after:%Y-%m-%d}: renew it, put it into the file and run this cell again.",
                f"DPS answered 401. The device's certificate is valid, its issuer {issuer.subject} is not any more.",
            )
    return None


def by_the_list(seen: Evidence) -> Verdict:
    """The list of enrollments can be read, so it need not be guessed."""
    entry, certificate = seen.enrollment, seen.certificate
    if entry is None and "nvalid certificate" in seen.message:
        return verdict(
            "unknown",
            again(f"DPS answered {seen.status} (Invalid certificate), and the files do not show why: look at "
                  "views.log(target)"),
            f"DPS answered {seen.status}, '{seen.message}' There is no enrollment of this device alone, so it is one "
            "of a group.",
        )  # fmt: skip
    if entry is None:
        return not_enrolled(seen)
    if certificate is not None and entry.thumbprint_sha256 != certificate.thumbprint_sha256:
        return other_certificate(seen)
    return verdict(
        "unknown",
        f"DPS answered {seen.status}, and yet the enrollment of {entry.registration_id} and the certificate on disk "
        "agree now: run this cell again.",
        "DPS refused the device. The enrollment and the certificate on disk agree now, so one of them has changed "
        "since, or the program was given another certificate.",
    )


def not_enrolled(seen: Evidence) -> Verdict:
    name = seen.registration_id
    if seen.issuers:
        return _no_group(seen)
    if seen.service is not None:
        return verdict(
            "not-enrolled",
            f"DPS answered {seen.status}: {name} is not enrolled: enroll it in notebook 03 and run this cell again.",
            f"DPS answered {seen.status}. There is no enrollment {name}.",
        )
    return verdict(
        "not-enrolled",
        f"DPS answered {seen.status}: no enrollment matches the certificate of {name}: enroll the file as it is now "
        "and run this cell again.",
        causes=(
            f"there is no enrollment {name} (never saved, or deleted)",
            "it is in another provisioning service than the one of this ID scope",
            "the certificate was made anew after it was enrolled",
        ),
    )


def _no_group(seen: Evidence) -> Verdict:
    """A device that brings its issuers along is meant for a group."""
    name, issuers = seen.registration_id, " or ".join(issuer.subject for issuer in seen.issuers)
    found = verdict(
        "not-enrolled",
        again(
            f"DPS answered {seen.status}: no enrollment and no group lets {name} in: make a group with the certificate "
            f"of {issuers} first"
        ),
        f"DPS answered {seen.status}. No enrollment is that of {name}, and no group has the certificate of {issuers}.",
    )
    return replace(found, remedy="Make the enrollment group of its issuer first, then run this cell again.")


def other_certificate(seen: Evidence) -> Verdict:
    name = seen.registration_id
    if seen.enrollment is not None:
        return verdict(
            9,
            f"DPS answered {seen.status}: {name} is enrolled with another certificate than the one on disk: save the "
            "enrollment again in notebook 03 and run this cell again.",
            f"DPS answered {seen.status}. {name} is enrolled with a certificate whose SHA-256 thumbprint is "
            f"{seen.enrollment.thumbprint_sha256}; the one on disk has "
            f"{seen.certificate.thumbprint_sha256 if seen.certificate else 'none'}.",
        )
    return verdict(
        9,
        f"DPS answered {seen.status} ({seen.message.rstrip('.')}), most likely because another certificate of {name} "
        "is enrolled: enroll the file as it is now and run this cell again.",
        f"DPS answered {seen.status}, '{seen.message}' The certificate on disk is a device's and valid.",
        causes=(
            "the certificate was made anew after it was enrolled",
            "another file was uploaded",
            "the device is one of a group, and the certificate of the group has expired",
        ),
    )


def no_way_to_a_ca(seen: Evidence) -> Verdict:
    if found := _flaw_of_an_issuer(seen, datetime.now(UTC)):
        return found
    certificate = seen.certificate
    alone = certificate is not None and certificate.issuer != certificate.subject and not seen.issuers
    self_signed = certificate is not None and certificate.issuer == certificate.subject
    if alone and certificate is not None:
        return verdict(
            8,
            f"DPS answered {seen.status}: the certificate of {seen.registration_id} was issued by "
            f"{certificate.issuer}, and the file holds no certificate of that issuer: append the chain to it and run "
            "this cell again.",
            "DPS answered 401, 'CA certificate not found.' The file holds the device's certificate alone, without its "
            f"issuer {certificate.issuer}.",
        )
    return verdict(
        8,
        f"DPS answered {seen.status}: no verified CA certificate of DPS stands behind that of {seen.registration_id}: "
        "verify the root in DPS, or enroll the certificate itself in notebook 03, and run this cell again.",
        causes=(
            "the certificate is self-signed, and there is no individual enrollment of it"
            if self_signed
            else "the root is not uploaded to DPS, or not verified",
            "a certificate of the chain is missing in the file",
        ),
    )


def without_reason(seen: Evidence) -> Verdict:
    return verdict(
        23,
        f"DPS answered {seen.status} and the SDK hides why: run this cell again inside `with diagnosis.explain():`.",
        f"DPS answered {seen.status}; its reason was not recorded.",
        (
            "the certificate was made anew after it was enrolled, or another file was uploaded",
            "there is no such enrollment",
            "the chain of a device of a group is incomplete",
        ),
    )


def disabled(seen: Evidence) -> Verdict:
    return verdict(
        "disabled",
        again(f"The enrollment of {seen.registration_id} is disabled: choose Enable in the form of notebook 03, save"),
    )


def failed(seen: Evidence) -> Verdict:
    own_program = "custom allocation" in seen.message.lower()  # 400209 is said of that too
    if not own_program and (seen.code == 400209 or "Unauthorized" in seen.message or "401002" in seen.message):
        return stale_hub(seen)
    if seen.code == 400208 or (seen.service is not None and not seen.service.hubs):
        return verdict(
            13,
            again(
                f"DPS knows {seen.registration_id} but could not assign it to a hub: link an IoT hub to the "
                "provisioning service"
            ),
        )
    return verdict(
        "no-hub",
        again(
            f"DPS knows {seen.registration_id} but could not assign it to a hub: look at Linked IoT hubs of the "
            "provisioning service"
        ),
        f"DPS knew the device, but the registration failed{f': {seen.message}' if seen.message else ''}.",
        (
            "no hub is linked",
            "the linked hub's key is stale, or the hub does not exist any more",
            "a custom allocation",
        ),
    )


def stale_hub(seen: Evidence) -> Verdict:
    return verdict(
        12,
        again(
            f"DPS knows {seen.registration_id}, but the linked hub refuses DPS or is gone "
            f"({seen.code or seen.status}): remove the hub from Linked IoT hubs in the portal, add it anew"
        ),
        causes=("the hub's key was regenerated", "the hub was deleted, or made anew under the same name"),
    )


def busy(seen: Evidence) -> Verdict:
    who = "The service" if seen.service_error else "DPS"
    return verdict("busy", again(f"{who} is busy or had a fault of its own ({seen.status}): wait a minute"))


def concurrent(seen: Evidence) -> Verdict:
    return verdict(
        "concurrent",
        again(f"Another program registers {seen.registration_id} at this moment (409): wait until it has ended"),
    )


def no_answer(seen: Evidence) -> Verdict:
    return verdict(
        "silence",
        again(
            f"{seen.host} took the connection and then said nothing for 30 seconds: look at views.log(target) on the "
            "emulator, or wait a minute"
        ),
    )


# --- the service clients of the operator ------------------------------------------------------------------------------


def wrong_connection_string(seen: Evidence) -> Verdict:
    certain = (
        "Unknown api version" in seen.body
        or seen.request_policy == "iothubowner"
        or seen.request_host.endswith(".azure-devices.net")
    )
    remedy = (
        "take the connection string of your provisioning service (its Shared access policies in the portal)"
        if seen.on_azure
        else "take target.dps_connection_string"
    )
    if certain:
        return verdict(
            16,
            again(
                f"This is the connection string of an IoT hub, and a hub knows no enrollments ({seen.status}): {remedy}"
            ),
        )
    return verdict(
        16,
        again(f"The service refused the access key ({seen.status}): {remedy}"),
        f"The service answered {seen.status}: it does not take the key of the policy "
        f"{seen.request_policy or 'in the connection string'}.",
        ("the key is that of an IoT hub, or of another provisioning service", "the key was regenerated",
         "this machine's clock is wrong, so that the token has expired already"),
    )  # fmt: skip


def bad_request(seen: Evidence) -> Verdict:
    """The emulator's log has a reason where the answer has none."""
    logged = re.search(r" > 400 [^:]+: (.+)\. Remedy: ", seen.log[-1]) if seen.log else None
    reason = logged[1] if logged else seen.message.rstrip(".") or "without a reason"
    return verdict(
        "bad-request",
        again(f"The service does not take the document (400, {reason}): mend it"),
        f"The service answered 400, '{seen.message}'" + (f" The emulator's reason: {reason}." if logged else ""),
    )


def exists(seen: Evidence) -> Verdict:
    if seen.status == 412:
        return verdict(
            19,
            again("The entry was changed by someone else in the meantime (412): read it again"),
            "The service answered 412: the etag of the request is not that of the entry any more.",
        )
    return verdict(
        19,
        again(
            "The enrollment exists already (409): save it with enrollments.save, or pass if_match='*' to replace it,"
        ),
    )


def no_entry(seen: Evidence) -> Verdict:
    return verdict("not-there", again("The service has no such entry (404): look at the list in notebook 03"))


def service_silent(seen: Evidence) -> Verdict:
    return verdict(
        "nothing-listens",
        again(
            f"The service does not answer ({type(seen.error).__name__}): run the first cell of this notebook, which "
            "starts the emulator,"
        ),
    )


# --- what raises nothing ----------------------------------------------------------------------------------------------


def sends_without_enrollment(seen: Evidence) -> bool:
    sent = (
        seen.error is None
        and seen.talk is not None
        and any(message.acknowledged_at for message in seen.talk.acknowledgements())
    )
    return sent and seen.service is not None and bool(seen.registration_id) and seen.enrollment is None


def left_behind(seen: Evidence) -> Verdict:
    return verdict(
        22,
        f"{seen.registration_id} is not enrolled any more, but it is still in the hub, which accepts its messages: "
        "delete it there too with the clean-up cell of notebook 05.",
    )
