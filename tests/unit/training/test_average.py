"""Averaging: the mean of weights, of checkpoints that have one, in a recipe too."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import Tiny, copy_headless
from training.average import average
from worker.contracts.errors import UsageError


def _copy_changed(source: Path, folder: Path, factor: float) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    tensors = load_file(source / "model.safetensors")
    changed = {name: tensor * factor for name, tensor in tensors.items()}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_mean_lies_between_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    source = tiny.checkpoint("bert")
    folders = [
        source,
        _copy_changed(source, tmp_path / "three", 3.0),
        _copy_changed(source, tmp_path / "five", 5.0),
    ]
    made = average(folders, tmp_path / "out")
    assert made == tmp_path / "out" / "best"
    before = load_file(source / "model.safetensors")
    for name, tensor in load_file(made / "model.safetensors").items():
        torch.testing.assert_close(tensor, 3.0 * before[name])
    assert (made / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_checkpoints_of_other_shapes_or_words_have_no_mean(tiny: Tiny, tmp_path: Path) -> None:
    source = tiny.checkpoint("bert")
    with pytest.raises(UsageError, match="have no mean"):
        average([source, tiny.checkpoint("roberta")], tmp_path / "out")
    other = _copy_changed(source, tmp_path / "other", 1.0)
    text = (source / "tokenizer.json").read_text()
    assert '"mill"' in text
    (other / "tokenizer.json").write_text(text.replace('"mill"', '"hill"'))
    with pytest.raises(UsageError, match="vocabularies differ"):
        average([source, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_head_has_no_share_in_a_mean(tiny: Tiny, tmp_path: Path) -> None:
    source = tiny.checkpoint("bert")
    encoder = copy_headless(source, tmp_path / "encoder")
    with pytest.raises(UsageError, match="the checkpoint encoder has no head"):
        average([source, encoder], tmp_path / "out")
    assert not (tmp_path / "out").exists()
