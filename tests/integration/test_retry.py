"""`spanmill retry-errors`: error rows are answered again, and laid over the others."""

import pytest

from tests.desk import ROWS, Desk, Row, make_rows

BAD_ROWS = (2, 21, 22, 47)


@pytest.fixture
def faulty(desk: Desk) -> Desk:
    """Give a desk whose job has four error rows, which a retry can read."""
    rows = make_rows(ROWS)
    for row in BAD_ROWS:
        rows[row]["context"] += "<<segv@encode>>"
    desk.write(rows)
    ran = desk.start(*desk.words(), program=("-m", "tests.perils", "300")).finish()
    assert ran.status == 3, ran.err
    return desk


def expected(undisturbed: list[Row]) -> list[Row]:
    return [row for row in undisturbed if row["row"] not in BAD_ROWS]


def test_a_retry_answers_the_error_rows_alone_and_lays_them_over(
    faulty: Desk, undisturbed: list[Row]
) -> None:
    job = faulty.job()
    assert [row["row"] for row in faulty.answers() if row["status"] == "error"] == list(BAD_ROWS)
    shards = faulty.shards()
    ran = faulty.run("retry-errors", job)
    assert ran.status == 0, ran.err
    answers = faulty.answers()
    assert [row["row"] for row in answers] == list(range(ROWS))
    assert {row["status"] for row in answers} == {"answered", "unanswerable"}
    assert [row for row in answers if row["row"] not in BAD_ROWS] == expected(undisturbed)
    assert shards.items() <= faulty.shards().items()
    assert len(faulty.shards()) == len(shards) + 1

    again = faulty.run("retry-errors", job)
    assert again.status == 0
    assert "is done already" in again.out
    same = faulty.answer()
    assert same.status == 0, same.err
    assert "is done already" in same.out
    (faulty.folder / "out.parquet").unlink()
    assert faulty.answer().status == 0
    assert faulty.answers() == answers, "the retried answers must not be lost"

    assert faulty.answer("--overwrite").status == 0
    assert [path.name for path in faulty.jobs.glob("*/manifest.json")]
    assert len(list(faulty.jobs.glob("*/manifest.json"))) == 1, "the retry is of the old answers"


def test_a_retry_can_go_elsewhere(faulty: Desk) -> None:
    before = faulty.answers()
    (faulty.folder / "mine.txt").write_text("mine")
    job = faulty.job()
    refused = faulty.run("retry-errors", job, "--out", "mine.txt")
    assert refused.status == 2
    assert "exists" in refused.complaint()
    assert faulty.run("retry-errors", job, "--out", "b.parquet").status == 0
    assert faulty.answers() == before
    assert {row["status"] for row in faulty.answers("b.parquet")} == {"answered", "unanswerable"}
    moved = faulty.run("retry-errors", job, "--out", "c.parquet")
    assert moved.status == 2
    assert "b.parquet" in moved.complaint()
    assert faulty.answer().status == 3, "the job itself still has its error rows"


def test_a_retry_does_not_replace_what_has_taken_the_outputs_place(faulty: Desk) -> None:
    (faulty.folder / "out.parquet").write_text("mine")
    ran = faulty.run("retry-errors", faulty.job())
    assert ran.status == 2
    assert "exists" in ran.complaint()
    assert (faulty.folder / "out.parquet").read_text() == "mine"


def test_rows_that_fail_again_stay_errors(desk: Desk) -> None:
    desk.write([*make_rows(5), {**make_rows(1)[0], "context": None}])
    assert desk.answer().status == 3
    ran = desk.run("retry-errors", desk.job(), "--json")
    assert ran.status == 3, ran.err
    assert (ran.json()["rows"], ran.json()["errors"]) == (6, 1)
    assert desk.answers()[-1]["status"] == "error"


def test_a_job_without_error_rows_has_nothing_to_retry(desk: Desk) -> None:
    assert desk.answer().status == 0
    ran = desk.run("retry-errors", desk.job())
    assert ran.status == 0
    assert "has no error rows" in ran.out
    assert desk.run("retry-errors", desk.job(), "--json").json()["errors"] == 0


def test_an_unfinished_job_is_not_retried(desk: Desk) -> None:
    assert desk.answer().status == 0
    job = desk.job()
    for path in (desk.jobs / job / "events").glob("*-co*.json"):
        path.unlink()
    ran = desk.run("retry-errors", job)
    assert ran.status == 1
    assert "is not finished" in ran.complaint()
