"""What a distillation teaches: who learns what from whom, weighed how, over which texts."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.data import Labelled, refuse_unlearnable
from worker.contracts.errors import InputError, UsageError

#: Losses over a teacher's layers; the others need its logits alone, or nothing of it.
INNER = (
    "embeddings",
    "hidden",
    "cosine",
    "attention_scores",
    "attention_maps",
    "feature_maps",
    "feature_means",
    "feature_variances",
    "relations",
)


@dataclass(frozen=True, slots=True)
class Student:
    """The model that learns: a checkpoint, or some of its layers, counted from 1.

    With ``new_head`` the checkpoint is an encoder, whose head is made from the seed.
    """

    checkpoint: str
    layers: tuple[int, ...] | None = None
    new_head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each loss of ``training.losses`` counts; 0 leaves it out.

    ``hard`` and ``soft`` share the targets: the rows' answers, and the teachers' probabilities. A
    loss over layers counts by its mean over the pairs of layers, so that depth changes no balance.
    ``hidden`` and ``cosine`` compare layers' outputs, ``embeddings`` what goes into the first.
    """

    hard: float = 0.0
    soft: float = 0.0
    embeddings: float = 0.0
    hidden: float = 0.0
    cosine: float = 0.0
    attention_scores: float = 0.0
    attention_maps: float = 0.0
    feature_maps: float = 0.0
    feature_means: float = 0.0
    feature_variances: float = 0.0
    relations: float = 0.0

    def inner(self) -> dict[str, float]:
        """Return the losses over layers that count."""
        return {name: weight for name, weight in asdict(self).items() if name in INNER and weight}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A student, its teachers (checkpoints or bundles), and what is learned from them.

    ``layer_map`` and ``layer_step`` are those of ``training.layers.map_layers``. ``relations``
    names the vectors that are related: ("value",) in MiniLM, ("query", "key", "value") in MiniLMv2;
    of the student's last layer and the teacher's ``relation_layer`` (its last when None), in
    ``relation_heads`` heads (the models' own when None). ``cache`` keeps what teachers said.
    """

    student: Student
    teachers: tuple[str, ...]
    weights: Weights
    cache: Path
    temperature: float = 2.0
    layer_map: str = "uniform"
    layer_step: int | None = None
    relations: tuple[str, ...] = ("value",)
    relation_heads: int | None = None
    relation_layer: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A question put to a passage, its answer unknown: only the teachers' word counts."""

    question: str
    context: str


@dataclass(frozen=True, slots=True)
class Material:
    """A part of the run: these rows and pairs, mixed, this often."""

    rows: tuple[Labelled, ...] = ()
    pairs: tuple[Pair, ...] = ()
    epochs: int = 1


def describe_lesson(lesson: Lesson) -> dict[str, Any]:
    """Return what of a lesson decides the student's weights, beside student and teachers."""
    told = asdict(lesson)
    for name in ("student", "teachers", "cache"):
        del told[name]
    return told


def refuse_senseless(lesson: Lesson, materials: Sequence[Material]) -> None:
    """Refuse a lesson from which nothing can be learned.

    Raises:
        UsageError: a weight, the temperature or the teachers make no sense.
        InputError: there is nothing to read, or no answer although answers count.
    """
    refuse_senseless_terms(lesson)
    if not any(one.epochs > 0 and (one.rows or one.pairs) for one in materials):
        raise InputError("there is nothing to read: give rows or pairs of question and passage")
    if lesson.weights.hard:
        refuse_unlearnable([row for one in materials for row in one.rows])


def refuse_senseless_terms(lesson: Lesson) -> None:
    """Refuse a lesson from which nothing can be learned, whatever there is to read.

    Raises:
        UsageError: a weight, the temperature or the teachers make no sense.
    """
    weights = asdict(lesson.weights)
    wrong = [name for name, weight in weights.items() if not 0 <= weight < math.inf]
    if wrong:
        raise UsageError(f"the weight of {wrong[0]} is {weights[wrong[0]]}: give a number from 0")
    if not any(weights.values()):
        raise UsageError("all weights of the losses are 0: weigh at least one, such as soft")
    if not any(weight for name, weight in weights.items() if name != "hard"):
        raise UsageError("hard targets alone need no teacher: fine-tune instead, or weigh soft")
    if not lesson.teachers:
        raise UsageError("the lesson names no teacher: give a checkpoint or a bundle")
    if not 0 < lesson.temperature < math.inf:
        raise UsageError(f"the temperature is {lesson.temperature}: give a number above 0")
