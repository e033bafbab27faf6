"""The one base class of every error that a learner can cause."""


class LearnerError(Exception):
    """Its text is one sentence: what was wrong, where, and what to do now.

    A notebook shows exactly that sentence instead of a traceback, and Run All stops there:
    IPython asks an exception for `_render_traceback_` before it formats one itself.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]
