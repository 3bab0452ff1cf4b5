"""Checkpoints: opened without pickle, written whole or not at all."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import SIZES, Tiny
from training import checkpoint as module
from training.checkpoint import (
    HubAwayError,
    check_fit,
    drop_old,
    find_checkpoint,
    find_latest,
    flatten_optimizer,
    open_encoder,
    open_model,
    point,
    read_family,
    restore_optimizer,
    write_checkpoint,
)
from training.dropout import ByteDropout
from training.stint import waiting_for_the_hub
from training.teacher import refuse_other_tokens
from worker.contracts.errors import UsageError, WorldError


def _copy(tiny: Tiny, folder: Path) -> Path:
    return shutil.copytree(tiny.checkpoint("bert"), folder)


def _refuse(folder: Path, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        open_model(find_checkpoint(str(folder)), dropout=0.0, attention="eager")
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_never_opened(tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _refuse(folder, "safetensors")


def test_another_family_is_refused_by_name(tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    _refuse(folder, "gpt2")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_checkpoint_that_lacks_a_file_is_refused(name: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny, tmp_path / "part")
    (folder / name).unlink()
    _refuse(folder, name)


def test_a_checkpoint_that_is_a_file_is_refused_as_one(tiny: Tiny, tmp_path: Path) -> None:
    _refuse(_copy(tiny, tmp_path / "whole") / "model.safetensors", "is a file: give the folder")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": "x"}, "config.json of odd is of no model .*hidden_size"),
        ({"hidden_size": 33}, "33"),
        ({"hidden_act": "no such"}, "no such"),
    ],
)
def test_a_configuration_of_no_possible_model_is_refused(
    change: dict[str, object], word: str, tiny: Tiny, tmp_path: Path
) -> None:
    folder = _copy(tiny, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    _refuse(folder, word)


@pytest.mark.parametrize("content", ["", "no json", '{"hidden_size": 3}'])
def test_a_damaged_configuration_is_refused(content: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny, tmp_path / "damaged")
    (folder / "config.json").write_text(content)
    _refuse(folder, "config")


def test_damaged_weights_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"12345678 not weights")
    _refuse(folder, "cannot be read")


def _rewrite(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return folder


def test_only_the_head_is_made_new(tiny: Tiny, tmp_path: Path) -> None:
    def drop(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        return lambda given: {one: value for one, value in given.items() if name not in one}

    headless = _rewrite(_copy(tiny, tmp_path / "headless"), drop("qa_outputs."))
    open_model(headless, dropout=0.0, attention="eager")
    part = _rewrite(_copy(tiny, tmp_path / "part"), drop("layer.1.output.dense."))
    _refuse(part, r"lacks 2 weights .* bert\.encoder\.layer\.1\.output\.dense\.bias: save it whole")


def test_a_checkpoint_in_half_precision_is_opened_in_full(tiny: Tiny, tmp_path: Path) -> None:
    folder = _rewrite(
        _copy(tiny, tmp_path / "half"),
        lambda given: {name: value.half() for name, value in given.items()},
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    model, _ = open_model(folder, dropout=0.0, attention="eager")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("content", ["", "no json", '{"model": 3}', "[]"])
def test_a_damaged_tokenizer_is_refused(content: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny, tmp_path / "damaged")
    model, family = open_model(folder, dropout=0.0, attention="eager")
    (folder / "tokenizer.json").write_text(content)
    for use in (
        lambda: open_encoder(folder, family, SIZES),
        lambda: check_fit(model, folder, SIZES),
        lambda: refuse_other_tokens([], folder),
    ):
        with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_name_that_neither_disk_nor_hub_knows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    _refuse(Path("nobody/no-such-reader"), "no folder nobody/no-such-reader")


def test_a_hub_that_is_out_of_reach_is_told_apart_from_one_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorldError, match="check the name and the network"), waiting_for_the_hub():
        find_checkpoint("nobody/no-such-reader")
    with pytest.raises(UsageError) as caught:
        find_checkpoint("/no/such/folder")
    assert not isinstance(caught.value, HubAwayError)


def test_dropout_is_the_callers_but_none_of_attention_maps(tiny: Tiny) -> None:
    folder = tiny.checkpoint("distilbert")
    model, family = open_model(folder, dropout=0.25, attention="eager")
    dropped = {one.dropped for one in model.modules() if isinstance(one, ByteDropout)}
    assert dropped == {64}  # of 256
    assert {one.p for one in model.modules() if isinstance(one, torch.nn.Dropout)} == {0.0}
    assert family == read_family(folder)


def _writer(size: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save_file({"weights": torch.full((size,), float(size))}, folder / "model.safetensors")
        (folder / "config.json").write_text(str(size))

    return write


def test_the_latest_checkpoint_is_whole(tmp_path: Path) -> None:
    assert find_latest(tmp_path) is None
    for size in (3, 4):
        write_checkpoint(tmp_path, f"step-{size}", _writer(size))
        assert (tmp_path / "latest" / "config.json").read_text() == str(size)
    assert find_latest(tmp_path) == (tmp_path / "step-4").resolve()


def test_a_full_disk_leaves_the_previous_checkpoint_valid(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "step-1", _writer(10))
    before = {path.name: path.read_bytes() for path in (tmp_path / "latest").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(WorldError, match="previous checkpoint"):
            write_checkpoint(tmp_path, "step-2", _writer(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in (tmp_path / "latest").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-1"]


def test_a_writer_that_dies_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    def die(folder: Path) -> None:
        _writer(5)(folder)
        raise KeyboardInterrupt

    write_checkpoint(tmp_path, "step-1", _writer(10))
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, "step-2", die)
    assert find_latest(tmp_path) == (tmp_path / "step-1").resolve()
    write_checkpoint(tmp_path, "step-2", _writer(20))
    assert (tmp_path / "latest" / "config.json").read_text() == "20"


def test_old_checkpoints_go_but_never_one_that_is_named(tmp_path: Path) -> None:
    for size in range(1, 6):
        write_checkpoint(tmp_path, f"step-{size}", _writer(size))
    point(tmp_path, "best", "step-2")
    drop_old(tmp_path, kept=2)
    folders = {path.name for path in tmp_path.iterdir() if not path.is_symlink()}
    assert folders == {"step-2", "step-4", "step-5"}


def test_a_link_that_the_disk_does_not_take_is_told_in_a_sentence(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "step-1", _writer(1))
    (tmp_path / "best").mkdir()  # no link can replace a folder
    with pytest.raises(WorldError, match=r"best could not be set to step-1 .*resume"):
        point(tmp_path, "best", "step-1")


def test_a_checkpoint_that_cannot_be_deleted_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    for size in (1, 2):
        write_checkpoint(tmp_path, f"step-{size}", _writer(size))
    monkeypatch.setattr(shutil, "rmtree", refuse)  # as root may delete anything
    with pytest.raises(WorldError, match=r"step-1 could not be deleted \(Permission denied\)"):
        drop_old(tmp_path, kept=1)


def test_an_optimizer_comes_back_as_it_was() -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def learn(model: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = make()
    learn(model, optimizer)
    other, fresh = make()
    other.load_state_dict(model.state_dict())
    kept = {name: value.clone() for name, value in flatten_optimizer(optimizer).items()}
    restore_optimizer(fresh, kept)
    learn(model, optimizer)
    learn(other, fresh)
    assert torch.equal(model.weight, other.weight)


def test_nothing_here_unpickles() -> None:
    # What is handed from process to process of one command is no file, and not meant.
    unpickling = ("torch.load", "torch.save", "import pickle", "joblib", "np.load", "allow_pickle")
    for file in Path(str(module.__file__)).parent.rglob("*.py"):
        source = file.read_text()
        assert not [name for name in unpickling if name in source], file
        assert source.count("Model.from_pretrained(") + source.count(
            "ForQuestionAnswering.from_pretrained("
        ) == source.count("use_safetensors=True"), file
