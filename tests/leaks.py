"""Look for secrets in bytes: as they are, and as what software makes of text on its way into a file."""

import base64
import json
import secrets
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote, quote_plus


def canary() -> str:
    """A pass phrase that occurs nowhere else. It has signs in it that JSON, HTML and URLs write otherwise."""
    return f'canary {secrets.token_hex(8)} & "☂"'


def disguises(secret: str) -> dict[str, bytes]:
    """The ways in which a text may stand in a file, by name."""
    raw = secret.encode()
    found = {"plain": raw, "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        found[encoding] = secret.encode(encoding)
    for shift in range(3):
        # Only what does not hang on the neighbours: the first and the last characters share bits with them.
        coded = base64.b64encode(bytes(shift) + raw)[(0, 2, 3)[shift] : len(raw + bytes(shift)) * 8 // 6]
        found[f"base64, {shift} bytes in"] = coded
        found[f"base64 for URLs, {shift} bytes in"] = coded.translate(bytes.maketrans(b"+/", b"-_"))
    texts = {
        "URL-quoted": quote(secret, safe=""),
        "form-quoted": quote_plus(secret),
        "HTML": escape(secret),
        "JSON": json.dumps(secret)[1:-1],
        "JSON in JSON": json.dumps(json.dumps(secret))[3:-3],
        "JSON, not ASCII": json.dumps(secret, ensure_ascii=False)[1:-1],
        "Python": ascii(secret)[1:-1],
    }
    return found | {name: text.encode() for name, text in texts.items()}


def traces(data: bytes, *of: str) -> list[str]:
    """Which of these secrets are in the bytes, in which disguise: the start of the secret is told, not all of it."""
    return [f"{secret[:10]}… ({name})" for secret in of for name, form in disguises(secret).items() if form in data]


def leaks(folder: Path, of: Iterable[str], *, but_not_in: Iterable[Path] = ()) -> list[str]:
    """A line for each file below `folder` and each secret that is in it or in its name."""
    spared = set(but_not_in)
    return [
        f"{path.relative_to(folder)}: {found}"
        for path in files(folder)
        if spared.isdisjoint({path, *path.parents})
        for found in traces(str(path).encode() + b"\0" + path.read_bytes(), *of)
    ]


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def body(pem: str) -> list[str]:
    """The lines of base64 in a PEM text, without those too short to be anybody's in particular."""
    lines = [line.strip() for line in pem.splitlines()]
    return [line for line in lines if len(line) >= 40 and not line.startswith("-----")]
