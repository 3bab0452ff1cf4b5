"""`spanmill training`: each step by its command, from a checkpoint to a bundle that reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.tiny import PASSAGES, QUESTIONS, Tiny
from training.cli import COMMANDS, training
from worker.contracts.bundle import load_bundle
from worker.contracts.errors import InputError, UsageError

TEXTS = """
name = "mine"
language = "en"
licence = "Apache-2.0"
summary = "Nonsense, for tests."
limits = []
[licences]
rows = "CC0-1.0"
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [
        {
            "id": str(number),
            "question": QUESTIONS[number % 3],
            "context": f"{PASSAGES[number % 3]} ({number})",
            "answers": {"text": ["The mill"], "answer_start": [0]}
            if number % 2 and PASSAGES[number % 3].startswith("The mill")
            else {"text": [], "answer_start": []},
        }
        for number in range(60)
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_export_then_quantize_give_a_smaller_graph(tiny: Tiny, rows: Path, tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint("bert")
    full, small = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    said = _run("export", str(checkpoint), "--out", str(full)).output
    assert "logits differ from torch's by at most" in said
    said = _run(
        "quantize", str(full), "--out", str(small), "--tokenizer",
        str(checkpoint / "tokenizer.json"), "--data", str(rows), "--held-out-share", "0.3",
        "--processes", "1",
    ).output  # fmt: skip
    assert "dynamic int8" in said
    assert small.stat().st_size < full.stat().st_size


def test_bundle_goes_all_the_way_and_calibrate_and_evaluate_go_on(
    tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    out = tmp_path / "bundle"
    _run(
        "bundle", str(tiny.checkpoint("bert")), "--out", str(out), "--data", str(rows),
        "--held-out-share", "0.4", "--report", f"mine={rows}", "--texts",
        str(tmp_path / "texts.toml"), "--processes", "1",
    )  # fmt: skip
    made = load_bundle(out)
    assert made.manifest.name == "mine"
    assert made.manifest.card["origin"]["seeds"] == {"held-out split": 13}

    again = tmp_path / "again"
    _run("calibrate", str(out), "--data", str(rows), "--out", str(again), "--processes", "1")
    fitted = load_bundle(again)
    assert fitted.manifest.files == made.manifest.files
    assert fitted.manifest.card["calibrated_again"] == {"from": made.digest, "rows": 60}

    said = _run("evaluate", str(again), str(rows), "--json", "--processes", "1").stdout
    scores = json.loads(said)
    assert scores["f1"] == pytest.approx(scores["best"]["f1"])
    assert scores["total"] == 60


def test_a_report_that_names_no_file_is_refused(tiny: Tiny, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NAME=FILE"):
        _run(
            "bundle", str(tiny.checkpoint("bert")), "--out", str(tmp_path / "b"), "--data",
            str(rows), "--report", "mine=nowhere.json",
        )  # fmt: skip


def test_data_without_any_answer_is_refused(tiny: Tiny, rows: Path, tmp_path: Path) -> None:
    silent = tmp_path / "rows.jsonl"
    silent.write_text("\n".join(
        json.dumps(json.loads(line) | {"answers": {"text": [], "answer_start": []}})
        for line in rows.read_text().splitlines()
    ))  # fmt: skip
    out = str(tmp_path / "b")
    with pytest.raises(InputError, match=r"all 60 rows .* are unanswerable"):
        _run("calibrate", str(tiny.bundle("bert")), "--data", str(silent), "--out", out)


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from training.cli import training;"
        "training(['--help'], standalone_mode=False);"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


def _run(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(
        training, [command, *arguments], standalone_mode=False, catch_exceptions=False
    )
