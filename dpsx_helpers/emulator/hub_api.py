"""The data plane of a hub: devices, twins, queries, direct methods, statistics.

https://learn.microsoft.com/rest/api/iothub/service/devices (api-versions 2021-04-12 and 2024-03-31)
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from dpsx_helpers.emulator import identity, methods, query, refusals, twin
from dpsx_helpers.emulator.data_plane import Handler
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.methods import Call
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.twin import Twin

# The Azure CLI stops reading after the very time that it gives the device: it is answered a moment before.
_MOMENT = 0.25  # seconds
_MOST_LISTED = 1000  # https://learn.microsoft.com/rest/api/iothub/service/devices/get-devices


class _HubHandler(Handler):
    def hub(self) -> str:
        """The hub that the request's Host names; with one hub it is that one, whatever its spelling."""
        hubs = self.services.dps.hubs
        named = self.services.hub_at(self.request.host_name)
        return named or next(iter(hubs), "")

    def existing(self, name: str) -> Device:
        device = self.services.store.device(self.hub(), name)
        if device is None:
            raise Refused(refusals.DEVICE_NOT_FOUND, device_id=name)
        return device

    def visible(self, most: int = -1) -> list[tuple[Device, Twin]]:
        """The devices that whoever asks may know of, with their twins."""
        store, hub = self.services.store, self.hub()
        if self.student is None:
            return store.devices(hub, most)
        return [row for row in store.devices(hub) if self.sees(row[0].device_id)]

    def twin_of(self, device: Device) -> Twin:
        current = self.services.store.twin(device.hub, device.device_id)
        if current is None:
            raise Refused(refusals.DEVICE_NOT_FOUND, device_id=device.device_id)
        return current

    def shown(self, device: Device) -> dict[str, Any]:
        connected, pending = self._now(device)
        return identity.document(device, connected=connected, pending=pending)

    def shown_twin(self, device: Device, current: Twin) -> dict[str, Any]:
        connected, pending = self._now(device)
        return identity.twin_document(device, current, connected=connected, pending=pending)

    def _now(self, device: Device) -> tuple[bool, int]:
        return self.services.is_connected(device), len(self.services.pending(device.hub, device.device_id))


class OneDevice(_HubHandler):
    """One device identity. Students read and delete theirs; DPS makes it."""

    for_students = frozenset({"GET", "DELETE"})

    def get(self, name: str) -> None:
        self.answer(self.shown(self.existing(name)))

    def put(self, name: str) -> None:
        store = self.services.store
        found = store.device(self.hub(), name)
        identity.check_etag(found, name, self.request.headers.get("If-Match"), deleting=False)
        device = identity.parse(self.hub(), name, self.document(), found, self.stamp)
        if found is None:
            store.add_device(device, twin.new({}, self.stamp))
        else:
            store.put_device(device)
        if device.status == "disabled":
            self.services.drop(device, refusals.DISABLED_MEANWHILE)
        self.answer(self.shown(device))

    def delete(self, name: str) -> None:
        found = self.services.store.device(self.hub(), name)
        identity.check_etag(found, name, self.request.headers.get("If-Match"), deleting=True)
        if found is not None:
            self.services.remove(found)
        self.answer(None, 204)


class Devices(_HubHandler):
    """The first devices of the hub, as identities: deprecated on Azure, and still there."""

    for_students = frozenset({"GET"})

    def get(self) -> None:
        text = self.get_query_argument("top", str(_MOST_LISTED))
        if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= _MOST_LISTED:
            raise self.bad_request(f"top is not a number from 1 to {_MOST_LISTED}")
        rows = self.visible(int(text))
        self.answer([self.shown(device) for device, _ in rows])


class DeviceQuery(_HubHandler):
    """A query of the devices' twins, page by page."""

    for_students = frozenset({"POST"})

    def post(self) -> None:
        document = self.document()
        asked = query.parse(document.get("query") if isinstance(document, dict) else None)
        limit, offset = self.page()
        rows = asked.run(self.shown_twin(*row) for row in self.visible())
        wanted = rows[offset : offset + limit + 1] if limit > 0 else rows[offset:]
        self.answer_page(wanted, asked.item_type)


