"""Teachers: their mean, asked once, in their own words, and of the student's tokens only."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny, write_checkpoint
from training import teacher as teacher_module
from training.checkpoint import open_encoder
from training.export import open_checkpoint, score_torch
from training.teacher import (
    Cache,
    Panel,
    SoftLabel,
    Teacher,
    find_teacher,
    open_model_to_watch,
    refuse_other_tokens,
)
from worker.contracts.errors import BundleError, JobError, UsageError, WorldError
from worker.reading.windows import Encoder, Window

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Give two checkpoints of different weights and one tokenizer."""
    root = tmp_path_factory.mktemp("teachers")
    for seed in (1, 2):
        write_checkpoint("bert", root / str(seed), seed=seed)
    return [root / "1", root / "2"]


@pytest.fixture(scope="module")
def encoder(folders: list[Path]) -> Encoder:
    return open_encoder(folders[0], find_teacher(str(folders[0])).family, SIZES)


@pytest.fixture(scope="module")
def windows(encoder: Encoder) -> list[Window]:
    """Give windows of several lengths, one of them twice."""
    asked = [
        encoder.encode(question, encoder.tokenize_passage(passage)).windows[0]
        for question, passage in zip(QUESTIONS, PASSAGES, strict=True)
    ]
    return [*asked, asked[0]]


class Deaf(Panel):
    """A panel that must not be asked."""

    def ask(self, windows: Sequence[Window]) -> list[SoftLabel]:
        raise AssertionError(f"{len(windows)} windows were asked again")


def _find(folders: Sequence[Path]) -> list[Teacher]:
    return [find_teacher(str(folder)) for folder in folders]


def _label(
    root: Path, folders: Sequence[Path], windows: Sequence[Window], encoder: Encoder
) -> list[SoftLabel]:
    teachers = _find(folders)
    return Cache(root, teachers, "no").label(windows, Panel(teachers, encoder, CPU))


def _logits(folder: Path, window: Window) -> np.ndarray:
    return np.concatenate(score_torch(open_checkpoint(str(folder), SIZES), [window]))


def test_a_label_is_the_mean_of_the_teachers_logits(
    folders: list[Path], windows: list[Window], encoder: Encoder, tmp_path: Path
) -> None:
    for label, window in zip(_label(tmp_path, folders, windows, encoder), windows, strict=True):
        expected = (_logits(folders[0], window) + _logits(folders[1], window)) / 2
        assert np.allclose(np.stack([label.starts, label.ends]), expected, atol=4e-3)
        assert label.starts.dtype == np.float16


def test_a_teacher_runs_once(
    folders: list[Path], windows: list[Window], encoder: Encoder, tmp_path: Path
) -> None:
    first = _label(tmp_path, folders, windows, encoder)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    teachers = _find(folders[::-1])  # their order makes no other ensemble
    again = Cache(tmp_path, teachers, "no").label(windows[::-1], Deaf(teachers, encoder, CPU))
    for one, other in zip(first, reversed(again), strict=True):
        assert np.array_equal(one.starts, other.starts)
        assert np.array_equal(one.ends, other.ends)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}


