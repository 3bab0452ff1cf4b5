"""Layers: who imitates whom, which make a smaller model, and what they are seen to give."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel

from tests.tiny import SIZES, write_checkpoint
from training.checkpoint import open_model
from training.export import open_checkpoint
from training.layers import ANATOMIES, list_layers, map_layers, measure_width, take_layers, watch
from training.losses import score_attention
from worker.contracts.errors import UsageError

MODEL_TYPES = sorted(ANATOMIES)
PARTS = ("hidden", "query", "key", "value")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of three-layer checkpoints."""
    root = tmp_path_factory.mktemp("deep")
    for name in MODEL_TYPES:
        write_checkpoint(name, root / name, layers=3)
    return root


def _open(folder: Path) -> PreTrainedModel:
    return open_model(folder, dropout=0.0, attention="eager")[0].eval()


def _inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(
    ("layers", "kind", "step", "expected"),
    [
        ((4, 12), "uniform", None, [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ((6, 12), "uniform", None, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12)]),
        ((6, 24), "uniform", 3, [(1, 3), (2, 6), (3, 9), (4, 12), (5, 15), (6, 18)]),
        ((3, 5), "uniform", 1, [(1, 1), (2, 2), (3, 3)]),
        ((2, 2), "uniform", None, [(1, 1), (2, 2)]),
        ((3, 12), "bottom", None, [(1, 1), (2, 2), (3, 3)]),
        ((3, 12), "top", None, [(1, 10), (2, 11), (3, 12)]),
        ((6, 12), "last", None, [(6, 12)]),
        ((6, 12), "ends", None, [(1, 1), (6, 12)]),
        ((1, 1), "ends", None, [(1, 1)]),
    ],
)
def test_layers_map_as_the_papers_say(
    layers: tuple[int, int], kind: str, step: int | None, expected: list[tuple[int, int]]
) -> None:
    assert list(map_layers(*layers, kind, step)) == expected


@pytest.mark.parametrize(
    ("layers", "kind", "step", "message"),
    [
        ((6, 4), "last", None, "not deeper than its teacher"),
        ((5, 12), "uniform", None, "do not divide evenly"),
        ((6, 12), "uniform", 3, "layer 18 of a teacher that has 12"),
        ((6, 12), "uniform", 0, "choose a step from 1 to 2"),
        ((6, 12), "sideways", None, "use one of uniform, bottom, top, last, ends"),
    ],
)
def test_a_map_that_cannot_be_is_refused_in_a_sentence(
    layers: tuple[int, int], kind: str, step: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        map_layers(*layers, kind, step)


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_hidden_states_are_those_that_the_model_reports(name: str, deep: Path) -> None:
    model = _open(deep / name)
    places = [("hidden", layer) for layer in range(4)]
    with watch(model, places) as seen, torch.no_grad():
        reported = model(**_inputs(), output_hidden_states=True).hidden_states
    assert len(reported) == len(seen)
    for place in places:
        assert torch.equal(seen[place], reported[place[1]])


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_queries_keys_and_values_are_those_that_attention_works_with(name: str, deep: Path) -> None:
    model, inputs = _open(deep / name), _inputs()
    heads = model.config.num_attention_heads
    mixed: dict[str, torch.Tensor] = {}
    after = {"distilbert": "attention.out_lin"}.get(name, "attention.output.dense")
    list_layers(model)[1].get_submodule(after).register_forward_pre_hook(
        lambda _module, given: mixed.update(context=given[0])
    )
    with watch(model, [(part, 2) for part in PARTS]) as seen, torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions[1]
    scores = score_attention(seen["query", 2], seen["key", 2], heads)
    scores = scores.masked_fill(inputs["attention_mask"][:, None, None, :] == 0, -1e4)
    assert torch.allclose(scores.softmax(-1), maps, atol=1e-5)
    values = seen["value", 2].unflatten(-1, (heads, -1)).transpose(1, 2)
    context = (maps @ values).transpose(1, 2).flatten(2)
    assert torch.allclose(context, mixed["context"], atol=1e-5)
    assert all(measure_width(model, part) == seen[part, 2].shape[-1] for part in PARTS)


def test_a_model_is_watched_no_longer_than_asked(deep: Path) -> None:
    model = _open(deep / "bert")
    with watch(model, [("hidden", 1)]) as seen:
        pass
    model(**_inputs())
    assert not seen


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_a_smaller_model_has_the_chosen_layers_and_all_else(
    name: str, deep: Path, tmp_path: Path
) -> None:
    small = take_layers(deep / name, (1, 3), tmp_path / "small")
    assert AutoConfig.from_pretrained(small).num_hidden_layers == 2
    layers = ANATOMIES[name].layers
    kept, source = (
        load_file(small / "model.safetensors"),
        load_file(deep / name / "model.safetensors"),
    )
    for key, value in kept.items():
        assert torch.equal(value, source[key.replace(f"{layers}.1.", f"{layers}.2.")])
    gone = {key for key in source if f"{layers}.1." in key}
    assert gone
    assert len(kept) == len(source) - len(gone)
    assert len(list_layers(open_checkpoint(str(small), SIZES).model)) == 2


@pytest.mark.parametrize("layers", [(), (0, 1), (2, 4), (2, 1), (1, 1)])
def test_layers_that_are_not_there_are_refused(
    layers: tuple[int, ...], deep: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="from 1 to 3 in ascending order"):
        take_layers(deep / "bert", layers, tmp_path / "small")
