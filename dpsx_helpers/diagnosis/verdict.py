"""What a diagnosis comes to."""

from dataclasses import dataclass

from dpsx_helpers.diagnosis import failures, mistakes
from dpsx_helpers.diagnosis.mistakes import Mistake


@dataclass(frozen=True, slots=True)
class Verdict:
    """`sentence` is one line. `seen` is what happened in this case. `causes`, the likeliest first, when it cannot be
    known which of them it is.
    """

    mistake: Mistake
    sentence: str
    seen: str
    causes: tuple[str, ...] = ()
    remedy: str = ""  # instead of the mistake's own

    @property
    def number(self) -> int | None:
        return mistakes.number_of(self.mistake)


def verdict(which: int | str, sentence: str, seen: str = "", causes: tuple[str, ...] = ()) -> Verdict:
    """Of one of the 23 by number, or of the others by name; `seen` is what is generally seen when it is not given."""
    mistake = mistakes.BY_NUMBER[which] if isinstance(which, int) else failures.OTHERS[which]
    return Verdict(mistake, sentence, seen or mistake.happened, causes)


def again(what: str) -> str:
    """The end of most sentences."""
    return f"{what} and run this cell again."
