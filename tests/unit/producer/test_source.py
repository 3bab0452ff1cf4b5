"""The source: whatever the files, every row comes out once, in order, unchanged."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.source import (
    Source,
    choose_id_column,
    choose_measure,
    count_bytes,
    count_text_bytes,
    find_files,
    open_source,
    select_rows,
    stream_batches,
    stream_rows,
)
from tests.making import typed_columns, values, write_input
from worker.contracts.errors import InputError
from worker.contracts.job import VERSION, Columns, Cut
from worker.contracts.shard import EXAMPLE_SCHEMA, encode_payload

TYPED = pa.table(typed_columns())
SOME = ["dictionary8", "string_view", "struct of dictionary", "nested list", "map"]


def read(paths: Sequence[Path], **columns: Any) -> pa.Table:
    source = open_source(paths, Columns(**columns))
    return pa.concat_tables(stream_rows(source))


def make_rows(questions: Sequence[str], contexts: Sequence[str], kept: pa.Table) -> pa.Table:
    """Return examples with the kept columns behind, again and again."""
    count = len(questions)
    named = [list(range(count)), [f"q{row % 3}" for row in range(count)], questions, contexts]
    nulls = [[None] * count] * 2
    table = pa.Table.from_arrays(
        [
            pa.array(one, kind)
            for one, kind in zip([*named, *nulls], EXAMPLE_SCHEMA.types, strict=True)
        ],
        schema=EXAMPLE_SCHEMA,
    )
    kept = pa.concat_tables([kept] * (count // kept.num_rows + 1)).slice(0, count)
    for field, column in zip(kept.schema, kept.columns, strict=True):
        table = table.append_column(field, column)
    return table


def count_kept_bytes(table: pa.Table) -> list[int]:
    """Return the bytes of each row's kept values, each row measured by itself."""
    alone = [table.slice(row, 1) for row in range(table.num_rows)]
    return [count_bytes(row)[0] - count_text_bytes(row)[0] for row in alone]


def cut_anywhere(table: pa.Table, places: Sequence[int]) -> Iterator[pa.Table]:
    ends = [0, *sorted(place % (table.num_rows + 1) for place in places), table.num_rows]
    for first, last in pairwise(ends):
        yield table.slice(first, last - first)


texts = st.lists(
    st.tuples(st.text(max_size=5), st.one_of(st.text(max_size=30), st.just("x" * 200))),
    min_size=1,
    max_size=40,
)


@given(texts, st.lists(st.integers(0, 40), max_size=6), st.integers(1, 9), st.integers(1, 300))
def test_batches_hold_every_row_once_in_order_and_unchanged(
    rows: list[tuple[str, str]], places: list[int], most_rows: int, most_bytes: int
) -> None:
    table = make_rows(*zip(*rows, strict=True), TYPED.select(SOME))
    batches = list(stream_batches(cut_anywhere(table, places), Cut(most_rows, most_bytes)))
    joined = pa.concat_tables(batches)
    assert joined.schema.equals(table.schema)
    assert values(joined) == values(table)


@pytest.mark.parametrize("most_rows", [1, 2, 3, 7, 100])
def test_columns_of_every_type_are_kept_through_the_batches(most_rows: int) -> None:
    table = make_rows(["q"] * 13, ["c"] * 13, TYPED)
    joined = pa.concat_tables(stream_batches(cut_anywhere(table, [2, 3, 9]), Cut(most_rows)))
    assert joined.schema.equals(table.schema, check_metadata=True)
    assert values(joined) == values(table)
    assert values(joined.select(TYPED.column_names).slice(5, 5)) == values(TYPED)


@given(texts, st.lists(st.integers(0, 40), max_size=6), st.integers(1, 9), st.integers(1, 300))
def test_batches_are_as_large_as_both_bounds_allow_and_a_larger_row_travels_alone(
    rows: list[tuple[str, str]], places: list[int], most_rows: int, most_bytes: int
) -> None:
    table = make_rows(*zip(*rows, strict=True), TYPED.select(SOME))
    sizes = [len(question.encode()) + len(context.encode()) for question, context in rows]
    sizes = [size + kept for size, kept in zip(sizes, count_kept_bytes(table), strict=True)]
    found = [
        batch.num_rows
        for batch in stream_batches(cut_anywhere(table, places), Cut(most_rows, most_bytes))
    ]
    first = 0
    for count in found:
        size = sum(sizes[first : first + count])
        assert 1 <= count <= most_rows
        assert size <= most_bytes or count == 1
        more = sum(sizes[first : first + count + 1])
        assert first + count == len(rows) or count == most_rows or more > most_bytes
        first += count
    assert first == len(rows)


