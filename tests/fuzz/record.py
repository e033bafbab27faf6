"""Record what Microsoft's device client says: `python -m tests.fuzz.record` writes recorded.json anew.

One emulator, the whole of what the client can do, and each packet as paho hands it to its socket. The names are those
of `devices.Table`, so that the packets mean something there, and the host is put in when they are read.
"""

import json
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "emulator")]

import wire  # noqa: E402
from azure.iot.device import Message  # noqa: E402
from clients import connected, enroll, register, responder  # noqa: E402
from paho.mqtt import client as paho  # noqa: E402
from pki import make_device  # noqa: E402
from processes import RunningEmulator, wait_for  # noqa: E402
from rest import ask, done  # noqa: E402

from fuzz.mutation import moved  # noqa: E402
from fuzz.recorded import HOST, PATH  # noqa: E402

NAME = "north"


def main() -> None:
    said: dict[paho.Client, list[bytes]] = {}
    queued = paho.Client._packet_queue

    def keep(self, command, packet, mid, qos, info=None):  # type: ignore[no-untyped-def]
        said.setdefault(self, []).append(bytes(packet))
        return queued(self, command, packet, mid, qos, info)

    paho.Client._packet_queue = keep
    with tempfile.TemporaryDirectory() as folder:
        emulator = RunningEmulator(Path(folder) / "state", None, "--id-scope", wire.SCOPE)
        try:
            device = make_device(Path(folder), NAME)
            enroll(emulator, device)
            assert register(emulator, device).status == "assigned"
            with connected(emulator, device) as client:
                _everything(emulator, client)
        finally:
            emulator.close()
        conversations = [[_anywhere(packet, emulator.host).hex() for packet in packets] for packets in said.values()]
    PATH.write_text(json.dumps(conversations, indent=1) + "\n")
    print(f"{sum(map(len, conversations))} packets in {len(conversations)} conversations")


def _everything(emulator, client) -> None:  # type: ignore[no-untyped-def]
    message = Message(json.dumps({"temperature": 20.5}), content_encoding="utf-8", content_type="application/json")
    message.custom_properties["alert"] = "a b&c"
    message.message_id = "1"
    got: list[object] = []
    client.on_message_received = got.append
    client.on_twin_desired_properties_patch_received = got.append
    responder(client, lambda request: (200, {"heard": request.payload}))
    client.send_message(message)
    client.get_twin()
    client.patch_twin_reported_properties({"temperature": 20.5, "old": None, "nested": {"a": [1, 2]}})
    done(ask(emulator, "PATCH", f"/twins/{NAME}", {"properties": {"desired": {"interval": 5}}}))
    done(ask(emulator, "POST", f"/twins/{NAME}/methods", {"methodName": "reboot", "payload": 1}))
    emulator.emulator.send(NAME, "a command")
    wait_for(lambda: len(got) == 2)
    time.sleep(1)  # what is acknowledged last


def _anywhere(packet: bytes, host: str) -> bytes:
    """The packet without what tells of this machine."""
    platform = re.search(rb"%28.*%29", packet)
    if platform:
        packet = moved(packet, platform[0], b"%28Python%3B%20Linux%3B%20x86_64%29")
    return moved(packet, host.encode(), HOST)


if __name__ == "__main__":
    main()
