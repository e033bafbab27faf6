"""A failure in, a card out: what happened, why, what to do now, and where to read more.

The device SDK hides the reason below general exceptions ("Unexpected failure"), and DPS's own words in its debug
log. `explain()` reads both; the files on disk, the environment and (on the emulator) the other side say the rest.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from azure.core.exceptions import ClientAuthenticationError
from IPython.core.getipython import get_ipython
from IPython.display import display

from dpsx_helpers import certificates, conversation, tutorial
from dpsx_helpers.diagnosis import diagnosis_card, mistakes
from dpsx_helpers.diagnosis.evidence import Evidence, refusals, without_secrets
from dpsx_helpers.diagnosis.recognition import recognise
from dpsx_helpers.display import View, note
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.tutorial import Stop

if TYPE_CHECKING:
    from dpsx_helpers.conversation import Conversation

_HEX_DIGITS = {40: "SHA-1", 64: "SHA-256"}


class Explained(Stop):
    """A failure that was recognised: the one sentence, the `card` that says it all, and its number if it has one."""

    def __init__(self, sentence: str, card: View, number: int | None = None) -> None:
        super().__init__(sentence)
        self.card = card
        self.number = number


@contextmanager
def explain() -> Iterator[None]:
    """Around SDK calls: a failure of connection, certificate or service is shown as a card in the cell and becomes
    a Stop of one sentence. Programming errors pass unchanged. What the SDK prints of itself is left to the card.
    """
    with conversation.recording(quiet=True) as talk:
        try:
            yield
        except LearnerError:
            raise
        except Exception as error:
            explained = explained_by(error, talk)
            if explained is None:
                raise
            if get_ipython() is not None:
                display(explained.card)  # type: ignore[no-untyped-call]
            raise explained from error


@contextmanager
def explain_service(service: str) -> Iterator[None]:
    """Around requests to the service side ("provisioning service" or "hub"): a failure becomes a Stop."""
    try:
        yield
    except LearnerError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or Evidence(error).foreign):
            raise
        raise Stop(_service_sentence(service, error)) from error


def diagnose(error: BaseException) -> str | None:
    """The sentence for this exception, or None when it comes from none of the libraries that the device code
    calls.
    """
    verdict = recognise(Evidence(error))
    return without_secrets(verdict.sentence) if verdict else None


def why(about: "Conversation | BaseException | None" = None) -> View:
    """The card for a conversation (see `conversation.recording`), also when nothing was raised; for an exception; or,
    without either, for the last exception of this kernel.
    """
    if isinstance(about, conversation.Conversation):
        return _of_conversation(about)
    error = about or getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is None:
        return note("No cell has failed in this kernel since it was started.")
    if isinstance(error, Explained):
        return error.card
    of_learner = isinstance(error, LearnerError)
    seen = Evidence(error.__cause__ if of_learner else error)
    verdict = recognise(seen)
    if verdict is None and of_learner:
        return note(without_secrets(str(error)))
    if verdict is None:
        return note(
            f"The last failure was {type(error).__name__}: it came from the code of its cell, not from the connection, "
            "a certificate or a service. Its last lines name the place."
        )
    return diagnosis_card.card(verdict, seen)


def card(number: int) -> View:
    """Any of the 23 mistakes, for reading. Stop when there is none of that number."""
    if number not in mistakes.BY_NUMBER:
        raise Stop(f"There is no mistake {number}: give a number from 1 to {len(mistakes.BY_NUMBER)}.")
    return diagnosis_card.page(number, mistakes.BY_NUMBER[number])


def thumbprint(shown: str) -> View:
    """Whose thumbprint this is: that of a certificate on disk, as SHA-1 or SHA-256, or of none here.

    `shown` is what a page shows, with colons or blanks or not. Stop when it is no thumbprint.
    """
    digits = re.sub(r"[\s:\-\u200e]", "", shown).upper()
    kind = _HEX_DIGITS.get(len(digits))
    if kind is None or not re.fullmatch("[0-9A-F]+", digits):
        raise Stop(
            "That is no thumbprint (40 hex digits for SHA-1, 64 for SHA-256): copy it again from the page and run this "
            "cell again."
        )
    where = "an enrollment in the portal shows" if kind == "SHA-1" else "the hub stores"
    for file, seen in _certificates_here():
        both = {"SHA-1": seen.thumbprint_sha1, "SHA-256": seen.thumbprint_sha256}
        if digits == both[kind]:
            other = next(name for name in both if name != kind)
            return note(
                f"✔ This is the {kind} thumbprint of {file.name}, the kind that {where}. The {other} thumbprint of the "
                f"same file is {both[other]}."
            )
    return note(
        f"✘ This is a {kind} thumbprint, the kind that {where}, but of no certificate here: another file was uploaded, "
        "or the certificate was made anew since. Save the enrollment again in notebook 03."
    )


def _certificates_here() -> Iterator[tuple[Path, certificates.Description]]:
    """The device's certificate, then the others in the work folder."""
    files = [Evidence().certificate_file, *sorted(tutorial.work_dir().glob("*.pem"))]
    for file in dict.fromkeys(file for file in files if file is not None):
        try:
            yield file, certificates.describe(file)
        except LearnerError:
            continue


