"""Manifest and events of version 1 stay readable, and are written byte for byte the same."""

import msgspec

from tests.contract.originals import EVENT, FOLDER, KEPT, MANIFEST
from worker.contracts.folder import Event
from worker.contracts.job import State, decode_manifest, encode_manifest, shard_key
from worker.contracts.shard import decode_schema

GOLDEN = (FOLDER / "manifest-1.json").read_bytes()


def test_the_golden_manifest_is_read() -> None:
    manifest = decode_manifest(GOLDEN, "golden")
    assert manifest == MANIFEST
    assert decode_schema(manifest.kept_schema).equals(KEPT.schema)


def test_a_manifest_that_was_read_is_written_the_same() -> None:
    assert encode_manifest(decode_manifest(GOLDEN, "golden")) == GOLDEN


def test_the_golden_event_is_read_and_written_the_same() -> None:
    raw = (FOLDER / "event-1.json").read_bytes()
    assert msgspec.json.decode(raw, type=Event) == EVENT
    assert msgspec.json.encode(EVENT) == raw


def test_states_and_places_keep_their_names() -> None:
    assert [str(state) for state in State] == [
        "validating", "running", "paused", "collecting", "completed", "completed_with_errors",
        "failed", "cancelling", "cancelled",
    ]  # fmt: skip
    assert shard_key("job", 1_042) == "job/shards/0001/0001042.parquet"