class OneTwin(_HubHandler):
    """The twin of one device."""

    for_students = frozenset({"GET", "PATCH", "PUT"})

    def get(self, name: str) -> None:
        device = self.existing(name)
        self.answer(self.shown_twin(device, self.twin_of(device)))

    def patch(self, name: str) -> None:
        self._change(name, whole=False)

    def put(self, name: str) -> None:
        self._change(name, whole=True)

    def _change(self, name: str, *, whole: bool) -> None:
        device = self.existing(name)
        current = self.twin_of(device)
        identity.check_twin_etag(current, self.request.headers.get("If-Match"))
        changed, told = twin.change(current, self.document(), self.stamp, whole=whole)
        self.services.change_twin(device, changed, told)
        self.answer(self.shown_twin(device, changed))


class Commands(_HubHandler):
    """The cloud-to-device messages that wait for a device. Azure takes new ones over AMQP only."""

    for_students = frozenset({"DELETE"})

    def delete(self, name: str) -> None:
        device = self.existing(name)
        count = self.services.purge_commands(device)
        self.answer({"deviceId": name, "moduleId": None, "totalMessagesPurged": count})


class DirectMethod(_HubHandler):
    """Call a method of a connected device, and wait for its answer."""

    for_students = frozenset({"POST"})

    async def post(self, name: str) -> None:
        device = self.existing(name)
        call = methods.parse(self.document())
        status, payload = await self._called(device, call)
        self.answer(methods.answer(name, status, payload))

    async def _called(self, device: Device, call: Call) -> tuple[int, bytes]:
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def answered(status: int, payload: bytes) -> None:
            if not answer.done():
                answer.set_result((status, payload))

        def lost() -> None:
            if not answer.done():
                answer.set_exception(Refused(refusals.DEVICE_NOT_ONLINE, device_id=device.device_id))

        forget = await self._sent(device, call, lambda: self.services.call_method(device, call, answered, lost))
        try:
            return await asyncio.wait_for(answer, call.response_within - _MOMENT)
        except TimeoutError:
            seconds = f"{call.response_within:g}"
            raise Refused(
                refusals.METHOD_TIMED_OUT, device_id=device.device_id, method=call.name, seconds=seconds
            ) from None
        finally:
            forget()

    async def _sent(
        self, device: Device, call: Call, send: Callable[[], Callable[[], None] | None]
    ) -> Callable[[], None]:
        """Send the call now, or as soon as the device listens within the time that the caller gives it."""
        came = asyncio.Event()
        with self.services.watching(came.set):
            forget = send()
            deadline = asyncio.get_running_loop().time() + call.connect_within - _MOMENT
            while forget is None:
                left = deadline - asyncio.get_running_loop().time()
                try:
                    await asyncio.wait_for(came.wait(), max(0, left))
                except TimeoutError:
                    raise Refused(refusals.DEVICE_NOT_ONLINE, device_id=device.device_id) from None
                came.clear()
                forget = send()
        return forget


class DeviceStatistics(_HubHandler):
    """How many devices the registry has."""

    def get(self) -> None:
        devices = [device for device, _ in self.services.store.devices(self.hub())]
        enabled = sum(device.status == "enabled" for device in devices)
        self.answer(
            {
                "totalDeviceCount": len(devices),
                "enabledDeviceCount": enabled,
                "disabledDeviceCount": len(devices) - enabled,
            }
        )


class ServiceStatistics(_HubHandler):
    """How many devices are connected."""

    def get(self) -> None:
        self.answer({"connectedDeviceCount": self.services.connected_devices(self.hub())})


ROUTES: list[tuple[str, type[Handler], dict[str, Any]]] = [
    (r"/devices", Devices, {}),
    (r"/devices/query", DeviceQuery, {}),
    (r"/devices/([^/]+)", OneDevice, {}),
    (r"/devices/([^/]+)/commands", Commands, {}),
    (r"/twins/([^/]+)", OneTwin, {}),
    (r"/twins/([^/]+)/methods", DirectMethod, {}),
    (r"/statistics/devices", DeviceStatistics, {}),
    (r"/statistics/service", ServiceStatistics, {}),
]
