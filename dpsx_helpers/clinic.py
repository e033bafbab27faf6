"""Around notebook 08: a healthy device to break, an examination that hears both sides, a patient with a hidden fault.

The fault is drawn by a seed, and the seed alone is on the disk. Nothing of the device of notebooks 02 to 05 is touched.
"""

import asyncio
import inspect
import os
import random
import re
import secrets
import shutil
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import walk_tb
from typing import Any

from azure.core.exceptions import ResourceNotFoundError

from dpsx_helpers import (
    authorities,
    certificates,
    conversation,
    diagnosis,
    enrollments,
    given_files,
    registry,
    targets,
    tutorial,
)
from dpsx_helpers.certificates import Pair
from dpsx_helpers.conversation import Conversation
from dpsx_helpers.diagnosis import mistakes
from dpsx_helpers.diagnosis.evidence import Evidence, without_secrets
from dpsx_helpers.display import View, block, note, stacked
from dpsx_helpers.errors import LearnerError, shown_value
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Secret, Stop

FIRST, SECOND = "clinic-patient-01", "clinic-patient-02"
SEED = "DPSX_CLINIC_SEED"  # for a class that is to have the same fault, and for tests
_LONGEST_GOODBYE = 5  # seconds; it takes some milliseconds
_LARGEST_SEED = 10**18 - 1
_LONGEST = 1000  # characters of a setting
_FOLDER = re.compile("[A-Za-z0-9_-]{1,64}")
_SETTINGS = ("host", "id_scope", "registration_id")
_CONNACK = {3: "server unavailable", 5: "not authorised"}  # MQTT 3.1.1, 3.2.2.3


# --- the examination --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Examination(View):
    """What was heard: `number` is that of the card, None when nothing failed or the failure has no number."""

    number: int | None


async def examine(visit: Coroutine[Any, Any, Any], *, card: bool = True) -> Examination:
    """Let the device try, and show what its SDK says, what the service really said, and (with `card`) what that means.

    A failure that comes from neither the SDK nor a service is the learner's own, and raised. A client that DPS has
    refused is ended, so that the next examination hears nothing of it.
    """
    if not inspect.isawaitable(visit):
        raise Stop(
            f"clinic.examine cannot wait for {shown_value(visit)}: call the device's program in it, as in "
            "clinic.examine(device()), and run this cell again."
        )
    with conversation.recording(quiet=True) as talk:
        try:
            await visit
        except LearnerError:
            raise
        except Exception as error:
            seen = _heard(error, talk, card)
            await _hang_up(error)
            if seen is None:
                raise
            return seen
    well = note("The device was assigned to its hub and connected to it: it is well.")
    return Examination(well.html, well.text, None)


def _heard(error: Exception, talk: Conversation, card: bool) -> Examination | None:
    """What both sides said, and the card; None for a failure that neither of them knows."""
    explained = diagnosis.explained_by(error, talk)
    if explained is None:
        return None
    parts = [block("1. The SDK says", _chain(error)), block("2. The service really said", _said(talk))]
    if card:
        parts.append(explained.card)
    seen = stacked(*parts)
    return Examination(seen.html, seen.text, explained.number)


async def _hang_up(error: Exception) -> None:
    """End the provisioning clients through whose hands this failure went.

    register() ends its client after an assignment only. One that was refused stays connected, connects again when it is
    dropped, and has no method to end that (https://github.com/Azure/azure-iot-sdk-python/issues/746 and 899). So this
    does what register() does when all is well.
    """
    from azure.iot.device.common.pipeline.pipeline_exceptions import PipelineNotRunning

    for client in _clients(error):
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        with suppress(PipelineNotRunning, TimeoutError, AttributeError):  # ended already, or another version of the SDK
            client._pipeline.shutdown(callback=lambda loop=loop, ended=ended, **_: loop.call_soon_threadsafe(ended.set))
            await asyncio.wait_for(ended.wait(), _LONGEST_GOODBYE)


