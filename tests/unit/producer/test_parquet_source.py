"""Parquet: what can be read is read unchanged, and what cannot is named in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import parquet_source
from producer.source import open_source, stream_batches, stream_rows
from tests.making import make_answer, make_stats, typed_columns, values, write_input
from worker.contracts.errors import InputError
from worker.contracts.job import Columns, Cut
from worker.contracts.shard import decode_payload, encode_payload, encode_shard, read_shard

TYPED = typed_columns()


def read(path: Path, **columns: Any) -> pa.Table:
    return pa.concat_tables(stream_rows(open_source([path], Columns(**columns))))


def carry(path: Path, *keep: str) -> pa.Table:
    """Take kept columns all the way: file, batch, payload, shard."""
    source = open_source([path], Columns(keep=keep))
    carried = []
    for number, batch in enumerate(stream_batches(stream_rows(source), Cut(2))):
        payload = decode_payload(encode_payload("job", number, batch))
        answers = [make_answer(example.row) for example in payload.examples]
        raw = encode_shard("job", answers, payload.kept, make_stats(number, answers))
        carried.append(read_shard(raw)[1].select(list(keep)))
    return pa.concat_tables(carried)


def damage(path: Path, place: Callable[[int], int], junk: bytes = b"\x00spoilt\xff" * 4) -> None:
    raw = bytearray(path.read_bytes())
    first = place(len(raw))
    raw[first : first + len(junk)] = junk
    path.write_bytes(raw)


def test_a_kept_column_of_any_type_reaches_the_shard_unchanged(tmp_path: Path) -> None:
    path = write_input(tmp_path / "a.parquet", **TYPED)
    expected = pq.read_table(path).select(list(TYPED))
    carried = carry(path, *TYPED)
    assert carried.schema.equals(expected.schema)
    assert values(carried) == values(expected)


def test_a_kept_column_of_an_unknown_extension_reaches_the_shard_with_its_name(
    tmp_path: Path,
) -> None:
    names = {b"ARROW:extension:name": b"geo.point", b"ARROW:extension:metadata": b"{}"}
    path = write_input(tmp_path / "a.parquet", 2)
    field = pa.field("where", pa.list_(pa.float64(), 2), metadata=names)
    table = pq.read_table(path).append_column(field, pa.array([[1, 2], None], field.type))
    pq.write_table(table, path)
    carried = carry(path, "where")
    assert carried.column("where").to_pylist() == [[1, 2], None]
    assert {*names.items()} <= {*carried.schema.field("where").metadata.items()}


def test_dictionaries_that_do_not_fit_into_one_are_carried_apart(tmp_path: Path) -> None:
    small = pa.dictionary(pa.int8(), pa.string())
    words = [[f"{letter}{number}" for number in range(100)] for letter in "abc"]
    path = tmp_path / "a.parquet"
    tables = [
        pa.table({"id": one, "question": one, "context": one, "k": pa.array(one, small)})
        for one in words
    ]
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    source = open_source([path], Columns(keep=("k",)))
    (batch,) = stream_batches(stream_rows(source), Cut(1000))
    payload = decode_payload(encode_payload("job", 0, batch))
    answers = [make_answer(example.row) for example in payload.examples]
    kept = read_shard(encode_shard("job", answers, payload.kept, make_stats(0, answers)))[1]
    assert kept.schema.field("k").type == small
    assert kept.column("k").to_pylist() == [word for part in words for word in part]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())],
    ids=str,
)
def test_texts_of_every_string_type_are_read_alike(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["what?", None, "é😀", ""]
    path = write_input(
        tmp_path / "a.parquet",
        4,
        **{name: pa.array(texts, kind) for name in ("id", "question", "context")},
    )
    table = read(path)
    assert table.column("id").to_pylist() == ["what?", "1", "é😀", ""]
    assert table.column("question").to_pylist() == ["what?", "", "é😀", ""]
    assert table.column("context").to_pylist() == ["what?", "", "é😀", ""]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64()], ids=str)
def test_whole_numbers_are_ids(tmp_path: Path, kind: pa.DataType) -> None:
    largest = 2**kind.bit_width - 1 if pa.types.is_unsigned_integer(kind) else -5
    path = write_input(tmp_path / "a.parquet", 3, id=pa.array([7, None, largest], kind))
    assert read(path).column("id").to_pylist() == ["7", "1", str(largest)]


def test_columns_without_any_value_are_columns_of_nulls(tmp_path: Path) -> None:
    path = write_input(tmp_path / "a.parquet", 2, id=pa.nulls(2), question=pa.nulls(2))
    table = read(path)
    assert table.column("id").to_pylist() == ["0", "1"]
    assert table.column("fault").to_pylist() == ["the question is null: give it a text"] * 2


@pytest.mark.parametrize("kind", ["float", "uuid", "list", "bool", "struct"])
def test_an_id_column_of_another_type_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_input(tmp_path / "a.parquet", id=TYPED[kind])
    with pytest.raises(InputError, match=r"the column 'id' of .*a\.parquet is .* which is no id"):
        read(path)
    assert read(path, id=None).num_rows == 5


@pytest.mark.parametrize("column", ["question", "context"])
@pytest.mark.parametrize("kind", ["binary", "int32", "list", "dictionary of binary"])
def test_a_text_column_of_another_type_is_refused(tmp_path: Path, column: str, kind: str) -> None:
    path = write_input(tmp_path / "a.parquet", **{column: TYPED[kind]})
    with pytest.raises(InputError, match=rf"the column '{column}' of .* is .*, not string"):
        read(path)


@pytest.mark.parametrize("column", ["id", "question", "context", "keep"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, column: str) -> None:
    path = write_input(tmp_path / "a.parquet")
    wanted: Any = ("none",) if column == "keep" else "none"
    with pytest.raises(InputError) as caught:
        read(path, **{column: wanted})
    assert str(caught.value).endswith(
        "a.parquet has no column 'none': its columns are id, question, context"
    )


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"])] * 4, names=["id", "question", "context", "question"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has several columns 'question'"):
        read(tmp_path / "a.parquet")


def test_columns_with_dots_are_read_beside_structures_with_such_parts(tmp_path: Path) -> None:
    path = write_input(
        tmp_path / "a.parquet",
        2,
        **{
            "a.question": ["q0?", "q1?"],
            "a": pa.array([{"question": 1, "id": 2}, None]),
            "a.id": ["x", "y"],
        },
    )
    table = read(path, id="a.id", question="a.question", keep=("a", "a.question"))
    assert table.column("id").to_pylist() == ["x", "y"]
    assert table.column("question").to_pylist() == ["q0?", "q1?"]
    assert table.column("a").to_pylist() == [{"question": 1, "id": 2}, None]
    assert table.column("a.question").to_pylist() == ["q0?", "q1?"]
    assert read(path, id="a.id", question="a.question").column("id").to_pylist() == ["x", "y"]


@pytest.mark.parametrize("coded", [False, True])
def test_texts_that_are_no_utf8_are_faults_of_their_rows_alone(tmp_path: Path, coded: bool) -> None:
    raw = [b"fine", b"\xff\xfe", None, "é".encode(), b"\xed\xa0\x80"]
    texts = pa.array(raw, pa.binary()).view(pa.string())
    good = ["fine"] * 5
    for column in ("question", "context", "id"):
        path = write_input(
            tmp_path / f"{coded}-{column}.parquet",
            **{
                "question": good,
                "context": good,
                column: texts.dictionary_encode() if coded else texts,
            },
        )
        table = read(path)
        faults = table.column("fault").to_pylist()
        if column == "id":
            assert faults == [None] * 5
            assert table.column("id").to_pylist() == ["fine", "1", "2", "é", "4"]
            assert table.column("warning").null_count == 2
        else:
            bad = f"the {column} is not valid UTF-8: encode it again"
            assert faults == [None, bad, f"the {column} is null: give it a text", None, bad]
            assert table.column(column).to_pylist() == ["fine", "", "", "é", ""]


def test_a_kept_text_that_is_no_utf8_is_carried_byte_for_byte(tmp_path: Path) -> None:
    texts = pa.array([b"\xff", b"a"], pa.binary()).view(pa.string())
    path = write_input(tmp_path / "a.parquet", 2, k=texts)
    kept = carry(path, "k").column("k").combine_chunks()
    assert kept.view(pa.binary()).to_pylist() == [b"\xff", b"a"]


def test_empty_row_groups_are_passed_over(tmp_path: Path) -> None:
    table = pq.read_table(write_input(tmp_path / "b.parquet", 3))
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 2), table.slice(0, 0), table.slice(2)):
            writer.write_table(part)
    assert read(tmp_path / "a.parquet").column("id").to_pylist() == ["q0", "q1", "q2"]


@pytest.mark.parametrize("text", ["", "x" * 5_000_000])
def test_chunks_are_bounded_by_bytes(tmp_path: Path, text: str) -> None:
    rows = 4_500
    contexts = [text if row % 1500 == 0 else "short" for row in range(rows)]
    path = write_input(tmp_path / "a.parquet", rows, context=contexts)
    source = open_source([path], Columns())
    chunks = list(stream_rows(source))
    assert sum(chunk.num_rows for chunk in chunks) == rows
    assert max(chunk.nbytes for chunk in chunks) < 2 * parquet_source.CHUNK_BYTES
    assert max(chunk.num_rows for chunk in chunks) <= parquet_source.LARGEST_CHUNK_ROWS


def test_a_passage_that_repeats_is_decoded_a_chunk_at_a_time(tmp_path: Path) -> None:
    passages = pa.array([letter * 50_000 for letter in "abc"])
    plain = write_input(tmp_path / "a.parquet", 450)
    table = pq.read_table(plain).set_column(
        2, "context", pa.DictionaryArray.from_arrays(np.repeat(np.arange(3), 150), passages)
    )
    expected = table.column("context").cast(pa.string())
    for schema in (False, True):  # as a dictionary for Arrow, or one of Parquet's own
        pq.write_table(table, plain, store_schema=schema)
        chunks = list(stream_rows(open_source([plain], Columns(keep=("context",)))))
        texts = [chunk.select([3]) for chunk in chunks]
        assert max(chunk.nbytes for chunk in texts) < 1.2 * parquet_source.CHUNK_BYTES
        joined = pa.concat_tables(texts).column(0)
        assert joined.cast(pa.string()).equals(expected.cast(pa.string()))
        assert {str(chunk.schema.types[-1]) for chunk in chunks} == {
            str(pq.read_schema(plain).field("context").type)
        }


def test_row_groups_of_different_encodings_come_in_order(tmp_path: Path) -> None:
    tables = [
        pq.read_table(write_input(tmp_path / "b.parquet", rows, context=contexts))
        for rows, contexts in ((300, ["same"] * 300), (9, [f"c{row}" * 999 for row in range(9)]))
    ]
    with pq.ParquetWriter(tmp_path / "a.parquet", tables[0].schema) as writer:
        for table in [*tables, *tables]:
            writer.write_table(table)
    table = read(tmp_path / "a.parquet")
    expected = pa.concat_tables([*tables, *tables]).column("context").to_pylist()
    assert table.column("context").to_pylist() == expected
    assert table.column("row").to_pylist() == list(range(618))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"id,question,context\n" * 9), id="a CSV"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-9]), id="without its end"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:200]), id="cut early"),
        pytest.param(lambda path: damage(path, lambda size: size - 60), id="another footer"),
    ],
)
def test_what_is_no_whole_parquet_file_is_refused_before_anything_is_read(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = write_input(tmp_path / "a.parquet")
    spoil(path)
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet \(.+\): check"):
        open_source([path], Columns())


TEXTS = pa.array([f"{number * 7919 % 100_003} words" for number in range(30_000)])


def test_damage_in_the_middle_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": TEXTS, "question": TEXTS, "context": TEXTS}), path)
    damage(path, lambda size: size // 2)
    source = open_source([path], Columns())
    with pytest.raises(InputError, match=r"a\.parquet is damaged \(.+\): write the file again"):
        list(stream_rows(source))


def test_a_letter_that_changed_is_noticed_where_the_file_has_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"id": TEXTS, "question": TEXTS, "context": TEXTS})
    pq.write_table(table, path, compression="none", write_page_checksum=True)
    place = path.read_bytes().index(b"words", path.stat().st_size // 2)
    damage(path, lambda _: place, b"sword")
    with pytest.raises(InputError, match=r"a\.parquet is damaged \(.*(CRC|checksum)"):
        list(stream_rows(open_source([path], Columns())))


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").symlink_to(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        open_source([tmp_path / "a.parquet"], Columns())
