"""Bad input of every kind: refused in one sentence, or a row that says what is wrong with it.

The README holds the same table.
"""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.desk import Desk, Row, make_rows

Prepare = Callable[[Desk], Sequence[object]]
#: Root may write anywhere: without these two rights it may not.
PLAIN = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def given(path: str) -> Sequence[object]:
    return ["answer", path, "--out", "out.parquet"]


def damage(path: Path, start: int, raw: bytes = b"\x00" * 64) -> None:
    """Overwrite some bytes in the middle of a file."""
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(raw)


def missing_file(desk: Desk) -> Sequence[object]:
    return given("nowhere.parquet")


def glob_without_match(desk: Desk) -> Sequence[object]:
    return given("*.jsonl")


def empty_folder(desk: Desk) -> Sequence[object]:
    (desk.folder / "folder").mkdir()
    return given("folder")


def unknown_ending(desk: Desk) -> Sequence[object]:
    (desk.folder / "in.csv").write_text("id,question,context\n")
    return given("in.csv")


def not_parquet(desk: Desk) -> Sequence[object]:
    (desk.folder / "in.parquet").write_text("id,question,context\n")
    return given("in.parquet")


def empty_file(desk: Desk) -> Sequence[object]:
    (desk.folder / "in.parquet").write_bytes(b"")
    return given("in.parquet")


def truncated_parquet(desk: Desk) -> Sequence[object]:
    path = desk.folder / "in.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    return given("in.parquet")


def damaged_page(desk: Desk) -> Sequence[object]:
    path = desk.folder / "in.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, use_dictionary=False, compression="zstd")
    start = pq.read_metadata(path).row_group(0).column(2).data_page_offset
    damage(path, start)
    return given("in.parquet")


def missing_column(desk: Desk) -> Sequence[object]:
    return [*given("in.parquet"), "--context-column", "passage"]


def missing_kept_column(desk: Desk) -> Sequence[object]:
    return [*given("in.parquet"), "--keep", "titel"]


def question_of_numbers(desk: Desk) -> Sequence[object]:
    return [*given("in.parquet"), "--question-column", "number"]


def id_of_lists(desk: Desk) -> Sequence[object]:
    desk.write([{**row, "id": [1.5]} for row in make_rows(3)])
    return given("in.parquet")


def files_that_disagree(desk: Desk) -> Sequence[object]:
    desk.write([{**row, "number": "one"} for row in make_rows(3)], "other.parquet")
    return [*given("in.parquet"), "other.parquet", "--keep", "number"]


def json_that_is_none(desk: Desk) -> Sequence[object]:
    (desk.folder / "in.json").write_text('{"data": [')
    return given("in.json")


def json_that_is_no_squad(desk: Desk) -> Sequence[object]:
    (desk.folder / "in.json").write_text('{"rows": []}')
    return given("in.json")


def lines_without_objects(desk: Desk) -> Sequence[object]:
    (desk.folder / "in.jsonl").write_text("[1]\nnot JSON at all\n")
    return given("in.jsonl")