def _clients(error: Exception) -> list[Any]:
    """The provisioning clients among the variables of the functions that the exception and its causes passed."""
    from azure.iot.device.aio import ProvisioningDeviceClient  # only a device needs the SDK, `dpsx check` does not

    found: dict[int, Any] = {}
    for link in Evidence(error).chain:
        for frame, _ in walk_tb(link.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, ProvisioningDeviceClient):
                    found[id(value)] = value
    return list(found.values())


def _chain(error: Exception) -> str:
    links = [f"{type(link).__name__}: {link}".rstrip(": ") for link in Evidence(error).chain]
    return without_secrets("\n  caused by ".join(links))


def _said(talk: Conversation) -> str:
    """The last word of the service; what it is said to whom nobody reached."""
    who = "the hub" if talk.connack_party == conversation.HUB else "DPS"
    if talk.connack:
        return f"{who}: CONNACK {talk.connack}, {_CONNACK.get(talk.connack, 'refused')}"
    answer = talk.last_answer
    if answer is not None and answer.body:
        return without_secrets(f"DPS: {answer.status} {answer.body}")
    if talk.connack == 0:
        return f"{who}: CONNACK 0, accepted, and nothing after it"
    return "nothing: the device never got as far as DPS"


# --- the healthy patient ----------------------------------------------------------------------------------------------


def patient(target: Target) -> dict[str, str]:
    """The variables of a device that is well: it has a pair in the notebook's folder, is enrolled with it, and not
    disabled in the hub.
    """
    made = _pair(folder(FIRST), FIRST)
    enroll(target, made)
    device = registry.get(target, FIRST)
    if device is not None and device.status != "enabled":
        registry.set_status(target, FIRST, "enabled")
    return _variables(target.host, target.id_scope, FIRST, made)


def folder(name: str) -> Path:
    """A folder of this name in the notebook's own, made when it is not there. Stop when it cannot be one."""
    if not isinstance(name, str) or not _FOLDER.fullmatch(name):
        raise Stop(
            f"{shown_value(name)} is no name for a folder: give letters, digits, - and _, up to 64 of them, and run "
            "this cell again."
        )
    return tutorial.made_folder(tutorial.own_folder(8) / name)


def enroll(target: Target, pair: "Pair | authorities.Authority") -> None:
    """Enroll the device of this pair in place of whatever is enrolled under its name. Its registration is forgotten."""
    name = certificates.describe(_a_pair(pair).certificate_file).common_name or ""
    slots = {"primary": {"certificate": pair.certificate_file.read_text(encoding="ascii")}}
    mechanism = {"type": "x509", "x509": {"clientCertificates": slots}}
    enrollments.delete(target, name)
    with enrollments.service(target) as client:
        client.enrollment.create_or_update(name, {"registrationId": name, "attestation": mechanism})


def files(pair: "Pair | authorities.Authority") -> dict[str, str]:
    """The two variables that name a device's files."""
    _a_pair(pair)
    return {"X509_CERT_FILE": str(pair.certificate_file), "X509_KEY_FILE": str(pair.key_file)}


def _a_pair(given: "Pair | authorities.Authority") -> "Pair | authorities.Authority":
    if not isinstance(given, Pair | authorities.Authority):
        raise Stop(
            f"{shown_value(given)} is no certificate with its key: give what clinic.pair() or certificates.create() "
            "has returned, and run this cell again."
        )
    return given


def registered(target: Target, registration_id: str) -> str | None:
    """What DPS remembers of the device's last registration ("assigned", "failed" …); None when it never came."""
    with enrollments.service(target) as client:
        try:
            return str(client.device_registration_state.get(registration_id)["status"])
        except ResourceNotFoundError:
            return None


def _pair(place: Path, name: str, **how: Any) -> Pair:
    phrase = tutorial.pass_phrase(new_key=True)
    return certificates.create(name, phrase, place, **{"key_type": "ec-p256", "existing": "reuse", **how})


def _variables(host: str, id_scope: str, registration_id: str, pair: Pair) -> dict[str, str]:
    phrase = Secret(tutorial.pass_phrase(new_key=True))
    values = (host, id_scope, registration_id, str(pair.certificate_file), str(pair.key_file), phrase, phrase)
    return dict(zip(tutorial.VARIABLES, values, strict=True))


