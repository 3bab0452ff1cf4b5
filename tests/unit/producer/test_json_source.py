"""JSON: SQuAD files and lines, with whatever may be wrong in them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from producer import json_source
from producer.source import find_files, open_source, stream_rows
from worker.contracts.errors import InputError
from worker.contracts.job import Columns

ROW = {"id": "a", "question": "what?", "context": "it."}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "One",
            "paragraphs": [
                {
                    "context": "Ada wrote it in 1843.",
                    "source": "notes",
                    "qas": [
                        {"id": "q1", "question": "who?", "answers": [{"text": "Ada"}]},
                        {"id": 2, "question": "where?", "is_impossible": True, "answers": []},
                    ],
                },
                {"context": "Bo.", "qas": []},
            ],
        },
        {
            "title": "Two",
            "paragraphs": [{"context": "Cy 😀.", "qas": [{"question": "?", "id": "q3"}]}],
        },
    ],
}


def read(path: Path, **columns: Any) -> pa.Table:
    return pa.concat_tables(stream_rows(open_source([path], Columns(**columns))))


def write_lines(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("ending", [".json", ".JSON", ".json.gz"])
def test_squad_is_read_in_its_order(tmp_path: Path, ending: str, escaped: bool) -> None:
    raw = json.dumps(SQUAD, ensure_ascii=escaped).encode()
    path = tmp_path / f"a.b{ending}"
    path.write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)
    table = read(path, keep=("title", "source", "answers"))
    assert table.column("id").to_pylist() == ["q1", "2", "q3"]
    assert table.column("question").to_pylist() == ["who?", "where?", "?"]
    assert table.column("context").to_pylist() == ["Ada wrote it in 1843."] * 2 + ["Cy 😀."]
    assert table.column("title").to_pylist() == ["One", "One", "Two"]
    assert table.column("source").to_pylist() == ["notes", "notes", None]
    assert table.column("answers").to_pylist() == [
        '[{"text": "Ada"}]', "[]", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"[1, 2]",
        b"17",
        b'"text"',
        b"not JSON",
        b'{"rows": [{"question": "q"}]}',
        b'{"data": {"question": "q"}}',
        b'{"data": "text"}',
        b'{"data": [1]}',
        b'{"data": [{"title": "no paragraphs"}]}',
        b'{"data": [{"paragraphs": [{"context": "c"}]}]}',
        b'{"data": [{"paragraphs": [{"context": "c", "qas": ["q"]}]}]}',
        b'{"data": [{"paragraphs": {"context": "c"}}]}',
        b'{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "q"}]}]}]',
        b'{"data": [{"paragraphs": [{"context": "\xff", "qas": [{"id": "q"}]}]}]}',
        json.dumps(ROW).encode() + b"\n" + json.dumps(ROW).encode(),
    ],
)
def test_what_is_not_squad_is_refused_in_a_sentence(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(
        InputError, match=r"a\.json (is not SQuAD JSON|has no 'data' list).*\.jsonl"
    ):
        read(tmp_path / "a.json")


def test_a_squad_file_of_no_questions_has_no_rows(tmp_path: Path) -> None:
    for number, raw in enumerate((b'{"data": []}', b'{"data": [{"paragraphs": []}]}')):
        (tmp_path / f"{number}.json").write_bytes(raw)
        source = open_source([tmp_path / f"{number}.json"], Columns(keep=("title",)))
        assert list(stream_rows(source)) == []


def test_lines_are_read_with_blank_ones_passed_over(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbf" + json.dumps(ROW).encode(),
        b"",
        b"  ",
        json.dumps(ROW | {"id": "b"}).encode(),
    ]
    for ending in (".jsonl", ".ndjson"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"\r\n".join(lines))
        assert read(path).column("id").to_pylist() == ["a", "b"]
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read(tmp_path / "z.jsonl.gz").column("id").to_pylist() == ["a", "b"]


def test_a_file_of_no_lines_has_no_rows(tmp_path: Path) -> None:
    source = open_source([write_lines(tmp_path / "a.jsonl")], Columns(keep=("k",)))
    assert list(stream_rows(source)) == []
    assert source.kept_schema == pa.schema([("k", pa.string())])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"garbage", "the line is not JSON"),
        (b'{"id": "b", "question": "q"', "the line is not JSON"),
        (b"\xff\xfe{}", "the line is not JSON"),
        (b"[" * 100_000, "the line is not JSON"),
        (b"9" * 10_000, "the line is not JSON"),
        (b"[1]", "the line is not a JSON object"),
        (b"null", "the line is not a JSON object"),
        (b'{"question": 7, "context": "c"}', "the question is not a text"),
        (b'{"question": "q", "context": ["c"]}', "the context is not a text"),
        (b'{"question": "\\ud800", "context": "c"}', "the question holds a lone surrogate"),
        (b'{"question": "q", "context": "a\\udfffb"}', "the context holds a lone surrogate"),
        (b'{"question": "q", "context": "\xed\xa0\x80"}', "the context holds a lone surrogate"),
        (b'{"question": "q"}', "the context is null"),
        (b'{"question": null, "context": "c"}', "the question is null"),
        (b"{}", "the question is null"),
    ],
)
def test_a_bad_line_is_one_rows_fault(tmp_path: Path, line: bytes, fault: str) -> None:
    table = read(write_lines(tmp_path / "a.jsonl", ROW, line, ROW | {"id": "c"}))
    assert table.column("id").to_pylist() == ["a", "1", "c"]
    faults = table.column("fault").to_pylist()
    assert faults[0] is faults[2] is None
    assert faults[1].startswith(fault)
    assert table.column("question").to_pylist()[1] == ""


def test_a_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    line = b'{"id": "a", "question": "\\ud83d\\ude00", "context": "c"}'
    table = read(write_lines(tmp_path / "a.jsonl", line))
    assert table.column("question").to_pylist() == ["😀"]


def test_a_lone_surrogate_in_squad_is_its_rows_fault_wherever_it_lies(tmp_path: Path) -> None:
    squad = json.loads(json.dumps(SQUAD))
    squad["data"][0]["paragraphs"][0]["qas"][0]["question"] = "\ud800"
    squad["data"][0]["title"] = "x" * (json_source.BLOCK_BYTES - 64)
    for shift in (0, 5):
        squad["data"][0]["title"] += "x"
        (tmp_path / f"{shift}.json").write_text(json.dumps(squad))
        faults = read(tmp_path / f"{shift}.json").column("fault").to_pylist()
        assert faults == ["the question holds a lone surrogate: encode it again", None, None]


def test_the_escape_of_a_surrogate_is_found_across_two_blocks(tmp_path: Path) -> None:
    for shift in range(8):
        path = tmp_path / str(shift)
        path.write_bytes(b"x" * (json_source.BLOCK_BYTES - shift) + b"\\uD8aF" + b"x" * 99)
        with path.open("rb") as stream:
            assert json_source._has_surrogates(stream)
            assert stream.read(2) == b"xx"
    with (tmp_path / "0").open("wb+") as stream:
        stream.write(b"x" * json_source.BLOCK_BYTES + b"\\u00e9")
        stream.seek(0)
        assert not json_source._has_surrogates(stream)


def test_ids_of_other_types_are_their_json_and_lone_surrogates_no_ids(tmp_path: Path) -> None:
    ids = [7, 1.5, True, None, "\ud800", ["x"]]
    table = read(write_lines(tmp_path / "a.jsonl", *(ROW | {"id": one} for one in ids)))
    assert table.column("id").to_pylist() == ["7", "1.5", "true", "3", "4", '["x"]']
    assert table.column("warning").null_count == 4


def test_kept_values_are_text_or_their_json(tmp_path: Path) -> None:
    kept = ["é", 1, 2.5, None, {"x": [1, "é"]}, "a\ud800"]
    path = write_lines(tmp_path / "a.jsonl", *(ROW | {"k": one} for one in kept), b"garbage")
    assert read(path, keep=("k",)).column("k").to_pylist() == [
        "é", "1", "2.5", None, '{"x": [1, "é"]}', "a\\ud800", None,
    ]  # fmt: skip


def test_a_kept_value_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    squad = json.dumps(SQUAD).replace(
        '"data": [{', '"data": [{"deep": %s, ' % ("[" * 3000 + "]" * 3000)
    )
    (tmp_path / "a.json").write_text(squad)
    with pytest.raises(InputError, match=r"a\.json has a value that is nested too deep"):
        read(tmp_path / "a.json", keep=("deep",))
    assert read(tmp_path / "a.json").num_rows


def test_numbers_in_squad_are_kept_as_they_are_in_lines(tmp_path: Path) -> None:
    squad = json.loads(json.dumps(SQUAD))
    squad["data"][0]["title"] = {"x": 1.5, "y": 2}
    (tmp_path / "a.json").write_text(json.dumps(squad))
    kept = read(tmp_path / "a.json", keep=("title",)).column("title").to_pylist()
    assert kept[0] == '{"x": 1.5, "y": 2}'


def test_a_missing_field_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROW, ROW | {"extra": 1}, b"garbage")
    with pytest.raises(InputError) as caught:
        read(path, context="passage")
    assert str(caught.value).endswith(
        "a.jsonl has no field 'passage': its fields are context, extra, id, question"
    )


@pytest.mark.parametrize("more", [{}, {"title": "\ud83d"}])
def test_squad_json_that_is_nested_too_deep_is_refused_at_once(
    tmp_path: Path, more: dict[str, str]
) -> None:
    squad = {"data": [{**more, "notes": "HERE", "paragraphs": []}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(squad).replace('"HERE"', "[" * 100_000 + "]" * 100_000))
    with pytest.raises(InputError, match=r"a\.json is nested more than 10000 deep: flatten it"):
        read(path)


def test_a_file_without_any_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl holds no JSON objects"):
        read(write_lines(tmp_path / "a.jsonl", b"id,question,context", b"a,b,c"))


def test_a_line_without_end_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_source, "LONGEST_LINE_BYTES", 100)
    long = json.dumps(ROW | {"context": "x" * 350}).encode()
    table = read(write_lines(tmp_path / "a.jsonl", ROW, long, ROW | {"id": "c"}))
    assert table.column("id").to_pylist() == ["a", "1", "c"]
    assert table.column("fault").to_pylist()[1] == "the line is longer than 100 bytes: split it"


def test_chunks_are_bounded_by_characters(tmp_path: Path) -> None:
    rows = [ROW | {"context": "x" * 500_000}] * 20 + [ROW] * 3000
    path = write_lines(tmp_path / "a.jsonl", *rows)
    chunks = list(stream_rows(open_source([path], Columns())))
    assert sum(chunk.num_rows for chunk in chunks) == 3020
    assert max(chunk.num_rows for chunk in chunks) <= json_source.CHUNK_ROWS
    assert max(chunk.nbytes for chunk in chunks) < 1.5 * json_source.CHUNK_CHARS


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda raw: raw[:-20], id="cut"),
        pytest.param(lambda raw: b"plain text", id="not zipped"),
        pytest.param(lambda raw: raw[:60] + b"\x00" * 20 + raw[80:], id="damaged"),
    ],
)
def test_a_damaged_gz_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    rows = "\n".join(json.dumps(ROW | {"id": str(number * 7919 % 9973)}) for number in range(500))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(spoil(gzip.compress(rows.encode())))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz cannot be read \(.+\): check the file"):
        read(path)


def test_only_json_files_may_be_zipped(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.parquet.gz")
    with pytest.raises(InputError, match="has no known ending"):
        find_files([str(tmp_path / "a.parquet.gz")])
