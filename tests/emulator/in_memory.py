"""Certificates of which a test needs no files."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pki
from pki import Authority, Device


def ca(common_name: str, issuer: Authority | None = None, **options: Any) -> Authority:
    with TemporaryDirectory() as folder:
        return pki.make_ca(Path(folder), common_name, issuer, **options)


def leaf(common_name: str, issuer: Authority | None = None, **options: Any) -> Device:
    """A device's certificate, self-signed unless issued."""
    with TemporaryDirectory() as folder:
        if issuer is None:
            return pki.make_device(Path(folder), common_name, **options)
        return pki.issue(Path(folder), common_name, issuer, **options)
