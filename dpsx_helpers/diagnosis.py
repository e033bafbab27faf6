"""An exception in, one sentence out: what happened, why, and what to do now.

The device SDK hides the reason below general exceptions ("Unexpected failure"); the chain of causes says
more, and what is on disk and in the environment says the rest. Symptoms are those of azure-iot-device 2.14.0.
"""

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dpsx_helpers import certificates, targets, tutorial
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.tutorial import Stop

_FAMILIES = ("azure.", "requests.", "ssl", "socket", "paho.")


@contextmanager
def explain() -> Iterator[None]:
    """Around SDK calls: a failure of the connection, certificate or service becomes a Stop; programming
    errors pass unchanged.
    """
    try:
        yield
    except LearnerError:
        raise
    except Exception as error:
        sentence = diagnose(error)
        if sentence is None:
            raise
        raise Stop(sentence) from error


@contextmanager
def explain_service(service: str) -> Iterator[None]:
    """Around requests to the service side ("provisioning service" or "hub"), likewise."""
    try:
        yield
    except LearnerError:
        raise
    except Exception as error:
        if not any(_of_family(link) for link in _chain(error)):
            raise
        raise Stop(_service_sentence(service, error)) from error


def diagnose(error: BaseException) -> str | None:
    """The sentence for this exception, or None when it comes from none of the libraries that the device code
    calls.
    """
    chain = _chain(error)
    if isinstance(error, KeyError) and error.args[:1] and error.args[0] in tutorial.VARIABLES:
        return _again(f"{error.args[0]} is not set: run the cell that sets the variables")
    text = " | ".join(str(link) for link in chain)
    for symptom, sentence in _SYMPTOMS:
        if symptom(chain, text):
            return sentence(_at_hub(error))
    if not any(_of_family(link) for link in chain):
        return None
    names = " caused by ".join(type(link).__name__ for link in chain)
    unknown = f"The device SDK gave up ({names}), and this tutorial does not know that case"
    return _again(f"{unknown}: look at the last lines of views.log(target)")


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _of_family(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.startswith(_FAMILIES)


def _at_hub(error: BaseException) -> bool:
    """Whether the call that failed was one to the hub's client, not to the provisioning client: the traceback
    passes through it.
    """
    files = []
    trace = error.__traceback__
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename.replace(os.sep, "/"))
        trace = trace.tb_next
    return any("azure/iot/device/iothub" in file for file in files)


def _type(*kinds: type[BaseException]) -> Callable[[list[BaseException], str], bool]:
    return lambda chain, text: any(isinstance(link, kinds) for link in chain)


def _named(*names: str) -> Callable[[list[BaseException], str], bool]:
    return lambda chain, text: any(type(link).__name__ in names for link in chain)


def _says(*words: str) -> Callable[[list[BaseException], str], bool]:
    """One of the words in the texts, and something of the chain from the SDK (a learner's own exception may
    say anything).
    """
    return lambda chain, text: any(word in text for word in words) and any(_from_sdk(link) for link in chain)


