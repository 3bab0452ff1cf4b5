"""The command `rethreshold`: answers decided again at another threshold, without a model."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from producer.answers import (
    PART_ROWS,
    VERSION,
    AnswersMeta,
    AnswerWriter,
    check_free,
    encode_meta,
    list_parts,
    put_in_place,
    read_answers_meta,
    scratch_folder,
)
from producer.exits import DONE
from producer.options import OUTPUT, option, read_threshold
from producer.place import Place, to_source
from producer.plan import check_place, check_writable
from worker.contracts.errors import InputError, WorldError
from worker.contracts.records import Status
from worker.contracts.url import find_parent, to_path
from worker.contracts.verdict import judge

CHUNK_ROWS = 8192
_READ = ("status", "null_odds", "margin", "best_answer", "best_start_char", "best_end_char")


@click.command()
@click.argument("answers")
@option(
    "--null-threshold",
    required=True,
    type=read_threshold,
    metavar="NUMBER",
    help="A number, or inf: answer always.",
)
@OUTPUT
@option("--overwrite", is_flag=True, help="Replace the output.")
def rethreshold(answers: str, null_threshold: float, output: str, overwrite: bool) -> int:
    """Decide ANSWERS again: every row carries what that needs. Error rows stay as they are."""
    parts = list_parts(answers)
    meta = _need_meta(answers, parts[0])
    output = to_path(output)
    check_place(output)
    check_free(output, overwrite=overwrite)
    check_writable(find_parent(output), "the output's folder", "--out")
    judged = replace(meta, null_threshold=None if math.isinf(null_threshold) else null_threshold)
    schema = pq.read_schema(to_source(parts[0])).with_metadata(encode_meta(judged))
    counts = dict.fromkeys(Status, 0)
    try:
        with scratch_folder(output, "rethreshold") as scratch:
            made = scratch / "answers"
            part_rows = PART_ROWS if output.endswith("/") else float("inf")
            with AnswerWriter(made, schema, part_rows) as writer:
                for table in _read(parts):
                    writer.write(_judge(table, judged, counts))
            put_in_place(made, output)
    except OSError as error:
        why = str(error) if error.strerror is None else error.strerror
        raise WorldError(f"cannot write {output} ({why}): make room or allow it") from error
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    click.echo(f"{told}: {output}")
    return DONE


def _need_meta(answers: str, part: Place) -> AnswersMeta:
    meta = read_answers_meta(part)
    if meta is None:
        raise InputError(f"{answers} is no answers file: give what `answer` wrote")
    if meta.version > VERSION:
        raise InputError(
            f"{answers} has version {meta.version} but this program reads {VERSION}:"
            " upgrade spanmill"
        )
    return meta


def _read(parts: list[Place]) -> Iterator[pa.Table]:
    for part in parts:
        try:
            for batch in pq.ParquetFile(to_source(part)).iter_batches(CHUNK_ROWS):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{part} is damaged ({type(error).__name__}): collect the job again"
            ) from error


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
