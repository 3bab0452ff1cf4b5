"""`spanmill answer` from end to end: rows in are rows out, and once more does no harm."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.desk import HOME, ROWS, THRESHOLD, Desk, Row, make_rows

SUMMARY_KEYS = {
    "job", "rows", "answered", "unanswerable", "errors", "seconds", "rows_per_second", "latency_ms",
    "queue_ms", "tokenize_ms", "inference_ms", "decode_ms", "padding_efficiency", "bundle",
    "bundle_name", "provider", "output", "versions",
}  # fmt: skip
COLUMNS = [
    "id", "row", "status", "answer", "start_char", "end_char", "confidence", "score", "null_odds",
    "margin", "best_answer", "best_start_char", "best_end_char", "alternatives", "windows",
    "warning", "error", "latency_ms",
]  # fmt: skip


def test_rows_in_are_rows_out_in_their_order(undisturbed: list[Row]) -> None:
    rows = make_rows(ROWS)
    assert [row["row"] for row in undisturbed] == list(range(ROWS))
    assert [row["id"] for row in undisturbed] == [row["id"] for row in rows]
    assert {row["status"] for row in undisturbed} == {"answered", "unanswerable"}
    for asked, row in zip(rows, undisturbed, strict=True):
        start, end = row["best_start_char"], row["best_end_char"]
        assert asked["context"][start:end] == row["best_answer"]
        assert (row["answer"] is not None) == (row["status"] == "answered")
        assert (row["status"] == "unanswerable") == (row["null_odds"] > float(THRESHOLD))


def test_the_answers_have_the_columns_that_are_promised(desk: Desk) -> None:
    assert desk.answer().status == 0
    table = desk.table()
    assert table.schema.names == COLUMNS
    assert table.schema.field("status").type == pa.dictionary(pa.int8(), pa.string())
    assert set(table.column("alternatives").to_pylist()[0]) == set()


def test_kept_columns_come_through_unchanged(desk: Desk) -> None:
    kept = pa.table(
        {
            "number": pa.array(range(ROWS), pa.decimal128(9, 2)),
            "nested": pa.array([{"a": [n, None]} for n in range(ROWS)]),
            "when": pa.array(range(ROWS), pa.timestamp("us", "Europe/Madrid")),
            "label": pa.array([f"l{n % 3}" for n in range(ROWS)]).dictionary_encode(),
            "raw": pa.array([bytes([n, 0, 255]) if n % 5 else None for n in range(ROWS)]),
        }
    )
    table = pa.Table.from_pylist(make_rows(ROWS)).drop_columns(["number"])
    for field in kept.schema:
        table = table.append_column(field, kept.column(field.name))
    pq.write_table(table, desk.folder / "in.parquet")
    words = [word for name in kept.schema.names for word in ("--keep", name)]
    assert desk.answer(*words).status == 0
    out = desk.table()
    assert out.schema.names[len(COLUMNS) :] == kept.schema.names
    for field in pq.read_schema(desk.folder / "in.parquet"):
        if field.name in kept.schema.names:
            assert out.schema.field(field.name).type == field.type
            assert out.column(field.name).to_pylist() == kept.column(field.name).to_pylist()


def test_the_keep_option_refuses_an_output_columns_name(desk: Desk) -> None:
    ran = desk.answer("--keep", "id")
    assert ran.status == 2
    assert "--keep id" in ran.complaint()


def test_top_k_gives_so_many_alternatives_best_first(desk: Desk) -> None:
    assert desk.answer("--top-k", "3").status == 0
    for row in desk.answers():
        scores = [one["score"] for one in row["alternatives"]]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert row["alternatives"][0]["text"] == row["best_answer"]


def test_infinity_as_threshold_answers_always(desk: Desk) -> None:
    assert desk.answer("--null-threshold", "inf").status == 0
    assert {row["status"] for row in desk.answers()} == {"answered"}


def test_several_inputs_are_one_in_the_order_given(desk: Desk) -> None:
    rows = make_rows(12)
    desk.write(rows[:4], "z.parquet")
    desk.write(rows[4:6], "folder/b.parquet")
    (desk.folder / "folder/a.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[6:8])
    )
    desk.write(rows[8:9], "glob-2.parquet")
    desk.write(rows[9:], "glob-1.parquet")
    ran = desk.answer("folder", "glob-*.parquet", source="z.parquet")
    assert ran.status == 0, ran.err
    ids = [row["id"] for row in desk.answers()]
    assert ids == ["q0", "q1", "q2", "q3", "q6", "q7", "q4", "q5", "q9", "q10", "q11", "q8"]
    assert [row["row"] for row in desk.answers()] == list(range(12))


@pytest.mark.parametrize(
    "words",
    [("--workers", "1"), ("--workers", "2"), ("--batch-rows", "1"), ("--batch-rows", "1000")],
    ids=" ".join,
)
def test_answers_depend_neither_on_workers_nor_on_batches(
    desk: Desk, undisturbed: list[Row], words: tuple[str, str]
) -> None:
    assert desk.answer(*words).status == 0
    assert desk.answers() == undisturbed


def test_batch_rows_cuts_the_batches(desk: Desk) -> None:
    assert desk.answer("--batch-rows", "5").status == 0
    stats = pq.read_table(desk.jobs / desk.job() / "stats.parquet").to_pylist()
    assert [one["rows"] for one in stats] == [5] * 9 + [3]
    assert [one["batch"] for one in stats] == list(range(10))


def test_the_same_command_again_says_so_and_writes_nothing(desk: Desk) -> None:
    assert desk.answer().status == 0
    before = {name: _state(desk.folder / name) for name in desk.files()}
    ran = desk.answer()
    assert ran.status == 0
    assert "is done already" in ran.out
    assert ran.err == ""
    after = {name: _state(desk.folder / name) for name in desk.files()}
    assert after == before


def test_the_same_command_again_repeats_the_status_of_error_rows(desk: Desk) -> None:
    desk.write([*make_rows(6), {**make_rows(1)[0], "context": None}])
    assert desk.answer().status == 3
    ran = desk.answer()
    assert ran.status == 3
    assert "is done already" in ran.out


def test_a_removed_output_is_collected_again_without_answering(desk: Desk) -> None:
    assert desk.answer().status == 0
    before, shards = desk.answers(), desk.shards()
    (desk.folder / "out.parquet").unlink()
    assert desk.answer().status == 0
    assert desk.answers() == before
    assert desk.shards() == shards


def test_an_output_that_exists_is_refused_and_kept(desk: Desk) -> None:
    (desk.folder / "out.parquet").write_text("mine")
    ran = desk.answer()
    assert ran.status == 2
    assert "exists" in ran.complaint()
    assert (desk.folder / "out.parquet").read_text() == "mine"
    assert not list(desk.jobs.glob("*/manifest.json"))


def test_overwrite_replaces_the_output_and_begins_anew(desk: Desk) -> None:
    assert desk.answer().status == 0
    shards = desk.shards()
    desk.write(make_rows(5))
    ran = desk.answer("--overwrite")
    assert ran.status == 0, ran.err
    assert len(desk.answers()) == 5
    assert not set(desk.shards().items()) & set(shards.items())


def test_overwrite_keeps_what_is_there_when_it_cannot_begin(desk: Desk) -> None:
    assert desk.answer().status == 0
    before, shards = desk.answers(), desk.shards()
    (desk.folder / "in.parquet").write_text("no longer Parquet")
    assert desk.answer("--overwrite").status == 2
    assert desk.answers() == before
    assert desk.shards() == shards


def test_a_changed_input_is_noticed_by_a_finished_job(desk: Desk) -> None:
    assert desk.answer().status == 0
    desk.write(make_rows(ROWS)[::-1])
    ran = desk.answer()
    assert ran.status == 1
    assert "has changed since the job" in ran.complaint()


def test_an_input_that_is_gone_is_noticed_by_a_finished_job(desk: Desk) -> None:
    desk.write(make_rows(3), "folder/a.parquet")
    desk.write(make_rows(3), "folder/b.parquet")
    assert desk.answer(source="folder").status == 0
    (desk.folder / "folder/b.parquet").unlink()
    ran = desk.answer(source="folder")
    assert ran.status == 1
    assert ran.complaint()


def test_another_jobs_id_is_refused(desk: Desk) -> None:
    assert desk.answer("--job-id", "mine").status == 0
    ran = desk.answer("--job-id", "mine", "--top-k", "2")
    assert ran.status == 1
    assert "'mine' is the id of another job" in ran.complaint()


@pytest.mark.parametrize("job", ["", "../up", "Big", "a b", "bundles", "x" * 65, "-x"])
def test_a_job_id_that_is_none_is_refused(desk: Desk, job: str) -> None:
    before = desk.files()
    ran = desk.answer(f"--job-id={job}")
    assert ran.status == 2
    assert "is no job id" in ran.complaint()
    assert desk.files() == before


def test_a_dry_run_writes_nothing(desk: Desk) -> None:
    before = desk.files()
    ran = desk.answer("--dry-run", "--out", "new/folder/out.parquet", "--jobs-root", "else/where")
    assert ran.status == 0, ran.err
    assert f"{ROWS} rows of 1 files in 12 batches" in ran.out
    assert desk.files() == before


def test_a_dry_run_refuses_what_the_run_would_refuse(desk: Desk) -> None:
    (desk.folder / "out.parquet").write_text("mine")
    assert desk.answer("--dry-run").status == 2
    ran = desk.answer("--dry-run", "--overwrite", "--json")
    assert ran.status == 0
    assert ran.json()["rows"] == ROWS
    (desk.folder / "taken").write_text("mine")
    ran = desk.answer("--dry-run", "--overwrite", "--jobs-root", "taken")
    assert ran.status == 2
    assert "the jobs' folder" in ran.complaint()


def test_json_is_a_summary_that_agrees_with_the_file(desk: Desk) -> None:
    desk.write([*make_rows(20), {**make_rows(1)[0], "question": None}])
    ran = desk.answer("--json")
    assert ran.status == 3
    summary = ran.json()
    assert set(summary) == SUMMARY_KEYS
    statuses = [row["status"] for row in desk.answers()]
    assert summary["rows"] == len(statuses) == 21
    assert summary["answered"] == statuses.count("answered")
    assert summary["unanswerable"] == statuses.count("unanswerable")
    assert summary["errors"] == statuses.count("error") == 1
    assert set(summary["latency_ms"]) == {"p50", "p95", "p99"}
    assert summary == json.loads((desk.jobs / desk.job() / "summary.json").read_text())
    assert desk.answer("--json").json() == summary


def test_every_option_can_come_from_the_environment(desk: Desk) -> None:
    env = {
        "SPANMILL_OUT": "there.parquet",
        "SPANMILL_BUNDLE": str(desk.bundle),
        "SPANMILL_NULL_THRESHOLD": "inf",
        "SPANMILL_TOP_K": "1",
        "SPANMILL_BATCH_ROWS": "7",
        "SPANMILL_KEEP": "number",
        "SPANMILL_JOBS_ROOT": "jobs",
        "SPANMILL_JOB_ID": "from-outside",
        "SPANMILL_WORKERS": "1",
        "SPANMILL_JSON": "1",
    }
    ran = desk.run("answer", "in.parquet", env=env)
    assert ran.status == 0, ran.err
    assert ran.json()["job"] == "from-outside"
    out = desk.table("there.parquet")
    assert "number" in out.schema.names
    assert set(out.column("status").to_pylist()) == {"answered"}
    assert len(list((desk.folder / "jobs/from-outside/shards").rglob("*.parquet"))) == 7


def test_progress_is_silent_where_there_is_no_terminal(desk: Desk) -> None:
    ran = desk.answer()
    assert ran.status == 0
    assert ran.err == ""


def test_progress_is_a_bar_on_a_terminal(desk: Desk) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", *map(str, desk.words())],
        cwd=desk.folder,
        env={**os.environ, "PYTHONPATH": str(HOME), "TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = _read_terminal(ours)
    assert process.wait(timeout=60) == 0
    assert f"{ROWS}/{ROWS} rows" in shown
    assert "━" in shown


def test_too_many_errors_stop_the_job_and_leave_no_output(desk: Desk) -> None:
    rows = make_rows(200)
    bad = [{**row, "context": None} if row["number"] < 40 else row for row in rows]
    desk.write(bad)
    ran = desk.answer("--max-error-ratio", "0.1", "--workers", "1")
    assert ran.status == 1
    assert "more than --max-error-ratio 0.1 allows" in ran.complaint()
    assert not (desk.folder / "out.parquet").exists()
    assert desk.states()[-1] == "failed"
    assert len(desk.shards()) < 50, "it should have stopped early"
    look = desk.run("collect", desk.job(), "--partial", "--out", "part.parquet")
    assert look.status == 3, look.err
    assert desk.answers("part.parquet")[0]["status"] == "error"


def test_a_job_that_failed_by_its_ratio_goes_on_with_a_larger_one(desk: Desk) -> None:
    rows = make_rows(20)
    rows[3]["context"] = None
    desk.write(rows)
    assert desk.answer("--max-error-ratio", "0.01").status == 1
    shards = desk.shards()
    assert desk.answer("--max-error-ratio", "0.1").status == 3
    assert shards.items() <= desk.shards().items()
    assert len(desk.answers()) == 20


def test_a_ratio_that_is_kept_to_lets_the_job_pass(desk: Desk) -> None:
    rows = make_rows(20)
    rows[3]["context"] = None
    desk.write(rows)
    assert desk.answer("--max-error-ratio", "0.05").status == 3


def test_a_folder_of_parts_is_written_and_known_again(desk: Desk) -> None:
    words = ["answer", "in.parquet", "--out", "parts/", "--bundle", desk.bundle]
    assert desk.run(*words).status == 0
    assert [path.name for path in (desk.folder / "parts").iterdir()] == ["part-00000.parquet"]
    again = desk.run(*words)
    assert again.status == 0
    assert "is done already" in again.out


def test_a_copied_jobs_folder_resumes_elsewhere(desk: Desk, undisturbed: list[Row]) -> None:
    assert desk.answer().status == 0
    job = desk.job()
    shutil.move(desk.jobs, desk.folder / "moved")
    for path in sorted((desk.folder / "moved" / job / "shards").rglob("*.parquet"))[::2]:
        path.unlink()
    for path in (desk.folder / "moved" / job / "events").glob("*co*.json"):
        path.unlink()
    (desk.folder / "out.parquet").unlink()
    ran = desk.run("resume", job, "--jobs-root", "moved")
    assert ran.status == 0, ran.err
    assert desk.answers() == undisturbed


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_terminal(descriptor: int) -> str:
    shown = b""
    with contextlib.suppress(OSError):  # the other side has gone
        while chunk := os.read(descriptor, 4096):
            shown += chunk
    os.close(descriptor)
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", shown.decode())
