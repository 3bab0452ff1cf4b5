"""Sweeps: a run a combination, a table of all, faults in their rows, and going on after a stop."""

import json
import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from producer.cli import main
from tests.tiny import Tiny
from tests.towns import write_towns
from training.follow import hold
from training.progress import LOGGER
from training.run_state import RunFolder
from training.sweep import Outcome, Result
from training.sweep_text import to_markdown

RECIPE = """
name = "small"
encoder = { name = "nobody/encoder", licence = "CC0-1.0" }
windows = { max_window_tokens = 96, overlap_tokens = 16, max_question_tokens = 32 }

[held_out]
files = ["squad-part", "squad2-unanswerable"]
share = 0.25

[data]
squad-part = { licence = "CC0-1.0" }
squad2-unanswerable = { licence = "CC0-1.0" }

[steps.first]
kind = "finetune"
stages = [{ rows = ["squad-part", "squad2-unanswerable"] }]
schedule = { batch_windows = 16, warmup_share = 0, precision = "no" }

[steps.bundle]
kind = "bundle"
start = "step:first"

[card]
licence = "CC0-1.0"
summary = "Nonsense, for tests."
limits = []
"""
RATE = "steps.first.schedule.learning_rate"
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_towns(folder / "data")
    (folder / "small.toml").write_text(RECIPE)
    return folder


class Desk:
    """Gives the command, and reads what it leaves."""

    def __init__(self, home: Path, encoder: Path, out: Path) -> None:
        self._home, self._encoder, self.out = home, encoder, out

    def sweep(self, *over: str) -> int:
        axes = [word for one in over for word in ("--over", one)]
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "training", "sweep", str(self._home / "small.toml"), *axes, "--until", "first",
                    "--data-dir", str(self._home / "data"), "--encoder", str(self._encoder),
                    "--out", str(self.out),
                ]
            )  # fmt: skip
        return int(ended.value.code or 0)

    def runs(self) -> dict[str, dict[str, Any]]:
        report = json.loads((self.out / "sweep.json").read_text())
        assert report["recipe"] == "small.toml"
        return {run["name"]: run for run in report["runs"]}


@pytest.fixture
def desk(home: Path, tiny: Tiny, tmp_path: Path) -> Desk:
    return Desk(home, tiny.checkpoint("bert"), tmp_path / "out")


def test_a_failing_combination_is_told_in_its_row_and_stops_no_other(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """At such a rate the weights are no numbers after a step; no batch has no windows."""
    grid = (f"{RATE}=1e30,1e-3", "steps.first.schedule.batch_windows=0,16")
    assert desk.sweep(*grid) == 3
    table = capsys.readouterr().out.splitlines()
    assert table[0] == (
        "| learning_rate | batch_windows | held-out exact | held-out F1 | answerable F1 | loss"
        " | seconds | failed |"
    )
    assert [row.split(" | ")[:2] for row in table[2:]] == [
        ["| 1e30", "0"], ["| 1e30", "16"], ["| 1e-3", "0"], ["| 1e-3", "16"],
    ]  # fmt: skip
    assert "`int` >= 1" in table[2]
    assert "no numbers any more" in table[3]
    assert "**" in table[5]
    runs = desk.runs()
    assert [run["error"] is None for run in runs.values()] == [False, False, False, True]
    good = runs["learning_rate=1e-3,batch_windows=16"]
    metrics = (desk.out / good["name"] / "first" / "metrics.jsonl").read_text().splitlines()
    judged = [line["held_out"] for line in map(json.loads, metrics) if "held_out" in line]
    assert good["result"]["f1"] == judged[-1]["best_f1"]
    assert good["result"]["step"] == "first"
    assert good["seconds"] > 0
    assert not (desk.out / good["name"] / "bundle").exists()

    assert desk.sweep(*grid) == 3  # what is finished stays, what failed is tried again
    again = desk.runs()
    assert again[good["name"]] == good
    failed = "learning_rate=1e30,batch_windows=16"
    assert again[failed]["seconds"] > runs[failed]["seconds"]


def test_two_sweeps_do_not_work_in_one_folder(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPANMILL_RUNS_ROOT", str(tmp_path / "runs"))
    out = tmp_path / "runs" / "small-sweep"
    words = ["training", "sweep", str(home / "small.toml"), "--data-dir", str(home / "data")]
    with hold(RunFolder(out), "another sweep"), pytest.raises(SystemExit) as ended:
        main([*words, "--over", f"{RATE}=1e-3,2e-3"])
    assert ended.value.code == 2
    assert f"another process works in {out}" in capsys.readouterr().err
    assert not (out / "sweep.json").exists()


class _Interrupt(logging.Handler):
    """Presses Ctrl-C when a step is told and one combination is finished."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        if list(self._out.glob("*/first.done.json")):
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_sweep_goes_on_where_it_was(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = _Interrupt(desk.out)
    LOGGER.addHandler(handler)
    try:
        assert desk.sweep(f"{RATE}=1e-3,2e-3") == 130
    finally:
        LOGGER.removeHandler(handler)
    assert "the same command goes on" in capsys.readouterr().err
    before = desk.runs()
    assert before["learning_rate=2e-3"]["error"] == "interrupted"
    assert desk.sweep(f"{RATE}=1e-3,2e-3") == 0
    said = capsys.readouterr()
    assert "learning_rate=1e-3: first: finished before" in said.err
    assert "failed" not in said.out
    after = desk.runs()
    assert after["learning_rate=1e-3"] == before["learning_rate=1e-3"]
    assert after["learning_rate=2e-3"]["seconds"] > before["learning_rate=2e-3"]["seconds"]


@pytest.mark.parametrize(
    ("over", "named"),
    [
        ("steps.first.schedule.learning_rat=1,2", "did you mean"),
        ("steps.first.schedule.batch_windows=0,-1", "`int` >= 1"),
        ("learning_rate", "is not KEY=VALUE"),
    ],
)
def test_a_sweep_none_of_whose_recipes_can_be_read_does_not_begin(
    over: str, named: str, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.sweep(over) == 2
    assert named in capsys.readouterr().err
    assert not desk.out.exists()


def test_a_last_step_that_is_not_there_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "training", "sweep", str(home / "small.toml"), "--over", f"{RATE}=1,2", "--until",
                "frist", "--data-dir", str(home / "data"), "--out", str(tmp_path / "out"),
            ]
        )  # fmt: skip
    assert ended.value.code == 1
    assert "no step frist (did you mean first?)" in capsys.readouterr().out


def test_a_table_shows_the_best_and_keeps_its_columns() -> None:
    result = Result("first", 50.0, 60.0, -1.5, 70.0, 1.25)
    good = Outcome("a", {"x.rate": "1", "x.seed": "1|2"}, 12.4, result, None)
    better = replace(good, name="b", result=replace(result, f1=61.5))
    bad = replace(good, name="c", result=None, error="it is | broken\nhere")
    assert to_markdown([good, better]) == (
        "| rate | seed | held-out exact | held-out F1 | answerable F1 | loss | seconds |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| 1 | 1\\|2 | 50.00 | 60.00 | 70.00 | 1.250 | 12 |\n"
        "| 1 | 1\\|2 | 50.00 | **61.50** | 70.00 | 1.250 | 12 |\n"
    )
    row = to_markdown([good, bad]).splitlines()[3]
    assert row == "| 1 | 1\\|2 | – | – | – | – | 12 | it is \\| broken here |"
