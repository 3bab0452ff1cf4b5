"""A bundle's sample: read it, and compare with the answers recorded when the bundle was made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.contracts.bundle import SampleRow
from worker.contracts.records import Answer, Example
from worker.reading.reader import Reader

#: How far, in logits, a score may lie from the recorded one. Processors without VNNI or AMX add
#: int8 products in 16 bits, and others round in another order; a wrong graph is off by far more.
TOLERANCE = 1.0
#: Two spans this near each other may change places.
TIE = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """A sample row that came out otherwise; scores are in logits."""

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
    examples = [Example(row, str(row), *pair) for row, pair in enumerate(texts)]
    rows = []
    for example, answer in zip(examples, read_all(reader, examples), strict=True):
        if answer.best is None or answer.null_odds is None:
            raise ValueError(f"row {example.row} of the sample has no answer: {answer.error}")
        rows.append(
            SampleRow(
                question=example.question,
                context=example.context,
                answer=answer.best.text,
                score=round(answer.best.score, 4),
                null_odds=round(answer.null_odds, 4),
            )
        )
    return tuple(rows)


def compare_sample(reader: Reader, recorded: Sequence[SampleRow]) -> Iterator[Difference]:
    """Yield the rows that read otherwise here."""
    found = answer_sample(reader, [(row.question, row.context) for row in recorded])
    for number, (old, new) in enumerate(zip(recorded, found, strict=True)):
        far = (
            abs(old.score - new.score) > TOLERANCE or abs(old.null_odds - new.null_odds) > TOLERANCE
        )
        if old.answer != new.answer or far:
            yield Difference(number, old, new.answer, new.score, new.null_odds, harmful=far)


def _ignore(_rows: Sequence[int]) -> None:
    """Hear which rows come next, and do nothing about it."""
