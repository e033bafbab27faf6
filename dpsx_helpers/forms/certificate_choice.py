"""One certificate or key file: chosen from the work folder, given by its path, or uploaded into that folder."""

import os
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from dpsx_helpers import given_files, tutorial
from dpsx_helpers.certificate_files import CertificateError
from dpsx_helpers.errors import LearnerError, shown
from dpsx_helpers.forms.form_fields import Field, Form, beside, typed
from dpsx_helpers.forms.form_memory import Memory
from dpsx_helpers.forms.uploads import Kind, keep
from dpsx_helpers.tutorial import Stop

_OTHER, _NONE = "other", "none"


class FileChoice:
    """The fields for one file. `path` is the file in use, None when there is none; `fault` is what is wrong with what
    the learner has chosen since.
    """

    def __init__(
        self, label: str, what: str, kind: Kind, current: Path | None, memory: Memory, *, optional: bool = False
    ) -> None:
        """`what` the file is, for the labels of the other ways to give it."""
        self.path = current
        self.fault: str | None = None
        self._label, self.kind, self._memory, self._optional = label, kind, memory, optional
        draft = memory.get(f"{label}: path")
        options = self._options()
        listed = str(current) in [value for _, value in options]
        chosen = str(current) if listed else _OTHER if current else _NONE
        if draft is not None:
            chosen = _OTHER
        self._choice = widgets.Dropdown(description=label, options=options, value=chosen)
        self._other = widgets.Text(
            description=f"Path of the {what}",
            value=(str(current) if current else "") if draft is None else draft,
            placeholder=f"/home/me/{kind.example}",
            continuous_update=True,
        )
        self._upload = widgets.FileUpload(accept=kind.accept, description=f"Upload the {what} …")
        self.field = Field(self._choice, "", self._other, *([self._upload] if kind.uploaded else []))
        self._show_other()
        self._quiet = False
        self.field.say(self._judge())

    def watch(self, form: Form, changed: Callable[[], None]) -> None:
        """Take changes from now on, each in turn with the form's other events; then call `changed`."""

        def react(action: Callable[[], str]) -> None:
            with form.lock:
                if not self._quiet:
                    self.field.say(action())
                    changed()

        self._choice.observe(lambda change: react(self._chosen), names="value")
        self._other.observe(lambda change: react(self._judge), names="value")
        self._upload.observe(lambda change: react(self._uploaded) if self._upload.value else None, names="value")

    @property
    def text_field(self) -> widgets.Text:
        """Where a path is typed."""
        return self._other

    def _options(self) -> list[tuple[str, str]]:
        files = {str(path): f"{path.name} ({what})" for path, what in self.kind.found(tutorial.work_dir())}
        current = self.path
        if current and current.parent == tutorial.work_dir() and not os.path.exists(current):
            files[str(current)] = f"{current.name} (not there yet: notebook 02 makes it)"
        options = [(name, path) for path, name in files.items()]
        none = [("none", _NONE)] if self._optional or not self.path else []
        return [*none, *options, ("another file, by its path …", _OTHER)]

    def _show_other(self) -> None:
        self._other.layout.display = "" if self._choice.value == _OTHER else "none"

    def _chosen(self) -> str:
        self._show_other()
        if self._choice.value == _OTHER and not self._other.value.strip():
            self._memory.keep(f"{self._label}: path", "")
            return "Type the path below." + self._still()
        return self._judge()

    def _judge(self) -> str:
        """Take what is chosen when it is good; the sentence about it."""
        draft = str(self._other.value) if self._choice.value == _OTHER else None
        try:
            path = self._file()
            said = self.kind.describe(path) if path else None
        except LearnerError as error:
            self.fault = beside(error)
            self._memory.keep(f"{self._label}: path", draft)
            return f"✘ {self.fault}{self._still()}"
        self.fault = None
        self._memory.keep(f"{self._label}: path", None)
        self.path = path
        return f"✔ {path.name}: {said}." if path else "No file is chosen; none is needed."

    def _file(self) -> Path | None:
        if self._choice.value == _NONE:
            return None
        text = typed(self._other) if self._choice.value == _OTHER else str(self._choice.value)
        if not text:
            raise Stop(f"The path of the {self.kind.name} file is empty: type it, or choose a file of the list.")
        return given_files.path_of(text)

    def _still(self) -> str:
        in_use = self.path is not None and os.path.exists(self.path)
        return f" {shown(Path(self.path.name))} stays in use." if self.path and in_use else ""

    def _uploaded(self) -> str:
        """Keep the file. Widget state may be saved with the notebook, so the content leaves it in this very event."""
        (sent, *_) = self._upload.value
        name, content = str(sent["name"]), bytes(sent["content"])
        self._quiet = True
        try:
            self._upload.value = ()
            try:
                path = keep(name, content, self.kind, tutorial.work_dir())
            except CertificateError as error:
                return f"✘ {error} Nothing was kept.{self._still()}"
            self.path = path
            options = self._options()
            self._choice.options = options
            self._choice.value = str(path)
            self._show_other()
        finally:
            self._quiet = False
        return self._judge() + (f" It is saved as {path.name}." if path.name != name else "")
