"""A job: its batches follow from its manifest, which is read back or refused in a sentence."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.making import make_manifest
from worker.contracts.errors import JobError, UsageError
from worker.contracts.job import (
    BATCHES_AT_LEAST,
    LARGEST_BATCH_ROWS,
    SMALLEST_BATCH_ROWS,
    VERSION,
    Columns,
    Cut,
    InputFile,
    check_job_id,
    choose_cut,
    cut_batches,
    decode_manifest,
    encode_manifest,
    shard_key,
)
from worker.contracts.options import ForwardPolicy, ReadingOptions

MANIFEST = make_manifest(
    "job-1",
    "/out/é.parquet",
    rows=3,
    batches=1,
    inputs=(InputFile("/in/a.parquet", 10, "ab", 3),),
    columns=Columns(id=None, keep=("x", "y")),
    reading=ReadingOptions(null_threshold=None, top_k=2),
    max_error_ratio=0.5,
    parent="job-0",
    versions={"spanmill": "0.1.0"},
)

sizes = st.lists(st.integers(0, 50), max_size=60)


@given(sizes, st.integers(1, 10), st.integers(1, 120))
def test_a_batch_ends_where_one_more_row_would_break_a_bound(
    row_bytes: list[int], most_rows: int, most_bytes: int
) -> None:
    counts = list(cut_batches(iter(row_bytes), Cut(most_rows, most_bytes)))
    assert sum(counts) == len(row_bytes)
    first = 0
    for count in counts:
        held = sum(row_bytes[first : first + count])
        assert 1 <= count <= most_rows
        assert held <= most_bytes or count == 1
        first += count
        if first < len(row_bytes):
            assert count == most_rows or held + row_bytes[first] > most_bytes


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 10))
def test_batches_before_a_row_do_not_depend_on_the_rows_after_it(
    row_bytes: list[int], most_rows: int
) -> None:
    whole = list(cut_batches(iter(row_bytes), Cut(most_rows, 60)))
    part = list(cut_batches(iter(row_bytes[:-1]), Cut(most_rows, 60)))
    assert part[:-1] == whole[: max(len(part) - 1, 0)]


@given(st.integers(0, 10**7))
def test_small_jobs_get_smaller_batches_within_bounds(rows: int) -> None:
    cut = choose_cut(rows, None)
    assert SMALLEST_BATCH_ROWS <= cut.max_rows <= LARGEST_BATCH_ROWS
    if cut.max_rows > SMALLEST_BATCH_ROWS:
        assert rows // cut.max_rows >= BATCHES_AT_LEAST


def test_a_number_of_rows_that_is_asked_for_overrules_the_rule() -> None:
    assert choose_cut(10, 1000) == Cut(1000)


@pytest.mark.parametrize(("rows", "size"), [(0, 1), (1, 0), (-1, 5)])
def test_a_bound_that_bounds_nothing_is_refused(rows: int, size: int) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Cut(rows, size)
    with pytest.raises(JobError, match="m is not a manifest"):
        decode_manifest(change(cut={"max_rows": rows, "max_bytes": size}), "m")


@pytest.mark.parametrize(("windows", "tokens"), [(0, 1), (1, 0), (-1, 9)])
def test_a_model_run_without_bounds_is_refused(windows: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="at least one window"):
        ForwardPolicy(windows, tokens)
    with pytest.raises(JobError, match="m is not a manifest"):
        decode_manifest(change(forward={"max_windows": windows, "max_tokens": tokens}), "m")


def test_a_manifest_that_is_nested_without_end_is_refused() -> None:
    with pytest.raises(JobError, match="m is not a manifest"):
        decode_manifest(b'{"version": 1, "x": ' + b"[" * 100_000, "m")


def test_a_manifest_is_read_back_equal() -> None:
    assert decode_manifest(encode_manifest(MANIFEST), "m") == MANIFEST


def change(**changes: Any) -> bytes:
    return json.dumps(json.loads(encode_manifest(MANIFEST)) | changes).encode()


def test_a_newer_manifest_is_refused_as_newer_whatever_it_holds() -> None:
    for raw in (change(version=VERSION + 1), change(version=VERSION + 1, rows="many", cut=None)):
        with pytest.raises(JobError, match=rf"m has version {VERSION + 1} .* upgrade spanmill"):
            decode_manifest(raw, "m")


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b"null", b"{\xff}", encode_manifest(MANIFEST)[:-5], change(rows="x")]
)
def test_a_damaged_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(JobError, match="m is not a manifest"):
        decode_manifest(raw, "m")


def test_a_field_that_a_later_release_of_this_version_adds_is_passed_over() -> None:
    assert decode_manifest(change(colour="blue"), "m") == MANIFEST


@pytest.mark.parametrize("job", ["a", "0", "a-b-1", "x" * 64])
def test_a_job_id_is_a_short_name(job: str) -> None:
    assert check_job_id(job) == job


@pytest.mark.parametrize(
    "job", ["", "-a", "A", "a_b", "a.b", "..", "a/b", "x" * 65, "é", "a\n", " a", ".tmp", "bundles"]
)
def test_what_could_name_another_folder_is_no_job_id(job: str) -> None:
    with pytest.raises(UsageError, match="is no job id"):
        check_job_id(job)


def test_shards_lie_in_folders_of_a_thousand() -> None:
    assert shard_key("j", 0) == "j/shards/0000/0000000.parquet"
    assert shard_key("j", 12_345_678) == "j/shards/12345/12345678.parquet"
    assert len({shard_key("j", batch).rsplit("/", 1)[0] for batch in range(2000)}) == 2
