"""The records that pass through every stage: Example, Span, Answer."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a row ended. Every row ends in exactly one of these."""

    ANSWERED = "answered"
    UNANSWERABLE = "unanswerable"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Example:
    """One input row: a question put to a passage.

    ``row`` is the position in the input, from 0, and the row's identity; ``id`` is the user's name
    for it and may repeat. ``fault`` says why the row cannot be answered (then ``question`` and
    ``context`` are empty); ``warning`` says what was changed before reading.
    """

    row: int
    id: str
    question: str
    context: str
    fault: str | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the context: ``context[start_char:end_char] == text``, in code points.

    ``score`` is the sum of the start token's start logit and the end token's end logit.
    """

    text: str
    start_char: int
    end_char: int
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one row when it is done.

    ``best`` is the best non-null span, present for unanswerable rows too and None when the context
    holds no token at all. ``null_odds`` is the null score minus ``best.score``; ``margin`` is
    ``best.score`` minus the score of the next best other text.
    """

    row: int
    id: str
    status: Status
    best: Span | None = None
    null_odds: float | None = None
    margin: float | None = None
    confidence: float | None = None
    alternatives: tuple[Span, ...] = ()
    windows: int = 0
    warning: str | None = None
    error: str | None = None
