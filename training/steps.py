"""The kinds of steps that a recipe has: each reads its table and calls what does the work."""

from pathlib import Path

from training.card import Texts, Trained
from training.checkpoint import prove_weights
from training.data import load_some
from training.distill import distill
from training.finetune import finetune
from training.kitchen import Kitchen
from training.lesson import Lesson, Material, Pair, Student
from training.provenance import describe_origin, describe_rows
from training.recipe import Distill, FineTune, MaterialTable, Pack, Step, parse_start
from training.schedule import Stage
from training.ship import Order, choose_rows, ship


def take_step(name: str, kitchen: Kitchen) -> Trained:
    """Make what a step makes, from where it was left; return what it stood on and what came out.

    Raises:
        UsageError: the rows, a checkpoint or a table cannot be used.
        JobError: the loss is no number, or a gate is not passed.
        WorldError: the disk does not take it.
    """
    step: Step = kitchen.recipe.steps[name]
    start_sha256 = kitchen.prove_start(step.start)
    if isinstance(step, FineTune):
        sha256 = prove_weights(fine_tune(name, step, kitchen))
    elif isinstance(step, Distill):
        sha256 = prove_weights(teach(name, step, kitchen))
    else:
        sha256 = pack(name, step, kitchen)
    kind = type(step).__struct_config__.tag
    return Trained(name, str(kind), step.start, start_sha256, sha256)


def fine_tune(name: str, step: FineTune, kitchen: Kitchen) -> Path:
    """Fine-tune; return the best checkpoint's folder."""
    return finetune(
        str(kitchen.find_start(step.start)),
        [Stage(kitchen.rows.get(stage.rows), stage.epochs) for stage in step.stages],
        kitchen.rows.judges,
        step.schedule,
        kitchen.recipe.windows,
        kitchen.folder(name),
    )


def teach(name: str, step: Distill, kitchen: Kitchen) -> Path:
    """Distil; return the best checkpoint's folder."""
    lesson = Lesson(
        student=Student(str(kitchen.find_start(step.start)), step.layers, step.new_head),
        teachers=tuple(_find_teacher(one, kitchen) for one in step.teachers),
        weights=step.weights,
        cache=kitchen.cache / "teachers",
        temperature=step.temperature,
        layer_map=step.layer_map,
        layer_step=step.layer_step,
        relations=step.relations,
        relation_heads=step.relation_heads,
        relation_layer=step.relation_layer,
    )
    return distill(
        lesson,
        [_gather(one, kitchen) for one in step.materials],
        kitchen.rows.judges,
        step.schedule,
        kitchen.recipe.windows,
        kitchen.folder(name),
    )


def pack(name: str, step: Pack, kitchen: Kitchen) -> str:
    """Make the bundle; return its digest."""
    recipe = kitchen.recipe
    reports = {report: load_some(path) for report, path in kitchen.reports.items()}
    order = Order(
        checkpoint=str(kitchen.find_start(step.start)),
        held_out=kitchen.rows.held_out,
        ranges=choose_rows(kitchen.rows.get(recipe.held_out.files), step.range_rows),
        reports=reports,
        mode=step.mode,
        sizes=recipe.windows,
        processes=kitchen.place.processes,
    )
    words = recipe.card
    texts = Texts(
        recipe.name, words.language, words.licence, words.summary, words.limits, recipe.encoder
    )
    data = describe_rows(kitchen)
    origin = describe_origin(step, kitchen)
    return ship(order, origin, data, texts, kitchen.folder(name), kitchen.say).digest


def _gather(table: MaterialTable, kitchen: Kitchen) -> Material:
    pairs = [Pair(row.question, row.context) for row in kitchen.rows.get(table.pairs)]
    return Material(kitchen.rows.get(table.rows), tuple(dict.fromkeys(pairs)), table.epochs)


def _find_teacher(teacher: str, kitchen: Kitchen) -> str:
    """Return the folder of a teacher; a bundle teaches as it is, not thawed."""
    given = parse_start(teacher)
    if given.kind == "bundle":
        return str(kitchen.find_bundle(given.name).folder)
    return str(kitchen.find_start(teacher))