def test_only_what_is_not_known_yet_is_asked(
    folders: list[Path],
    windows: list[Window],
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _label(tmp_path, folders[:1], windows[:1], encoder)
    asked: list[int] = []
    ask = Panel.ask
    monkeypatch.setattr(
        Panel, "ask", lambda panel, some: (asked.append(len(some)), ask(panel, some))[1]
    )
    labels = _label(tmp_path, folders[:1], windows, encoder)
    assert asked == [2]  # of four windows one was known, and it comes twice
    assert [len(label.starts) for label in labels] == [len(window) for window in windows]


def test_an_interruption_keeps_the_parts_that_were_done(
    folders: list[Path],
    windows: list[Window],
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher_module, "PART_WINDOWS", 1)
    ask = Panel.ask

    def tire(panel: Panel, some: Sequence[Window]) -> list[SoftLabel]:
        if len(list(tmp_path.rglob("*.parquet"))) == 2:
            raise KeyboardInterrupt
        return ask(panel, some)

    with monkeypatch.context() as patched:
        patched.setattr(Panel, "ask", tire)
        with pytest.raises(KeyboardInterrupt):
            _label(tmp_path, folders[:1], windows, encoder)
    _label(tmp_path, folders[:1], windows, encoder)
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


def test_other_weights_or_another_precision_are_asked_anew(
    folders: list[Path], windows: list[Window], encoder: Encoder, tmp_path: Path
) -> None:
    _label(tmp_path, folders[:1], windows, encoder)
    for teachers, precision in (
        (_find(folders[1:]), "no"),
        (_find(folders), "no"),
        (_find(folders[:1]), "bf16"),
    ):
        with pytest.raises(AssertionError, match="3 windows were asked again"):
            Cache(tmp_path, teachers, precision).label(windows, Deaf(teachers, encoder, CPU))


def test_a_bundle_teaches_as_the_checkpoint_that_it_was_made_from(tiny: Tiny) -> None:
    checkpoint, bundle = find_teacher(str(tiny.checkpoint())), find_teacher(str(tiny.bundle()))
    encoder = open_encoder(checkpoint.folder, checkpoint.family, SIZES)
    window = encoder.encode(QUESTIONS[0], encoder.tokenize_passage(PASSAGES[0])).windows[0]
    refuse_other_tokens([bundle], checkpoint.folder)
    labels = [Panel([one], encoder, CPU).ask([window])[0] for one in (checkpoint, bundle)]
    assert np.allclose(labels[0].starts, labels[1].starts, atol=5e-3)
    assert np.allclose(labels[0].ends, labels[1].ends, atol=5e-3)


def test_a_teacher_of_another_vocabulary_is_refused(
    tiny: Tiny, folders: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="reads other tokens than the student"):
        refuse_other_tokens(_find([folders[0], tiny.checkpoint("roberta")]), folders[0])
    changed = shutil.copytree(folders[0], tmp_path / "changed")
    tokenizer = (changed / "tokenizer.json").read_text()
    (changed / "tokenizer.json").write_text(tokenizer.replace('"[MASK]"', '"[HOLE]"'))
    with pytest.raises(UsageError, match="reads other tokens than the student"):
        refuse_other_tokens(_find([changed]), folders[0])
    refuse_other_tokens(_find([tiny.checkpoint("distilbert")]), folders[0])


def test_a_teacher_whose_logits_are_no_numbers_is_refused(
    folders: list[Path], windows: list[Window], encoder: Encoder, tmp_path: Path
) -> None:
    for name, value in (("nan", float("nan")), ("huge", 1e6)):
        spoilt = shutil.copytree(folders[0], tmp_path / name)
        tensors = load_file(spoilt / "model.safetensors")
        tensors["qa_outputs.bias"] += value
        save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(JobError, match="no number, or beyond half precision"):
            _label(tmp_path / "cache", [folders[1], spoilt], windows, encoder)
    assert not list((tmp_path / "cache").rglob("*.parquet"))


def test_a_cache_that_is_damaged_is_named(
    folders: list[Path], windows: list[Window], encoder: Encoder, tmp_path: Path
) -> None:
    _label(tmp_path, folders[:1], windows, encoder)
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(WorldError, match="delete what is damaged"):
        _label(tmp_path, folders[:1], windows, encoder)


def test_a_bundle_that_was_changed_teaches_nothing(tiny: Tiny, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    with (bundle / "model.onnx").open("ab") as graph:
        graph.write(b"\0")
    with pytest.raises(BundleError, match="digest differs"):
        find_teacher(str(bundle))


def test_only_one_checkpoint_can_be_watched(tiny: Tiny, folders: list[Path]) -> None:
    with pytest.raises(UsageError, match="from 2 teachers: give one checkpoint"):
        open_model_to_watch(_find(folders), SIZES)
    with pytest.raises(UsageError, match="from a bundle: give one checkpoint"):
        open_model_to_watch(_find([tiny.bundle()]), SIZES)
    assert not any(
        weight.requires_grad
        for weight in open_model_to_watch(_find(folders[:1]), SIZES).parameters()
    )
