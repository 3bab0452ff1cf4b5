"""The command `evaluate`: the official SQuAD scores of an answers file."""

from typing import Any

import click
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from producer.answers import list_parts
from producer.exits import DONE
from producer.gold import read_gold
from producer.options import JSON, option
from producer.place import make_place, to_source
from worker.contracts.errors import InputError
from worker.reading.scores import ENGLISH, LANGUAGES, Evaluation, Part, Scored
from worker.reading.scores import evaluate as score

_COLUMNS = ["id", "answer", "best_answer", "null_odds"]


@click.command()
@click.argument("answers")
@option("--gold", required=True, help="SQuAD JSON or JSONL.")
@option(
    "--language",
    default=ENGLISH,
    type=click.Choice(list(LANGUAGES)),
    help="How texts are compared: as SQuAD does (en), as MLQA does (others).",
)
@JSON
def evaluate(answers: str, gold: str, language: str, as_json: bool) -> int:
    """Score ANSWERS against gold answers by the official SQuAD rules, from 0 to 100."""
    result = score(match(answers, read_gold(make_place(gold))), language)
    click.echo(msgspec.json.encode(result) if as_json else describe(result))
    return DONE


def match(answers: str, gold: dict[str, tuple[str, ...]]) -> list[Scored]:
    """Join answers and gold by id, in the order of the gold.

    Raises:
        InputError: the file is none of answers, or lacks one, or has one twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in _rows(answers):
        if row["id"] in gold and found.setdefault(row["id"], row) is not row:
            raise InputError(
                f"{answers} answers the id {row['id']!r} twice: ids must be unique here"
            )
    missing = [name for name in gold if name not in found]
    if missing:
        raise InputError(
            f"{answers} lacks {len(missing)} of the {len(gold)} gold questions, the first is"
            f" {missing[0]!r}: answer the whole set"
        )
    return [_join(found[name], texts) for name, texts in gold.items()]


def describe(result: Evaluation) -> str:
    """Return the scores as lines to read."""
    lines = [f"exact {result.exact:.2f}   f1 {result.f1:.2f}   of {result.total} questions"]
    for name, part in (("has answer", result.has_answer), ("no answer", result.no_answer)):
        if part is not None:
            lines.append(_describe_part(name, part))
    best = result.best
    lines.append(
        f"best on this set: exact {best.exact:.2f} at null threshold {best.exact_threshold:.3f},"
        f" f1 {best.f1:.2f} at {best.f1_threshold:.3f}"
    )
    return "\n".join(lines)


def _describe_part(name: str, part: Part) -> str:
    return f"{name}: exact {part.exact:.2f}   f1 {part.f1:.2f}   of {part.total}"


def _rows(answers: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        for part in list_parts(answers):
            rows += pq.read_table(to_source(part), columns=_COLUMNS).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{answers} is no answers file ({type(error).__name__}): give what `answer` wrote"
        ) from error
    return rows


def _join(row: dict[str, Any], texts: tuple[str, ...]) -> Scored:
    def text(name: str) -> str:
        return "" if row[name] is None else str(row[name])

    odds = row["null_odds"]
    return Scored(
        golds=texts,
        prediction=text("answer"),
        best=text("best_answer"),
        null_odds=float("inf") if odds is None else odds,
    )
