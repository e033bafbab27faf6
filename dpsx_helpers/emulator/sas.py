"""Shared access signatures, as both services take them in the `Authorization` header. The clock is an argument.

`SharedAccessSignature sr={resource}&sig={HMAC-SHA256}&se={unix seconds}&skn={policy}`, where the signed text is the
url-encoded resource, a line feed and the expiry:
https://learn.microsoft.com/azure/iot-dps/how-to-control-access#security-tokens
"""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import parse_qs, quote_plus, urlencode

_SCHEME = "SharedAccessSignature "


def sign(resource: str, policy: str, key: str, expires: int) -> str:
    """A token for `resource` (a host name, with port if any) valid until `expires` (unix seconds).

    `key` is the policy's key in base64. Raises binascii.Error when it is not base64.
    """
    return _SCHEME + urlencode(
        {"sr": resource, "sig": _signature(quote_plus(resource), key, str(expires)), "se": expires, "skn": policy}
    )


def verify(
    token: str, resources: frozenset[str], keys: Mapping[str, str], now: float, path: str | None = None
) -> str | None:
    """None when a token of a policy is good, else why not (for the log; the answer to a client never says).

    `resources` are the names that the service answers to, `keys` its policies' keys in base64, `now` unix seconds. A
    token may be for a part of the service only: then `path` has to begin with that part.
    """
    if not token.startswith(_SCHEME):
        return "there is no SharedAccessSignature in the Authorization header"
    fields = _fields(token)
    resource, policy = fields.get("sr", ""), fields.get("skn", "")
    key = keys.get(policy)
    if key is None:
        return f"this service has no policy {policy[:64]!r}; it has {', '.join(sorted(keys))}"
    expired = _expired(fields, now)
    if expired:
        return expired
    if resource.split("/")[0].lower() not in resources:
        return f"the token is for {resource[:64]!r}, not for this service"
    part = resource.partition("/")[2].rstrip("/")
    if part and path is not None and not f"{path.lstrip('/')}/".startswith(f"{part}/"):
        return f"the token is for {resource[:64]!r} and nothing else"
    return None if _signed(token, fields, key) else f"the signature does not match the key of policy {policy}"


def policy_of(token: str) -> str:
    """The policy that a token says it is of, unchecked; "" when it says none."""
    return _fields(token).get("skn", "")


def verify_device(token: str, resource: str, key: str, now: float) -> str | None:
    """None when a token is good that a device has signed with its own key (base64) for itself, else why not."""
    if not token.startswith(_SCHEME):
        return "there is no SharedAccessSignature in the password"
    fields = _fields(token)
    expired = _expired(fields, now)
    if expired:
        return expired
    if fields.get("sr", "").lower() != resource.lower():
        return f"the token is for {fields.get('sr', '')[:64]!r}, not for {resource[:64]!r}"
    return None if _signed(token, fields, key) else "the signature does not match a key of the device"


def _fields(token: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(token.removeprefix(_SCHEME)).items()}


def _expired(fields: dict[str, str], now: float) -> str | None:
    expires = fields.get("se", "")
    if not re.fullmatch(r"[0-9]{1,18}", expires) or int(expires) <= now:
        return "the token has expired, or its expiry is not a number of seconds"
    return None


def _signed(token: str, fields: dict[str, str], key: str) -> bool:
    """Clients encode the resource in several spellings: the one that was sent is signed, or the resource itself."""
    sent = re.search("[ &]sr=([^&]*)", token)
    spellings = (sent[1] if sent else "", fields.get("sr", ""))
    good = [same(_signature(text, key, fields["se"]), fields.get("sig", "")) for text in spellings]
    return any(good)


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how far they are. The only place that compares any.

    https://docs.python.org/3/library/hmac.html#hmac.compare_digest
    """
    return hmac.compare_digest(one.encode(), other.encode())


def _signature(encoded_resource: str, key: str, expires: str) -> str:
    text = f"{encoded_resource}\n{expires}".encode()
    return b64encode(hmac.new(b64decode(key), text, sha256).digest()).decode()
