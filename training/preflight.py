"""Looks ahead: whether each step of a recipe can learn from what it stands on, before any begins.

An earlier step changes weights, and perhaps which layers are kept, but neither family, tokenizer
nor sizes: so all of that is known from the checkpoints that the first steps begin with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    PreTrainedConfig,
    PreTrainedModel,
)

from training.average import refuse_no_head, refuse_unlike
from training.checkpoint import check_fit
from training.distill import has_head, refuse_headless
from training.imitation import plan_comparisons
from training.layers import refuse_missing_layers
from training.lesson import refuse_senseless_terms
from training.recipe import Average, Distill, Pack, list_starts, parse_start
from training.steps import make_lesson
from training.teacher import find_teacher, refuse_other_tokens, refuse_unwatchable
from training.workspace import Workspace
from worker.contracts.errors import UsageError


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint that a start goes back to, and how many of its layers are left."""

    folder: Path
    layers: int


def refuse_unfit(workspace: Workspace) -> None:
    """Refuse a recipe one of whose unfinished steps could not begin.

    Raises:
        UsageError: a model cannot read the windows, a student not learn from its teacher, or a
            layer is not there.
    """
    for name in workspace.unfinished:
        step = workspace.recipe.steps[name]
        if isinstance(step, Pack):
            continue
        origin = trace(step.start, workspace)
        check_fit(sketch(origin), origin.folder, workspace.recipe.windows)
        if isinstance(step, Distill):
            _refuse_unfit_lesson(step, origin, workspace)
        elif isinstance(step, Average):
            for start in list_starts(step):
                if parse_start(start).kind != "step":  # a step gives a head
                    refuse_no_head(workspace.find_start(start))
            for other in (trace(one, workspace) for one in step.others):
                refuse_unlike(origin.folder, sketch(origin), other.folder, sketch(other))


def trace(start: str, workspace: Workspace) -> Origin:
    """Follow a start back to the checkpoint that no step makes.

    Raises:
        UsageError: it is not there, or lacks a layer that a step takes.
    """
    given = parse_start(start)
    if given.kind != "step":
        folder = workspace.find_start(start)
        return Origin(folder, int(_read_config(folder).num_hidden_layers))
    step = workspace.recipe.steps[given.name]
    origin = trace(step.start, workspace)
    return _keep_layers(step, origin) if isinstance(step, Distill) else origin


def sketch(origin: Origin) -> PreTrainedModel:
    """Return a model of the right shape without any weights."""
    config = _read_config(origin.folder)
    config.num_hidden_layers = origin.layers
    with torch.device("meta"):
        model = AutoModelForQuestionAnswering.from_config(config)  # type: ignore[no-untyped-call]
    return cast(PreTrainedModel, model)


def _refuse_unfit_lesson(step: Distill, origin: Origin, workspace: Workspace) -> None:
    teachers = [_find_origin(one, workspace) for one in step.teachers]
    names = tuple(str(one.folder) for one in teachers)
    lesson = make_lesson(step, str(origin.folder), names, workspace)
    refuse_senseless_terms(lesson)
    if parse_start(step.start).kind != "step":  # a step gives a head
        refuse_headless(lesson.student, origin.folder)
    student = _keep_layers(step, origin)
    found = [find_teacher(name) for name in names]
    refuse_other_tokens(found, origin.folder)
    if lesson.weights.inner():
        refuse_unwatchable(found)
        plan_comparisons(sketch(student), sketch(teachers[0]), lesson)


def _find_origin(teacher: str, workspace: Workspace) -> Origin:
    """Return where a teacher goes back to; a bundle teaches as it is, its layers unseen.

    Raises:
        UsageError: it has no head, and no step gives it one.
    """
    given = parse_start(teacher)
    if given.kind == "bundle":
        return Origin(workspace.find_bundle(given.name).folder, 0)
    origin = trace(teacher, workspace)
    if given.kind != "step" and not has_head(origin.folder):
        raise UsageError(
            f"the teacher {origin.folder.name} has no head for question answering, so it knows no"
            " answers: fine-tune it first, in a step of its own"
        )
    return origin


def _keep_layers(step: Distill, origin: Origin) -> Origin:
    if step.layers is None:
        return origin
    refuse_missing_layers(origin.folder.name, origin.layers, step.layers)
    return Origin(origin.folder, len(step.layers))


def _read_config(folder: Path) -> PreTrainedConfig:
    return cast(PreTrainedConfig, AutoConfig.from_pretrained(folder, local_files_only=True))
