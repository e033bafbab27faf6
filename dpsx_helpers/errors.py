"""The one base class of every error that a learner can cause, and how its sentence shows what was given."""

_MOST = 200  # characters of what was given


class LearnerError(Exception):
    """Its text is one sentence: what was wrong, where, and what to do now.

    A notebook shows exactly that sentence instead of a traceback, and Run All stops there:
    IPython asks an exception for `_render_traceback_` before it formats one itself.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def shown(given: object) -> str:
    """A text or path for a sentence: escaped where it would break the line, a long one without its middle."""
    text = str(given)
    if len(text) > _MOST:
        text = f"{text[: _MOST // 2]}…{text[-_MOST // 2 :]}"
    return text if text.isprintable() else ascii(text)


def shown_value(given: object) -> str:
    """Any other value for a sentence, as Python writes it."""
    try:
        return shown(repr(given))
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes, or nested too deeply
        return f"such a {type(given).__name__}"