# --- the patient with a hidden fault ----------------------------------------------------------------------------------


def admit(seed: int | None = None) -> dict[str, str]:
    """The variables of the second patient, in which one fault is hidden. A new one comes when the last one is well.

    `seed`, else the environment variable DPSX_CLINIC_SEED, else chance decides which fault it is; a seed that is given
    brings a new patient in any case.
    """
    if seed is not None and (type(seed) is not int or not 0 <= seed <= _LARGEST_SEED):
        raise Stop(f"The seed {shown_value(seed)} is not a whole number from 0 to {_LARGEST_SEED}: give one, or none.")
    target = targets.for_operator()
    given = seed if seed is not None else _seed_of_environment()
    if seed is not None or _case() is None or (_named_rightly() and why_ill(target) is None):
        _new_patient(target, secrets.randbelow(1_000_000) if given is None else given)
    return settings()


def settings() -> dict[str, str]:
    """The second patient's variables as they are now. Stop when there is no second patient, or nothing to read."""
    kept = _kept()
    return _variables(kept["host"], kept["id_scope"], kept["registration_id"], pair())


def prescribe(**changes: str) -> None:
    """Change settings of the second patient: `host`, `id_scope`, `registration_id`. Stop for what is no text."""
    if unknown := set(changes) - set(_SETTINGS):
        raise Stop(
            f"The patient has no setting {min(unknown)}: give host, id_scope or registration_id, and run this cell "
            "again."
        )
    for setting, value in changes.items():
        if not isinstance(value, str) or not value.isprintable() or len(value) > _LONGEST:
            raise Stop(
                f"The setting {setting} cannot be {shown_value(value)}: give a text of one line, in quotes, and run "
                "this cell again."
            )
    tutorial.write_json(_paper("settings"), _kept() | changes)


def pair() -> Pair:
    """The second patient's certificate and key file, whatever is in them."""
    place = tutorial.place_of(8) / SECOND
    return Pair(place / certificates.CERTIFICATE_FILE, place / certificates.KEY_FILE, created=False)


def new_pair() -> Pair:
    """A new pair for the second patient, in place of the one it has."""
    return _pair(folder(SECOND), SECOND, existing="replace")


def name(number: int | None) -> View:
    """Say which of the 23 mistakes it is that the second patient suffers from."""
    if number is None:
        raise Stop(
            "The examination found nothing to name: if the patient was mended before it was named, run "
            "clinic.admit(seed=1), or with any other number, for a new one."
        )
    if type(number) is not int or number not in mistakes.BY_NUMBER:
        raise Stop(
            f"There is no mistake {shown_value(number)}: give the number of a card, from 1 to 23, and run this cell "
            "again."
        )
    _read_case()
    tutorial.write_json(_paper("named"), {"number": number})
    return note(f"You say: {number}, {mistakes.BY_NUMBER[number].name}.")


def fault() -> int | None:
    """The number of the mistake that is hidden; None when there is no second patient."""
    seed = _case()
    return None if seed is None else _draw(seed)


