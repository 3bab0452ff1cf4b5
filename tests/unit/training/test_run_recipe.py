"""A whole recipe: two teachers, a student of both, a bundle that answers; killed and resumed."""

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from producer.cli import main
from tests.tiny import PASSAGES, Tiny, copy_headless
from training.card import Encoder
from training.fence import StoppedError
from training.follow import follow, locate
from training.lines import telling
from training.progress import LOGGER
from training.provenance import name_encoder
from training.recipe_file import read_recipe
from training.run_state import RunFolder, RunState, Turn
from training.workspace import Place
from worker.contracts.bundle import Bundle, load_bundle
from worker.contracts.errors import InputError, UsageError

RECIPE = """
name = "towns"
encoder = { name = "nobody/no-such-encoder", licence = "CC0-1.0" }

[held_out]
files = ["towns"]
share = 0.3
seed = 1

[data]
towns = { licence = "CC0-1.0" }
mills = { licence = "CC0-1.0", rows = 6, seed = 2 }

[augment]
other = { how = "negations", of = ["towns"], rows = 6, seed = 3 }

[mixtures]
all = ["towns", "mills", "other"]

[steps.first]
kind = "finetune"
stages = [{ rows = ["all"], epochs = 2 }]
schedule = { batch_windows = 8, learning_rate = 1e-3, precision = "no", dropout = 0.1 }

[steps.second]
kind = "finetune"
start = "step:first"
stages = [{ rows = ["towns"] }]
schedule = { batch_windows = 4, accumulation = 2, learning_rate = 1e-3, precision = "bf16" }

[steps.idle]
kind = "finetune"
stages = [{ rows = ["mills"] }]

[steps.small]
kind = "distill"
start = "step:second"
layers = [2]
teachers = ["step:first", "step:second"]
weights = { hard = 0.3, soft = 0.7 }
materials = [{ rows = ["towns"], pairs = ["other"], epochs = 6 }]
schedule = { batch_windows = 4, learning_rate = 1e-3, precision = "no", checkpoint_every_steps = 3 }

[steps.bundle]
kind = "bundle"
start = "step:small"

[reports]
mills = { file = "mills", licence = "CC0-1.0" }

[card]
licence = "CC0-1.0"
summary = "Nonsense, for tests."
limits = ["It knows nothing."]
"""
TOWNS = [
    f"Was the mill of town {number} built by Joan in {1700 + number}? " for number in range(40)
]
#: One thread, as in this process: sums of several come in no fixed order.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
#: Generous: a start takes seconds, and the machine may be busy.
SECONDS = 240
pytestmark = pytest.mark.timeout(900)


def _write_rows(path: Path, texts: list[str]) -> None:
    lines = []
    for number, text in enumerate(texts):
        start = text.index("Joan") if "Joan" in text else 0
        answers = {"text": [text[start : start + 4]], "answer_start": [start]}
        for part, found in enumerate((answers, {"text": [], "answer_start": []})):
            asked = f"Who is it that built the mill of {number}, {part}?"
            line = {"id": f"{number}-{part}", "question": asked, "context": text, "answers": found}
            lines.append(json.dumps(line))
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a recipe and its data."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "towns.toml").write_text(RECIPE)
    (folder / "data").mkdir()
    _write_rows(folder / "data" / "towns.jsonl", TOWNS)
    _write_rows(
        folder / "data" / "mills.jsonl", [f"{one} {two}" for one in PASSAGES for two in "abc"]
    )
    return folder


def _follow(home: Path, encoder: Path | None, out: Path, *settings: str) -> list[str]:
    """Follow the recipe in this process; return what was said."""
    said: list[str] = []
    place = Place(out=out, data=home / "data", encoder=None if encoder is None else str(encoder))
    with telling(said.append):
        made = follow(read_recipe(str(home / "towns.toml"), settings), place, said.append)
    assert made == out / "bundle"
    return said


@pytest.fixture(scope="module")
def undisturbed(home: Path, tiny: Tiny) -> tuple[Bundle, list[str]]:
    """Give the bundle of a run that nobody interrupts, and what was said."""
    said = _follow(home, tiny.checkpoint("bert"), home / "whole")
    return load_bundle(home / "whole" / "bundle"), said