@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 40), min_size=2, max_size=6),
    st.lists(st.integers(0, 45), min_size=3, unique=True).map(sorted),
)
def test_chosen_rows_are_exactly_those(count: int, places: list[int], chosen: list[int]) -> None:
    table = make_rows(["q"] * count, ["c"] * count, TYPED.select(SOME))
    found = list(select_rows(cut_anywhere(table, places), np.array(chosen, np.int64)))
    there = [row for row in chosen if row < count]
    assert [row for part in found for row in part.column("row").to_pylist()] == there
    if found:
        expected = pa.concat_tables([table.slice(row, 1) for row in there])
        assert values(pa.concat_tables(found)) == values(expected)


def test_a_batch_of_a_large_dictionary_or_of_views_carries_only_its_own_entries() -> None:
    words = [f"{number:06d}" * 20 for number in range(4000)]
    table = make_rows(["q"] * 4000, ["c"] * 4000, TYPED.select([]))
    coded = pa.dictionary(pa.int32(), pa.string())
    for kind, kept in (
        (coded, words),
        (pa.string_view(), words),
        (pa.list_(coded), [[word] for word in words]),
        (pa.struct([("x", pa.string_view())]), [{"x": word} for word in words]),
    ):
        rows = table.append_column("kept", pa.array(kept, kind))
        batch = next(stream_batches(iter([rows]), Cut(5)))
        assert batch.schema.field("kept").type == kind
        assert batch.column("kept").to_pylist() == kept[:5]
        assert len(encode_payload("job", 0, batch)) < 4000, kind


def test_text_is_measured_in_bytes() -> None:
    assert count_text_bytes(make_rows(["é", ""], ["😀a", "水"], TYPED)) == [7, 3]


def test_a_kept_column_counts_towards_a_batchs_bytes() -> None:
    images = pa.table({"image": [b"x" * 900, b"", b"y" * 900, None]})
    table = make_rows(["q"] * 4, ["c"] * 4, images)
    assert count_bytes(table) == [902, 2, 902, 2]
    batches = stream_batches(iter([table]), Cut(100, 1000))
    assert [batch.num_rows for batch in batches] == [2, 2]


def test_a_job_that_began_before_kept_columns_counted_is_cut_as_it_was() -> None:
    table = make_rows(["q"] * 4, ["c"] * 4, pa.table({"image": [b"x" * 900] * 4}))
    batches = stream_batches(iter([table]), Cut(100, 1000), choose_measure(1))
    assert [batch.num_rows for batch in batches] == [4]
    assert choose_measure(VERSION)(table) == [902] * 4


def test_several_inputs_are_read_in_the_order_given_and_numbered_through(tmp_path: Path) -> None:
    last = write_input(tmp_path / "a.parquet", 2, id=["a", "b"])
    first = write_input(tmp_path / "z.parquet", 1, id=["c"])
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "d", "question": "q", "context": "c"}))
    files = find_files([str(first), str(tmp_path / "m.jsonl"), str(last)])
    table = read(files)
    assert table.column("id").to_pylist() == ["c", "d", "a", "b"]
    assert table.column("row").to_pylist() == [0, 1, 2, 3]


