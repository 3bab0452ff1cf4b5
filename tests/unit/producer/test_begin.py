"""Beginning a job: what is there is given up only for what can take its place."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.begin import begin, begin_retry, check_root, check_untouched
from producer.plan import Request
from producer.scan import prove_input
from producer.source import find_files
from tests.making import make_answer, make_bundle, make_job, make_manifest, write_input
from worker.contracts.errors import InputError, JobError, UsageError
from worker.contracts.folder import JobFolder
from worker.contracts.job import Columns, JobManifest, State
from worker.contracts.options import ReadingOptions
from worker.contracts.store import LocalStore


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    path = write_input(tmp_path / "in.parquet")
    return Request(
        inputs=(str(path),),
        output=str(tmp_path / "out.parquet"),
        columns=Columns(),
        reading=ReadingOptions(null_threshold=0.5),
        bundle=make_bundle(tmp_path / "bundle"),
        provider="cpu",
        job="mine",
    )


def start(request: Request, *, overwrite: bool = False) -> JobManifest:
    folder = JobFolder(LocalStore(Path(request.output).parent / "jobs"), "mine")
    files = find_files(request.inputs)
    return begin(request, files, folder, print, overwrite=overwrite)[0]


def spoil(path: Path) -> None:
    """Damage a page: the footer, which is looked at first, stays whole."""
    texts = pa.array([f"{number * 7919 % 100_003} words" for number in range(9_000)])
    pq.write_table(pa.table({"id": texts, "question": texts, "context": texts}), path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 30] = b"\xff" * 30
    path.write_bytes(raw)


def test_overwriting_gives_up_the_old_job_only_for_an_input_that_can_be_read(
    request_: Request, tmp_path: Path
) -> None:
    manifest = start(request_)
    (tmp_path / "jobs/mine/shards").mkdir()
    left = sorted((tmp_path / "jobs").rglob("*"))
    spoil(tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"in\.parquet is damaged"):
        start(request_, overwrite=True)
    assert sorted((tmp_path / "jobs").rglob("*")) == left
    folder = JobFolder(LocalStore(tmp_path / "jobs"), "mine")
    assert folder.need_manifest() == manifest
    write_input(tmp_path / "in.parquet", 2)
    assert start(request_, overwrite=True).rows == 2
    assert not (tmp_path / "jobs/mine/shards").exists()


def test_a_new_job_with_a_bad_input_leaves_nothing_behind(
    request_: Request, tmp_path: Path
) -> None:
    spoil(tmp_path / "in.parquet")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"in\.parquet is damaged"):
            start(request_, overwrite=overwrite)
        assert not list((tmp_path / "jobs/mine").iterdir())


def test_the_bound_on_errors_is_the_one_that_was_given_last(request_: Request) -> None:
    assert start(replace(request_, max_error_ratio=0.1)).max_error_ratio == 0.1
    assert start(replace(request_, max_error_ratio=0.5)).max_error_ratio == 0.5
    assert start(request_).max_error_ratio is None


def test_a_provider_that_failed_is_written_down_with_the_job(
    request_: Request, tmp_path: Path
) -> None:
    note = "cuda (RuntimeError) did not start here: answering with cpu"
    start(replace(request_, provider_note=note))
    (event,) = JobFolder(LocalStore(tmp_path / "jobs"), "mine").read_events()
    assert (event.state, event.reason) == (State.VALIDATING, note)


def test_a_jobs_folder_under_a_glob_is_refused(request_: Request, tmp_path: Path) -> None:
    check_root(LocalStore(tmp_path / "jobs"), request_)
    over = replace(request_, inputs=(f"{tmp_path}/**/*.parquet",))
    with pytest.raises(UsageError, match="jobs lies in the input: choose another --jobs-root"):
        check_root(LocalStore(tmp_path / "jobs"), over)


def test_an_output_that_came_since_the_job_began_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    output.write_text("mine")
    os.utime(output, (0, 0))  # whatever its time of change says, it has just come
    folder, manifest = make_job(tmp_path / "jobs", [[make_answer(0)]], output=output)
    with pytest.raises(UsageError, match=r"out\.parquet has come or changed since the job job"):
        check_untouched(folder, manifest)
    later = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 60))
    check_untouched(folder, replace(manifest, created_at=later))  # --overwrite was given
    output.unlink()
    check_untouched(folder, manifest)


def test_a_retry_does_not_replace_what_has_taken_its_parents_output(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    parent = make_manifest("job", output, 1, 1)
    made = replace(parent, job="job-retry", parent="job")
    folder = JobFolder(LocalStore(tmp_path / "jobs"), "job-retry")
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        begin_retry(made, folder, parent)
    output.unlink()
    assert begin_retry(made, folder, parent)[0] == made


def test_a_retry_is_refused_an_output_that_could_not_be_written_in_the_end(tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.parquet", 1)
    parent = make_manifest("job", tmp_path / "out.parquet", 1, 1, inputs=(prove_input(path, 1),))
    (tmp_path / "empty").mkdir()
    folder = JobFolder(LocalStore(tmp_path / "jobs"), "job-retry")
    for output, says in (("empty", "is a folder: end it in /"), ("in.parquet", "is an input of")):
        made = replace(parent, job="job-retry", parent="job", output=str(tmp_path / output))
        with pytest.raises(UsageError, match=says):
            begin_retry(made, folder, parent)
    assert folder.read_state() is None


def test_another_id_for_the_same_input_is_another_job(request_: Request) -> None:
    start(request_)
    with pytest.raises(JobError, match="is the id of another job"):
        start(replace(request_, reading=ReadingOptions(null_threshold=0.6)))
