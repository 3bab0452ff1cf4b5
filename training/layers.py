"""A model's layers: which imitates which, how some of them make a smaller model, what they give.

Layers are counted from 1; 0 stands for the embeddings.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from training.checkpoint import open_model
from training.disk import keeping
from training.fence import draft_of, writing
from worker.contracts.errors import UsageError

#: A part of a layer, such as ``("value", 6)``: its output is "hidden"; "query", "key" and "value"
#: are the projections of its self-attention.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where a family keeps its layers and, in each, the projections of its self-attention."""

    layers: str
    query: str
    key: str
    value: str


_BERT = Anatomy(
    "encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value"
)
#: By the ``model_type`` of the checkpoint.
ANATOMIES = {
    "bert": _BERT,
    "distilbert": Anatomy(
        "transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin"
    ),
    "mobilebert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}


def map_layers(
    student_layers: int, teacher_layers: int, kind: str, step: int | None = None
) -> tuple[tuple[int, int], ...]:
    """Return pairs (layer of the student, layer of the teacher that it imitates).

    ``uniform`` is g(l) = step · l, as 3 · l from 12 to 4; without a step it is the one that ends at
    the teacher's last layer. ``bottom`` is g(l) = l, ``top`` is g(l) = l + the difference; these
    three are from Jiao et al. 2020 (TinyBERT), §4. ``last`` pairs the last layers alone (Wang et
    al. 2020, MiniLM, §3), ``ends`` the first ones and the last.

    Raises:
        UsageError: the student has more layers, or no such map exists.
    """
    if not 1 <= student_layers <= teacher_layers:
        raise UsageError(
            f"the student has {student_layers} layers but the teacher {teacher_layers}: take a"
            " student that is not deeper than its teacher"
        )
    own = range(1, student_layers + 1)
    more = teacher_layers - student_layers
    if kind == "uniform":
        step = _choose_step(student_layers, teacher_layers, step)
    maps = {
        "uniform": [(layer, layer * (1 if step is None else step)) for layer in own],
        "bottom": [(layer, layer) for layer in own],
        "top": [(layer, layer + more) for layer in own],
        "last": [(student_layers, teacher_layers)],
        "ends": sorted({(1, 1), (student_layers, teacher_layers)}),
    }
    if kind not in maps:
        raise UsageError(f"there is no layer map {kind!r}: use one of {', '.join(maps)}")
    return tuple(maps[kind])


def _choose_step(student_layers: int, teacher_layers: int, step: int | None) -> int:
    if step is None and teacher_layers % student_layers:
        raise UsageError(
            f"{teacher_layers} layers of the teacher do not divide evenly among {student_layers} of"
            " the student: give the map's step, or use another map"
        )
    chosen = teacher_layers // student_layers if step is None else step
    if not 1 <= chosen <= teacher_layers // student_layers:
        raise UsageError(
            f"layer {student_layers} of the student would imitate layer {chosen * student_layers}"
            f" of a teacher that has {teacher_layers}: choose a step from 1 to"
            f" {teacher_layers // student_layers}"
        )
    return chosen


def list_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return a model's layers, the first at index 0."""
    layers = model.base_model.get_submodule(ANATOMIES[model.config.model_type].layers)
    return cast(torch.nn.ModuleList, layers)


def measure_width(model: PreTrainedModel, part: str) -> int:
    """Return how many numbers a token has at a part of a layer."""
    if part == "hidden":
        return int(model.config.hidden_size)
    return int(_find(model, (part, 1)).out_features)  # type: ignore[arg-type]


def take_layers(source: Path, layers: Sequence[int], folder: Path) -> Path:
    """Write the checkpoint that has these layers of another, its embeddings and its head.

    Source: Sanh et al. 2019 (DistilBERT), §3: a student from every second layer of its teacher.

    Raises:
        UsageError: the layers are not there, or not in ascending order.
        WorldError: the disk does not take it.
    """
    model, _ = open_model(source, dropout=0.0, attention="eager")
    stack = list_layers(model)
    refuse_missing_layers(source.name, len(stack), layers)
    for layer in reversed(range(1, len(stack) + 1)):
        if layer not in layers:
            del stack[layer - 1]
    model.config.num_hidden_layers = len(layers)
    draft = draft_of(folder)
    with keeping(folder):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        model.save_pretrained(draft)
        shutil.copyfile(source / "tokenizer.json", draft / "tokenizer.json")
        with writing():
            shutil.rmtree(folder, ignore_errors=True)
            return draft.rename(folder)


def refuse_missing_layers(name: str, depth: int, layers: Sequence[int]) -> None:
    """Refuse to take layers of a model that it has not, or in another order.

    Raises:
        UsageError: one is not there, or not after the one before it.
    """
    rising = all(one < other for one, other in pairwise(layers))
    if not layers or not rising or not 1 <= layers[0] <= layers[-1] <= depth:
        raise UsageError(
            f"the layers {list(layers)} cannot be taken from {name}, which has {depth}: name layers"
            f" from 1 to {depth} in ascending order"
        )


@contextmanager
def watch(model: PreTrainedModel, places: Collection[Place]) -> Iterator[dict[Place, torch.Tensor]]:
    """Keep what these places give when the model runs. Shapes: ``(windows, tokens, width)``."""
    seen: dict[Place, torch.Tensor] = {}
    with ExitStack() as hooks:
        for place in places:
            hooks.enter_context(_find(model, place).register_forward_hook(_keep(seen, place)))
        yield seen


def _find(model: PreTrainedModel, place: Place) -> torch.nn.Module:
    part, layer = place
    if layer == 0:
        return model.base_model.get_submodule("embeddings")
    module = list_layers(model)[layer - 1]
    if part == "hidden":
        return module
    return module.get_submodule(getattr(ANATOMIES[model.config.model_type], part))


def _keep(seen: dict[Place, torch.Tensor], place: Place) -> Any:
    def hook(_module: torch.nn.Module, _given: Any, output: Any) -> None:
        seen[place] = (output[0] if isinstance(output, tuple) else output).float()

    return hook
