"""Verdicts on the device's side: its variables and files, the way to the service, and the hub's answer."""

import os
import ssl
from pathlib import Path

from dpsx_helpers import certificates, targets, tutorial
from dpsx_helpers.diagnosis.evidence import Evidence
from dpsx_helpers.diagnosis.verdict import Verdict, again, verdict
from dpsx_helpers.tutorial import Stop

TWICE = 2  # as often has a connection to be lost before a second program is the likeliest cause
# OpenSSL's reasons: https://docs.openssl.org/3.0/man1/openssl-verification-options/
_CLOCK, _NAME = (9, 10), (62, 63, 64)

# --- the variables and the files of the device ------------------------------------------------------------------------


def missing_variable(seen: Evidence) -> str | None:
    error = seen.error
    found = error.args[0] if isinstance(error, KeyError) and error.args else None
    return found if isinstance(found, str) and found in tutorial.VARIABLES else None


def named_variable(name: str) -> Verdict:
    which: int = {"DPS_X509_REGISTRATION_ID": 2, "PROVISIONING_IDSCOPE": 5}.get(name, 4)
    which = {"X509_CERT_FILE": 10, "X509_KEY_FILE": 10}.get(name, 1 if name.endswith("PASS_PHRASE") else which)
    return verdict(
        which, again(f"{name} is not set: run the cell that sets the variables"), f"The variable {name} is not set."
    )


def blank_registration(seen: Evidence) -> Verdict:
    return verdict(
        2, again("The registration ID is blank: set DPS_X509_REGISTRATION_ID (run the cell that sets the variables)")
    )


def blank_host(seen: Evidence) -> Verdict:
    if seen.at_hub:
        what = "The hub's host name or the device ID is empty: run the cell that registers the device"
    elif not seen.host:
        what = "PROVISIONING_HOST is not set: run the cell that sets the variables"
    else:
        what = "The client was given no host name or no device ID: run the cell that sets the variables"
    return verdict(4, again(what))


def local_files(seen: Evidence) -> Verdict:
    for name in ("X509_CERT_FILE", "X509_KEY_FILE"):
        if not os.environ.get(name):
            return named_variable(name)
    pass_phrase = os.environ.get("X509_PASS_PHRASE", "")
    try:
        certificates.check_pair(Path(os.environ["X509_CERT_FILE"]), Path(os.environ["X509_KEY_FILE"]), pass_phrase)
    except certificates.CertificateError as error:
        if not pass_phrase and "pass phrase" in str(error):
            return _no_pass_phrase()
        return verdict(10, str(error), str(error))
    return verdict(
        10,
        again(
            "The certificate or the key could not be used, though the files that the variables name go together: check "
            "the paths and the pass phrase given to X509(...)"
        ),
    )


def _no_pass_phrase() -> Verdict:
    other = "PASS_PHRASE is set, but " if os.environ.get("PASS_PHRASE") else ""
    return verdict(
        1,
        again(
            "The private key is encrypted, and its pass phrase is empty: run the cell that sets PASS_PHRASE and "
            "X509_PASS_PHRASE"
        ),
        f"The private key is encrypted; {other}X509_PASS_PHRASE, which the SDK's sample reads, is not set. OpenSSL "
        "asked for the pass phrase and found no terminal.",
    )


# --- the way to the service -------------------------------------------------------------------------------------------


def no_name(seen: Evidence) -> Verdict:
    try:
        targets.check_host(seen.host, "in PROVISIONING_HOST")
        fault, sentence = "could not be looked up", None
    except Stop as stop:
        fault, sentence = "is not a bare host name", str(stop)
    if not seen.on_azure and seen.service is not None:
        what = f'PROVISIONING_HOST is "{seen.host}", which {fault}; the emulator is at {seen.service.host}'
        return verdict(3, again(f"{what}: run the cell that sets the variables"), f"{what}.")
    if sentence is not None:
        return verdict(3, sentence, sentence)
    return verdict(
        3,
        again(
            f'The host name "{seen.host}" could not be looked up: mend PROVISIONING_HOST (see the connection form), or '
            "your network,"
        ),
        causes=("a slip of the pen in the name", "no network, or one whose name server does not know it"),
    )


def refused(seen: Evidence) -> Verdict:
    if seen.on_azure:
        return verdict(
            "nothing-listens",
            again(
                f"{seen.host} refused the connection: check the host name, or that your network lets port 8883 through,"
            ),
            causes=("another host name than the global device endpoint", "a firewall that refuses port 8883"),
        )
    if seen.service is None:
        return _emulator_gone(f"Nothing listens at {seen.host}, because the emulator does not run")
    what = f"Nothing listens at {seen.host}; the emulator is at {seen.service.host}"
    return verdict("nothing-listens", again(f"{what}: run the cell that sets the variables"), f"{what}.")