def test_a_folder_gives_its_files_by_name_without_hidden_and_foreign_ones(tmp_path: Path) -> None:
    names = ["b.parquet", "a/z.pq", "a/b/c.json", "c.jsonl.gz", "d.ndjson", "E.PARQUET"]
    others = [
        ".hidden.parquet",
        "_delta/x.parquet",
        ".git/x.json",
        "notes.txt",
        "x.csv.gz",
        "_SUCCESS",
    ]
    for name in [*names, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([str(tmp_path)])
    assert found == tuple(sorted(tmp_path / name for name in names))


def test_a_folder_gives_the_files_of_folders_that_are_linked_into_it(tmp_path: Path) -> None:
    write_input(tmp_path / "elsewhere" / "deep" / "b.parquet")
    write_input(tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    found = find_files([str(tmp_path / "in")])
    assert found == (tmp_path / "in/a.parquet", tmp_path / "in/linked/deep/b.parquet")


def test_a_link_to_nothing_in_a_folder_is_refused(tmp_path: Path) -> None:
    write_input(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"b\.parquet is no regular file"):
        find_files([str(tmp_path)])


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    path = write_input(tmp_path / ".cache" / "a.parquet")
    assert find_files([str(path.parent)]) == (path,)


def test_a_folder_named_like_a_file_is_a_folder(tmp_path: Path) -> None:
    part = write_input(tmp_path / "data.parquet" / "part-0.parquet")
    assert find_files([str(tmp_path / "data.parquet")]) == (part,)


def test_globs_go_into_folders(tmp_path: Path) -> None:
    for name in ("x/1.parquet", "x/y/2.parquet", "z/3.json"):
        write_input(tmp_path / name)
    assert [one.name for one in find_files([f"{tmp_path}/**/*.parquet"])] == [
        "1.parquet",
        "2.parquet",
    ]
    assert [one.name for one in find_files([f"{tmp_path}/?/[1-3].*"])] == ["1.parquet", "3.json"]


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = write_input(tmp_path / "a[1].parquet")
    write_input(tmp_path / "a1.parquet")
    assert find_files([str(path)]) == (path,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.parquet", "none.parquet does not exist"),
        ("no*.parquet", "does not exist"),
        ("empty", "holds no Parquet or JSON file"),
        ("data.csv", "has no known ending: name it .parquet, .pq, or .json"),
        ("data", "has no known ending"),
        ("data.parquet.gz", "has no known ending"),
        ("n" * 300, "cannot be looked at (File name too long)"),
    ],
)
def test_an_input_that_is_none_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    for other in ("data.csv", "data", "data.parquet.gz"):
        (tmp_path / other).touch()
    with pytest.raises(InputError, match=r"\w") as caught:
        find_files([str(tmp_path / name)])
    assert said in str(caught.value)


def test_a_pipe_and_a_name_that_is_no_text_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=r"pipe\.jsonl is no regular file"):
        find_files([str(tmp_path / "pipe.jsonl")])
    (tmp_path / "in").mkdir()
    write_input(tmp_path / "a.parquet").rename(tmp_path / "in" / os.fsdecode(b"\xff.parquet"))
    with pytest.raises(InputError, match="is not UTF-8: rename it"):
        find_files([str(tmp_path / "in")])


def test_null_ids_get_the_row_number_and_a_warning(tmp_path: Path) -> None:
    path = write_input(tmp_path / "a.parquet", 3, id=["a", None, "1"])
    table = read([path])
    assert table.column("id").to_pylist() == ["a", "1", "1"]
    assert [one is None for one in table.column("warning").to_pylist()] == [True, False, True]
    assert "row number" in table.column("warning")[1].as_py()
    assert table.column("fault").null_count == 3


def test_without_an_id_column_the_row_number_is_the_id_without_a_warning(tmp_path: Path) -> None:
    paths = [write_input(tmp_path / name, 2) for name in ("a.parquet", "b.parquet")]
    table = read(paths, id=None)
    assert table.column("id").to_pylist() == ["0", "1", "2", "3"]
    assert table.column("warning").null_count == 4


def test_a_null_question_or_context_is_the_rows_fault_and_its_texts_are_dropped(
    tmp_path: Path,
) -> None:
    path = write_input(
        tmp_path / "a.parquet",
        4,
        question=["q", None, "q", None],
        context=["c", "c", None, None],
    )
    table = read([path])
    faults = table.column("fault").to_pylist()
    assert [fault and fault.split(":")[0] for fault in faults] == [
        None, "the question is null", "the context is null", "the question is null",
    ]  # fmt: skip
    assert table.column("question").to_pylist() == ["q", "", "", ""]
    assert table.column("context").to_pylist() == ["c", "", "", ""]


def test_blank_texts_are_left_to_the_reader(tmp_path: Path) -> None:
    table = read([write_input(tmp_path / "a.parquet", 2, question=["", " \n"], context=["", "\t"])])
    assert table.column("fault").null_count == 2
    assert table.column("question").to_pylist() == ["", " \n"]


def test_question_and_context_can_be_kept_and_the_id_cannot(tmp_path: Path) -> None:
    path = write_input(tmp_path / "a.parquet", 2, fault=["x", "y"], score_=[1, 2])
    keep = ("context", "question", "fault", "score_")
    table = read([path], keep=keep)
    kept = table.select(range(len(EXAMPLE_SCHEMA), table.num_columns))
    assert kept.equals(pq.read_table(path).select(list(keep)))
    for name in ("id", "row", "status", "margin", "attempts", "latency_ms"):
        with pytest.raises(InputError, match=f"--keep {name} has the name of an output column"):
            open_source([path], Columns(keep=(name,)))


def test_kept_columns_of_two_types_are_refused_by_name(tmp_path: Path) -> None:
    one = write_input(tmp_path / "a.parquet", 2, k=pa.array([1, 2], pa.int32()))
    two = write_input(tmp_path / "b.parquet", 2, k=pa.array([1, 2], pa.int64()))
    with pytest.raises(InputError, match=r"'k' of .*b.parquet is int64, but int32 in .*a.parquet"):
        open_source([one, two], Columns(keep=("k",)))


