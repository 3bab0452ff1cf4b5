"""Makes examples/questions.parquet from examples/questions.json.

The JSON is the only source. The same JSON and the same pyarrow give the same bytes.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("title", pa.string()),
        ("published", pa.date32()),
    ]
)


def read_rows(gold: Path) -> list[dict[str, Any]]:
    """Return one row per question, in the order of the SQuAD file."""
    return [
        {
            "id": question["id"],
            "question": question["question"],
            "context": paragraph["context"],
            "title": article["title"],
            "published": date.fromisoformat(article["published"]),
        }
        for article in json.loads(gold.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def write_parquet(rows: list[dict[str, Any]], target: Path) -> None:
    """Write the rows in groups of 100, so that a reader has several groups to go through."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, target, row_group_size=100, compression="zstd")


def count(gold: Path) -> str:
    """Return the numbers of passages, questions and unanswerable questions as one line."""
    articles = json.loads(gold.read_text(encoding="utf-8"))["data"]
    passages = [paragraph for article in articles for paragraph in article["paragraphs"]]
    questions = [question for passage in passages for question in passage["qas"]]
    unanswerable = sum(question["is_impossible"] for question in questions)
    return f"{len(passages)} passages, {len(questions)} questions, {unanswerable} unanswerable"


if __name__ == "__main__":
    write_parquet(read_rows(HERE / "questions.json"), HERE / "questions.parquet")
    sys.stdout.write(count(HERE / "questions.json") + "\n")
