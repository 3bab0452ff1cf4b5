"""Payload and shard: what goes in comes out, and what is damaged is refused in a sentence."""

import contextlib
from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.making import make_answer, make_stats, typed_columns, values
from worker.contracts.errors import JobError
from worker.contracts.records import Answer, Example, Span, Status
from worker.contracts.shard import (
    ANSWER_SCHEMA,
    EXAMPLE_SCHEMA,
    TAIL_BYTES,
    VERSION,
    ShardMeta,
    decode_payload,
    decode_schema,
    encode_payload,
    encode_schema,
    encode_shard,
    open_shard,
    read_footer,
    read_shard,
)

TYPED = pa.table(typed_columns())
NOTHING = TYPED.select([])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
maybe = st.none() | text
examples = st.lists(
    st.builds(Example, st.integers(0, 2**40), text, text, text, maybe, maybe), max_size=9
)
number = st.floats(width=32, allow_nan=False)
spans = st.builds(Span, text, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), number)
answers = st.lists(
    st.builds(
        Answer,
        row=st.integers(0, 2**40),
        id=text,
        status=st.sampled_from(Status),
        best=st.none() | spans,
        null_odds=st.none() | number,
        margin=st.none() | number,
        confidence=st.none() | number,
        alternatives=st.lists(spans, max_size=3).map(tuple),
        windows=st.integers(0, 9),
        warning=maybe,
        error=maybe,
    ),
    min_size=1,
    max_size=9,
)


def to_rows(given_examples: list[Example], kept: pa.Table = NOTHING) -> pa.Table:
    columns = [
        pa.array([getattr(one, field.name) for one in given_examples], field.type)
        for field in EXAMPLE_SCHEMA
    ]
    table = pa.Table.from_arrays(columns, schema=EXAMPLE_SCHEMA)
    for field, column in zip(kept.schema, kept.columns, strict=True):
        table = table.append_column(field, column)
    return table


FIVE = [Example(row, f"q{row}", "what?", "it.") for row in range(5)]
ANSWERS = [make_answer(row) for row in range(5)]


@given(examples, st.integers(0, 10**7))
def test_a_payload_carries_its_examples(given_examples: list[Example], batch: int) -> None:
    payload = decode_payload(encode_payload("job", batch, to_rows(given_examples)))
    assert payload.job == "job"
    assert payload.batch == batch
    assert list(payload.examples) == given_examples
    assert payload.kept.num_columns == 0


def test_a_payload_carries_kept_columns_of_every_type_and_any_name() -> None:
    names = [*EXAMPLE_SCHEMA.names, *TYPED.column_names[len(EXAMPLE_SCHEMA) :]]
    kept = TYPED.rename_columns(names)
    payload = decode_payload(encode_payload("job", 0, to_rows(FIVE, kept)))
    assert list(payload.examples) == FIVE
    assert payload.kept.schema.equals(kept.schema)
    assert values(payload.kept) == values(kept)


def test_a_payload_is_small_for_texts_that_repeat() -> None:
    rows = [replace(one, context="the mill at Arden " * 5000) for one in FIVE]
    assert len(encode_payload("job", 0, to_rows(rows))) < 20_000


@given(answers)
def test_a_shard_holds_its_answers_as_the_user_gets_them(given_answers: list[Answer]) -> None:
    stats = make_stats(3, given_answers)
    meta, table = read_shard(encode_shard("job", given_answers, NOTHING, stats))
    assert meta == ShardMeta(VERSION, "job", given_answers[0].row, stats)
    assert table.schema.equals(ANSWER_SCHEMA)
    for answer, row in zip(given_answers, table.to_pylist(), strict=True):
        best, answered = answer.best, answer.status is Status.ANSWERED
        assert {name: row[name] for name in ("row", "id", "warning", "error", "windows")} == {
            "row": answer.row, "id": answer.id, "warning": answer.warning, "error": answer.error,
            "windows": answer.windows,
        }  # fmt: skip
        assert row["status"] == str(answer.status)
        assert row["null_odds"] == answer.null_odds
        assert row["margin"] == answer.margin
        assert row["confidence"] == answer.confidence
        assert row["latency_ms"] == stats.latency_ms
        assert row["score"] == (best and best.score)
        assert row["best_answer"] == (best and best.text)
        assert (row["best_start_char"], row["best_end_char"]) == (
            (None, None) if best is None else (best.start_char, best.end_char)
        )
        assert row["answer"] == (row["best_answer"] if answered else None)
        assert row["start_char"] == (row["best_start_char"] if answered else None)
        assert row["end_char"] == (row["best_end_char"] if answered else None)
        assert [Span(**one) for one in row["alternatives"]] == list(answer.alternatives)


