"""`spanmill bundle show` and `check`: what a bundle says, and whether it is true here."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.tiny import Tiny
from worker.cli import bundle
from worker.contracts.errors import BundleError
from worker.session import PROVIDERS


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.bundle("bert"), tmp_path / "mine"))


def test_a_bundle_proves_itself(folder: Path) -> None:
    result = _run("check", folder)
    assert result.return_value == 0
    assert "12 of 12 sample rows read as recorded" in result.output


def test_a_bundle_proves_itself_with_the_best_provider_that_runs(folder: Path) -> None:
    result = _run("check", folder, "--provider", "auto", "--json")
    assert result.return_value == 0
    assert json.loads(result.stdout)["provider"] in PROVIDERS


def test_a_recorded_answer_that_is_not_given_fails_the_check(folder: Path) -> None:
    _change_sample(folder, 3, answer="Leonie Kastner had a tunnel")
    result = _run("check", folder, "--json")
    report = json.loads(result.stdout)
    assert result.return_value == 1
    assert (report["ok"], report["same"]) == (False, 11)
    assert [one["row"] for one in report["differences"]] == [3]


@pytest.mark.parametrize("scores", [{"score": 90.0}, {"null_odds": -90.0}])
def test_a_score_that_is_far_off_fails_the_check(folder: Path, scores: dict[str, float]) -> None:
    _change_sample(folder, 5, **scores)
    result = _run("check", folder)
    assert result.return_value == 1
    assert "row 5: differs" in result.output


def test_a_recorded_answer_just_behind_another_is_a_tie(folder: Path) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    row = manifest["sample"][0]
    from tests.tiny import NULL_THRESHOLD
    from worker.contracts.bundle import load_bundle
    from worker.contracts.options import ReadingOptions
    from worker.contracts.records import Example
    from worker.opening import open_reader
    from worker.reading.sample import read_all

    reader = open_reader(load_bundle(folder), ReadingOptions(NULL_THRESHOLD, top_k=2))
    (answer,) = read_all(reader, [Example(0, "0", row["question"], row["context"])])
    second = answer.alternatives[1]
    _change_sample(folder, 0, answer=second.text, score=second.score)
    result = _run("check", folder)
    assert result.return_value == 0
    assert "row 0: a tie" in result.output


def test_a_changed_byte_is_found_before_anything_is_read(folder: Path) -> None:
    raw = bytearray((folder / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "model.onnx").write_bytes(raw)
    for command in ("show", "check"):
        with pytest.raises(BundleError, match="digest differs"):
            _run(command, folder)


def test_show_prints_every_part_of_the_card(folder: Path) -> None:
    card = {
        "summary": "reads mills",
        "scores": [{"data": "v1.1", "f1": {"value": 80.5, "low": 79.25, "high": 81.75}}],
        "origin": {"recipe": "steps = 7", "seeds": {"split": 13}},
        "limits": ["knows [no] French"],
    }
    _change(folder, card=card)
    output = _run("show", folder).output
    for said in ("reads mills", "80.5 (79.25 to 81.75)", "steps = 7", "split: 13", "[no] French"):
        assert said in output


def test_show_json_is_the_manifest_with_its_digest(folder: Path) -> None:
    shown = json.loads(_run("show", folder, "--json").stdout)
    manifest = json.loads((folder / "bundle.json").read_text())
    assert len(shown.pop("digest")) == 64
    assert shown == manifest


def _run(command: str, folder: Path, *options: str) -> Result:
    runner = CliRunner()
    arguments = [command, str(folder), *options]
    return runner.invoke(bundle, arguments, standalone_mode=False, catch_exceptions=False)


def _change_sample(folder: Path, row: int, **values: object) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["sample"][row] |= values
    _change(folder, sample=manifest["sample"])


def _change(folder: Path, **values: object) -> None:
    file = folder / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