def test_a_kept_column_may_be_null_if_it_may_in_one_file(tmp_path: Path) -> None:
    one, two = (write_input(tmp_path / name, 2) for name in ("a.parquet", "b.parquet"))
    for path, nullable in ((one, False), (two, True)):
        table = pq.read_table(path).append_column(
            pa.field("k", pa.int64(), nullable=nullable), pa.array([1, None if nullable else 2])
        )
        pq.write_table(table, path)
    source = open_source([one, two], Columns(keep=("k",)))
    assert source.kept_schema.field("k").nullable
    batch = next(stream_batches(stream_rows(source), Cut(9)))
    assert batch.schema.field("k") == source.kept_schema.field("k")
    assert batch.column("k").to_pylist() == [1, 2, 1, None]


def test_json_and_parquet_agree_on_kept_text(tmp_path: Path) -> None:
    one = write_input(tmp_path / "a.parquet", 1, k=["x"])
    (tmp_path / "b.jsonl").write_text('{"id": 1, "question": "q", "context": "c", "k": {"y": 1}}')
    table = read([one, tmp_path / "b.jsonl"], keep=("k",))
    assert table.column("k").to_pylist() == ["x", '{"y": 1}']


def test_an_id_column_that_nobody_named_is_used_where_a_file_has_it(tmp_path: Path) -> None:
    named = write_input(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"question": "q", "context": "c"}\n')
    (tmp_path / "c.jsonl").write_text('{"question": "q", "context": "c"}\n{"id": 1}\n')
    assert choose_id_column([named], "id") == "id"
    assert choose_id_column([tmp_path / "b.jsonl"], "id") is None
    assert choose_id_column([tmp_path / "c.jsonl"], "id") == "id"
    with pytest.raises(InputError, match=r"b.jsonl has no field 'id'"):
        open_source([named, tmp_path / "b.jsonl"], Columns(id=choose_id_column([named], "id")))


# Not getrusage: its high-water mark is inherited from whoever starts the process.
MEASURE = """
import re, sys
from pathlib import Path
from producer.source import open_source, stream_batches, stream_rows
from worker.contracts.job import Columns, Cut
from worker.contracts.shard import encode_payload

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
source = open_source([Path(sys.argv[1])], Columns(keep=("context",)))
rows = 0
for number, batch in enumerate(stream_batches(stream_rows(source), Cut(256))):
    rows += batch.num_rows
    if number % 16 == 0:
        encode_payload("job", number, batch)
print(rows, before, peak())
"""


def measure(path: Path) -> tuple[int, float]:
    """Return the rows that a process of its own streams, and the MiB that it needs for that."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    rows, before, peak = map(int, done.stdout.split())
    assert peak < 400 * 1024
    return rows, (peak - before) / 1024


def write_group(path: Path, contexts: pa.Array) -> None:
    """Write one row group, as a program writes it that knows no Arrow."""
    count = len(contexts)
    ids = pa.array(np.arange(count)).cast(pa.string())
    table = pa.table({"id": ids, "question": ids, "context": contexts})
    pq.write_table(table, path, row_group_size=count, store_schema=False)


def test_one_huge_row_group_streams_in_little_memory(tmp_path: Path) -> None:
    block = np.random.default_rng(5).integers(97, 123, 80_000 * 800, np.uint8).tobytes()
    contexts = pa.array([block[place : place + 800] for place in range(0, len(block), 800)])
    write_group(tmp_path / "a.parquet", contexts.cast(pa.string()))
    rows, mib = measure(tmp_path / "a.parquet")
    assert rows == 80_000
    assert mib < 150  # the file has 62, and a reader without bounds took 180


def test_a_passage_that_repeats_is_not_decoded_into_the_memory_at_once(tmp_path: Path) -> None:
    passages = pa.array([letter * 100_000 for letter in "abcdefgh"])
    contexts = pa.DictionaryArray.from_arrays(np.repeat(np.arange(8), 400), passages)
    write_group(tmp_path / "a.parquet", contexts)
    rows, mib = measure(tmp_path / "a.parquet")
    assert rows == 3_200
    assert mib < 150  # decoded it is 300


def test_a_source_of_no_rows_streams_none(tmp_path: Path) -> None:
    source = open_source([write_input(tmp_path / "a.parquet", 0)], Columns())
    assert isinstance(source, Source)
    assert sum(chunk.num_rows for chunk in stream_rows(source)) == 0
    assert list(stream_batches(stream_rows(source), Cut(8))) == []
