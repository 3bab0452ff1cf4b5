"""The same jobs with inputs, answers and jobs' folder in an object store."""

import json
from pathlib import Path

import pytest

from tests.desk import ROWS, THRESHOLD, Desk, Row, make_rows
from tests.fleet import FleetDesk
from tests.s3_server import S3


def put_input(desk: Desk, s3: S3, key: str = "in.parquet") -> str:
    return s3.put(key, desk.folder / "in.parquet")


def answers(s3: S3, key: str = "out.parquet") -> list[Row]:
    rows: list[Row] = s3.table(key).drop_columns(["latency_ms"]).to_pylist()
    return rows


def test_answers_from_a_store_into_it_are_those_of_a_disk(
    desk: Desk, s3: S3, undisturbed: list[Row]
) -> None:
    source, output, root = put_input(desk, s3), f"{s3.url}/out.parquet", f"{s3.url}/jobs"
    before = desk.files()
    where = ["--out", output, "--jobs-root", root]
    planned = desk.answer(*where, "--dry-run", source=source)
    assert planned.status == 0, planned.err
    assert s3.list() == ["in.parquet"]
    ran = desk.answer(*where, "--json", source=source)
    assert ran.status == 0, ran.err
    assert answers(s3) == undisturbed
    assert desk.files() == before, "nothing is left on the disk"
    job = ran.json()["job"]
    kept = set(s3.list(f"jobs/{job}"))
    assert {f"jobs/{job}/{name}" for name in ("errors.parquet", "manifest.json", "stats.parquet",
                                              "summary.json")} < kept  # fmt: skip
    assert len([key for key in kept if "/shards/" in key]) == ROWS // 4
    etag = s3.etag("out.parquet")
    again = desk.answer(*where, source=source)
    assert (again.status, again.out.splitlines()[0]) == (
        0, f"the job {job} is done already; --overwrite begins anew",
    )  # fmt: skip
    assert s3.etag("out.parquet") == etag

    listed = desk.run("jobs", "--jobs-root", root, "--json").json()
    assert [(one["job"], one["state"]) for one in listed] == [(job, "completed")]
    status = desk.run("status", job, "--jobs-root", root, "--json").json()
    assert (status["state"], status["rows_done"]) == ("completed", ROWS)
    assert desk.run("watch", job, "--jobs-root", root).status == 0
    assert "is completed already" in desk.run("cancel", job, "--jobs-root", root).complaint()
    collected = desk.run("collect", job, "--jobs-root", root, "--out", f"{s3.url}/parts/")
    assert collected.status == 0, collected.err
    assert answers(s3, "parts/part-00000.parquet") == undisturbed
    assert desk.run("collect", job, "--jobs-root", root, "--out", "here.parquet").status == 0
    assert desk.answers("here.parquet") == undisturbed


def test_folders_globs_and_a_local_file_are_one_input(
    desk: Desk, s3: S3, undisturbed: list[Row]
) -> None:
    rows = make_rows(ROWS)
    for key, part in (("in/a/1.parquet", rows[:10]), ("in/b/2.parquet", rows[10:30])):
        s3.put(key, desk.write(part, "part.parquet"))
    desk.write(rows[30:], "rest.parquet")
    inputs = [f"{s3.url}/in/a/", f"{s3.url}/in/**/2.parquet", "rest.parquet"]
    words = ["answer", *inputs, "--out", f"{s3.url}/out/", "--bundle", desk.bundle]
    ran = desk.run(*words, "--jobs-root", "jobs", "--null-threshold", THRESHOLD, "--workers", 1)
    assert ran.status == 0, ran.err
    assert answers(s3, "out/part-00000.parquet") == undisturbed


def test_what_needs_no_model_works_on_urls_too(desk: Desk, s3: S3) -> None:
    rows = make_rows(8)
    rows[3]["question"] = None
    source = s3.put("in.parquet", desk.write(rows))
    gold = [{"id": row["id"], "answers": {"text": ["Joan"]}} for row in rows]
    s3.put("gold.jsonl", "\n".join(map(json.dumps, gold)).encode())
    where = ["--out", f"{s3.url}/out.parquet"]
    assert desk.answer(*where, source=source).status == 3
    root = f"{s3.url}/spanmill-jobs"
    job = desk.run("jobs", "--jobs-root", root, "--json").json()[0]["job"]
    retried = desk.run(
        "retry-errors", job, "--jobs-root", root, "--out", f"{s3.url}/retried.parquet"
    )
    assert retried.status == 3, retried.err
    assert answers(s3, "retried.parquet") == answers(s3)
    url = f"{s3.url}/out.parquet"
    judged = desk.run(
        "rethreshold", url, "--null-threshold", "inf", "--out", f"{s3.url}/all.parquet"
    )
    assert judged.status == 0, judged.err
    assert s3.table("all.parquet").column("status").to_pylist().count("answered") == 7
    scored = desk.run("evaluate", url, "--gold", f"{s3.url}/gold.jsonl", "--json")
    assert scored.json()["total"] == 8
    refused = desk.run("rethreshold", url, "--null-threshold", "0", "--out", url)
    assert "exists: choose another --out" in refused.complaint()