def named() -> int | None:
    """The number that the learner has named last; None when there is none."""
    try:
        found = given_files.read_json(_paper("named"))["number"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if type(found) is int else None


def why_ill(target: Target) -> str | None:
    """Half a sentence: what is still wrong with the second patient, not saying what was hidden; None: nothing is."""
    kept = _kept()
    if (kept["host"], kept["id_scope"]) != (target.host, target.id_scope):
        return "its settings on the disk do not lead to your provisioning service"
    if kept["registration_id"].casefold() != SECOND:
        return f"its settings name another device than {SECOND}"
    try:
        seen = certificates.check_pair(*_paths(), tutorial.pass_phrase(new_key=True))
    except LearnerError:
        return "its certificate and key are not a pair that opens"
    if seen.common_name != SECOND or seen.is_ca or not seen.not_before <= datetime.now(UTC) <= seen.not_after:
        return "its certificate is not one with which a device of this name is let in today"
    entry = enrollments.get(target, SECOND)
    if entry is None or entry.provisioning_status != "enabled":
        return "it has no enrollment that is enabled"
    if seen.thumbprint_sha256 not in (entry.thumbprint_sha256, entry.secondary_sha256):
        return "DPS expects another certificate than the one it has"
    if registered(target, SECOND) != "assigned":
        return "it has not registered since it was admitted"
    return None


def _named_rightly() -> bool:
    return named() == fault()


def _seed_of_environment() -> int | None:
    text = os.environ.get(SEED, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise Stop(f"{SEED} is not a whole number: set it to one, or unset it, and run this cell again.")
    return int(text)


def _paper(name: str) -> Path:
    return tutorial.place_of(8) / SECOND / f"{name}.json"


def _paths() -> tuple[Path, Path]:
    found = pair()
    return found.certificate_file, found.key_file


def _kept() -> dict[str, str]:
    _read_case()
    try:
        document = given_files.read_json(_paper("settings"))
        kept = {key: document[key] for key in _SETTINGS}
        if not all(isinstance(value, str) for value in kept.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged() from None
    return kept


def _case() -> int | None:
    try:
        seed = given_files.read_json(_paper("case"))["seed"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged() from None
    if not isinstance(seed, int):
        raise _damaged()
    return seed


def _read_case() -> int:
    seed = _case()
    if seed is None:
        raise Stop("There is no second patient yet: run the cell with clinic.admit() in notebook 08, then this one.")
    return seed


def _damaged() -> Stop:
    return Stop(
        f"The second patient's papers in {tutorial.place_of(8) / SECOND} are damaged: run "
        "clinic.admit(seed=1) in a cell, or with any other number, for a new patient."
    )


def _new_patient(target: Target, seed: int) -> None:
    shutil.rmtree(folder(SECOND))
    enroll(target, _pair(folder(SECOND), SECOND))
    healthy = {"host": target.host, "id_scope": target.id_scope, "registration_id": SECOND}
    kept = healthy | (_HIDE[_draw(seed)](target) or {})
    tutorial.write_json(_paper("settings"), kept)
    tutorial.write_json(_paper("case"), {"seed": seed})


def _draw(seed: int) -> int:
    return random.Random(seed).choice(sorted(_HIDE))  # noqa: S311 - a draw that can be repeated, not a secret


def _with_scheme(target: Target) -> dict[str, str]:
    return {"host": f"https://{target.host}"}


def _slip_of_the_pen(target: Target) -> dict[str, str]:
    scope = target.id_scope
    return {"id_scope": scope[:-1] + ("0" if scope[-1] != "0" else "1")}


def _other_name(target: Target) -> dict[str, str]:
    return {"registration_id": "clinic-patient-20"}


def _authority(target: Target) -> None:
    with_authority = authorities.create(SECOND, tutorial.pass_phrase(new_key=True), folder(f"{SECOND}-other"))
    enroll(target, with_authority)  # else DPS would refuse it as another certificate than the enrolled one
    _put_in_place(with_authority.certificate_file, with_authority.key_file)


def _made_anew(target: Target) -> None:
    new_pair()


def _mixed_up(target: Target) -> None:
    stranger = _pair(folder(f"{SECOND}-other"), SECOND)
    _put_in_place(None, stranger.key_file)


def _expired(target: Target) -> None:
    enroll(
        target, _pair(folder(SECOND), SECOND, existing="replace", days=30, now=datetime.now(UTC) - timedelta(days=31))
    )


def _put_in_place(certificate_file: Path | None, key_file: Path) -> None:
    """Move these files to where the patient keeps its pair, and leave nothing that gives it away."""
    for file, place in zip((certificate_file, key_file), _paths(), strict=True):
        if file is not None:
            shutil.move(file, place)
    shutil.rmtree(key_file.parent)


#: How each mistake is hidden; what it changes of the settings is returned.
_HIDE: dict[int, Callable[[Target], dict[str, str] | None]] = {
    3: _with_scheme,
    5: _slip_of_the_pen,
    6: _other_name,
    7: _authority,
    9: _made_anew,
    10: _mixed_up,
    11: _expired,
}
