"""A student that imitates: its reader, and the losses between it and its teachers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from training.layers import Place, list_layers, map_layers, measure_width, watch
from training.lesson import Lesson
from training.losses import (
    attention_map_loss,
    attention_score_loss,
    cosine_loss,
    feature_map_loss,
    feature_mean_loss,
    feature_variance_loss,
    hidden_loss,
    relation_loss,
    score_attention,
    soft_loss,
    span_loss,
)
from training.predict import SpanModel
from worker.contracts.errors import UsageError

#: The target of a window whose answer nobody knows.
UNLABELLED = -1
Seen = dict[Place, torch.Tensor]
_StateLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_OF_STATES: dict[str, _StateLoss] = {
    "embeddings": hidden_loss,
    "hidden": hidden_loss,
    "cosine": cosine_loss,
    "feature_maps": feature_map_loss,
    "feature_means": feature_mean_loss,
    "feature_variances": feature_variance_loss,
}
_OF_ATTENTION: dict[str, _StateLoss] = {
    "attention_scores": attention_score_loss,
    "attention_maps": attention_map_loss,
}
#: Whoever minimizes these alone needs no map of layers: each has layers of its own.
_UNMAPPED = {"embeddings", "relations"}
#: These are learned through a projection when the teacher is wider or narrower.
_PROJECTED = ("embeddings", "hidden", "cosine")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One loss between a place of the student and one of the teacher.

    ``parts`` is what is compared there; of ``heads`` each, where it is attention or relations.
    """

    loss: str
    parts: tuple[str, ...]
    student_layer: int
    teacher_layer: int
    heads: int = 1


