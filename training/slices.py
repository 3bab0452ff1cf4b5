"""Scores by kind of question: by its question word, its answer's length, its passage's length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data import QUESTION_WORDS, Labelled, choose_answer, question_word

#: The last number of words that each class of lengths takes in; one class more is open.
ANSWER_WORDS = (1, 2, 4, 8)
PASSAGE_WORDS = (100, 150, 250, 500)
_UNANSWERABLE = "no answer"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one system scores on a slice, from 0 to 100."""

    system: str
    exact: float
    f1: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one kind, and every system's scores on them."""

    by: str
    value: str
    questions: int
    cells: tuple[Cell, ...]


def slice_rows(
    rows: Sequence[Labelled],
    scores: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[Slice, ...]:
    """Return the slices that hold rows, in a fixed order.

    ``scores`` are each system's exact match and F1 from 0 to 1; shapes ``(rows,)``.
    """
    found = []
    for by, (values, value_of) in _WAYS.items():
        own = np.array([value_of(row) for row in rows])
        for value in values:
            members = own == value
            if members.any():
                cells = tuple(
                    Cell(name, *(100.0 * float(one[members].mean()) for one in both))
                    for name, both in scores.items()
                )
                found.append(Slice(by, value, int(members.sum()), cells))
    return tuple(found)


def name_lengths(lasts: Sequence[int]) -> list[str]:
    """Return the classes' names: "1", "2", "3-4", ..., "9 or more"."""
    firsts = [1, *(last + 1 for last in lasts)]
    closed = [
        f"{first}" if first == last else f"{first}-{last}"
        for first, last in zip(firsts, lasts, strict=False)
    ]
    return [*closed, f"{firsts[-1]} or more"]


def _class_of(length: int, lasts: Sequence[int]) -> str:
    names = name_lengths(lasts)
    return next((names[at] for at, last in enumerate(lasts) if length <= last), names[-1])


def _by_answer(row: Labelled) -> str:
    if not row.answers:
        return _UNANSWERABLE
    return _class_of(len(choose_answer(row.answers).text.split()), ANSWER_WORDS)


def _by_passage(row: Labelled) -> str:
    return _class_of(len(row.context.split()), PASSAGE_WORDS)


def _by_question(row: Labelled) -> str:
    return question_word(row.question)


_WAYS: dict[str, tuple[list[str], Callable[[Labelled], str]]] = {
    "question word": ([*QUESTION_WORDS, "other"], _by_question),
    "answer's words": ([*name_lengths(ANSWER_WORDS), _UNANSWERABLE], _by_answer),
    "passage's words": (name_lengths(PASSAGE_WORDS), _by_passage),
}
