"""Which mistake the evidence shows: the table of symptoms.

What cannot be known is said so: then the verdict lists the causes, the likeliest first. Symptoms are those of
azure-iot-device 2.14.0; its issues are named in `mistakes`.
"""

import socket
import ssl
from collections.abc import Callable
from dataclasses import replace

from dpsx_helpers.diagnosis import verdicts_here as here
from dpsx_helpers.diagnosis import verdicts_there as there
from dpsx_helpers.diagnosis.evidence import Evidence
from dpsx_helpers.diagnosis.verdict import Verdict, again, verdict


def recognise(seen: Evidence) -> Verdict | None:
    """The verdict, or None when nothing of it concerns connection, certificate or service."""
    found = _recognised(seen)
    return _played(found, seen.fault) if found and seen.fault else found


def _recognised(seen: Evidence) -> Verdict | None:
    if name := here.missing_variable(seen):
        return here.named_variable(name)
    if seen.error is not None and not seen.foreign:
        return None
    for symptom, judge in _SYMPTOMS:
        if symptom(seen):
            return judge(seen)
    if seen.error is None:
        return None
    names = " caused by ".join(type(link).__name__ for link in seen.chain)
    return verdict(
        "unknown",
        again(f"The call failed in a way that this tutorial does not know ({names}): look at views.log(target)"),
    )


def _played(found: Verdict, fault: str) -> Verdict:
    return replace(
        found,
        sentence=f"The emulator has played the fault {fault}, so this is no mistake of yours: run "
        "target.emulator.clear_faults() in a cell and run this cell again.",
        remedy="Switch it off: run target.emulator.clear_faults() in a cell, then this cell again.",
        seen=f"The fault {fault} is (or was) switched on in the emulator. Outside an exercise the same answer would "
        f"mean: {found.mistake.name}.",
        causes=(),
    )


_Symptom = Callable[[Evidence], bool]


def _says(*words: str) -> _Symptom:
    return lambda seen: seen.says(*words)


def _has(*kinds: type[BaseException]) -> _Symptom:
    return lambda seen: seen.has(*kinds)


def _named(*names: str) -> _Symptom:
    return lambda seen: seen.named(*names)


def _service(*statuses: int) -> _Symptom:
    """A service client's exception with one of these statuses; with none given, one without any."""
    return lambda seen: (
        seen.service_error is not None and (seen.status in statuses if statuses else seen.status is None)
    )


def _answered(*statuses: int) -> _Symptom:
    """DPS's last answer had one of these statuses, as recorded or as the SDK's text has it."""
    return lambda seen: seen.service_error is None and seen.status in statuses


def _state(status: str) -> _Symptom:
    return lambda seen: (seen.answer.get("status") or seen.state.get("status")) == status and seen.error is None


def _wrong_service(seen: Evidence) -> bool:
    return seen.service_error is not None and "Unknown api version" in seen.body


#: The first that fits is told.
_SYMPTOMS: tuple[tuple[_Symptom, Callable[[Evidence], Verdict]], ...] = (
    (_wrong_service, there.wrong_connection_string),
    (_service(401, 403), there.wrong_connection_string),
    (_service(400), there.bad_request),
    (_service(409, 412), there.exists),
    (_service(404), there.no_entry),
    (_service(429, 500, 502, 503, 504), there.busy),
    (_has(ssl.SSLCertVerificationError), here.untrusted),
    (_named("TlsExchangeAuthError"), here.untrusted),
    (_service(), there.service_silent),
    (_has(socket.gaierror), here.no_name),
    (_has(UnicodeError), here.no_name),
    (_has(ConnectionRefusedError), here.refused),
    (_says("Operation timed out before provisioning service"), there.no_answer),
    (_says("broker unavailable"), there.scope_refused),
    (_says("not authorised", "Credentials invalid"), there.not_authorised),
    (_says("Registration Id can not be none"), here.blank_registration),
    (_says("Invalid host", "client id must be provided"), here.blank_host),
    (_says("Client has already been shut down"), here.shut_down),
    (_named("PipelineNotRunning"), here.shut_down),
    (_says("registration status disabled"), there.disabled),
    (_says("failed registration status"), there.failed),
    (_says("status code 401", "status code 404"), there.refused_with_status),
    (_says("status code 409"), there.concurrent),
    (_says("status code 429", "status code 5"), there.busy),
    (_has(ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError), here.dropped),
    (
        _says("KEY_VALUES_MISMATCH", "PEM lib", "NO_START_LINE", "no start line", "[X509", "[PEM", "EE_KEY"),
        here.local_files,
    ),
    (_has(FileNotFoundError, IsADirectoryError, PermissionError), here.local_files),
    (_has(ssl.SSLError), here.no_handshake),
    (lambda seen: any(isinstance(link, OSError) and link.errno == 22 for link in seen.chain), here.local_files),
    (lambda seen: seen.has(TimeoutError) and seen.named("ConnectionFailedError"), here.timed_out),
    (_named("OperationTimeout"), here.timed_out),
    (_named("ConnectionDroppedError", "NoConnectionError", "OperationCancelled"), here.dropped),
    (_named("ConnectionFailedError"), here.refused),
    # What follows needs no exception: the conversation alone shows it.
    (lambda seen: seen.error is None and here.evicted(seen), here.twice),
    (lambda seen: seen.error is None and seen.talk is not None and seen.talk.drops >= here.TWICE, here.twice),
    (lambda seen: seen.error is None and seen.connack == 3, there.scope_refused),
    (lambda seen: seen.error is None and seen.connack == 5, there.not_authorised),
    (_state("disabled"), there.disabled),
    (_state("failed"), there.failed),
    (_answered(401, 404), there.refused_with_status),
    (_answered(409), there.concurrent),
    (_answered(429, 500, 502, 503, 504), there.busy),
    (there.sends_without_enrollment, there.left_behind),
)
