"""`spanmill training finetune` and `distill`: one training on its own, with the common values."""

from pathlib import Path
from typing import Any

import click

from training.commands.options import language_option, max_window_tokens_option, resize
from training.commands.run import say
from training.crew import leads
from training.data import Split, load_all, split
from training.distill import distill as teach
from training.event_files import writing_events
from training.finetune import finetune as learn
from training.lesson import Lesson, Material, Student, Weights
from training.lines import telling
from training.schedule import Schedule, Stage
from worker.contracts.errors import UsageError
from worker.contracts.family import WindowSizes

existing = click.Path(exists=True, path_type=Path)
_DEFAULTS = Schedule()
#: The options that both have; those named as a field of the schedule become it.
_COMMON = (
    click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder."),
    click.option("--data", "paths", required=True, multiple=True, type=existing,
                 help="Labelled rows: .jsonl, .json (both also .gz), .parquet; repeat it."),
    click.option("--held-out-share", default=0.04, show_default=True,
                 type=click.FloatRange(0, 1, min_open=True, max_open=True),
                 help="Of the passages: they choose the best checkpoint."),
    click.option("--held-out-seed", default=13, show_default=True, help="Which passages."),
    max_window_tokens_option,
    click.option("--epochs", default=1, show_default=True, type=click.IntRange(min=1)),
    click.option("--learning-rate", default=_DEFAULTS.learning_rate, show_default=True,
                 type=click.FloatRange(0, min_open=True)),
    click.option("--batch-windows", default=_DEFAULTS.batch_windows, show_default=True,
                 type=click.IntRange(min=1)),
    click.option("--accumulation", default=_DEFAULTS.accumulation, show_default=True,
                 type=click.IntRange(min=1), help="Batches a step."),
    click.option("--checkpoint-every-steps", default=_DEFAULTS.checkpoint_every_steps,
                 show_default=True, type=click.IntRange(min=1)),
    click.option("--patience", default=None, type=click.IntRange(min=1),
                 help="End at so many checkpoints in a row without a better held-out score: the"
                 " mean of F1 at the best threshold and F1 of answerable rows, always answered."
                 "  [default: never]"),
    click.option("--dropout", default=_DEFAULTS.dropout, show_default=True,
                 type=click.FloatRange(0, 1, max_open=True),
                 help="Of hidden states; 0.1 where rows are read more than once."),
    language_option,
    click.option("--precision", default=_DEFAULTS.precision, show_default=True,
                 type=click.Choice(["no", "bf16"])),
    click.option("--seed", default=_DEFAULTS.seed, show_default=True,
                 help="Of the training, not of the split."),
    click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files too."),
)  # fmt: skip


def _common(command: Any) -> Any:
    for option in reversed(_COMMON):
        command = option(command)
    return command


@click.command()
@click.argument("checkpoint")
@_common
def finetune(
    checkpoint: str,
    out: Path,
    paths: tuple[Path, ...],
    held_out_share: float,
    held_out_seed: int,
    max_window_tokens: int | None,
    epochs: int,
    tensorboard: bool,
    **schedule: Any,
) -> None:
    """Fine-tune a CHECKPOINT (a folder or hub name) on rows; prints the best one's folder."""
    sizes = resize(WindowSizes(), max_window_tokens)
    with writing_events(wanted=tensorboard), telling(say):
        parts = _read(paths, held_out_share, held_out_seed)
        best = learn(
            checkpoint,
            [Stage(parts.train, epochs)],
            parts.held_out,
            Schedule(**schedule),
            sizes,
            out,
        )
    _print(best)


@click.command()
@click.argument("student")
@click.option("--teacher", "teachers", required=True, multiple=True,
              help="A checkpoint or a bundle; several teach together.")  # fmt: skip
@click.option("--layers", help="Of the student, such as 2,4,6; default: all.")
@click.option("--new-head", is_flag=True, help="The student is an encoder without a head.")
@click.option("--weigh", "weights", multiple=True, metavar="LOSS=WEIGHT",
              default=("hard=0.3", "soft=0.7"), show_default=True,
              help="hard, soft, hidden, attention_maps, relations, ...; repeat it.")  # fmt: skip
@click.option("--temperature", default=2.0, show_default=True)
@_common
def distill(
    student: str,
    teachers: tuple[str, ...],
    layers: str | None,
    new_head: bool,
    weights: tuple[str, ...],
    temperature: float,
    out: Path,
    paths: tuple[Path, ...],
    held_out_share: float,
    held_out_seed: int,
    max_window_tokens: int | None,
    epochs: int,
    tensorboard: bool,
    **schedule: Any,
) -> None:
    """Teach a STUDENT (a folder or hub name) by teachers; prints the best checkpoint's folder."""
    sizes = resize(WindowSizes(), max_window_tokens)
    lesson = Lesson(
        student=Student(student, _read_layers(layers), new_head),
        teachers=teachers,
        weights=_read_weights(weights),
        cache=out / ".teachers",
        temperature=temperature,
    )
    with writing_events(wanted=tensorboard), telling(say):
        parts = _read(paths, held_out_share, held_out_seed)
        best = teach(
            lesson,
            [Material(parts.train, epochs=epochs)],
            parts.held_out,
            Schedule(**schedule),
            sizes,
            out,
        )
    _print(best)


def _read(paths: tuple[Path, ...], share: float, seed: int) -> Split:
    loaded = load_all(paths)
    parts = split(loaded.rows, share, seed)
    dropped = f", {loaded.dropped} dropped" if loaded.dropped else ""
    if leads():
        say(f"{len(parts.train)} rows to learn from, {len(parts.held_out)} held out{dropped}")
    return parts


def _print(best: Path) -> None:
    if leads():
        click.echo(best)


def _read_layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError as error:
        raise UsageError(f"--layers {text} are no numbers: give them as in 2,4,6") from error


def _read_weights(given: tuple[str, ...]) -> Weights:
    try:
        pairs = [one.split("=") for one in given]
        return Weights(**{name: float(weight) for name, weight in pairs})
    except (ValueError, TypeError) as error:
        known = ", ".join(Weights.__dataclass_fields__)
        raise UsageError(
            f"--weigh {' '.join(given)} is not LOSS=WEIGHT: the losses are {known}"
        ) from error