def test_a_recipe_ends_in_a_bundle_that_answers(
    undisturbed: tuple[Bundle, list[str]], tmp_path: Path
) -> None:
    bundle, said = undisturbed
    rows, answers = tmp_path / "rows.jsonl", tmp_path / "answers.parquet"
    asked = [{"question": "Who built it?", "context": text} for text in TOWNS[:5]]
    rows.write_text("\n".join(map(json.dumps, asked)))
    command = [
        sys.executable, "-m", "producer.cli", "answer", str(rows), "--out", str(answers),
        "--bundle", str(bundle.folder), "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(answers).num_rows == 5
    assert "idle: no step that is taken stands on it" in said
    steps = [line for line in said if line.startswith("first: step ")]
    assert "windows/s" in steps[0]
    assert any("held-out F1" in line for line in steps)


def test_a_card_tells_how_the_bundle_was_made(undisturbed: tuple[Bundle, list[str]]) -> None:
    origin = undisturbed[0].manifest.card["origin"]
    assert origin["recipe"] == RECIPE
    assert [(one["step"], one["start"]) for one in origin["steps"]] == [
        ("first", "encoder"), ("second", "step:first"), ("small", "step:second"),
    ]  # fmt: skip
    weights = [(one["start_sha256"], one["sha256"]) for one in origin["steps"]]
    assert weights[0][1] == weights[1][0]
    assert weights[2][1] == origin["checkpoint_sha256"]
    assert weights[0][0] == origin["encoder_sha256"]
    assert origin["encoder"] == {
        "name": "checkpoint-bert",
        "licence": "not told, given instead of the recipe's nobody/no-such-encoder",
    }  # fmt: skip
    assert origin["seeds"] == {
        "held-out split": 1, "mills": 2, "other": 3, "first": 1, "second": 1, "small": 1,
    }  # fmt: skip
    used = {(one["name"], one["used_for"]) for one in undisturbed[0].manifest.card["data"]}
    assert used == {
        ("towns.jsonl", "training, and held-out passages for calibration"),
        ("mills.jsonl", "training, 6 of its rows"),
        ("mills.jsonl", "scores only (mills)"),
    }


def test_a_finished_runs_page_shows_its_curves_scores_data_and_recipe(
    undisturbed: tuple[Bundle, list[str]],
) -> None:
    bundle, said = undisturbed
    assert not [line for line in said if "page" in line]
    out = bundle.folder.parent
    page = (out / "index.html").read_text()
    pictures = {path.stem for path in (out / "plots").glob("*.svg")}
    assert pictures == {path.stem for path in (out / "plots").glob("*.png")}
    assert pictures == {
        *(f"{step}-{name}" for step in ("first", "second", "small")
          for name in ("loss", "rate", "f1")),
        "bundle-threshold-sweep", "bundle-reliability", "bundle-risk-coverage",
    }  # fmt: skip
    assert page.count("<svg") == len(pictures)
    assert "finished" in page
    assert "left out: nothing stands on it" in page
    card = bundle.manifest.card
    for score in card["scores"]:
        assert f"{score['f1']['value']:.1f} ({score['f1']['low']:.1f} to" in page
    for one in card["data"]:
        assert f"<td>{one['name']}</td><td>{one['used_for']}</td><td>CC0-1.0</td>" in page
    assert escape(RECIPE.strip()) in page
    revisions = json.loads((out / "revisions.json").read_text())
    assert [one["revision"] for one in revisions] == [card["origin"]["git_revision"]]
    assert f"<code>{bundle.digest}</code>" in page


def test_a_run_that_is_killed_goes_on_to_the_same_bundle(
    undisturbed: tuple[Bundle, list[str]], home: Path, tiny: Tiny
) -> None:
    out, encoder = home / "killed", tiny.checkpoint("bert")
    command = [
        sys.executable, "-m", "producer.cli", "training", "run", str(home / "towns.toml"),
        "--data-dir", str(home / "data"), "--encoder", str(encoder), "--out", str(out),
        "--tensorboard",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as running:
        give_up = time.monotonic() + SECONDS
        while not (out / "small" / "latest").exists() and time.monotonic() < give_up:
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    assert (out / "second.done.json").is_file()
    assert not (out / "small.done.json").exists()
    told = EventAccumulator(str(out / "first" / "tensorboard"))
    told.Reload()
    lines = (out / "first" / "metrics.jsonl").read_text().splitlines()
    assert [one.step for one in told.Scalars("loss/all")] == [
        one["step"] for one in map(json.loads, lines) if "loss" in one
    ]
    said = _follow(home, encoder, out)
    assert {"first: finished before", "second: finished before"} < set(said)
    bundle, whole = load_bundle(out / "bundle"), undisturbed[0]
    assert bundle.manifest.files == whole.manifest.files
    assert bundle.manifest.null_threshold == whole.manifest.null_threshold
    assert bundle.manifest.calibration == whole.manifest.calibration
    assert bundle.manifest.card["origin"]["steps"] == whole.manifest.card["origin"]["steps"]


class _Interrupt(logging.Handler):
    """Presses Ctrl-C as soon as a step is told."""

    def emit(self, record: logging.LogRecord) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_a_run_with_the_way_to_go_on(
    home: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = _Interrupt()
    LOGGER.addHandler(handler)
    try:
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "training", "run", str(home / "towns.toml"), "--data-dir", str(home / "data"),
                    "--encoder", str(tiny.checkpoint("bert")), "--out", str(tmp_path / "out"),
                ]
            )  # fmt: skip
    finally:
        LOGGER.removeHandler(handler)
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert "first: from encoder" in said
    assert "interrupted: the same command goes on from the last checkpoint" in said
    assert not (tmp_path / "out" / "first.done.json").exists()


def test_a_copy_of_the_recipes_encoder_is_told_as_the_recipe_does(tmp_path: Path) -> None:
    named = Encoder("nobody/no-such-encoder", "CC0-1.0")
    (tmp_path / "no-such-encoder").mkdir()
    for given in (None, named.name, str(tmp_path / "no-such-encoder")):
        assert name_encoder(named, given) == named
    assert name_encoder(named, "somebody/else") == Encoder(
        "somebody/else", "not told, given instead of the recipe's nobody/no-such-encoder"
    )


class _Cancel(logging.Handler):
    """Cancels a run as soon as a step is told, as `spanmill training cancel` does elsewhere."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.run = run

    def emit(self, record: logging.LogRecord) -> None:
        if not self.run.is_cancelled():
            self.run.put_turn(Turn.CANCELLED)


def test_a_run_that_is_cancelled_stops_at_its_next_step_with_a_checkpoint(
    home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "out")
    handler = _Cancel(run)
    LOGGER.addHandler(handler)
    try:
        with pytest.raises(StoppedError, match="was cancelled"):
            _follow(home, tiny.checkpoint("bert"), run.folder)
    finally:
        LOGGER.removeHandler(handler)
    assert run.read().state is RunState.CANCELLED
    assert (run.folder / "first" / "latest").resolve().name == "step-0000001"
    assert not (run.folder / "first" / "best").exists()  # it was not scored


def test_a_finished_run_stays_as_it_is(
    undisturbed: tuple[Bundle, list[str]], home: Path, tiny: Tiny
) -> None:
    said = _follow(home, tiny.checkpoint("bert"), home / "whole")
    assert "bundle: finished before" in said
    assert load_bundle(home / "whole" / "bundle").digest == undisturbed[0].digest


@pytest.mark.parametrize(
    ("encoder", "settings", "changed"),
    [
        ("bert", ["steps.first.schedule.seed=9"], "recipe.steps.first.schedule.seed"),
        ("minilm", [], "files.encoder"),
    ],
)
def test_another_recipe_or_encoder_over_the_same_folder_is_refused(
    encoder: str,
    settings: list[str],
    changed: str,
    undisturbed: tuple[Bundle, list[str]],
    home: Path,
    tiny: Tiny,
) -> None:
    with pytest.raises(UsageError, match=f"in which {changed} was another"):
        _follow(home, tiny.checkpoint(encoder), home / "whole", *settings)


def test_other_data_over_the_same_folder_are_refused(
    undisturbed: tuple[Bundle, list[str]], home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    other = tmp_path / "data"
    shutil.copytree(home / "data", other)
    _write_rows(other / "mills.jsonl", [f"{PASSAGES[0]} and more"])
    place = Place(out=home / "whole", data=other, encoder=str(tiny.checkpoint("bert")))
    with pytest.raises(UsageError, match=r"files\.mills was another"):
        follow(read_recipe(str(home / "towns.toml")), place, lambda _: None)


def test_a_run_of_before_a_value_of_recipes_was_known_is_gone_on_with(
    undisturbed: tuple[Bundle, list[str]], home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(home / "whole", older, symlinks=True)
    claim = json.loads((older / "run.json").read_text())
    assert claim["recipe"]["held_out"].pop("even") is False
    (older / "run.json").write_text(json.dumps(claim))
    _follow(home, tiny.checkpoint("bert"), older)
    assert load_bundle(older / "bundle").digest == undisturbed[0].digest


def test_two_processes_do_not_work_in_one_folder(home: Path, tiny: Tiny, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process works in"):
            _follow(home, tiny.checkpoint("bert"), tmp_path)


def test_a_recipes_name_leads_to_no_other_folder(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["training", "run", str(home / "towns.toml"), "--data-dir", str(home / "data")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--runs-root", str(tmp_path / "runs"), "--set", "name='../elsewhere'"])
    assert ended.value.code == 2
    assert "'../elsewhere' cannot be a run's name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_report_that_is_not_there_is_told_before_anything_is_trained(
    home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no file gone"):
        _follow(home, tiny.checkpoint("bert"), tmp_path / "out", "reports.mills.file=gone")
    assert not (tmp_path / "out").exists()


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _estrange(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))


@pytest.mark.parametrize(("spoil", "named"), [(_pickle, "safetensors"), (_estrange, "gpt2")])
def test_an_encoder_that_cannot_be_used_is_told_before_anything_is_read(
    spoil: Callable[[Path], None], named: str, home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny.checkpoint("bert"), encoder)
    spoil(encoder)
    with pytest.raises(UsageError, match=named) as caught:
        _follow(home, encoder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_rows_without_any_answer_are_refused(home: Path, tiny: Tiny, tmp_path: Path) -> None:
    settings = ["steps.first.stages=[{ rows = ['other'] }]"]
    with pytest.raises(InputError, match="are unanswerable, so no span can be learned"):
        _follow(home, tiny.checkpoint("bert"), tmp_path / "out", *settings)


def test_held_out_rows_that_cannot_calibrate_are_refused_before_anything_is_trained(
    home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no held-out rows"):
        _follow(home, tiny.checkpoint("bert"), tmp_path / "out", "held_out.share=1e-9")
    assert not (tmp_path / "out" / "first").exists()


def test_a_checkpoint_without_a_head_becomes_no_bundle(
    home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    encoder = copy_headless(tiny.checkpoint("bert"), tmp_path / "encoder")
    with pytest.raises(UsageError, match="fine-tune it first"):
        _follow(home, encoder, tmp_path / "out", "steps.bundle.start=encoder")
    assert not (tmp_path / "out" / "bundle.done.json").exists()


def test_a_step_begins_with_a_bundles_weights_and_the_card_says_so(
    undisturbed: tuple[Bundle, list[str]], home: Path, tmp_path: Path
) -> None:
    earlier = undisturbed[0]
    settings = [
        f"steps.small.start=bundle:{earlier.folder}",
        f"steps.small.teachers=['bundle:{earlier.folder}']",
        "steps.small.layers=[1]",
        "steps.small.materials.0.epochs=1",
        "data.towns.rows=60",
    ]
    _follow(home, None, tmp_path / "out", *settings)
    card = load_bundle(tmp_path / "out" / "bundle").manifest.card
    assert [one["step"] for one in card["origin"]["steps"]] == ["small"]
    assert card["origin"]["steps"][0]["start_sha256"] == earlier.digest
    assert card["origin"]["settings"] == settings
    assert card["origin"]["encoder_sha256"] == earlier.manifest.card["origin"]["encoder_sha256"]
    told = [one["name"] for one in card["data"] if one["used_for"].endswith("began with")]
    assert sorted(told) == ["mills.jsonl", "towns.jsonl"], "towns were read whole before, not here"


def test_a_step_takes_the_mean_of_what_two_others_made(
    home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    mean = '[steps.mean]\nkind = "average"\nstart = "step:second"\nothers = ["step:first"]\n\n'
    (tmp_path / "mean.toml").write_text(RECIPE.replace("[steps.idle]", f"{mean}[steps.idle]"))
    written = read_recipe(str(tmp_path / "mean.toml"), ())
    encoder = str(tiny.checkpoint("bert"))
    place = Place(out=tmp_path / "out", data=home / "data", encoder=encoder, until="mean")
    said: list[str] = []
    made = follow(written, place, said.append)
    assert made == tmp_path / "out" / "mean"
    first, second, both = (
        load_file(tmp_path / "out" / step / "best" / "model.safetensors")
        for step in ("first", "second", "mean")
    )
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    assert "mean of weights" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_mean_with_an_encoder_is_refused_before_the_first_step(
    home: Path, tiny: Tiny, tmp_path: Path
) -> None:
    encoder = copy_headless(tiny.checkpoint("bert"), tmp_path / "encoder")
    mean = '[steps.mean]\nkind = "average"\nstart = "step:first"\nothers = ["encoder"]\n\n'
    (tmp_path / "mean.toml").write_text(RECIPE.replace("[steps.idle]", f"{mean}[steps.idle]"))
    written = read_recipe(str(tmp_path / "mean.toml"), ())
    place = Place(out=tmp_path / "out", data=home / "data", encoder=str(encoder), until="mean")
    with pytest.raises(UsageError, match="has no head"):
        follow(written, place, lambda _: None)
    assert not (tmp_path / "out" / "first").exists()


def test_an_encoders_folder_is_ordered_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("mine") == str(tmp_path / "mine")
    assert locate("somebody/theirs") == "somebody/theirs"