def truncated_gzip(desk: Desk) -> Sequence[object]:
    lines = "".join(json.dumps(row) + "\n" for row in make_rows(50))
    (desk.folder / "in.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-30])
    return given("in.jsonl.gz")


def unreadable_file(desk: Desk) -> Sequence[object]:
    (desk.folder / "in.parquet").chmod(0)
    return given("in.parquet")


def unreadable_folder_in_a_folder(desk: Desk) -> Sequence[object]:
    desk.write(make_rows(3), "folder/a.parquet")
    desk.write(make_rows(3), "folder/locked/b.parquet").parent.chmod(0)
    return given("folder")


def folder_in_a_folder_that_can_be_listed_alone(desk: Desk) -> Sequence[object]:
    desk.write(make_rows(3), "folder/a.parquet")
    desk.write(make_rows(3), "folder/locked/b.parquet").parent.chmod(0o444)
    return given("folder")


def output_that_exists(desk: Desk) -> Sequence[object]:
    (desk.folder / "out.parquet").write_text("mine")
    return given("in.parquet")


def output_that_is_a_folder(desk: Desk) -> Sequence[object]:
    (desk.folder / "out.parquet").mkdir()
    return given("in.parquet")


def folder_with_other_files(desk: Desk) -> Sequence[object]:
    (desk.folder / "parts").mkdir()
    (desk.folder / "parts/mine.txt").write_text("mine")
    return ["answer", "in.parquet", "--out", "parts/", "--overwrite"]


def output_that_is_the_input(desk: Desk) -> Sequence[object]:
    return ["answer", "in.parquet", "--out", "in.parquet", "--overwrite"]


def output_in_the_input(desk: Desk) -> Sequence[object]:
    desk.write(make_rows(3), "folder/a.parquet")
    return ["answer", "folder", "--out", "folder/out.parquet"]


def jobs_in_the_input(desk: Desk) -> Sequence[object]:
    desk.write(make_rows(3), "folder/a.parquet")
    return [*given("folder"), "--jobs-root", "folder/jobs"]


def output_under_a_glob(desk: Desk) -> Sequence[object]:
    return given("**/*.parquet")


def jobs_under_a_glob(desk: Desk) -> Sequence[object]:
    desk.write(make_rows(3), "folder/a.parquet")
    return [*given("folder/**/*.parquet"), "--jobs-root", "folder/jobs"]


def jobs_at_a_url(desk: Desk) -> Sequence[object]:
    return [*given("in.parquet"), "--jobs-root", "ftp://host/jobs"]


def column_that_is_no_text(desk: Desk) -> Sequence[object]:
    return [*given("in.parquet"), "--keep", os.fsdecode(b"\xff")]


def output_not_writable(desk: Desk) -> Sequence[object]:
    (desk.folder / "locked").mkdir(mode=0o555)
    return ["answer", "in.parquet", "--out", "locked/out.parquet", "--jobs-root", "jobs"]


def output_under_a_file(desk: Desk) -> Sequence[object]:
    return ["answer", "in.parquet", "--out", "in.parquet/out.parquet", "--jobs-root", "jobs"]


def jobs_not_writable(desk: Desk) -> Sequence[object]:
    (desk.folder / "locked").mkdir(mode=0o555)
    return [*given("in.parquet"), "--jobs-root", "locked"]


def jobs_in_a_file(desk: Desk) -> Sequence[object]:
    (desk.folder / "taken").write_text("mine")
    return [*given("in.parquet"), "--jobs-root", "taken"]


def job_id_that_is_none(desk: Desk) -> Sequence[object]:
    return [*given("in.parquet"), "--job-id", "No Id"]


#: What is refused before anything is done: exit status 2, and nothing is left behind.
REFUSED: list[tuple[Prepare, str]] = [
    (missing_file, "nowhere.parquet does not exist"),
    (glob_without_match, "*.jsonl does not exist"),
    (empty_folder, "holds no Parquet or JSON file"),
    (unknown_ending, "in.csv has no known ending"),
    (not_parquet, "in.parquet cannot be read as Parquet"),
    (empty_file, "in.parquet cannot be read as Parquet"),
    (truncated_parquet, "in.parquet cannot be read as Parquet"),
    (damaged_page, "in.parquet is damaged"),
    (missing_column, "no column 'passage': its columns are id, question, context, number"),
    (missing_kept_column, "no column 'titel'"),
    (question_of_numbers, "is int64, not string"),
    (id_of_lists, "which is no id"),
    (files_that_disagree, "other.parquet"),
    (json_that_is_none, "in.json is not SQuAD JSON"),
    (json_that_is_no_squad, "in.json has no 'data' list"),
    (lines_without_objects, "in.jsonl holds no JSON objects"),
    (truncated_gzip, "in.jsonl.gz cannot be read"),
    (unreadable_file, "in.parquet cannot be read"),
    (unreadable_folder_in_a_folder, "locked cannot be read (Permission denied)"),
    (folder_in_a_folder_that_can_be_listed_alone, "locked cannot be read (Permission denied)"),
    (output_that_exists, "out.parquet exists"),
    (output_that_is_a_folder, "out.parquet is a folder"),
    (folder_with_other_files, "holds more than parts of answers"),
    (output_that_is_the_input, "lies in the input"),
    (output_in_the_input, "lies in the input"),
    (jobs_in_the_input, "lies in the input"),
    (output_under_a_glob, "out.parquet lies in the input"),
    (jobs_under_a_glob, "jobs lies in the input: choose another --jobs-root"),
    (jobs_at_a_url, "ftp://host/jobs is no URL that is known here"),
    (column_that_is_no_text, "is not UTF-8"),
    (output_not_writable, "locked cannot be written to (Permission denied)"),
    (output_under_a_file, "cannot be written to (Not a directory)"),
    (jobs_not_writable, "locked cannot be written to (Permission denied)"),
    (jobs_in_a_file, "taken cannot be written to"),
    (job_id_that_is_none, "'No Id' is no job id"),
]


@pytest.mark.parametrize(("prepare", "says"), REFUSED, ids=[one.__name__ for one, _ in REFUSED])
def test_a_command_that_cannot_begin_is_refused(desk: Desk, prepare: Prepare, says: str) -> None:
    words = prepare(desk)
    before = desk.files()
    ran = desk.run(*words, "--bundle", desk.bundle, before=PLAIN)
    assert ran.status == 2, ran.err
    assert says in ran.complaint()
    assert ran.out == ""
    left = desk.files() - before
    assert not [name for name in left if (desk.folder / name).is_file()], left


def changed_byte(bundle: Path) -> None:
    damage(bundle / "model.onnx", 5000, b"x")


def missing_model(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()


def missing_manifest(bundle: Path) -> None:
    (bundle / "bundle.json").unlink()


def no_manifest(bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{")


def unknown_family(bundle: Path) -> None:
    _edit(bundle, family="llama")


def newer_version(bundle: Path) -> None:
    _edit(bundle, format=99)


BUNDLES: list[tuple[Callable[[Path], None], str]] = [
    (changed_byte, "model.onnx is not the file that the bundle was made with"),
    (missing_model, "model.onnx cannot be read"),
    (missing_manifest, "is not a bundle"),
    (no_manifest, "is not a bundle's manifest"),
    (unknown_family, "of the family 'llama', which this version does not know"),
    (newer_version, "has format 99 but this version reads 1: upgrade spanmill"),
]


@pytest.mark.parametrize(("spoil", "says"), BUNDLES, ids=[one.__name__ for one, _ in BUNDLES])
def test_a_bundle_that_is_not_whole_is_refused(
    desk: Desk, spoil: Callable[[Path], None], says: str
) -> None:
    bundle = desk.folder / "bundle"
    bundle.mkdir()
    for path in desk.bundle.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    spoil(bundle)
    before = desk.files()
    ran = desk.run(*given("in.parquet"), "--bundle", bundle)
    assert ran.status == 2, ran.err
    assert says in ran.complaint()
    assert desk.files() == before


def test_a_bundle_that_is_not_there_is_named(desk: Desk) -> None:
    ran = desk.run(*given("in.parquet"), "--bundle", "nobody")
    assert ran.status == 2
    assert "no bundle 'nobody'" in ran.complaint()


def test_another_bundle_under_the_same_name_is_refused_by_the_job(desk: Desk) -> None:
    bundle = desk.folder / "bundle"
    bundle.mkdir()
    for path in desk.bundle.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    words = [*given("in.parquet"), "--bundle", bundle]
    assert desk.run(*words).status == 0
    _edit(bundle, null_threshold=1.5)
    for more in ([], ["--null-threshold", "0"]):
        ran = desk.run(*words, "--job-id", desk.job(), *more)
        assert ran.status == 1
        assert "began with another bundle" in ran.complaint()


def test_an_input_without_rows_gives_answers_without_rows(desk: Desk) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("id", "question", "context")])
    pq.write_table(schema.empty_table(), desk.folder / "in.parquet")
    ran = desk.answer()
    assert ran.status == 0
    assert ran.err == "spanmill: warning: the input has no rows\n"
    assert desk.table().num_rows == 0
    assert desk.table().schema.names[:3] == ["id", "row", "status"]


def test_ids_may_repeat_or_be_missing_with_a_warning(desk: Desk) -> None:
    rows = make_rows(6)
    rows[1]["id"] = rows[2]["id"] = rows[0]["id"]
    rows[4]["id"] = None
    desk.write(rows)
    ran = desk.answer()
    assert ran.status == 0
    assert ran.err.splitlines() == [
        "spanmill: warning: 1 rows have no id: the row number stands in for it",
        "spanmill: warning: 2 rows repeat an id: the row number tells them apart",
    ]
    assert [row["id"] for row in desk.answers()] == ["q0", "q0", "q0", "q3", "4", "q5"]
    assert [row["row"] for row in desk.answers()] == list(range(6))


def test_without_an_id_column_the_row_number_is_the_id(desk: Desk) -> None:
    for words in (("--id-column", ""), ("--overwrite", "--id-column", "number")):
        assert desk.answer(*words).status == 0
        assert [row["id"] for row in desk.answers()] == [str(row) for row in range(48)]


WORDS = "the mill at Arden was built in 1742 by Joan Whitlock "
#: Name, what is odd about the row, its status, and what its warning or error says.
ROWS: list[tuple[str, Row, str | None, str | None]] = [
    ("null question", {"question": None}, "error", "the question is null"),
    ("null context", {"context": None}, "error", "the context is null"),
    ("empty question", {"question": ""}, "error", "the question is empty"),
    ("blank question", {"question": " \t\n\u3000"}, "error", "the question is empty"),
    ("empty context", {"context": ""}, "unanswerable", None),
    ("blank context", {"context": " \n\t "}, "unanswerable", None),
    ("long question", {"question": "who built the mill " * 250}, None, "the question was cut"),
    ("long context", {"context": WORDS * 100_000}, None, "read up to character 20000 only"),
    ("NUL", {"question": "who\0 built?", "context": f"\0{WORDS}\0"}, None, None),
    ("combining marks", {"context": "a" + "\u0301" * 10_000 + WORDS}, None, None),
    ("no space", {"context": "x" * 100_000}, None, "read up to character 20000 only"),
    ("only marks", {"question": "\u0301\u0302"}, "error", "the question is empty"),
    ("emoji", {"context": f"👩‍👩‍👧 {WORDS} 🇪🇸"}, None, None),
    ("controls", {"context": "\x01\x1f\x7f\u200b\ufeff" + WORDS + "\u2028"}, None, None),
    ("noncharacters", {"context": "\ufffe\uffff\U0010ffff" + WORDS}, None, None),
    ("special tokens", {"context": "[CLS] [SEP] <s> </s> " + WORDS}, None, None),
]


def test_a_bad_row_is_answered_for_and_costs_no_neighbour(desk: Desk) -> None:
    good = make_rows(1)[0]
    rows = [good, *({**good, "id": name, **odd} for name, odd, _, _ in ROWS), good]
    desk.write(rows)
    ran = desk.answer("--max-context-chars", "20000", "--top-k", "2", "--null-threshold", "inf")
    assert ran.status == 3
    assert "5 errors" in ran.out
    answers = desk.answers()
    assert [row["id"] for row in answers] == [row["id"] for row in rows]
    assert [row["status"] for row in (answers[0], answers[-1])] == ["answered"] * 2
    for asked, (name, _, status, says), row in zip(rows[1:], ROWS, answers[1:-1], strict=False):
        assert row["status"] == (status if status is not None else row["status"]), name
        said = row["error"] if status == "error" else row["warning"]
        assert (said is None) == (says is None), (name, said)
        assert says is None or says in said, name
        if row["status"] == "answered":
            start, end = row["start_char"], row["end_char"]
            assert asked["context"][start:end] == row["answer"], name
    errors = pq.read_table(desk.jobs / desk.job() / "errors.parquet").to_pylist()
    assert [one["id"] for one in errors] == [
        name for name, _, status, _ in ROWS if status == "error"
    ]
    assert {one["attempts"] for one in errors} == {1}


def test_texts_that_are_no_unicode_are_error_rows(desk: Desk) -> None:
    good = make_rows(1)[0]
    lines = [
        json.dumps(good),
        json.dumps({**good, "id": "surrogate"}).replace("Who", "\\ud800"),
        json.dumps({**good, "id": "number", "context": 7}),
        "no JSON",
        json.dumps(good),
    ]
    (desk.folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    ran = desk.answer(source="in.jsonl")
    assert ran.status == 3, ran.err
    statuses = [row["status"] for row in desk.answers()]
    assert statuses == [statuses[0], "error", "error", "error", statuses[0]]
    said = [row["error"] for row in desk.answers()[1:4]]
    assert "the question holds a lone surrogate" in said[0]
    assert "the context is not a text" in said[1]
    assert "the line is not JSON" in said[2]


def test_parquet_text_that_is_no_utf_8_is_an_error_row(desk: Desk) -> None:
    raw = [b"Who built the mill?", b"\xff\xfe broken", b"Who?"]
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "question": pa.array(raw, pa.binary()).view(pa.string()),
            "context": [WORDS] * 3,
        }
    )
    pq.write_table(table, desk.folder / "in.parquet")
    assert desk.answer().status == 3
    rows = desk.answers()
    assert rows[1]["status"] == "error"
    assert "the question is not valid UTF-8" in rows[1]["error"]
    assert "error" not in (rows[0]["status"], rows[2]["status"])


def test_an_input_that_changed_since_the_job_began_is_refused(desk: Desk) -> None:
    assert desk.answer().status == 0
    job = desk.job()
    for path in (desk.jobs / job / "events").glob("*-co*.json"):
        path.unlink()
    sorted(desk.jobs.glob("*/shards/*/*.parquet"))[-1].unlink()
    good = (desk.folder / "in.parquet").read_bytes()
    desk.write(make_rows(47))
    for words in (desk.words(), ["resume", job]):
        ran = desk.run(*words)
        assert ran.status == 1
        assert "has changed since the job" in ran.complaint()
    (desk.folder / "in.parquet").unlink()
    ran = desk.run("resume", job)
    assert ran.status == 1
    assert "is gone since the job" in ran.complaint()
    (desk.folder / "in.parquet").write_bytes(good)
    (desk.folder / "out.parquet").unlink()
    assert desk.run("resume", job).status == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--batch-rows", "0"],
        ["--null-threshold", "nan"],
        ["--null-threshold", "much"],
        ["--max-error-ratio", "2"],
        ["--workers", "0"],
        ["--provider", "abacus"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_options_out_of_range_are_refused(desk: Desk, words: list[str]) -> None:
    before = desk.files()
    ran = desk.answer(*words)
    assert ran.status == 2
    assert ran.err.splitlines()[-1].startswith("Error: ")
    assert words[0] in ran.err
    assert desk.files() == before


def _edit(bundle: Path, **changes: object) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
