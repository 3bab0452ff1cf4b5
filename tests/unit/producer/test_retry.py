"""A retry: the child job of the error rows, always the same one, and no other parent's."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from producer.collect import collect
from producer.retry import make_retry, name_retry
from producer.run import job_rows
from producer.scan import prove_input
from tests.making import make_answer, make_job, write_input
from worker.contracts.errors import JobError
from worker.contracts.folder import JobFolder
from worker.contracts.job import State, check_job_id
from worker.contracts.records import Status


def make_parent(root: Path, rows: int = 40, *, failed: tuple[int, ...] = (3, 4, 39)) -> JobFolder:
    path = write_input(root / "in" / "a.parquet", rows, k=pa.array(range(rows)))
    answers = [
        make_answer(row, Status.ERROR if row in failed else Status.ANSWERED) for row in range(rows)
    ]
    folder, manifest = make_job(
        root / "jobs",
        [answers[:30], answers[30:]],
        output=root / "out.parquet",
        inputs=(prove_input(path, rows),),
        max_error_ratio=0.1,
    )
    collect(folder, manifest, manifest.output, partial=False)
    folder.put_event(State.COMPLETED_WITH_ERRORS if failed else State.COMPLETED)
    return folder


def test_a_retry_takes_exactly_the_error_rows(tmp_path: Path) -> None:
    parent = make_parent(tmp_path)
    child = make_retry(parent, None)
    assert child is not None
    assert (child.job, child.parent, child.rows, child.batches) == ("job-retry", "job", 3, 1)
    assert child.output == parent.need_manifest().output
    assert child.max_error_ratio is None
    table = pa.concat_tables(job_rows(child, parent.store))
    assert table.column("row").to_pylist() == [3, 4, 39]
    assert table.column("id").to_pylist() == ["q3", "q4", "q39"]


def test_the_same_parent_has_the_same_child(tmp_path: Path) -> None:
    parent = make_parent(tmp_path)
    one, two = (make_retry(parent, None) for _ in range(2))
    assert one is not None
    assert two is not None
    assert replace(one, created_at="") == replace(two, created_at="")


def test_a_retry_can_go_elsewhere_as_a_file_or_a_folder_of_parts(tmp_path: Path) -> None:
    parent = make_parent(tmp_path)
    for output in (f"{tmp_path}/new.parquet", f"{tmp_path}/new/"):
        child = make_retry(parent, output)
        assert child is not None
        assert child.output == output


def test_without_error_rows_there_is_nothing_to_retry(tmp_path: Path) -> None:
    assert make_retry(make_parent(tmp_path, failed=()), None) is None


def test_a_job_that_is_not_finished_cannot_be_retried(tmp_path: Path) -> None:
    parent = make_parent(tmp_path)
    parent.put_event(State.RUNNING)
    with pytest.raises(JobError, match="the job job is not finished"):
        make_retry(parent, None)


@pytest.mark.parametrize("kept_bytes", [0, 10, -5])
def test_a_truncated_list_of_errors_is_named_with_what_writes_it_again(
    tmp_path: Path, kept_bytes: int
) -> None:
    parent = make_parent(tmp_path)
    path = tmp_path / "jobs" / "job" / "errors.parquet"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(JobError, match=r"job/errors\.parquet is damaged .*spanmill collect job "):
        make_retry(parent, None)
    collect(parent, parent.need_manifest(), f"{tmp_path}/new.parquet", partial=False)
    assert make_retry(parent, None) is not None


def test_an_input_that_changed_cannot_be_retried(tmp_path: Path) -> None:
    parent = make_parent(tmp_path)
    write_input(tmp_path / "in" / "a.parquet", 41)
    with pytest.raises(JobError, match=r"a\.parquet has changed since the job"):
        make_retry(parent, None)


def test_retries_of_different_jobs_have_different_names() -> None:
    parents = ["a", "x" * 57, "x" * 58, "x" * 64, "x" * 57 + "-y", "a-retry"]
    names = [check_job_id(name_retry(parent)) for parent in parents]
    assert len({*names}) == len(names)
    assert {*names} & {*parents} == {"a-retry"}
    assert all(name.endswith("-retry") for name in names)
