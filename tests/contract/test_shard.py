"""The shard and the answers file of version 1 stay readable, and are what this version writes."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from producer.answers import read_answers_meta
from tests.contract.originals import ANSWERS, FOLDER, KEPT, META, STATS, make_all
from tests.making import values
from worker.contracts.shard import ANSWER_SCHEMA, ShardMeta, make_answer_table, read_shard

GOLDEN = (FOLDER / "shard-1.parquet").read_bytes()


def test_the_golden_shard_is_read() -> None:
    meta, table = read_shard(GOLDEN)
    assert meta == ShardMeta(1, "answers-0123456789", 40, STATS)
    assert (
        table.select(ANSWER_SCHEMA.names).to_pylist()
        == make_answer_table(ANSWERS, 30.0).to_pylist()
    )
    assert values(table.select(KEPT.column_names)) == values(KEPT)


def test_what_is_written_now_says_the_same(tmp_path: Path) -> None:
    made = make_all(tmp_path / "parts")
    (old_meta, old), (new_meta, new) = read_shard(GOLDEN), read_shard(made["shard-1.parquet"])
    assert new_meta == old_meta
    assert new.schema.equals(old.schema)
    assert values(new) == values(old)
    old = pq.read_table(FOLDER / "answers-1.parquet")
    new = pq.read_table(pa.BufferReader(made["answers-1.parquet"]))
    assert new.schema.equals(old.schema, check_metadata=True)
    assert new.equals(old)


def test_the_golden_answers_are_read() -> None:
    assert read_answers_meta(FOLDER / "answers-1.parquet") == META
    table = pq.read_table(FOLDER / "answers-1.parquet")
    assert table.to_pylist() == make_answer_table(ANSWERS, 30.0).to_pylist()


def test_the_answers_have_the_columns_of_the_design() -> None:
    span = "struct<text: string, start_char: int32, end_char: int32, score: float>"
    assert [(field.name, str(field.type)) for field in ANSWER_SCHEMA] == [
        ("id", "string"),
        ("row", "int64"),
        ("status", "dictionary<values=string, indices=int8, ordered=0>"),
        ("answer", "string"),
        ("start_char", "int32"),
        ("end_char", "int32"),
        ("confidence", "float"),
        ("score", "float"),
        ("null_odds", "float"),
        ("margin", "float"),
        ("best_answer", "string"),
        ("best_start_char", "int32"),
        ("best_end_char", "int32"),
        ("alternatives", f"list<item: {span}>"),
        ("windows", "int32"),
        ("warning", "string"),
        ("error", "string"),
        ("latency_ms", "float"),
    ]
