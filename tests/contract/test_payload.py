"""The payload of version 1 stays readable, and is what this version writes."""

from tests.contract.originals import EXAMPLES, FOLDER, KEPT, to_rows
from tests.making import values
from worker.contracts.shard import EXAMPLE_SCHEMA, decode_payload, encode_payload

GOLDEN = (FOLDER / "payload-1.arrow").read_bytes()


def test_the_golden_payload_is_read() -> None:
    payload = decode_payload(GOLDEN)
    assert (payload.job, payload.batch) == ("answers-0123456789", 5)
    assert payload.examples == EXAMPLES
    assert payload.kept.schema.equals(KEPT.schema)
    assert values(payload.kept) == values(KEPT)


def test_what_is_written_now_says_the_same() -> None:
    assert decode_payload(encode_payload("answers-0123456789", 5, to_rows())) == decode_payload(
        GOLDEN
    )


def test_the_columns_have_their_names_types_and_places() -> None:
    assert [(field.name, str(field.type)) for field in EXAMPLE_SCHEMA] == [
        ("row", "int64"),
        ("id", "string"),
        ("question", "large_string"),
        ("context", "large_string"),
        ("fault", "string"),
        ("warning", "string"),
    ]
