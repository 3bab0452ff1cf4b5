"""A finished job's shards to the user's files: answers, errors, statistics, summary.

One shard is held at a time. The answers are written beside their place and renamed last, so that an
output file is always a whole one.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from producer.answers import (
    FIRST_PART,
    PART_ROWS,
    VERSION,
    AnswersMeta,
    AnswerWriter,
    encode_meta,
    put_in_place,
    scratch_folder,
)
from producer.books import Books, Summary
from producer.tables import pick_rows
from worker.contracts.bundle import MANIFEST, parse_manifest
from worker.contracts.errors import JobError, WorldError
from worker.contracts.folder import JobFolder
from worker.contracts.job import BUNDLES, JobManifest, shard_key
from worker.contracts.shard import ANSWER_SCHEMA, decode_schema, read_shard


def collect(folder: JobFolder, manifest: JobManifest, output: str, *, partial: bool) -> Summary:
    """Write the job's answers to ``output`` and its books to its folder.

    ``partial`` takes the batches that are done, and leaves the books, which are the whole job's, as
    they are; without it every row must be there.

    Raises:
        JobError: a batch is missing.
        WorldError: the output cannot be written.
    """
    try:
        with scratch_folder(output, folder.job) as scratch:
            part_rows = PART_ROWS if output.endswith("/") else float("inf")
            books = _write_all(folder, manifest, scratch, part_rows, partial=partial)
            summary = books.summarize(output)
            raw = msgspec.json.format(msgspec.json.encode(summary), indent=1)
            (scratch / "summary.json").write_bytes(raw + b"\n")
            put_in_place(scratch / "answers", output)
            if not partial:
                _put_books(folder, scratch)
    except OSError as error:
        why = str(error) if error.strerror is None else error.strerror
        raise WorldError(
            f"cannot write the answers to {output} ({why}): make room or allow it, then resume or"
            f" collect the job {folder.job}"
        ) from error
    return summary


def count_rows(folder: JobFolder, manifest: JobManifest) -> int:
    """Return the rows of a job's answers: a retry's are all of the job's whose errors it took."""
    while manifest.parent is not None:
        manifest = JobFolder(folder.store, manifest.parent).need_manifest()
    return manifest.rows


def make_meta(folder: JobFolder, manifest: JobManifest) -> AnswersMeta:
    """Gather the footer from the job's manifest and its bundle's."""
    key = f"{BUNDLES}/{manifest.bundle}/{MANIFEST}"
    raw = folder.store.read(key)
    if raw is None:
        raise JobError(
            f"{key} is missing beside the job {folder.job}: give the job's whole command again to"
            " restore it"
        )
    bundle = parse_manifest(raw, key)
    return AnswersMeta(
        version=VERSION,
        job=manifest.job,
        bundle=manifest.bundle,
        bundle_name=manifest.bundle_name,
        null_threshold=manifest.reading.null_threshold,
        calibration=bundle.calibration,
        versions=manifest.versions,
    )


def iter_answers(
    folder: JobFolder, manifest: JobManifest, books: Books | None, *, partial: bool
) -> Iterator[pa.Table]:
    """Yield a job's answers in the order of its rows, a batch at a time.

    A job that retried another's errors yields all of the other's rows, its own laid over.
    """
    own = _iter_shards(folder, manifest, books, partial=partial)
    if manifest.parent is None:
        yield from own
        return
    parent = JobFolder(folder.store, manifest.parent)
    yield from overlay(iter_answers(parent, parent.need_manifest(), None, partial=partial), own)


def overlay(base: Iterator[pa.Table], patches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the base's rows, those that a patch has replaced; both are in the order of rows."""
    waiting: pa.Table | None = None
    for table in base:
        last = table.column("row")[-1].as_py()
        while waiting is None or not waiting.num_rows or waiting.column("row")[-1].as_py() < last:
            patch = next(patches, None)
            if patch is None:
                break
            waiting = patch if waiting is None else pa.concat_tables([waiting, patch])
        if waiting is None:
            yield table
            continue
        count = int(np.searchsorted(waiting.column("row").to_numpy(), last, side="right"))
        yield _replace(table, waiting.slice(0, count))
        waiting = waiting.slice(count)


def _replace(table: pa.Table, patch: pa.Table) -> pa.Table:
    if not patch.num_rows:
        return table
    rows, patched = table.column("row").to_numpy(), patch.column("row").to_numpy()
    there = np.flatnonzero(np.isin(patched, rows))  # a base collected in part may lack some
    order = np.arange(table.num_rows)
    order[np.searchsorted(rows, patched[there])] = table.num_rows + there
    return pick_rows(pa.concat_tables([table, patch]), order)


def _iter_shards(
    folder: JobFolder, manifest: JobManifest, books: Books | None, *, partial: bool
) -> Iterator[pa.Table]:
    numbers = folder.iter_done() if partial else iter(range(manifest.batches))
    for number in numbers:
        raw = folder.need_shard(number)
        try:
            meta, table = read_shard(raw)
        except JobError as error:
            raise JobError(f"{shard_key(folder.job, number)}: {error}") from error
        if books is not None:
            books.enter(meta.stats)
        yield table.replace_schema_metadata(None)


def _write_all(
    folder: JobFolder, manifest: JobManifest, scratch: Path, part_rows: float, *, partial: bool
) -> Books:
    kept = decode_schema(manifest.kept_schema)
    schema = pa.schema([*ANSWER_SCHEMA, *kept], encode_meta(make_meta(folder, manifest)))
    expected = 0
    with ExitStack() as stack:
        books = stack.enter_context(Books(manifest, scratch / "stats.parquet"))
        answers = stack.enter_context(AnswerWriter(scratch / "answers", schema, part_rows))
        errors = stack.enter_context(
            AnswerWriter(scratch / "errors", _error_schema(kept), float("inf"))
        )
        for table in iter_answers(folder, manifest, books, partial=partial):
            rows = table.column("row").to_numpy()
            if not partial and not np.array_equal(rows, expected + np.arange(len(rows))):
                raise JobError(
                    f"the shards of {folder.job} do not join at row {expected}: delete its folder"
                    " and begin anew"
                )
            expected = int(rows[-1]) + 1
            books.count(table)
            answers.write(table)
            failed = pc.equal(table.column("status").cast(pa.string()), "error").to_numpy()
            if failed.any():
                bad = pick_rows(table, np.flatnonzero(failed))
                errors.write(_to_errors(bad, books.attempts, kept))
    return books


def _put_books(folder: JobFolder, scratch: Path) -> None:
    for name, made in (
        ("errors.parquet", scratch / "errors" / FIRST_PART),
        ("stats.parquet", scratch / "stats.parquet"),
        ("summary.json", scratch / "summary.json"),
    ):
        folder.store.put_file(f"{folder.job}/{name}", made)


def _error_schema(kept: pa.Schema) -> pa.Schema:
    named = [ANSWER_SCHEMA.field(name) for name in ("id", "row", "error")]
    return pa.schema([*named, pa.field("attempts", pa.int32()), *kept])


def _to_errors(failed: pa.Table, attempts: int, kept: pa.Schema) -> pa.Table:
    schema = _error_schema(kept)
    counts = pa.array([attempts] * failed.num_rows, pa.int32())
    columns = [
        counts if field.name == "attempts" else failed.column(field.name) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
