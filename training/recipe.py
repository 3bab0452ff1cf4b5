"""A recipe: how a bundle is made, from which rows, in which steps; as a TOML file says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from training.card import Encoder
from training.lesson import Weights
from training.quantize import Mode
from training.schedule import Schedule
from training.unknown import guess
from training.wordnet import Part
from worker.contracts.errors import UsageError
from worker.contracts.family import WindowSizes

Count = Annotated[int, msgspec.Meta(ge=1)]
Names = tuple[str, ...]
SomeNames = Annotated[Names, msgspec.Meta(min_length=1)]
_STARTS = ("encoder", "step", "bundle", "checkpoint")


class FileTable(msgspec.Struct, frozen=True, kw_only=True):
    """A file under the data folder, by its name without suffixes; ``rows`` draws so many of it."""

    licence: str
    file: str | None = None
    rows: Count | None = None
    seed: int = 0


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """So many unanswerable rows, made from answerable ones by a way of ``training.augment``."""

    how: Literal["nearest", "entities", "numbers", "negations"]
    rows: Count
    seed: int = 0


class Augmented(msgspec.Struct, frozen=True, kw_only=True, tag_field="how"):
    """So many rows, made from others; the subclass says how."""

    of: SomeNames
    rows: Count
    seed: int = 0


class Unanswerable(Augmented, frozen=True, kw_only=True):
    """Rows without an answer, made from rows with one.

    ``unasked`` takes only passages that no unanswerable row of the same names asks about: else a
    model learns which topics have answers, and not whether a passage has one.
    """

    unasked: bool = False


class Nearest(Unanswerable, frozen=True, kw_only=True, tag="nearest"):
    """Unanswerable: put to the most similar passage that lacks the answer."""


class Entities(Unanswerable, frozen=True, kw_only=True, tag="entities"):
    """Unanswerable: a name of the question is another one."""


class Numbers(Unanswerable, frozen=True, kw_only=True, tag="numbers"):
    """Unanswerable: a number of the question is another one."""


class Negations(Unanswerable, frozen=True, kw_only=True, tag="negations"):
    """Unanswerable: the question is negated, or no longer so."""


class Paraphrased(Augmented, frozen=True, kw_only=True, tag="paraphrase"):
    """As answerable as before, the passage in other words; fields as in ``training.paraphrase``.

    ``wordnet`` is the folder of WordNet's files; None finds what is installed.
    """

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.3
    parts: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1)] = tuple(Part)
    senses: Count = 1
    wordnet: str | None = None


Augmentation = Nearest | Entities | Numbers | Negations | Paraphrased


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """At most so many rows of the file behind a set, of passages unlike those that the sets draw.

    As many are answerable as not, all in passages with questions of both kinds.
    """

    of: str
    rows: Annotated[int, msgspec.Meta(ge=2)]
    seed: int = 13


class HeldOutTable(msgspec.Struct, frozen=True, kw_only=True):
    """A share of these files' passages: for gates and calibration; so many rows judge checkpoints.

    With ``even`` only those judge that lie in passages with rows of both kinds, and as many rows of
    either kind: there a passage's topic tells nothing about its questions. All of them calibrate:
    the topics that lean to one kind and those that lean to the other place the threshold together,
    where either alone would move it. ``unanswerable`` rows are made from the passages, for files
    that have none. ``unread`` rows calibrate too: of new texts, where a model takes questions for
    answerable more readily than on topics that it knows.
    """

    files: SomeNames
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    seed: int = 13
    even: bool = False
    judge_rows: Count | None = None
    judge_seed: int = 0
    unanswerable: Made | None = None
    unread: Unread | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is scored for the card, and used for nothing else."""

    file: str
    licence: str


