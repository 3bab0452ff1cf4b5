"""The list of jobs and the collection of one: nothing is hidden, and no input is overwritten."""

import json
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from producer.commands.jobs import collect, jobs
from producer.scan import prove_input
from tests.making import make_answer, make_job, write_input
from worker.contracts.errors import JobError, UsageError
from worker.contracts.folder import JobFolder
from worker.contracts.job import State, shard_key
from worker.contracts.records import Status
from worker.contracts.store import LocalStore


def run(command: click.Command, *arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command, [str(one) for one in arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.stdout


def test_jobs_are_listed_and_a_damaged_one_hides_none(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    for name in ("a", "b", "c"):
        folder, _ = make_job(root, [[make_answer(0)]], job=name)
        folder.put_event(State.COMPLETED)
    (root / "b" / "manifest.json").write_bytes(b"{")
    (root / "c" / "manifest.json").unlink()
    status, told = run(jobs, "--jobs-root", root, "--json")
    assert status == 0
    found: list[dict[str, Any]] = json.loads(told)
    assert [(one["job"], one["state"], one["rows"]) for one in found] == [
        ("a", "completed", 1), ("b", "damaged", None), ("c", "completed", None),
    ]  # fmt: skip
    assert found[0]["output"] == f"{tmp_path}/a.parquet"
    told = run(jobs, "--jobs-root", root)[1]
    assert [line.split()[0] for line in told.splitlines()] == ["job", "a", "b", "c"]


def test_a_job_is_collected_wherever_the_user_wants(tmp_path: Path) -> None:
    make_job(tmp_path / "jobs", [[make_answer(0)], [make_answer(1, Status.ERROR)]])
    at = ("--jobs-root", tmp_path / "jobs")
    status, told = run(collect, "job", "--out", tmp_path / "new.parquet", *at)
    assert (status, told) == (3, f"2 of 2 rows: {tmp_path}/new.parquet\n")
    with pytest.raises(UsageError, match="exists"):
        run(collect, "job", "--out", tmp_path / "new.parquet", *at)
    status, told = run(collect, "job", "--out", f"{tmp_path}/new/", "--json", *at)
    assert (json.loads(told)["rows"], json.loads(told)["partial"]) == (2, False)
    assert pq.read_table(tmp_path / "new").num_rows == 2
    assert run(collect, "job", "--out", f"{tmp_path}/new/", "--overwrite", *at)[0] == 3


def test_part_of_a_job_is_collected_only_if_asked(tmp_path: Path) -> None:
    make_job(tmp_path / "jobs", [[make_answer(0)], [make_answer(1)]])
    (tmp_path / "jobs" / shard_key("job", 0)).unlink()
    arguments = ("job", "--out", tmp_path / "new.parquet", "--jobs-root", tmp_path / "jobs")
    with pytest.raises(JobError, match="lacks its batch 0"):
        run(collect, *arguments)
    told = run(collect, *arguments, "--partial")
    assert told == (0, f"1 of 2 rows (partial): {tmp_path}/new.parquet\n")
    assert pq.read_table(tmp_path / "new.parquet").column("row").to_pylist() == [1]
    told = run(collect, *arguments, "--partial", "--overwrite", "--json")
    assert json.loads(told[1])["partial"] is True


@pytest.fixture
def retried(tmp_path: Path) -> Path:
    """Give the folder of a job of three rows whose only error was answered by a retry."""
    failed = make_answer(1, Status.ERROR)
    parent, manifest = make_job(tmp_path / "jobs", [[make_answer(0), failed, make_answer(2)]])
    parent.put_event(State.COMPLETED_WITH_ERRORS)
    child, _ = make_job(
        tmp_path / "jobs",
        [[make_answer(1)]],
        job="job-retry",
        parent="job",
        output=manifest.output,
    )
    child.put_event(State.COMPLETED)
    return tmp_path / "jobs"


def test_a_finished_retrys_answers_lie_over_those_of_the_job_that_is_collected(
    retried: Path, tmp_path: Path
) -> None:
    output = tmp_path / "job.parquet"
    for job in ("job", "job-retry"):
        told = run(collect, job, "--out", output, "--overwrite", "--jobs-root", retried)
        assert told == (0, f"3 of 3 rows: {output}\n")
        assert pq.read_table(output).column("status").to_pylist() == ["answered"] * 3


def test_a_retry_that_is_not_finished_leaves_the_jobs_answers(
    retried: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new.parquet"
    JobFolder(LocalStore(retried), "job-retry").put_event(State.RUNNING)
    told = run(collect, "job", "--out", output, "--jobs-root", retried)
    assert told == (3, f"3 of 3 rows: {output}\n")


def test_a_retry_collected_in_part_counts_the_rows_of_its_answers(
    retried: Path, tmp_path: Path
) -> None:
    (retried / shard_key("job-retry", 0)).unlink()
    output = tmp_path / "new.parquet"
    told = run(collect, "job-retry", "--out", output, "--partial", "--jobs-root", retried)
    assert told == (3, f"3 of 3 rows (partial): {output}\n")


def test_a_job_is_collected_neither_over_its_input_nor_over_a_folder(tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.parquet", 1)
    (tmp_path / "link.parquet").symlink_to(path)
    (tmp_path / "folder").mkdir()
    make_job(tmp_path / "jobs", [[make_answer(0)]], inputs=(prove_input(path, 1),))
    at = ("--overwrite", "--jobs-root", tmp_path / "jobs")
    for output in (path, tmp_path / "link.parquet", f"{tmp_path}/folder/../in.parquet"):
        with pytest.raises(UsageError, match="is an input of the job"):
            run(collect, "job", "--out", output, *at)
    with pytest.raises(UsageError, match="is a folder: end it in /"):
        run(collect, "job", "--out", tmp_path / "folder", *at)
