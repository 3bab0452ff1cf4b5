"""The rows of a speed run: questions spread over a gold file, as each contender wants them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from producer.gold import read_gold
from producer.source import open_source, stream_rows
from worker.contracts.job import Columns
from worker.contracts.records import Example


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows with gold answers, and the same rows as files."""

    examples: tuple[Example, ...]
    golds: tuple[tuple[str, ...], ...]
    parquet: Path
    lines: Path


def choose_questions(data: Path, count: int, folder: Path) -> Questions:
    """Take ``count`` questions at even distances and write them as Parquet and JSON lines."""
    gold = read_gold(data)
    rows = [
        row
        for chunk in stream_rows(open_source([data], Columns()))
        for row in chunk.select(["row", "id", "question", "context"]).to_pylist()
    ]
    count = min(count, len(rows))
    chosen = [rows[number * len(rows) // count] for number in range(count)]
    parquet, lines = folder / "questions.parquet", folder / "questions.jsonl"
    pq.write_table(pa.Table.from_pylist(chosen).drop_columns("row"), parquet)
    lines.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    examples = tuple(Example(**row) for row in chosen)
    return Questions(examples, tuple(gold[one.id] for one in examples), parquet, lines)
