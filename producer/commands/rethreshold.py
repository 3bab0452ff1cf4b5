"""The command `rethreshold`: answers decided again at another threshold, without a model."""

import math
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from producer.answers import (
    PART_ROWS,
    AnswersMeta,
    AnswerWriter,
    check_free,
    encode_meta,
    list_parts,
    put_in_place,
    read_answers_meta,
)
from producer.exits import DONE
from producer.options import Threshold, option
from producer.plan import check_writable
from worker.contracts.errors import InputError
from worker.contracts.records import Status
from worker.contracts.verdict import judge

CHUNK_ROWS = 8192
_READ = ("status", "null_odds", "margin", "best_answer", "best_start_char", "best_end_char")


@click.command()
@click.argument("answers", type=click.Path(path_type=Path))
@option(
    "--null-threshold", required=True, type=Threshold(), help="A number, or inf: answer always."
)
@option("--out", "output", required=True, help="Parquet file, or a folder if it ends in /.")
@option("--overwrite", is_flag=True, help="Replace the output.")
def rethreshold(answers: Path, null_threshold: float, output: str, overwrite: bool) -> int:
    """Decide ANSWERS again: every row carries what that needs. Error rows stay as they are."""
    parts = list_parts(answers)
    meta = read_answers_meta(parts[0])
    if meta is None:
        raise InputError(f"{answers} is no answers file: give what `answer` wrote")
    check_free(output, overwrite=overwrite)
    folder = Path(output.rstrip("/")).absolute().parent
    check_writable(folder, "the output's folder", "--out")
    judged = replace(meta, null_threshold=None if math.isinf(null_threshold) else null_threshold)
    schema = pq.read_schema(parts[0]).with_metadata(encode_meta(judged))
    scratch = folder / f".spanmill-{uuid.uuid4().hex}"
    counts = dict.fromkeys(Status, 0)
    try:
        part_rows = PART_ROWS if output.endswith("/") else float("inf")
        with AnswerWriter(scratch, schema, part_rows) as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches(CHUNK_ROWS):
                    writer.write(_judge(pa.Table.from_batches([batch]), judged, counts))
        put_in_place(scratch, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    click.echo(f"{told}: {output}")
    return DONE


def _judge(table: pa.Table, meta: AnswersMeta, counts: dict[Status, int]) -> pa.Table:
    rows = [
        _judge_row(row, meta, confidence)
        for row, confidence in zip(
            table.select(list(_READ)).to_pylist(), table["confidence"].to_pylist(), strict=True
        )
    ]
    for row in rows:
        counts[Status(row[0])] += 1
    names = ("status", "confidence", "answer", "start_char", "end_char")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        table = table.set_column(index, field, pa.array(values, field.type))
    return table


def _judge_row(row: dict[str, Any], meta: AnswersMeta, confidence: float | None) -> tuple[Any, ...]:
    if row["status"] == Status.ERROR:
        return str(Status.ERROR), confidence, None, None, None
    verdict = judge(row["null_odds"], row["margin"], meta.null_threshold, meta.calibration)
    span: tuple[Any, ...] = (None, None, None)
    if verdict.status == Status.ANSWERED:
        span = (row["best_answer"], row["best_start_char"], row["best_end_char"])
    return str(verdict.status), verdict.confidence, *span
