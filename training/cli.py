"""The commands under `spanmill training`: each loads what it needs when it is called."""

import os

import click

from worker.contracts.errors import UsageError
from worker.contracts.lazy_group import LazyGroup

#: By name: "module:attribute", and a line for the help, so that it imports no torch.
COMMANDS = {
    "run": ("training.commands.run:run", "Follow a recipe, from its rows to its bundle."),
    "sweep": ("training.commands.sweep:sweep", "Follow a recipe over a grid of its values."),
    "submit": ("training.commands.submit:submit", "Have workers follow it, as Celery tasks."),
    "worker": ("training.commands.worker:worker", "Take the steps of submitted runs."),
    "status": ("training.commands.runs:status", "Say how a run stands, and how far it is."),
    "watch": ("training.commands.runs:watch", "Follow a run to its end."),
    "cancel": ("training.commands.runs:cancel", "Stop a run; its checkpoints are kept."),
    "report": ("training.commands.report:report", "Write the page of a run: curves, scores, data."),
    "data": ("training.commands.data:data", "Look at question-answering data."),
    "finetune": ("training.commands.learn:finetune", "Fine-tune a checkpoint on labelled rows."),
    "distill": ("training.commands.learn:distill", "Teach a smaller model by larger ones."),
    "export": (
        "training.commands.export:export",
        "Turn a checkpoint into an fp32 bundle, or a graph.",
    ),
    "quantize": ("training.commands.export:quantize", "Turn an fp32 graph into int8, gated."),
    "bundle": ("training.commands.bundle:bundle", "Go all the way: a checkpoint to a bundle."),
    "thaw": ("training.commands.run:thaw", "Write a bundle's weights as a checkpoint again."),
    "calibrate": ("training.commands.bundle:calibrate", "Fit a bundle's threshold again."),
    "evaluate": ("training.commands.bundle:evaluate", "Score a bundle on labelled rows."),
    "compare": ("training.commands.compare:compare", "Lay bundles side by side on a set."),
}


#: What several processes may do together, as `accelerate launch` starts them.
TOGETHER = ("finetune", "distill")


@click.group(cls=LazyGroup, lazy=COMMANDS, extra="training")
@click.pass_context
def training(context: click.Context) -> None:
    """Train, export, quantize and calibrate models."""
    command, processes = context.invoked_subcommand, os.environ.get("WORLD_SIZE", "1")
    if processes != "1" and command not in TOGETHER:
        raise UsageError(
            f"`spanmill training {command}` is done by one process, but WORLD_SIZE says that"
            f" {processes} do it: start it by spanmill alone; several can {' or '.join(TOGETHER)}"
        )
