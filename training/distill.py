"""Distillation: from what teachers say and do to a smaller checkpoint that reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from training.checkpoint import find_checkpoint
from training.crew import go_first, lead, open_accelerator
from training.data import Labelled, refuse_shared_passages
from training.disk import keeping
from training.features import Feature, make_features, pad
from training.imitation import UNLABELLED, Imitation
from training.layers import take_layers
from training.lesson import Lesson, Material, Student, describe_lesson, refuse_senseless
from training.loop import train
from training.run import Run
from training.schedule import Plan, Schedule, lay_out
from training.teacher import (
    Cache,
    Panel,
    SoftLabel,
    Teacher,
    find_teacher,
    open_model_to_watch,
    refuse_other_tokens,
)
from worker.contracts.errors import UsageError
from worker.contracts.family import WindowSizes
from worker.reading.windows import Encoder


@dataclass(frozen=True, slots=True)
class Taught:
    """A window with its targets, and what the teachers said of it if they are not watched."""

    feature: Feature
    label: SoftLabel | None


def distill(
    lesson: Lesson,
    materials: Sequence[Material],
    held_out: Sequence[Labelled],
    schedule: Schedule,
    sizes: WindowSizes,
    out: Path,
) -> Path:
    """Teach a student; return the folder of the checkpoint that reads held-out rows best.

    Called again with the same arguments it resumes from ``out/latest``, to the same weights.

    Raises:
        UsageError: the lesson, a checkpoint or the data cannot be used, or ``out`` holds another
            run.
        JobError: a logit or the loss is no number; the last checkpoint stays.
        WorldError: a checkpoint or a label could not be written; what was there stays.
    """
    refuse_senseless(lesson, materials)
    teachers = [find_teacher(name) for name in lesson.teachers]
    open_accelerator(schedule)  # before the first of several processes writes anything
    source = lead(partial(prepare_student, lesson.student, out, schedule.seed))
    refuse_other_tokens(teachers, source)
    watched = open_model_to_watch(teachers, sizes) if lesson.weights.inner() else None
    learner = partial(Imitation, lesson=lesson, smoothing=schedule.label_smoothing, teacher=watched)
    run = Run(source, schedule, sizes, out, learner)
    plan = plan_materials(materials, held_out, schedule, run.encoder)
    labels = [None] * len(plan.features) if watched else ask(teachers, plan, run, lesson.cache)
    loader = run.open_loader(plan, list(map(Taught, plan.features, labels)), pad_taught)
    judged = "-".join([plan.digest(), *(teacher.digest for teacher in teachers)])
    done = run.resume(judged, describe_lesson(lesson))
    return train(run, plan, loader, done, held_out)


def prepare_student(student: Student, out: Path, seed: int) -> Path:
    """Return the folder of the checkpoint that learns; chosen layers become ``out/student``.

    Raises:
        UsageError: it cannot be used, or has no head although it should.
        WorldError: the disk does not take it.
    """
    source = find_checkpoint(student.checkpoint)
    refuse_headless(student, source)
    if student.layers is None:
        return source
    torch.manual_seed(seed)
    with keeping(out):
        out.mkdir(parents=True, exist_ok=True)
    return take_layers(source, student.layers, out / "student")


def refuse_headless(student: Student, source: Path) -> None:
    """Refuse a student whose head would be made anew without having been asked for.

    Raises:
        UsageError: it has none.
    """
    if not student.new_head and not has_head(source):
        raise UsageError(
            f"the student {student.checkpoint} has no head for question answering: fine-tune it"
            " first, or say that it gets a new head"
        )


def plan_materials(
    materials: Sequence[Material],
    held_out: Sequence[Labelled],
    schedule: Schedule,
    encoder: Encoder,
) -> Plan:
    """Window all materials and lay out their epochs; pairs have no target.

    Raises:
        InputError: a passage is held out and learned from.
    """
    refuse_shared_passages((row for one in materials for row in (*one.rows, *_rows(one))), held_out)
    parts = []
    for material in materials:
        unlabelled = [
            replace(feature, start=UNLABELLED, end=UNLABELLED)
            for feature in make_features(_rows(material), encoder)
        ]
        parts.append((make_features(material.rows, encoder) + unlabelled, material.epochs))
    return lay_out(parts, schedule)


def ask(teachers: Sequence[Teacher], plan: Plan, run: Run, cache: Path) -> list[SoftLabel]:
    """Return what the teachers say of the plan's windows, asked once for all runs."""
    panel = Panel(teachers, run.encoder, run.accelerator.device)
    windows = [feature.window for feature in plan.features]
    kept = Cache(cache, teachers, run.schedule.precision)
    with run.accelerator.autocast():
        return go_first(partial(kept.label, windows, panel))


def pad_taught(taught: Sequence[Taught], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad windows as ``pad`` does; the teachers' logits are ``(windows, tokens)``, 0 in padding."""
    batch = pad([one.feature for one in taught], pad_id)
    labels = [one.label for one in taught if one.label is not None]
    if labels:
        tokens = batch["input_ids"].shape[1]
        batch["teacher_starts"] = _pad_logits([one.starts for one in labels], tokens)
        batch["teacher_ends"] = _pad_logits([one.ends for one in labels], tokens)
    return batch


def _rows(material: Material) -> list[Labelled]:
    return [Labelled("", pair.question, pair.context, ()) for pair in material.pairs]


def _pad_logits(logits: Sequence[NDArray[np.float16]], tokens: int) -> torch.Tensor:
    padded = np.zeros((len(logits), tokens), np.float32)
    for row, one in zip(padded, logits, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(padded)


def has_head(checkpoint: Path) -> bool:
    """Say whether a checkpoint has a head for question answering."""
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            if "qa_outputs.weight" in tensors.keys():  # noqa: SIM118  it is no dictionary
                return True
    return False
