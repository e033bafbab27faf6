"""Requests to a running emulator in the name of its owner, who alone can read its token."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from dpsx_helpers.emulator import running
from dpsx_helpers.emulator.process import EmulatorError
from dpsx_helpers.emulator.running import Running
from dpsx_helpers.emulator.tls import Files

_REQUEST_WITHIN = 5.0  # seconds


def request(
    state_dir: Path,
    facts: Running,
    path: str,
    document: dict[str, Any] | None = None,
    *,
    method: str = "POST",
) -> Any:
    """The answer to a request in the owner's name, over HTTPS with the emulator's CA checked, past any proxy.

    Raises EmulatorError.
    """
    try:
        body = json.dumps(document).encode() if method in ("POST", "PUT") else None
    except (TypeError, ValueError, RecursionError):
        raise EmulatorError(
            f"The request {path} holds a value that JSON cannot carry: give texts, numbers, or objects of these."
        ) from None
    request = urllib.request.Request(
        f"https://{facts.endpoint}/{path}",
        data=body,
        headers={"Authorization": f"Bearer {facts.token}", "If-Match": "*"},
        method=method,
    )
    try:
        context = ssl.create_default_context(cafile=str(Files(state_dir).ca))
        secure = urllib.request.HTTPSHandler(context=context)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), secure)
        with opener.open(request, timeout=_REQUEST_WITHIN) as response:
            return json.load(response) if response.status != 204 else None
    except urllib.error.HTTPError as error:
        raise EmulatorError(_refusal(error)) from None
    except (OSError, ValueError) as error:
        there = running.read(state_dir)
        if path == "emulator/stop" and there != facts:  # somebody else has told it
            return None
        if there is None or there.token != facts.token:
            raise EmulatorError(_not_there(state_dir, there)) from None
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise EmulatorError(
            f"The emulator (process {facts.pid}) does not answer at {facts.endpoint} ({reason}): end that process."
        ) from None


def _not_there(state_dir: Path, there: Running | None) -> str:
    if there is not None:
        return (
            f"The emulator of {state_dir} that this was made for has ended, and another one runs there now: start or "
            "attach to it anew, in a notebook by running its first cells again."
        )
    return running.none_there(state_dir)


def _refusal(error: urllib.error.HTTPError) -> str:
    """The one sentence in the emulator's answer."""
    with error:
        try:
            return str(json.load(error)["message"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"The emulator refused the request with HTTP {error.code}: its log says why."