def _emulator_gone(what: str) -> Verdict:
    sentence = again(f"{what}: run the first cell of this notebook, which starts it, set the variables anew")
    return verdict("emulator-gone", sentence, f"{what}.")


def timed_out(seen: Evidence) -> Verdict:
    return verdict(
        18,
        again(
            f"{seen.host} did not answer in time, as when a firewall blocks port 8883: set DPSX_TRANSPORT=websockets "
            "(port 443), run the cell of the device's program"
        ),
        causes=(
            "a firewall that swallows what goes to port 8883",
            "a host that is down, or another host than you think",
        ),
    )


def untrusted(seen: Evidence) -> Verdict:
    if not seen.on_azure and seen.service is None:
        return _emulator_gone(f"The emulator does not run, and another program answers at {seen.host} in its place")
    failure = seen.first(ssl.SSLCertVerificationError)
    code, reason = getattr(failure, "verify_code", 0), getattr(failure, "verify_message", "")
    what = f"This machine does not trust the certificate that {seen.host or 'the service'} showed"
    shown = f"{what}. OpenSSL's reason: {reason or 'none given'}."
    if code in _CLOCK:
        return verdict(
            17,
            again(f"{what} ({reason}): set this machine's clock"),
            shown,
            ("this machine's clock is wrong", "the service's certificate is itself out of date"),
        )
    if code in _NAME:
        return verdict(
            17,
            again(f"{what} ({reason}): use the name of the Overview page as PROVISIONING_HOST"),
            shown,
            ("PROVISIONING_HOST is another name of that machine", "a proxy, or another machine, answers instead"),
        )
    return verdict(
        17,
        again(
            f"{what}: restart the kernel and run its cells in order, so that SSL_CERT_FILE is set before a client is "
            "made,"
        ),
        shown,
        (
            "the client object was made before SSL_CERT_FILE was set, or the root certificate is missing",
            "a proxy between here and there shows a certificate of its own",
            "this machine's clock is wrong",
        ),
    )


def no_handshake(seen: Evidence) -> Verdict:
    reason = getattr(seen.first(ssl.SSLError), "reason", None) or "no reason given"
    return verdict(
        "no-handshake",
        again(f"The TLS handshake with {seen.host or 'the service'} failed ({reason}): check PROVISIONING_HOST"),
        f"The connection stood, but TLS could not be agreed upon. OpenSSL's reason: {reason}.",
    )


def dropped(seen: Evidence) -> Verdict:
    if evicted(seen) or (seen.talk is not None and seen.talk.drops >= TWICE):
        return twice(seen)
    return verdict(
        "dropped",
        again(
            "The connection was lost: make sure that one program only runs as this device"
        ),
        causes=("a second program, or a client that was never shut down, connects as this device", "the network",
                "the service was restarted, or the device was deleted or disabled in the hub"),
    )  # fmt: skip


def evicted(seen: Evidence) -> bool:
    return any("took this one's place" in line for line in seen.log)


def twice(seen: Evidence) -> Verdict:
    certain = evicted(seen)
    return verdict(
        20,
        again(
            f"{'A' if certain else 'Most likely a'} second program connects as "
            f"{seen.registration_id or 'this device'}: shut the other client or kernel down"
        ),
        "The hub closed the connection because a newer one of the same device took its place."
        if certain
        else "The connection was accepted and then lost, more than once.",
        ()
        if certain
        else ("a second program, or a client that was never shut down, connects as this device", "an unsteady network"),
    )


def shut_down(seen: Evidence) -> Verdict:
    return verdict(
        "shut-down", "This client object was shut down for good: run the cell that makes the client, then this one."
    )


# --- what the hub answered --------------------------------------------------------------------------------------------


def at_the_hub(seen: Evidence) -> Verdict:
    name = seen.registration_id
    known = f"The hub refused the device (CONNACK 5): {name}"
    if seen.service is None:
        return verdict(
            14,
            again(
                f"{known} is deleted or disabled there, or has another certificate: provision it anew with register()"
            ),
            causes=(
                "the device was deleted in the hub",
                "it is disabled there",
                "the hub has the thumbprint of another certificate",
            ),
        )
    device, certificate = seen.device, seen.certificate
    if device is None:
        found, remedy = "is not in its list (deleted, or never registered)", "provision it anew with register()"
    elif device.status != "enabled":
        found, remedy = "is disabled there", "delete it there (notebook 05), register() anew"
    elif certificate is not None and device.primary_thumbprint not in (
        certificate.thumbprint_sha256,
        certificate.thumbprint_sha1,
    ):
        found, remedy = "is known there with another certificate", "provision it anew with register()"
    else:
        found, remedy = "is in its list with this certificate now", "check the device ID given to the client"
    return verdict(
        14, again(f"{known} {found}: {remedy}"), f"The hub refused the connection with CONNACK 5. {name} {found}."
    )
