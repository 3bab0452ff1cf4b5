"""What a worker does of a run at a time: one step, as the run's folder says it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from training.checkpoint import HubAwayError
from training.event_files import writing_events
from training.fence import sweep
from training.follow import claim_folder, make_claim
from training.lines import telling
from training.recipe_file import read_recipe
from training.report import showing
from training.run_state import Order, RunFolder
from training.run_view import note_revision
from training.steps import take_step
from training.workspace import Place, Say, Workspace
from worker.contracts.errors import JobError, WorldError
from worker.settings import count_cores


@dataclass(frozen=True, slots=True)
class Stint:
    """A step of a run; ``data`` is where the recipe's files are here, if they are elsewhere."""

    run: RunFolder
    step: str
    data: Path | None = None


def do(stint: Stint, say: Say) -> None:
    """Take the step from where it was left, and note that it is done.

    Raises:
        UsageError: files, encoder or recipe are not those that the run began with.
        JobError: the loss is no number, a gate is not passed, or the process is to stop.
        WorldError: the disk does not take it, or the hub is out of reach.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]  # a log is no terminal
    sweep(stint.run.folder)
    with waiting_for_the_hub():
        order = need_order(stint.run)
        workspace = open_workspace(stint, order, say)
        claim_folder(stint.run.folder, make_claim(workspace))
        say(f"{stint.step}: from {workspace.recipe.steps[stint.step].start}")
        note_revision(stint.run.folder)
        with (
            writing_events(wanted=order.tensorboard),
            telling(say),
            showing(stint.run.folder, say) as refresh,
        ):
            workspace.note_done(take_step(stint.step, workspace))
            refresh()


@contextmanager
def waiting_for_the_hub() -> Iterator[None]:
    """Take a hub that is away as the world's fault: who submitted the run did reach it.

    Raises:
        WorldError: it is out of reach inside.
    """
    try:
        yield
    except HubAwayError as error:
        raise WorldError(str(error)) from error


def need_order(run: RunFolder) -> Order:
    """Return what was ordered.

    Raises:
        JobError: that is gone.
    """
    order = run.read_order()
    if order is None:
        raise JobError(
            f"the order of the run {run.name} is gone: submit it again, by the command that began"
            " it"
        )
    return order


def open_workspace(stint: Stint, order: Order, say: Say) -> Workspace:
    """Return the run's workspace, with its files where they are on this machine.

    Raises:
        UsageError: the recipe cannot be read any more.
    """
    with suppress(OSError):  # relative names of a recipe mean what they meant there, if it is here
        os.chdir(order.cwd)
    written = read_recipe(str(stint.run.folder / "recipe.toml"), order.settings)
    place = Place(
        out=stint.run.folder,
        data=Path(order.data) if stint.data is None else stint.data,
        encoder=order.encoder,
        processes=count_cores() if order.processes is None else order.processes,
    )
    return Workspace(replace(written, text=order.text), place, say)
