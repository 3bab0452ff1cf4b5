"""TensorBoard's files, read back by TensorBoard: what they hold is what metrics.jsonl holds."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import PASSAGES, QUESTIONS, Tiny
from training.cli import training
from training.event_files import writing_events
from training.fence import Fence, StoppedError, take_fence
from training.holds import Holder, name_self
from training.progress import LOGGER, Metrics
from worker.contracts.errors import UsageError, WorldError


def _read(folder: Path) -> dict[str, dict[int, float]]:
    """Return each scalar's values by step, as TensorBoard shows them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: {one.step: one.value for one in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


def _step(number: int, loss: float) -> dict[str, Any]:
    return {
        "step": number, "steps": 9, "epoch": 1, "loss": loss, "losses": {"hard": loss},
        "lr": 0.1, "examples_per_second": 8.0,
    }  # fmt: skip


def test_a_fine_tuning_writes_losses_rates_and_scores_by_step(tiny: Tiny, tmp_path: Path) -> None:
    lines = []
    for number in range(40):
        context = f"{PASSAGES[number % 3]} ({number})"
        gold = {"text": [context[:8]], "answer_start": [0]} if number % 2 else {}
        lines.append({"question": QUESTIONS[number % 3], "context": context, "answers": gold})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "tuned"
    command = [
        "finetune", str(tiny.checkpoint("bert")), "--data", str(tmp_path / "rows.jsonl"), "--out",
        str(out), "--held-out-share", "0.3", "--precision", "no", "--batch-windows", "8",
        "--tensorboard",
    ]  # fmt: skip
    CliRunner().invoke(training, command, catch_exceptions=False)
    found = _read(out / "tensorboard")
    told = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in told if "loss" in line]
    (scored,) = [line for line in told if "held_out" in line]
    assert len(steps) > 2
    for name, key in (("loss/all", "loss"), ("learning_rate", "lr")):
        assert found[name] == pytest.approx({line["step"]: line[key] for line in steps}, rel=1e-5)
    assert found["loss/hard"] == pytest.approx(found["loss/all"])
    assert found["held_out/best_f1"] == pytest.approx(
        {scored["step"]: scored["held_out"]["best_f1"]}, rel=1e-5
    )
    assert {"held_out/score", "held_out/answerable_f1", "windows_per_second"} <= set(found)


def test_steps_that_a_resumed_run_takes_again_count_once(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", writes=True)
    for first, loss in ((1, 3.0), (3, 1.0)):
        with writing_events(wanted=True):
            for number in range(first, first + 4):
                metrics.write(_step(number, loss))
    expected = {1: 3.0, 2: 3.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0}
    assert _read(tmp_path / "tensorboard")["loss/hard"] == expected


def test_who_is_overtaken_between_a_line_and_its_events_writes_none(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", writes=True)
    taken = take_fence(tmp_path, Holder(who="me", process=name_self()))
    assert isinstance(taken, Fence)
    events = tmp_path / "tensorboard"
    with taken, writing_events(wanted=True):
        metrics.write(_step(1, 3.0))
        before = {one.name: one.stat().st_size for one in events.iterdir()}
        (tmp_path / "fences" / "0000002.json").write_text("{}")
        told = {"metrics": _step(2, 3.0), "folder": tmp_path}
        with pytest.raises(StoppedError):
            LOGGER.info("metrics", extra=told)
    assert {one.name: one.stat().st_size for one in events.iterdir()} == before
    assert set(_read(events)["loss/hard"]) == {1}


def test_nothing_is_written_unless_it_is_wanted(tmp_path: Path) -> None:
    with writing_events(wanted=False):
        Metrics(tmp_path / "metrics.jsonl", writes=True).write(_step(1, 2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert LOGGER.handlers == []


def test_a_folder_that_takes_no_files_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    metrics = Metrics(tmp_path / "metrics.jsonl", writes=True)
    with (
        pytest.raises(WorldError, match="leave out --tensorboard"),
        writing_events(wanted=True),
    ):
        metrics.write(_step(1, 2.0))


@pytest.mark.parametrize("command", ["run", "finetune", "distill"])
def test_without_the_package_the_option_is_refused_before_any_work(
    command: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(
            json.dumps({"question": "Who?", "context": f"{number}", "answers": {}})
            for number in range(40)
        )
    )
    checkpoint, rows = str(tiny.checkpoint("bert")), str(tmp_path / "rows.jsonl")
    given = {
        "run": ["default", "--data-dir", str(tmp_path)],
        "finetune": [checkpoint, "--data", rows],
        "distill": [checkpoint, "--teacher", checkpoint, "--data", rows],
    }[command]
    with pytest.raises(UsageError, match=r"pip install 'spanmill\[tensorboard\]'") as caught:
        CliRunner().invoke(
            training, [command, *given, "--out", str(tmp_path / "out"), "--tensorboard"],
            standalone_mode=False, catch_exceptions=False,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
