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
from worker.contracts.job import State, shard_key
from worker.contracts.records import Status


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
