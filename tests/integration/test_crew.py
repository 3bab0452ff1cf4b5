"""Several processes train one model as one would, started by accelerate's own launcher."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import Tiny, write_checkpoint

_SPANMILL = ["-m", "producer.cli", "training"]
_LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]
_WORDS = [
    "Joan",
    "1742",
    "weir",
    "stones",
    "wheel",
    "hand",
    "October",
    "threads",
    "60",
    "day",
    "cat",
    "Ruiz",
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of rows whose batches do not fill their last step."""
    file = tmp_path_factory.mktemp("crew") / "rows.jsonl"
    lines = []
    for number in range(len(_WORDS)):
        words = [_WORDS[(number + more) % len(_WORDS)] for more in (0, 5, 3)]
        context = f"In passage {number} the {words[0]} met a {words[1]}, then the {words[2]} again."
        for word in words:
            answers = {"text": [word], "answer_start": [context.index(word)]}
            row = {"id": f"{number}-{word}", "title": str(number), "question": f"What of {word}?"}
            lines.append(json.dumps(row | {"context": context, "answers": answers}))
    file.write_text("\n".join(lines) + "\n")
    return file


#: Their gradients are rounding alone, which Adam makes steps of full size from.
_FREE = ("key.bias", "layer.1.output.LayerNorm.bias", "qa_outputs.bias")


def _start(processes: int, rows: Path, *command: object) -> subprocess.CompletedProcess[str]:
    options = ["--data", rows, "--held-out-share", "0.2", "--epochs", "3", "--batch-windows", "2"]
    options += ["--checkpoint-every-steps", "3", "--precision", "no"]
    launcher = [sys.executable] if processes == 1 else _LAUNCH
    return subprocess.run(
        [str(word) for word in (*launcher, *_SPANMILL, *command, *options)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def _train(processes: int, rows: Path, out: Path, *command: object) -> None:
    done = _start(processes, rows, *command, "--accumulation", 4, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out / 'best'}\n"


def _steps(out: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def _refuse_other_weights(out: Path, other: Path) -> None:
    one, two = (load_file(folder / "latest" / "training.safetensors") for folder in (out, other))
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith(("model.", "average.", "extra.")) and not name.endswith(_FREE):
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-3, msg=name)


def test_two_processes_fine_tune_and_resume_to_the_weights_of_one(
    tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    command = ("finetune", tiny.checkpoint("bert"), "--learning-rate", "5e-3")
    one, two = tmp_path / "one", tmp_path / "two"
    _train(1, rows, one, *command)
    _train(2, rows, two, *command)
    _refuse_other_weights(one, two)
    steps = _steps(two)
    assert [line["step"] for line in steps] == list(range(1, steps[0]["steps"] + 1))
    assert [line["lr"] for line in steps] == [line["lr"] for line in _steps(one)]
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}

    last = (two / "latest").resolve()  # as if killed before it was written
    kept = sorted(path for path in two.glob("step-*") if path != last)[-1]
    shutil.rmtree(last)
    for link in ("latest", "best"):
        (two / link).unlink()
        (two / link).symlink_to(kept.name)
    _train(2, rows, two, *command)
    _refuse_other_weights(one, two)
    assert [line["step"] for line in _steps(two)] == [line["step"] for line in steps]


def test_two_processes_distil_what_one_does_and_leave_alone_what_no_loss_reaches(
    rows: Path, tmp_path: Path
) -> None:
    write_checkpoint("bert", tmp_path / "teacher", layers=4)
    teacher = tmp_path / "teacher"
    command = ("distill", teacher, "--teacher", teacher, "--layers", "2,4")
    relations = (*command, "--weigh", "relations=1", "--learning-rate", "1e-3")
    for processes, name in ((1, "one"), (2, "two")):
        _train(processes, rows, tmp_path / name, *relations)
    _refuse_other_weights(tmp_path / "one", tmp_path / "two")
    begun = load_file(teacher / "model.safetensors")["qa_outputs.weight"]
    trained = load_file(tmp_path / "two" / "latest" / "model.safetensors")["qa_outputs.weight"]
    assert torch.equal(begun, trained)


def test_two_processes_ask_the_teachers_once(tiny: Tiny, rows: Path, tmp_path: Path) -> None:
    out, student = tmp_path / "out", tiny.checkpoint("bert")
    _train(2, rows, out, "distill", student, "--teacher", student)
    assert len(list((out / ".teachers").glob("*/*.parquet"))) == 1
    assert _steps(out)[0]["losses"].keys() == {"hard", "soft"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (("--accumulation", "4", "--learning-rate", "inf"), "no numbers any more"),
        (("--accumulation", "3"), "2 processes cannot share a step's batches"),
    ],
)
def test_processes_that_cannot_go_on_end_together(
    changed: tuple[str, ...], sentence: str, tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = _start(2, rows, "finetune", tiny.checkpoint("bert"), "--out", out, *changed)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Gloo" not in done.stderr  # nor does one of them lose another