def explained_by(error: Exception, talk: "Conversation") -> Explained | None:
    """This exception, explained by what was said meanwhile; None when it comes from none of the libraries that the
    device code calls.
    """
    seen = Evidence(error, talk, refusals(talk.seconds))
    verdict = recognise(seen)
    if verdict is None:
        return None
    return Explained(without_secrets(verdict.sentence), diagnosis_card.card(verdict, seen), verdict.number)


def _of_conversation(talk: "Conversation") -> View:
    seen = Evidence(talk=talk, log=refusals(talk.seconds))
    verdict = recognise(seen)
    if verdict is None:
        last = talk.events[-1] if talk.events else None
        end = f" It ended so: {last.in_words()}" if last is not None else " Nothing was said in it."
        return note(f"Nothing in this conversation is a mistake that this tutorial knows.{end}")
    return diagnosis_card.card(verdict, seen)


def _service_sentence(service: str, error: Exception) -> str:
    status = getattr(error, "status_code", None)
    if tutorial.target() == "azure" and (said := _of_azure(service, error, status)):
        return said
    join = tutorial.joined()
    if join is not None and status is None:
        return (
            f"The emulator of your class does not answer at {join.endpoint} ({type(error).__name__}): ask your teacher "
            "whether it runs, and run this cell again."
        )
    if join is not None and status == 401:
        return (
            f"In your class your key opens what carries your own registration ID, {join.registration_id}, and this "
            "does not (401): use that ID, or ask your teacher whether you are still in the class."
        )
    if status is None:
        return (
            f"The {service} does not answer ({type(error).__name__}): run the first cell of this notebook, which "
            "starts the emulator, and run this cell again."
        )
    if status in (401, 403):
        return (
            f"The {service} refused the access key ({status}): the connection string is stale, so run the first cell "
            "of this notebook and run this cell again."
        )
    if status in (409, 412):
        return (
            f"The entry was changed by someone else in the meantime ({status}): read it again and run this cell again."
        )
    if status == 500 and (reason := _told(error)):  # which the log may have had no room for
        return f"The {service} answered {status} ({reason}): mend that and run this cell again."
    return (
        f"The {service} answered {status}: look at the last lines of views.log(target), mend what they say and run "
        "this cell again."
    )


def _told(error: Exception) -> str:
    """What the emulator's DPS says of a fault of its own, as half a sentence; empty when it does not."""
    try:
        message = json.loads(error.response.text())["message"]  # type: ignore[attr-defined]
    except (AttributeError, ValueError, KeyError, TypeError):
        return ""
    return str(message)[:300].rstrip(".")


def _of_azure(service: str, error: Exception, status: int | None) -> str | None:
    """What is otherwise there than on the emulator; None when nothing is."""
    if status is None and isinstance(error, ClientAuthenticationError):
        return (
            f"Nobody could be signed in for the {service} ({type(error).__name__}): run `az login` in a terminal of "
            "this machine and run this cell again."
        )
    if status is None:
        return (
            f"The {service} does not answer ({type(error).__name__}): see what `dpsx doctor --target azure` says of "
            "the way there, and whether the host in the connection string is right, and run this cell again."
        )
    if status in (401, 403):
        return (
            f"The {service} refused the request ({status}): the connection string is not one of today's, or the "
            "account that is signed in lacks a role, such as Device Provisioning Service Data Contributor; mend that "
            "and run this cell again."
        )
    return None
