"""What all forms are made of: labelled fields, each with a sentence below it, and one line for the whole form.

A form never writes into a field that the learner types in: keys pressed meanwhile would be lost. Events may come in
other threads (ipykernel runs them in a subshell while a cell is busy), so a form handles one at a time.
"""

import threading
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from dpsx_helpers.errors import LearnerError
from dpsx_helpers.forms.form_style import STANDBY
from dpsx_helpers.tutorial import Secret, Stop

#: What is said below a secret field that is empty.
ENTER_EMPTIES = "Press Enter (or leave the field) after typing; the field then empties itself."
_LONGEST = 4096  # characters: the longest path that Linux opens


class Field:
    """A widget, and below it a sentence: a hint (✔ and ✘ alike come from the check of what is typed)."""

    def __init__(self, widget: widgets.Widget, hint: str = "", *others: widgets.Widget) -> None:
        self.widget = widget
        self._note = widgets.HTML()
        self.box = widgets.VBox([widget, *others, self._note])
        self.box.add_class("dpsx-field")
        self.say(hint)

    @property
    def sentence(self) -> str:
        """The sentence below the field, as HTML."""
        return str(self._note.value)

    def say(self, text: str) -> None:
        self._note.value = _note(text, 'aria-live="polite"')

    def judge(self, look: Callable[[], str]) -> None:
        """Say what `look` says with a tick before it, or the sentence that it raises with a cross."""
        try:
            self.say(f"✔ {look()}")
        except LearnerError as error:
            self.say(f"✘ {beside(error)}")


class Form:
    """A titled column of fields with one line of text below that says what became of what was entered.

    In a cell a form shows itself as a widget, followed by the sentence for the day when its kernel has ended. What it
    displays as plain text names the form and none of its values.
    """

    def __init__(self, title: str, *parts: Field | widgets.Widget, intro: str = "") -> None:
        self._title = title
        self.lock = threading.RLock()
        self._status = widgets.HTML()
        heading = f'<div class="dpsx-title" role="heading" aria-level="3">{escape(title)}</div>'
        heading += f'<span class="dpsx-intro">{escape(intro)}</span>' if intro else ""
        columns = [part.box if isinstance(part, Field) else part for part in parts]
        self._box = widgets.VBox([widgets.HTML(heading), *columns, self._status])
        self._box.add_class("dpsx-form")

    def __repr__(self) -> str:
        return f"[form: {self._title}]"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = dict(self._box._repr_mimebundle_(include=include, exclude=exclude))
        bundle["text/plain"] = repr(self)
        return bundle

    def _ipython_display_(self) -> None:
        for bundle in (self._repr_mimebundle_(), {"text/html": STANDBY, "text/plain": ""}):
            display(bundle, raw=True)  # type: ignore[no-untyped-call]

    @property
    def status(self) -> str:
        """The line below the fields, as HTML."""
        return str(self._status.value)

    def _say(self, text: str) -> None:
        self._status.value = _note(text, 'role="status"', "dpsx-status")

    def _try(self, action: Callable[[], str]) -> None:
        """Show what the action says, or the sentence that it raises, in the line of the form."""
        with self.lock:
            try:
                self._say(action())
            except LearnerError as error:
                self._say(f"✘ {beside(error)}")

    def _secret_field(self, label: str, take: Callable[[Secret], None], hint: str) -> Field:
        """A field whose text is taken out of it, and the field emptied, in the very event that brings it: it syncs only
        on Enter or when it is left, as what is in it then would be saved with the notebook.
        """
        widget = widgets.Password(description=label, placeholder="not shown", continuous_update=False)

        def changed(change: Any) -> None:
            with self.lock:
                given = Secret(widget.value)
                if given:  # the emptying below comes back as an event of its own
                    widget.value = ""
                    take(given)

        widget.observe(changed, names="value")
        return Field(widget, hint)

    def _on_enter(self, widget: widgets.Text, outcome: Callable[[], str]) -> None:
        """Show `outcome` in the line of the form when Enter is pressed in the field."""

        def heard(widget: Any, content: Any, buffers: Any) -> None:
            if isinstance(content, dict) and content.get("event") == "submit":
                self._try(outcome)

        widget.on_msg(heard)


def beside(error: LearnerError) -> str:
    """The sentence as it reads beside a field, where no cell is to be run again."""
    return str(error).replace(", and run this cell again", "").replace(" and run this cell again", "")


def typed(widget: widgets.Widget) -> str:
    """What is in a text field, without blanks around it; Stop when no such field takes it."""
    text = str(widget.value).strip()
    if len(text) > _LONGEST:
        raise Stop(f"That is {len(text)} characters long, and at most {_LONGEST} are taken: enter a shorter text.")
    if odd := next((sign for sign in text if not sign.isprintable()), None):
        raise Stop(f"There is a character in it that cannot be seen ({odd!a}): delete it, or type the text anew.")
    return text


def text(label: str, value: str, hint: str = "", placeholder: str = "") -> Field:
    """A line of text that is looked at with every key."""
    return Field(widgets.Text(description=label, value=value, placeholder=placeholder, continuous_update=True), hint)


def dropdown(label: str, options: list[tuple[str, Any]], value: Any, hint: str = "") -> Field:
    return Field(widgets.Dropdown(description=label, options=options, value=value), hint)


def radio(label: str, options: list[tuple[str, Any]], value: Any, hint: str = "") -> Field:
    return Field(widgets.RadioButtons(description=label, options=options, value=value), hint)


def tick(label: str, value: bool) -> widgets.Checkbox:
    return widgets.Checkbox(description=label, value=value, indent=False)


def _note(text: str, attributes: str, kind: str = "") -> str:
    mood = {"✔": "dpsx-good", "✘": "dpsx-bad"}.get(text[:1], "dpsx-hint" if text else "")
    return f'<span class="{" ".join(filter(None, ("dpsx-note", kind, mood)))}" {attributes}>{escape(text)}</span>'