def _from_sdk(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    last = trace.tb_frame.f_code.co_filename.replace(os.sep, "/") if trace else ""
    return _of_family(error) or "azure/iot/device" in last


def _host() -> str:
    return os.environ.get("PROVISIONING_HOST", "")


def _registration() -> str:
    return os.environ.get("DPS_X509_REGISTRATION_ID", "")


def _again(what: str) -> str:
    return f"{what} and run this cell again."


def _no_name(at_hub: bool) -> str:
    host = _host()
    try:
        targets.check_host(host, "in PROVISIONING_HOST")
    except Stop as stop:
        return str(stop)
    return _again(
        f'The host name "{host}" could not be looked up: mend PROVISIONING_HOST (see the connection form), '
        "or your network,"
    )


def _refused(at_hub: bool) -> str:
    if tutorial.target() == "emulator":
        return _again(
            f"Nothing listens at {_host()}: the emulator is not running there, so run the first cell of this "
            "notebook (it starts it), set "
            "the variables anew"
        )
    return _again(
        f"{_host()} refused the connection: check the host name, or that your network lets port 8883 through,"
    )


def _timed_out(at_hub: bool) -> str:
    return _again(
        f"{_host()} did not answer in time, most often because a firewall blocks port 8883: set "
        "DPSX_TRANSPORT=websockets "
        "(port 443), restart the kernel"
    )


def _untrusted(at_hub: bool) -> str:
    return _again(
        f"This machine does not trust the certificate that {_host()} showed: a client object made before "
        "SSL_CERT_FILE was set never "
        "sees it, and a wrong clock or an inspecting proxy has the same effect, so restart the kernel, check "
        "the clock"
    )


def _scope_refused(at_hub: bool) -> str:
    if at_hub:
        return _again("The hub is not available just now (CONNACK 3): wait a moment")
    scope = os.environ.get("PROVISIONING_IDSCOPE", "")
    return _again(
        f'DPS knows no ID scope "{scope}" (it refused the connection with CONNACK 3): copy the ID scope from '
        "the Overview page into "
        "the connection form"
    )


def _not_authorised(at_hub: bool) -> str:
    name = _registration()
    if at_hub:
        return _again(
            f"The hub refused the device (CONNACK 5): {name} was deleted or disabled there, or is known with "
            "another certificate, "
            "so provision it anew with register()"
        )
    common_name = _common_name()
    if common_name is not None and common_name.casefold() != name.casefold():
        return _again(
            f'DPS refused the connection (CONNACK 5): the registration ID is "{name}" but the certificate '
            f"says CN={common_name}, and "
            "the two must be the same, so use the matching certificate or set DPS_X509_REGISTRATION_ID to "
            "the CN"
        )
    return _again(
        f'DPS refused the connection (CONNACK 5) for registration ID "{name}": check it against the '
        "certificate's subject"
    )


def _unauthorized(at_hub: bool) -> str:
    fault = _certificate_fault() or _enrollment_fault()
    if fault:
        return f"DPS answered 401: {fault}"
    return _again(
        f"DPS answered 401: no enrollment matches the certificate of {_registration()}, because it is not "
        "enrolled, or was made anew "
        "after it was enrolled, so enroll python-device.pem as it is now on disk in notebook 03"
    )


def _certificate_fault() -> str | None:
    try:
        described = certificates.describe(Path(os.environ.get("X509_CERT_FILE", "")))
    except (LearnerError, OSError):
        return None
    if described.is_ca:
        return _again(
            "the certificate is marked as a CA (CA:TRUE) and a device must not be one: make one with "
            "CA:FALSE, enroll it"
        )
    if described.not_after < datetime.now(UTC):
        return _again(
            f"the certificate expired on {described.not_after:%Y-%m-%d}: make a new one in notebook 02, enroll it"
        )
    return None


def _enrollment_fault() -> str | None:
    from dpsx_helpers import enrollments

    try:
        target = targets.attached()
        if target is None or not target.service:
            return None
        entry = enrollments.get(target, _registration())
        described = certificates.describe(Path(os.environ.get("X509_CERT_FILE", "")))
    except (LearnerError, OSError):
        return None
    if entry is None:
        return _again(f"{_registration()} is not enrolled: enroll it in notebook 03")
    if entry.thumbprint_sha256 != described.thumbprint_sha256:
        return _again(
            f"{entry.registration_id} is enrolled with another certificate than the one on disk: save the "
            "enrollment again in notebook 03"
        )
    return None


def _common_name() -> str | None:
    try:
        return certificates.describe(Path(os.environ.get("X509_CERT_FILE", ""))).common_name
    except (LearnerError, OSError):
        return None


def _disabled(at_hub: bool) -> str:
    return _again(f"The enrollment of {_registration()} is disabled: enable it (save it again in notebook 03)")


def _failed(at_hub: bool) -> str:
    return _again(
        f"DPS knows {_registration()} but could not assign it to a hub: link an IoT hub to the provisioning "
        "service, or check that the "
        "linked hub still exists,"
    )


def _busy(at_hub: bool) -> str:
    return _again("DPS is busy or had a fault of its own: wait a minute")


def _no_answer(at_hub: bool) -> str:
    return _again(
        f"{_host()} took the connection and then said nothing for 30 seconds: look at views.log(target) on "
        "the emulator, or wait a minute"
    )


def _blank_registration(at_hub: bool) -> str:
    return _again("The registration ID is blank: set DPS_X509_REGISTRATION_ID (run the cell that sets the variables)")


def _blank_host(at_hub: bool) -> str:
    return _again("PROVISIONING_HOST is not set: run the cell that sets the variables")


def _local_files(at_hub: bool) -> str:
    names = ("X509_CERT_FILE", "X509_KEY_FILE")
    files = [os.environ.get(name, "") for name in names]
    for name, file in zip(names, files, strict=True):
        if not file:
            return _again(f"{name} is not set: run the cell that sets the variables")
    try:
        certificates.check_pair(Path(files[0]), Path(files[1]), os.environ.get("X509_PASS_PHRASE", ""))
    except certificates.CertificateError as error:
        return str(error)
    return _again(
        "The certificate or the key could not be used (missing or garbled file, wrong pass phrase, or a key "
        "of another certificate): "
        "check the paths and the pass phrase given to X509(...)"
    )


def _dropped(at_hub: bool) -> str:
    return _again(
        "The connection was lost: the service went away, or a second program connected as the same device; "
        "make sure that only one runs"
    )


def _shut_down(at_hub: bool) -> str:
    return "This client object was shut down for good: run the cell that makes the client, then this one."


_Symptom = Callable[[list[BaseException], str], bool]
#: The first that fits is told. Sources of the symptoms: the SDK's own exceptions, and issues 543, 552, 670,
#: 730, 797, 915, 1090 and 1195 of https://github.com/Azure/azure-iot-sdk-python/issues
_SYMPTOMS: tuple[tuple[_Symptom, Callable[[bool], str]], ...] = (
    (_type(ssl.SSLCertVerificationError), _untrusted),
    (_named("TlsExchangeAuthError"), _untrusted),
    (_type(socket.gaierror), _no_name),
    (
        lambda chain, text: isinstance(chain[-1], UnicodeError) and len(chain) > 1 and _of_family(chain[0]),
        _no_name,
    ),
    (_type(ConnectionRefusedError), _refused),
    (_says("Operation timed out before provisioning service"), _no_answer),
    (_says("broker unavailable"), _scope_refused),
    (_says("not authorised", "Credentials invalid"), _not_authorised),
    (_says("status disabled", "registration status disabled"), _disabled),
    (_says("failed registration status"), _failed),
    (_says("status code 401"), _unauthorized),
    (_says("status code 404"), _unauthorized),
    (_says("status code 429", "status code 5"), _busy),
    (_says("Registration Id can not be none"), _blank_registration),
    (_says("Invalid host", "client id must be provided"), _blank_host),
    (_says("Client has already been shut down"), _shut_down),
    (_named("PipelineNotRunning"), _shut_down),
    (_type(ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError), _dropped),
    (
        _says("KEY_VALUES_MISMATCH", "PEM lib", "NO_START_LINE", "no start line", "[X509", "[PEM", "EE_KEY"),
        _local_files,
    ),
    (_type(FileNotFoundError, IsADirectoryError, PermissionError), _local_files),
    (_type(ssl.SSLError), _untrusted),
    (lambda chain, text: any(isinstance(link, OSError) and link.errno == 22 for link in chain), _local_files),
    (_type(TimeoutError), _timed_out),
    (_named("OperationTimeout"), _timed_out),
    (_named("ConnectionDroppedError", "NoConnectionError", "OperationCancelled"), _dropped),
    (_named("ConnectionFailedError"), _refused),
)


def _service_sentence(service: str, error: Exception) -> str:
    status = getattr(error, "status_code", None)
    if status is None:
        return _again(
            f"The {service} does not answer ({type(error).__name__}): run the first cell of this notebook, "
            "which starts the emulator,"
        )
    if status in (401, 403):
        return _again(
            f"The {service} refused the access key ({status}): the connection string is stale, so run the "
            "first cell of this notebook"
        )
    if status in (409, 412):
        return _again(f"The entry was changed by someone else in the meantime ({status}): read it again")
    return _again(f"The {service} answered {status}: look at the last lines of views.log(target), mend what they say")
