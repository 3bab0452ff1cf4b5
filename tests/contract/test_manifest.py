"""Manifests and events of each version stay readable, and are written byte for byte the same."""

import msgspec
import pytest

from tests.contract.originals import EVENT, FOLDER, KEPT, MANIFEST, MANIFEST_2, MANIFEST_2_OBJECTS
from worker.contracts.folder import Event
from worker.contracts.job import JobManifest, State, decode_manifest, encode_manifest, shard_key
from worker.contracts.shard import decode_schema


@pytest.mark.parametrize(
    ("name", "known"), [("1", MANIFEST), ("2", MANIFEST_2), ("2-objects", MANIFEST_2_OBJECTS)]
)
def test_a_golden_manifest_is_read_and_written_the_same(name: str, known: JobManifest) -> None:
    golden = (FOLDER / f"manifest-{name}.json").read_bytes()
    manifest = decode_manifest(golden, "golden")
    assert manifest == known
    assert decode_schema(manifest.kept_schema).equals(KEPT.schema)
    assert encode_manifest(manifest) == golden


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
