"""The bundle's manifest of format 1 stays readable, and is written byte for byte the same."""

from pathlib import Path

from tests.contract.originals import BUNDLE, FOLDER
from worker.contracts.bundle import parse_manifest, write_manifest

GOLDEN = (FOLDER / "bundle-1.json").read_bytes()


def test_the_golden_manifest_is_read() -> None:
    assert parse_manifest(GOLDEN, "golden") == BUNDLE


def test_a_manifest_that_was_read_is_written_the_same(tmp_path: Path) -> None:
    """Its digest names the bundle, so that every byte counts."""
    write_manifest(tmp_path, parse_manifest(GOLDEN, "golden"))
    assert (tmp_path / "bundle.json").read_bytes() == GOLDEN
