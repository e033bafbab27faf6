"""What Microsoft's device client says, as `record` has written it down."""

import json
from pathlib import Path

from .inputs import Input
from .mutation import moved

PATH = Path(__file__).with_name("recorded.json")
HOST = b"HOST"  # stands for the address of the emulator


def conversations(host: str) -> list[Input]:
    """With DPS and with its hub at `host`, packet by packet."""
    return [
        tuple(moved(bytes.fromhex(packet), HOST, host.encode()) for packet in conversation)
        for conversation in json.loads(PATH.read_text())
    ]
