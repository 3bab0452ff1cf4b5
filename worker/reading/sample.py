"""A bundle's sample: read it, and compare with the answers recorded when the bundle was made."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.contracts.bundle import SampleRow
from worker.contracts.records import Answer, Example
from worker.reading.reader import Reader

#: How far, in logits, a score may lie from the recorded one. int8 products are added in 16 bits by
#: processors without VNNI or AMX, and rounding follows the order of sums: between such machines a
#: score of two logits moves by some tenths, and by many whole ones when the graph is not the one.
TOLERANCE = 1.0
#: So many spans are looked at for the recorded one, where another text came out best.
RIVALS = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """A sample row that came out otherwise; scores are in logits.

    Not ``harmful`` is a tie: the recorded answer is still there, a hair behind another.
    """

    row: int
    recorded: SampleRow
    answer: str
    score: float
    null_odds: float
    harmful: bool


def read_all(reader: Reader, examples: Sequence[Example]) -> list[Answer]:
    """Answer examples one after the other, untimed."""
    encoded = reader.encode(examples, _ignore)
    scored = reader.score(encoded, _ignore)
    return [reader.decode(*one) for one in zip(examples, encoded, scored, strict=True)]


def answer_sample(reader: Reader, texts: Sequence[tuple[str, str]]) -> tuple[SampleRow, ...]:
    """Read pairs of question and context; a row without any span is refused.

    Raises:
        ValueError: a row could not be read, so that there is nothing to record.
    """
    pairs = zip(texts, _read(reader, texts), strict=True)
    return tuple(_record(text, answer) for text, answer in pairs)


def compare_sample(reader: Reader, recorded: Sequence[SampleRow]) -> Iterator[Difference]:
    """Yield the rows that read otherwise here; the reader gives ``RIVALS`` alternatives.

    Raises:
        ValueError: a row could not be read at all.
    """
    texts = [(row.question, row.context) for row in recorded]
    for number, answer in enumerate(_read(reader, texts)):
        old, new = recorded[number], _record(texts[number], answer)
        rivals = {span.text: span.score for span in answer.alternatives}
        near = abs(old.score - rivals.get(old.answer, math.inf)) <= TOLERANCE
        harmful = not near or abs(old.null_odds - new.null_odds) > TOLERANCE
        if harmful or old.answer != new.answer:
            yield Difference(number, old, new.answer, new.score, new.null_odds, harmful)


def _read(reader: Reader, texts: Sequence[tuple[str, str]]) -> list[Answer]:
    return read_all(reader, [Example(row, str(row), *text) for row, text in enumerate(texts)])


def _record(text: tuple[str, str], answer: Answer) -> SampleRow:
    if answer.best is None or answer.null_odds is None:
        raise ValueError(f"row {answer.row} of the sample has no span: {answer.error}")
    score, null_odds = round(answer.best.score, 4), round(answer.null_odds, 4)
    return SampleRow(*text, answer.best.text, score, null_odds)


def _ignore(_rows: Sequence[int]) -> None:
    """Hear which rows come next, and do nothing about it."""