def test_a_job_that_was_killed_goes_on_where_it_was(
    desk: Desk, s3: S3, undisturbed: list[Row]
) -> None:
    source, root = put_input(desk, s3), f"{s3.url}/jobs"
    where = ["--out", f"{s3.url}/out.parquet", "--jobs-root", root]
    words = desk.words(*where, source=source)
    started = desk.start(*words)
    while not (found := [key for key in s3.list("jobs") if "/shards/" in key]):
        assert started.process.poll() is None
    started.kill()
    assert "out.parquet" not in s3.list()
    etags = {key: s3.etag(key) for key in found}
    job = found[0].split("/")[1]
    ran = desk.run("resume", job, "--jobs-root", root, "--workers", 1)
    assert ran.status == 0, ran.err
    assert answers(s3) == undisturbed
    assert {key: s3.etag(key) for key in found} == etags


def test_overwrite_forgets_all_of_the_old_job(desk: Desk, s3: S3, undisturbed: list[Row]) -> None:
    source = s3.put("in.parquet", desk.write(make_rows(8)))
    where = ["--out", f"{s3.url}/out.parquet", "--job-id", "job"]
    assert desk.answer(*where, source=source).status == 0
    s3.put("in.parquet", desk.write(make_rows(ROWS)))
    changed = desk.answer(*where, source=source)
    assert changed.status == 1
    assert "in.parquet has changed since the job job began" in changed.complaint()
    assert desk.answer(*where, "--overwrite", source=source).status == 0
    assert answers(s3) == undisturbed


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["--out", "s3://no-such-bucket/out.parquet"], 2, "make the bucket s3://no-such-bucket"),
        (["--jobs-root", "s3://no-such-bucket/x"], 2, "make the bucket s3://no-such-bucket"),
        (["--jobs-root", "memory://x"], 2, "memory://x is no URL that is known here"),
        (["--out", "{url}"], 2, "is a whole bucket: name an object or a folder in it"),
        (["--out", "{url}/in.parquet"], 2, "lies in the input"),
        (["--out", "{url}/in"], 2, "is a folder: end it in /"),
        (["--out", "{url}/there.parquet"], 2, "exists: choose another --out"),
        (["--out", "{url}/in/out.parquet"], 2, "lies in the input"),
        (["--jobs-root", "{url}/in/jobs"], 2, "lies in the input: choose another --jobs-root"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    desk: Desk, s3: S3, words: list[str], status: int, why: str
) -> None:
    source = put_input(desk, s3)
    put_input(desk, s3, "in/1.parquet")
    s3.put("there.parquet", b"x")
    before = s3.list()
    usual = ["answer", source, f"{s3.url}/in/", "--bundle", desk.bundle]
    if "--out" not in words:
        usual += ["--out", "out.parquet"]
    ran = desk.run(*usual, *(word.format(url=s3.url) for word in words))
    assert ran.status == status
    assert why in ran.complaint()
    assert s3.list() == before


def test_workers_share_nothing_but_the_broker_and_the_store(
    fleet: FleetDesk,
    s3: S3,
    undisturbed: list[Row],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    source, root = put_input(fleet.desk, s3), f"{s3.url}/jobs"
    for name in ("one", "two"):
        home = tmp_path / name
        home.mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        fleet.start_worker("--jobs-root", root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    words = ["submit", source, "--out", f"{s3.url}/out.parquet", "--jobs-root", root]
    usual = ["--bundle", fleet.desk.bundle, "--null-threshold", THRESHOLD, "--batch-rows", "4"]
    ran = fleet.desk.run(*words, *usual, "--broker", fleet.server.url, "--json")
    assert ran.status == 0, ran.err
    assert answers(s3) == undisturbed
    pids = set(s3.table(f"jobs/{ran.json()['job']}/stats.parquet").column("pid").to_pylist())
    assert len(pids) == 2, "both workers took part"
    for name in ("one", "two"):
        cache = tmp_path / name / "spanmill"
        copies = sorted(path.name for path in cache.rglob("*") if path.is_file())
        assert copies == ["bundle.json", "model.onnx", "tokenizer.json"]
    assert not (tmp_path / "none" / "spanmill").exists(), "the producer needs no copy"
    check = fleet.desk.run("worker", "--broker", fleet.server.url, "--jobs-root", root, "--check")
    assert check.status == 0, check.err
