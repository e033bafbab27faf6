"""The check and the exercises of notebook 09-device-twins-and-methods. All of them look at the hub."""

import json
from typing import Any

from dpsx_helpers import tutorial
from dpsx_helpers.checks.exercises import Exercise, NotYet, running
from dpsx_helpers.display import View, ask, passed
from dpsx_helpers.progress import recorded
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop
from dpsx_helpers.twins import Twin, get, waiting

DEVICE = "thermostat-09"  # in a class the student's own: see _device
_KNOWN_METHOD = "blink"
_INTERVAL, _DELETED = 60, "unit"
_LIGHTS = ["red", "amber", "green"]


@recorded("09")
def twins() -> View:
    """The device has adopted the latest desired properties, answered a method, and got every message."""
    target = running()
    name = _device()
    seen = get(target, name)
    if seen is None:
        raise Stop(f"The hub has no device {name}: run the cells of this notebook from the top, then this check.")
    if seen.desired_version < 2:
        raise Stop(
            "The desired properties were never changed: run the cells under “Change a setting”, then this check."
        )
    if not seen.followed:
        raise Stop(f"{_behind(seen)}: run the cell under “While it sleeps”, then this check.")
    if not _answers(seen):
        raise Stop(f"{name} has answered no direct method yet: run the cell that calls it, then this check.")
    left, messages = waiting(target, name), _messages(seen)
    if left:
        raise Stop(f"{_count(left)} still waiting for {name}: run the cell that lets it read them, then this check.")
    done = [
        f"{name} follows: it has adopted version {seen.adopted} of its desired properties, which is the latest",
        "it has answered a direct method",
    ]
    if messages:
        return passed(*done, f"it has reported {len(messages)} messages that waited for it, and none is left")
    if target.is_emulator:
        raise Stop(f"{name} has got no message yet: run the two cells that send and read them, then this check.")
    return passed(*done) + ask(
        "Did you run the lines with `az`? Then run the cell that lets the device read its messages, and this check."
    )


def _device() -> str:
    return tutorial.device_for(DEVICE)


def _setting(target: Target) -> str:
    """Exercise 1: one desired property is changed, another deleted, and the device has followed in both."""
    seen = _existing(target)
    interval = seen.desired.get("telemetryInterval")
    if interval != _INTERVAL or isinstance(interval, bool):
        raise NotYet(f"the desired telemetryInterval is {_json(interval)}, and {_INTERVAL} is expected.")
    if _DELETED in seen.desired:
        value = _json(seen.desired[_DELETED])
        raise NotYet(f"the desired properties still have {_DELETED} ({value}), and it should be gone: null deletes it.")
    if not seen.followed:
        raise NotYet(f"{_behind(seen)}: let it be switched on after the change.")
    if seen.reported.get("telemetryInterval") != _INTERVAL or _DELETED in seen.reported:
        raise NotYet(f"the device reports {_json(seen.reported)}, and the two settings as you want them are expected.")
    return (
        f"telemetryInterval is {_INTERVAL} and {_DELETED} is gone, as desired and as reported: the device has adopted "
        f"version {seen.adopted} of {seen.desired_version}"
    )


def _unknown_method(target: Target) -> str:
    """Exercise 2: the device did what it knows, and said of another method that it does not know it."""
    answers = _answers(_existing(target))
    for name, (status, answer) in answers.items():
        if fault := _unfit_answer(name, status, answer):
            raise NotYet(fault)
    unknown = [name for name in answers if name != _KNOWN_METHOD]
    if not unknown or _KNOWN_METHOD not in answers:
        silent = f"{_KNOWN_METHOD}, which it knows," if unknown else "a method that it does not know"
        raise NotYet(
            f"the device has sent no answer to {silent} and one to each of the two is expected: the diary tells of an "
            "error in the handler."
        )
    name, answer = unknown[-1], answers[unknown[-1]][1]
    return f"the device answered {_KNOWN_METHOD} with 200, and {name} with 404 and a sentence: {_json(answer)}"


def _unfit_answer(name: str, status: Any, answer: Any) -> str | None:
    """What is wrong with this answer to a method; one sentence."""
    if isinstance(status, str):
        return f"the status of the answer to {name} is the text {_json(status)}: a number has no quotes around it."
    if name == _KNOWN_METHOD:
        if status == 200:
            return None
        return (
            f"the device answered {name}, which it knows, with {_json(status)}, and 200 is expected: only a method "
            "that it does not know gets 404."
        )
    if status != 404:
        return f"the device answered {name} with {_json(status)}, and 404 with a sentence is expected."
    if not isinstance(answer, str) or len(answer.split()) < 3:
        return f"the device answered 404 with {_json(answer)}, and a sentence that says why is expected."
    return None


def _three_messages(target: Target) -> str:
    """Exercise 3: three messages were waiting, and the device has got them in the order in which they were sent."""
    seen = _existing(target)
    if left := waiting(target, _device()):
        raise NotYet(f"{_count(left)} still waiting: let the device be switched on, and note as many.")
    last = _messages(seen)[-len(_LIGHTS) :]
    if last != _LIGHTS:
        raise NotYet(
            f"the last messages that the device reported are {_json(last)}, and {_json(_LIGHTS)} are expected."
        )
    return f"the device got {_json(_LIGHTS)} in this order, and no message is waiting any more"


def _existing(target: Target) -> Twin:
    seen = get(target, _device())
    if seen is None:
        name = _device()
        raise NotYet(f"the hub has no device {name}, which the cells of this notebook make: run them from the top.")
    return seen


def _behind(seen: Twin) -> str:
    adopted = "none" if seen.adopted is None else _json(seen.adopted)
    latest = seen.desired_version
    return f"{seen.device_id} has adopted version {adopted} of its desired properties, and {latest} is the latest"


def _answers(seen: Twin) -> dict[str, tuple[Any, Any]]:
    """(status, answer) of the last answer to each method that the device has reported since it was switched on."""
    found = seen.reported.get("lastMethods")
    calls = found if isinstance(found, list) else []
    return {
        str(call["name"]): (call.get("status"), call.get("answer"))
        for call in calls
        if isinstance(call, dict) and "name" in call
    }


def _messages(seen: Twin) -> list[Any]:
    """The messages that the device has reported, each under its number, in their order."""
    found = seen.reported.get("messages")
    if not isinstance(found, dict):
        return []
    return [found[name] for name in sorted(filter(str.isdecimal, found), key=int)]


def _count(messages: int) -> str:
    return "1 message is" if messages == 1 else f"{messages} messages are"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:200]


EXERCISES: tuple[Exercise, ...] = (
    Exercise("Change one setting and delete another", _setting),
    Exercise("Answer a method that the device does not know", _unknown_method),
    Exercise("Leave three messages for a sleeping device", _three_messages),
)