class Imitation(torch.nn.Module):
    """Learns from answers and from teachers; ``extra`` are the projections that it learns too.

    Its forward gives every loss by name, already weighed: their sum is what is minimized.
    """

    def __init__(
        self, reader: SpanModel, lesson: Lesson, smoothing: float, teacher: PreTrainedModel | None
    ) -> None:
        """Take a teacher to watch, or None where batches bring what teachers said.

        Raises:
            UsageError: the models' sizes do not allow what is to be imitated.
        """
        super().__init__()
        self.reader = reader
        self.extra = torch.nn.ModuleDict()
        self._lesson = lesson
        self._smoothing = smoothing
        self._teacher: tuple[SpanModel, ...] = ()  # in a tuple, its weights are not the student's
        self._comparisons: list[Comparison] = []
        if teacher is not None:
            self._teacher = (SpanModel(teacher).eval(),)
            self._comparisons = plan_comparisons(reader.model, teacher, lesson)
            self.extra = _make_projections(reader.model, teacher, self._comparisons)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weighed losses of a batch."""
        places = {(part, one.student_layer) for one in self._comparisons for part in one.parts}
        with watch(self.reader.model, places) as seen:
            start, end = self.reader(batch)
        taught, batch = self._ask_teacher(batch)
        with torch.autocast(start.device.type, enabled=False):
            return self._judge_spans(start, end, batch) | self._judge_layers(seen, taught, batch)

    def _ask_teacher(self, batch: dict[str, torch.Tensor]) -> tuple[Seen, dict[str, torch.Tensor]]:
        places = {(part, one.teacher_layer) for one in self._comparisons for part in one.parts}
        for teacher in self._teacher:
            teacher.to(batch["input_ids"].device)
            with torch.no_grad(), watch(teacher.model, places) as seen:
                start, end = teacher(batch)
            return seen, batch | {"teacher_starts": start, "teacher_ends": end}
        return {}, batch

    def _judge_spans(
        self, start: torch.Tensor, end: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        weights, losses = self._lesson.weights, {}
        if weights.hard:
            losses["hard"] = weights.hard * _hard_loss(start, end, batch, self._smoothing)
        if weights.soft:
            mask, temperature = batch["attention_mask"], self._lesson.temperature
            of_starts = soft_loss(start, batch["teacher_starts"], mask, temperature)
            of_ends = soft_loss(end, batch["teacher_ends"], mask, temperature)
            losses["soft"] = weights.soft * (of_starts + of_ends) / 2
        return losses

    def _judge_layers(
        self, student: Seen, teacher: Seen, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        mask = batch["attention_mask"].float()
        losses = {}
        for name, weight in self._lesson.weights.inner().items():
            found = [
                self._compare(one, student, teacher, mask)
                for one in self._comparisons
                if one.loss == name
            ]
            losses[name] = weight * torch.stack(found).mean()
        return losses

    def _compare(
        self, what: Comparison, student: Seen, teacher: Seen, mask: torch.Tensor
    ) -> torch.Tensor:
        own = [student[part, what.student_layer] for part in what.parts]
        others = [teacher[part, what.teacher_layer] for part in what.parts]
        if what.loss == "relations":
            return relation_loss(own[0], others[0], mask, what.heads)
        if what.loss in _OF_ATTENTION:
            scores = [score_attention(query, key, what.heads) for query, key in (own, others)]
            return _OF_ATTENTION[what.loss](scores[0], scores[1], mask)
        projection = _name_projection(what)
        if projection in self.extra and what.loss in _PROJECTED:
            own = [self.extra[projection](own[0])]
        return _OF_STATES[what.loss](own[0], others[0], mask)


def plan_comparisons(
    student: PreTrainedModel, teacher: PreTrainedModel, lesson: Lesson
) -> list[Comparison]:
    """Return what is compared where, for every loss over layers that counts.

    Raises:
        UsageError: the models' layers, heads or widths do not allow it.
    """
    losses = lesson.weights.inner()
    depths = len(list_layers(student)), len(list_layers(teacher))
    pairs: tuple[tuple[int, int], ...] = ()
    if losses.keys() - _UNMAPPED:
        pairs = map_layers(*depths, lesson.layer_map, lesson.layer_step)
    planned = []
    for loss in losses:
        if loss == "relations":
            planned += _plan_relations(student, teacher, lesson)
        elif loss == "embeddings":
            planned.append(Comparison(loss, ("hidden",), 0, 0))
        elif loss in _OF_ATTENTION:
            heads = _agree_on_heads(student, teacher, loss)
            planned += [Comparison(loss, ("query", "key"), *pair, heads) for pair in pairs]
        else:
            _refuse_other_width(student, teacher, loss)
            planned += [Comparison(loss, ("hidden",), *pair) for pair in pairs]
    return planned


def _plan_relations(
    student: PreTrainedModel, teacher: PreTrainedModel, lesson: Lesson
) -> list[Comparison]:
    heads, last = lesson.relation_heads, len(list_layers(teacher))
    if heads is None:
        heads = _agree_on_heads(student, teacher, "relations")
    layer = last if lesson.relation_layer is None else lesson.relation_layer
    if not 1 <= layer <= last:
        raise UsageError(f"the teacher has no layer {layer}: give a relation_layer up to {last}")
    for part in lesson.relations:
        if part not in ("query", "key", "value"):
            raise UsageError(f"there are no relations of {part!r}: use query, key and value")
        widths = {measure_width(model, part) for model in (student, teacher)}
        if heads < 1 or any(width % heads for width in widths):
            raise UsageError(
                f"widths of {' and '.join(map(str, sorted(widths)))} cannot be cut into"
                f" {heads} relation heads: choose a number that divides them"
            )
    own_last = len(list_layers(student))
    return [Comparison("relations", (part,), own_last, layer, heads) for part in lesson.relations]


def _agree_on_heads(student: PreTrainedModel, teacher: PreTrainedModel, loss: str) -> int:
    heads = student.config.num_attention_heads, teacher.config.num_attention_heads
    if heads[0] != heads[1]:
        raise UsageError(
            f"the student has {heads[0]} attention heads but the teacher {heads[1]}, so {loss}"
            " cannot be imitated head by head: use relations with relation_heads, or other models"
        )
    return int(heads[0])


def _refuse_other_width(student: PreTrainedModel, teacher: PreTrainedModel, loss: str) -> None:
    widths = measure_width(student, "hidden"), measure_width(teacher, "hidden")
    if loss not in _PROJECTED and widths[0] != widths[1]:
        raise UsageError(
            f"the student's layers are {widths[0]} wide but the teacher's {widths[1]}, so {loss}"
            " cannot be imitated: use hidden, which is projected, or other models"
        )


def _make_projections(
    student: PreTrainedModel, teacher: PreTrainedModel, comparisons: list[Comparison]
) -> torch.nn.ModuleDict:
    """Return a projection for layers and one for embeddings, as needed; none for equal widths."""
    widths = measure_width(student, "hidden"), measure_width(teacher, "hidden")
    names = {_name_projection(one) for one in comparisons if one.loss in _PROJECTED}
    return torch.nn.ModuleDict(
        {
            name: torch.nn.Linear(*widths, bias=False)
            for name in sorted(names)
            if widths[0] != widths[1]
        }
    )


def _name_projection(comparison: Comparison) -> str:
    return "embeddings" if comparison.student_layer == 0 else "hidden"


def _hard_loss(
    start: torch.Tensor, end: torch.Tensor, batch: dict[str, torch.Tensor], smoothing: float
) -> torch.Tensor:
    """Return the loss of labelled windows, as a mean over all of them: each weighs the same."""
    known = batch["starts"] != UNLABELLED
    if not known.any():
        return start.sum() * 0.0
    labels = {name: batch[name][known] for name in ("starts", "ends", "attention_mask")}
    return span_loss(start[known], end[known], labels, smoothing) * known.float().mean()
