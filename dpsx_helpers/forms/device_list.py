"""The hub's list of devices with *Refresh* and *Delete*, as in the portal.

Requests to the hub take time, so buttons hand them to a thread of their own, which reports through the widgets.
"""

import contextvars
import threading
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from dpsx_helpers import registry
from dpsx_helpers.display import note, table
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.forms.form_fields import Form, beside, tick
from dpsx_helpers.registry import Device
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable

_HEADERS = ("DEVICE ID", "STATUS", "CONNECTION", "SHA-256 THUMBPRINT")
_MOST = 50  # rows, each of several widgets


class DeviceList(Form):
    """Ticks start empty each time: what is to be deleted is to be chosen now."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ticks: dict[str, widgets.Checkbox] = {}
        self._view = note("The devices of the hub are not known.")
        self._rows = widgets.VBox().add_class("dpsx-list")
        self._refresh = _button("Refresh", self._press_refresh)
        self._delete = _button("Delete", self._press_delete)
        self._question = widgets.HTML()
        self._yes = _button("Yes, delete", self._press_yes)
        self._no = _button("No, keep", self._press_no)
        self._sure = widgets.VBox([self._question, _row(self._yes, self._no)]).add_class("dpsx-field")
        self._doomed: tuple[str, ...] = ()
        self._busy = False
        super().__init__("IoT devices", _row(self._refresh, self._delete), self._rows, self._sure)
        self._ask(())
        self._try(self._load)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The table as it was when the form was made is what a page without a kernel shows."""
        bundle = super()._repr_mimebundle_(include=include, exclude=exclude)
        return bundle | {"text/html": self._view.html, "text/plain": self._view.text}

    def _load(self) -> str:
        """Read the list and show it; what to say then."""
        try:
            devices = registry.list_all(self._target)
        except NotReadable as where:
            self._show([])
            self._view = note(str(where))
            return str(where)
        except LearnerError as error:
            self._view = note(beside(error))
            raise
        self._show(devices[:_MOST])
        cells = [_cells(device) for device in devices]
        self._view = table("IoT devices", _HEADERS, cells)
        count = len(cells)
        if not count:
            return "The hub has no devices."
        number = "1 device" if count == 1 else f"{count} devices"
        shown = f", of which the first {_MOST} are shown" if count > _MOST else ""
        return f"The hub has {number}{shown}. To delete, tick and press Delete."

    def _show(self, devices: list[Device]) -> None:
        ticked = {name for name, box in self._ticks.items() if box.value}
        self._ticks = {device.device_id: tick(device.device_id, device.device_id in ticked) for device in devices}
        head = [widgets.HTML(f'<span class="dpsx-head">{name}</span>') for name in _HEADERS]
        rows = [[self._ticks[d.device_id], *(widgets.HTML(escape(cell)) for cell in _cells(d)[1:])] for d in devices]
        old = self._rows.children
        self._rows.children = [widgets.HBox(row) for row in ([head, *rows] if rows else [])]
        for row in old:
            for widget in (*row.children, row):
                widget.close()
        for box in self._ticks.values():
            box.observe(lambda change: self._enable(), names="value")
        self._enable()

    def _ticked(self) -> tuple[str, ...]:
        return tuple(name for name, box in self._ticks.items() if box.value)

    def _enable(self) -> None:
        """Offer what can be done now: nothing while busy or while a question is open."""
        waiting = self._busy or bool(self._doomed)
        self._refresh.disabled = waiting or not self._target.service
        self._delete.disabled = waiting or not self._ticked()
        self._yes.disabled = self._no.disabled = self._busy
        for box in self._ticks.values():
            box.disabled = waiting

    def _ask(self, doomed: tuple[str, ...]) -> None:
        self._doomed = doomed
        names = " and ".join(doomed) if len(doomed) < 3 else f"these {len(doomed)} devices"
        its = "Its enrollment stays." if len(doomed) == 1 else "Their enrollments stay."
        self._question.value = f'<span role="alert">Delete {escape(names)} from the hub? {its}</span>' if doomed else ""
        self._sure.layout.display = "" if doomed else "none"
        self._enable()

    def _press_refresh(self) -> None:
        self._work("Reading the list …", self._load)

    def _press_delete(self) -> None:
        if ticked := self._ticked():
            self._ask(ticked)
            self._say("Answer the question above.")
            self._no.focus()  # the button that was pressed is disabled now

    def _press_no(self) -> None:
        self._ask(())
        self._say("Nothing was deleted.")
        self._delete.focus()

    def _press_yes(self) -> None:
        doomed = self._doomed
        self._work("Deleting …", lambda: self._deleted(doomed))

    def _deleted(self, doomed: tuple[str, ...]) -> str:
        gone = [name for name in doomed if registry.delete(self._target, name)]
        self._load()
        if len(gone) == len(doomed):
            return f"✔ Deleted from the hub: {', '.join(gone)}."
        return f"✔ Deleted from the hub: {', '.join(gone) or 'nothing'}; the others were not there any more."

    def _work(self, meanwhile: str, action: Callable[[], str]) -> None:
        with self.lock:
            if self._busy:  # pressed twice before the button could be disabled
                return
            self._busy = True
            self._enable()
            self._say(meanwhile)
        # ipykernel 7.0 finds the kernel's message by the context, and without it a widget's value goes nowhere.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._finish, action), name="device list", daemon=True).start()

    def _finish(self, action: Callable[[], str]) -> None:
        try:
            outcome = action()
        except LearnerError as error:
            outcome = f"✘ {beside(error)}"
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            outcome = f"✘ The hub's answer could not be used ({type(error).__name__}): look at views.log(target)."
        with self.lock:
            self._busy = False
            self._ask(())
            self._say(outcome)


def _cells(device: Device) -> tuple[str, str, str, str]:
    return (device.device_id, device.status, device.connection_state, device.primary_thumbprint or "")


def _button(label: str, action: Callable[[], None]) -> widgets.Button:
    button = widgets.Button(description=label)
    button.on_click(lambda pressed: action())
    return button


def _row(*parts: widgets.Widget) -> widgets.HBox:
    row = widgets.HBox(list(parts))
    row.add_class("dpsx-row")
    return row