class StageTable(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a fine-tuning: rows by their names, and how often they are read."""

    rows: SomeNames
    epochs: Count = 1


class MaterialTable(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a distillation: rows, and ``pairs``: rows whose answers nobody looks at."""

    rows: Names = ()
    pairs: Names = ()
    epochs: Count = 1


class FineTune(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="finetune"):
    """A step that learns from labels."""

    stages: Annotated[tuple[StageTable, ...], msgspec.Meta(min_length=1)]
    start: str = "encoder"
    schedule: Schedule = Schedule()


class Distill(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="distill"):
    """A step that learns from teachers; the fields are those of ``training.lesson``."""

    teachers: SomeNames
    weights: Weights
    materials: Annotated[tuple[MaterialTable, ...], msgspec.Meta(min_length=1)]
    start: str = "encoder"
    layers: tuple[Count, ...] | None = None
    new_head: bool = False
    temperature: float = 2.0
    layer_map: str = "uniform"
    layer_step: Count | None = None
    relations: Names = ("value",)
    relation_heads: Count | None = None
    relation_layer: Count | None = None
    schedule: Schedule = Schedule()


class Average(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="average"):
    """A step that takes the mean of its start's weights and the others'."""

    start: str
    others: SomeNames


class Pack(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bundle"):
    """A step that exports, quantizes, calibrates, scores and packs."""

    start: str
    mode: Mode = Mode.DYNAMIC
    range_rows: Count = 300


#: What has a schedule.
Learning = FineTune | Distill
Step = Learning | Average | Pack


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """What the card says in words."""

    licence: str
    summary: str
    limits: tuple[str, ...]
    language: str = "en"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file; steps run in their order. ``mixtures`` are names for several names."""

    name: str
    data: dict[str, FileTable]
    held_out: HeldOutTable
    steps: dict[str, Step]
    card: Words
    encoder: Encoder | None = None
    windows: WindowSizes = WindowSizes()
    augment: dict[str, Augmentation] = {}
    mixtures: dict[str, Names] = {}
    reports: dict[str, Report] = {}


@dataclass(frozen=True, slots=True)
class Start:
    """What a step begins with: ``encoder``, or a ``step``, ``bundle`` or ``checkpoint`` by name."""

    kind: str
    name: str = ""


def parse_start(text: str) -> Start:
    """Return what ``encoder``, ``step:NAME``, ``bundle:PATH`` or ``checkpoint:PATH`` says."""
    kind, _, name = text.partition(":")
    if kind not in _STARTS or (kind == "encoder") == bool(name):
        raise UsageError(
            f"{text!r} is nothing to start from: say encoder, step:NAME, bundle:PATH or"
            " checkpoint:PATH"
        )
    return Start(kind, name)


def list_starts(step: Step) -> tuple[str, ...]:
    """Return what a step stands on, as the recipe says it: its start, and what is beside it."""
    if isinstance(step, Distill):
        return (step.start, *step.teachers)
    if isinstance(step, Average):
        return (step.start, *step.others)
    return (step.start,)


def list_sources(step: Step) -> list[Start]:
    """Return what a step stands on."""
    return [parse_start(one) for one in list_starts(step)]


def list_names(step: Step) -> list[str]:
    """Return the names of all rows that a step learns from."""
    if isinstance(step, FineTune):
        return [name for stage in step.stages for name in stage.rows]
    if isinstance(step, Distill):
        return [name for one in step.materials for name in (*one.rows, *one.pairs)]
    return []


def list_needed(recipe: Recipe, last: str | None = None) -> list[str]:
    """Return the steps that the last one (the recipe's, by default) needs, and it, in their order.

    Raises:
        UsageError: there is no such step.
    """
    if last is not None and last not in recipe.steps:
        raise UsageError(f"the recipe has no step {guess(last, recipe.steps)}: name one of its own")
    needed = {list(recipe.steps)[-1] if last is None else last}
    for name in reversed(recipe.steps):
        if name in needed:
            sources = list_sources(recipe.steps[name])
            needed |= {one.name for one in sources if one.kind == "step"}
    return [name for name in recipe.steps if name in needed]


def list_files(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Return which tables of ``data`` stand behind names of rows, each once."""
    found: dict[str, None] = {}
    for name in names:
        if name in recipe.data:
            found[name] = None
        elif name in recipe.mixtures:
            found |= dict.fromkeys(list_files(recipe, recipe.mixtures[name]))
        else:
            found |= dict.fromkeys(list_files(recipe, recipe.augment[name].of))
    return list(found)


def list_paraphrases(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Return which tables of ``augment`` behind names of rows need WordNet, each once."""
    found: dict[str, None] = {}
    for name in names:
        made = recipe.augment.get(name)
        if isinstance(made, Paraphrased):
            found[name] = None
        below = recipe.mixtures.get(name, ()) if made is None else made.of
        found |= dict.fromkeys(list_paraphrases(recipe, below))
    return list(found)
