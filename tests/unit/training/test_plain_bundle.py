"""Formats: any reader becomes a bundle by a command, a bundle a checkpoint, that a bundle again."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from tests.tiny import CALIBRATION, PASSAGES, QUESTIONS, SIZES, Tiny
from training.bundle import Description, pack_bundle
from training.cli import training
from training.export import open_checkpoint, score_torch
from training.quantize import Mode, quantize
from worker.contracts.bundle import Bundle, load_bundle
from worker.contracts.errors import UsageError
from worker.contracts.family import FAMILIES
from worker.contracts.options import ReadingOptions
from worker.contracts.records import Answer, Example, Status
from worker.reading.reader import pad_windows
from worker.reading.sample import read_all
from worker.session import OnnxScorer
from worker.tools import open_reader


def _run(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(
        training, [command, *arguments], standalone_mode=False, catch_exceptions=False
    )


def _answer(bundle: Bundle) -> list[Answer]:
    reader = open_reader(bundle, ReadingOptions(bundle.manifest.null_threshold))
    return read_all(
        reader,
        [
            Example(number, str(number), question, context)
            for number, (question, context) in enumerate(zip(QUESTIONS, PASSAGES, strict=True))
        ],
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_reader_of_any_family_becomes_a_bundle_that_answers(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    said = _run("export", str(tiny.checkpoint(family)), "--out", str(out), "--licence", "MIT")
    made = load_bundle(out)
    assert said.output.startswith(f"{out}: {made.digest[:12]}")
    assert (made.manifest.name, made.manifest.licence) == ("mine", "MIT")
    assert made.manifest.quantization == "none (fp32)"
    for answer, context in zip(_answer(made), PASSAGES, strict=True):
        assert answer.best is not None
        assert context[answer.best.start_char : answer.best.end_char] == answer.best.text
        assert answer.null_odds is not None
        right = 1 / (1 + np.exp(answer.null_odds))
        abstains = answer.status is Status.UNANSWERABLE
        assert answer.confidence == pytest.approx(1 - right if abstains else right, abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_card_says_that_nothing_was_fitted(tiny: Tiny, tmp_path: Path) -> None:
    _run("export", str(tiny.checkpoint("bert")), "--out", str(tmp_path / "mine"))
    card = load_bundle(tmp_path / "mine").manifest.card
    assert "Neither threshold nor confidence was fitted" in card["limits"][0]
    assert len(card["origin"]["checkpoint_sha256"]) == 64
    assert load_bundle(tmp_path / "mine").manifest.licence == "not told"


@pytest.mark.parametrize("family", ["bert", "mobilebert"])
def test_an_int8_bundle_has_an_fp32_twin_that_judges_like_it(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    checkpoint = tiny.checkpoint(family)
    opened = open_checkpoint(str(checkpoint), SIZES)
    windows = [
        window
        for question, context in zip(QUESTIONS, PASSAGES, strict=True)
        for window in opened.encoder.encode(
            question, opened.encoder.tokenize_passage(context)
        ).windows
    ]
    graph = tmp_path / "int8.onnx"
    quantize(tiny.bundle(family) / "model.onnx", graph, Mode.DYNAMIC, windows)
    described = Description("small", opened.family.name, "es", SIZES, 0.7, CALIBRATION, "", "MIT")
    small = pack_bundle(tmp_path / "small", graph, checkpoint / "tokenizer.json", described)
    _run("thaw", str(small.folder), "--out", str(tmp_path / "weights"))
    _run("export", str(tmp_path / "weights"), "--like", str(small.folder), "--out",
         str(tmp_path / "twin"))  # fmt: skip
    twin = load_bundle(tmp_path / "twin")
    for name in ("null_threshold", "calibration", "language", "licence", "sizes", "family"):
        assert getattr(twin.manifest, name) == getattr(small.manifest, name)
    assert twin.manifest.card["origin"]["judges_like"] == small.digest
    assert twin.model.stat().st_size > small.model.stat().st_size
    kinds = {one.op_type for one in onnx.load(twin.model).graph.node}
    assert not [kind for kind in kinds if "Quantize" in kind or "Integer" in kind]
    thawed = open_checkpoint(str(tmp_path / "weights"), SIZES)
    scorer, rough = OnnxScorer(twin.model), OnnxScorer(small.model)
    for window in windows:
        batch = pad_windows([window], thawed.encoder.pad)
        expected = np.concatenate(score_torch(thawed, [window]))
        found = np.concatenate(scorer.score(batch))
        assert np.allclose(found, expected, atol=1e-4)
        assert 0 < np.abs(np.concatenate(rough.score(batch)) - found).max() < 0.3 * expected.std()


def test_a_bundles_own_twin_has_the_very_weights(tiny: Tiny, tmp_path: Path) -> None:
    _run("thaw", str(tiny.bundle("distilbert")), "--out", str(tmp_path / "weights"))
    thawed = load_file(tmp_path / "weights" / "model.safetensors")
    weights = load_file(tiny.checkpoint("distilbert") / "model.safetensors")
    assert thawed.keys() == weights.keys()
    assert all((thawed[name] == weights[name]).all() for name in weights)
    _run("export", str(tmp_path / "weights"), "--out", str(tmp_path / "again"), "--like",
         str(tiny.bundle("distilbert")))  # fmt: skip
    again, first = load_bundle(tmp_path / "again"), load_bundle(tiny.bundle("distilbert"))
    told, expected = (
        [(one.status, one.best, one.null_odds, one.confidence) for one in _answer(bundle)]
        for bundle in (again, first)
    )
    assert told == expected


@pytest.mark.parametrize("command", ["export", "finetune", "distill", "bundle", "compare"])
def test_pickled_weights_are_opened_by_no_command(
    command: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for name in ("load", "jit.load"):
        monkeypatch.setattr(f"torch.{name}", None)  # opening would be another error
    assert torch.load is None
    pickled = Path(shutil.copytree(tiny.checkpoint("bert"), tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    rows = tmp_path / "rows.jsonl"
    lines = [
        {
            "question": question, "context": f"{context} ({number})",
            "answers": {"text": [context[:8]], "answer_start": [0]} if number % 2 else {},
        }
        for number in range(30)
        for question, context in zip(QUESTIONS, PASSAGES, strict=True)
    ]  # fmt: skip
    rows.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "texts.toml").write_text(
        'name = "x"\nlanguage = "en"\nlicence = "MIT"\nsummary = ""\nlimits = []\n'
        '[licences]\nrows = "MIT"\n'
    )
    out = ["--out", str(tmp_path / "out")]
    given = {
        "export": [str(pickled), *out],
        "finetune": [str(pickled), "--data", str(rows), *out],
        "distill": [str(tiny.checkpoint("bert")), "--teacher", str(pickled), "--data", str(rows),
                    *out],
        "bundle": [str(pickled), "--data", str(rows), "--texts", str(tmp_path / "texts.toml"),
                   *out],
        "compare": [str(tiny.bundle("bert")), "--data", str(rows), "--encoder", str(pickled)],
    }[command]  # fmt: skip
    with pytest.raises(UsageError, match="pickled weights are never opened"):
        _run(command, *given)


def test_a_bundle_takes_the_place_of_nothing_but_a_bundle(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    checkpoint = str(tiny.checkpoint("bert"))
    for taken in ("thesis", "file"):
        for command in (
            ["export", checkpoint],
            ["calibrate", str(tiny.bundle("bert")), "--data", str(tmp_path / "file")],
        ):
            with pytest.raises(UsageError, match="exists and is no bundle"):
                _run(*command, "--out", str(tmp_path / taken))
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # into an empty folder, then over the bundle
        _run("export", checkpoint, "--out", str(tmp_path / "empty"))
    assert load_bundle(tmp_path / "empty").manifest.name == "empty"