def test_a_shard_holds_kept_columns_behind_the_answers() -> None:
    raw = encode_shard("job", ANSWERS, TYPED, make_stats(0, ANSWERS))
    _, table = read_shard(raw)
    kept = table.select(range(len(ANSWER_SCHEMA), table.num_columns))
    # Parquet has no such types: it gives back the nearest.
    assert kept.schema.names == TYPED.schema.names
    assert values(kept) == values(TYPED)


def test_a_shard_tells_its_footer_without_its_rows() -> None:
    meta, file = open_shard(encode_shard("job", ANSWERS, NOTHING, make_stats(7, ANSWERS)))
    assert meta.stats.batch == 7
    assert file.metadata.num_rows == 5


@pytest.mark.parametrize("columns", [0, 2000])
def test_a_footer_is_read_from_a_shards_end_however_long_it_is(columns: int) -> None:
    answers = [make_answer(row) for row in range(100)]
    kept = pa.table({f"column {number}": [number] * 100 for number in range(columns)})
    kept = kept if columns else pa.table({"_": pa.nulls(100)}).select([])
    raw = encode_shard("job", answers, kept, make_stats(3, answers))
    asked: list[int] = []

    def read_tail(size: int) -> bytes:
        asked.append(size)
        return raw[-size:]

    assert read_footer(read_tail) == open_shard(raw)[0]
    assert len(asked) == (2 if columns else 1)
    assert asked[0] == TAIL_BYTES
    assert sum(asked[1:]) < len(raw), "the rows stay where they are"


@pytest.mark.parametrize("raw", [b"", b"junk", b"x" * 40_000, b"\xff" * 40_000, b"PAR1" * 3])
def test_junk_has_no_footer(raw: bytes) -> None:
    with pytest.raises(JobError, match="a shard cannot be read"):
        read_footer(lambda size: raw[-size:])


def test_a_span_of_an_error_row_is_shown_as_best_only() -> None:
    failed = make_answer(0, Status.ERROR)
    _, table = read_shard(encode_shard("job", [failed], NOTHING, make_stats(0, [failed])))
    assert table.column("answer").null_count == 1
    assert table.column("error").to_pylist() == ["the question is empty"]


@given(st.data())
def test_a_cut_or_damaged_payload_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    whole = encode_payload("job", 0, to_rows(FIVE))
    raw = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if raw and data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(JobError):
        decode_payload(bytes(raw))


@pytest.mark.parametrize("raw", [b"", b"junk", b"ARROW1" * 9, b"\xff" * 64])
def test_junk_is_no_payload(raw: bytes) -> None:
    with pytest.raises(JobError, match="payload cannot be read"):
        decode_payload(raw)


def test_a_payload_of_another_version_is_refused() -> None:
    table = to_rows(FIVE).replace_schema_metadata(
        {b"spanmill": msgspec.json.encode({"version": VERSION + 1, "job": "j", "batch": 0})}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(JobError, match=rf"payload has version {VERSION + 1}"):
        decode_payload(bytes(sink.getvalue()))


def test_a_cut_or_damaged_shard_is_refused() -> None:
    many = [make_answer(row) for row in range(400)]
    kept = pa.table({"noise": np.random.default_rng(1).integers(0, 2**62, 400)})
    raw = encode_shard("job", many, kept, make_stats(0, many))
    for size in (0, 4, len(raw) // 2, len(raw) - 1):
        with pytest.raises(JobError, match="a shard cannot be read"):
            read_shard(raw[:size])
    table = pq.read_table(pa.BufferReader(raw)).replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(JobError, match="a shard cannot be read"):
        read_shard(bytes(sink.getvalue()))


def test_damage_in_a_shards_rows_is_noticed_when_they_are_read() -> None:
    many = [make_answer(row) for row in range(2000)]
    raw = bytearray(encode_shard("job-7", many, NOTHING, make_stats(5, many)))
    raw[60:90] = b"\xff" * 30
    assert open_shard(bytes(raw))[0].stats.batch == 5
    with pytest.raises(JobError, match="the shard of batch 5 of job-7 is damaged"):
        read_shard(bytes(raw))


def test_a_newer_shard_is_refused() -> None:
    _, table = read_shard(encode_shard("job", ANSWERS, NOTHING, make_stats(0, ANSWERS)))
    meta = ShardMeta(VERSION + 1, "job", 0, make_stats(0, ANSWERS))
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({b"spanmill": msgspec.json.encode(meta)}), sink)
    with pytest.raises(JobError, match=rf"a shard has version {VERSION + 1} .* upgrade spanmill"):
        open_shard(bytes(sink.getvalue()))


def test_a_schema_is_text_and_back() -> None:
    schema = TYPED.schema.with_metadata({"a": "b"})
    assert decode_schema(encode_schema(schema)).equals(schema, check_metadata=True)
