"""The kinds of steps that a recipe has: each reads its table and calls what does the work."""

from dataclasses import replace
from pathlib import Path

from training.average import average
from training.card import Texts, Trained
from training.checkpoint import prove_weights
from training.data import load_some
from training.distill import distill
from training.evaluate import choose_rules
from training.finetune import finetune
from training.lesson import Lesson, Material, Pair, Student
from training.provenance import describe_origin, describe_rows
from training.recipe import (
    Average,
    Distill,
    FineTune,
    MaterialTable,
    Pack,
    Step,
    list_starts,
    parse_start,
)
from training.schedule import Schedule, Stage
from training.ship import Order, choose_rows, ship
from training.workspace import Workspace


def take_step(name: str, workspace: Workspace) -> Trained:
    """Make what a step makes, from where it was left; return what it stood on and what came out.

    Raises:
        UsageError: the rows, a checkpoint or a table cannot be used.
        JobError: the loss is no number, or a gate is not passed.
        WorldError: the disk does not take it.
    """
    step: Step = workspace.recipe.steps[name]
    start_sha256 = workspace.prove_start(step.start)
    if isinstance(step, FineTune):
        sha256 = prove_weights(fine_tune(name, step, workspace))
    elif isinstance(step, Distill):
        sha256 = prove_weights(teach(name, step, workspace))
    elif isinstance(step, Average):
        sha256 = prove_weights(average_weights(name, step, workspace))
    else:
        sha256 = pack(name, step, workspace)
    kind = type(step).__struct_config__.tag
    return Trained(name, str(kind), step.start, start_sha256, sha256)


def fine_tune(name: str, step: FineTune, workspace: Workspace) -> Path:
    """Fine-tune; return the best checkpoint's folder."""
    return finetune(
        str(workspace.find_start(step.start)),
        [Stage(workspace.rows.get(stage.rows), stage.epochs) for stage in step.stages],
        workspace.rows.judges,
        _steer(step, workspace),
        workspace.recipe.windows,
        workspace.folder(name),
    )


def teach(name: str, step: Distill, workspace: Workspace) -> Path:
    """Distil; return the best checkpoint's folder."""
    student = str(workspace.find_start(step.start))
    teachers = tuple(_find_teacher(one, workspace) for one in step.teachers)
    return distill(
        make_lesson(step, student, teachers, workspace),
        [_gather(one, workspace) for one in step.materials],
        workspace.rows.judges,
        _steer(step, workspace),
        workspace.recipe.windows,
        workspace.folder(name),
    )


def average_weights(name: str, step: Average, workspace: Workspace) -> Path:
    """Take the mean of weights; return the folder of the checkpoint that has it."""
    return average([workspace.find_start(one) for one in list_starts(step)], workspace.folder(name))


def make_lesson(
    step: Distill, student: str, teachers: tuple[str, ...], workspace: Workspace
) -> Lesson:
    """Return what a step teaches, between the models in these folders."""
    return Lesson(
        student=Student(student, step.layers, step.new_head),
        teachers=teachers,
        weights=step.weights,
        cache=workspace.cache / "teachers",
        temperature=step.temperature,
        layer_map=step.layer_map,
        layer_step=step.layer_step,
        relations=step.relations,
        relation_heads=step.relation_heads,
        relation_layer=step.relation_layer,
    )


def pack(name: str, step: Pack, workspace: Workspace) -> str:
    """Make the bundle; return its digest."""
    recipe = workspace.recipe
    reports = {report: load_some(path) for report, path in workspace.reports.items()}
    order = Order(
        checkpoint=str(workspace.find_start(step.start)),
        held_out=workspace.rows.held_out,
        ranges=choose_rows(workspace.rows.get(recipe.held_out.files), step.range_rows),
        reports=reports,
        mode=step.mode,
        sizes=recipe.windows,
        processes=workspace.place.processes,
        record=workspace.record(name),
    )
    words = recipe.card
    texts = Texts(
        recipe.name, words.language, words.licence, words.summary, words.limits, recipe.encoder
    )
    data = describe_rows(workspace)
    origin = describe_origin(step, workspace)
    return ship(order, origin, data, texts, workspace.folder(name), workspace.say).digest


def _steer(step: FineTune | Distill, workspace: Workspace) -> Schedule:
    """Return the schedule, which compares answers by the rules of the card's language."""
    return replace(step.schedule, language=choose_rules(workspace.recipe.card.language))


def _gather(table: MaterialTable, workspace: Workspace) -> Material:
    pairs = [Pair(row.question, row.context) for row in workspace.rows.get(table.pairs)]
    return Material(workspace.rows.get(table.rows), tuple(dict.fromkeys(pairs)), table.epochs)


def _find_teacher(teacher: str, workspace: Workspace) -> str:
    """Return the folder of a teacher; a bundle teaches as it is, not thawed."""
    given = parse_start(teacher)
    if given.kind == "bundle":
        return str(workspace.find_bundle(given.name).folder)
    return str(workspace.find_start(teacher))
