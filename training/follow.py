"""Follows a recipe: its steps in their order, into a folder where what is finished stays.

Order: everything outside is found and proved; the folder is claimed for this recipe; then for each
step what it makes, and last the note that it is done.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from training.calibrate import refuse_uncalibratable
from training.fence import Fence, StoppedError, sweep, take_fence
from training.holds import Holder, describe_hold, name_self
from training.preflight import refuse_unfit
from training.recipe import Pack, Recipe
from training.recipe_file import Written
from training.report import showing
from training.run_state import CLAIM, Order, RunFolder, Turn, ask_for, write_whole
from training.run_view import note_revision
from training.steps import take_step
from training.workspace import Place, Say, Workspace
from worker.contracts.errors import SpanmillError, UsageError, WorldError


def follow(written: Written, place: Place, say: Say) -> Path:
    """Take the steps that the last one needs, and it; return the folder of what it made.

    Called again it goes on: finished steps stay, an interrupted one resumes from its checkpoint.

    Raises:
        UsageError: something cannot be used, or the folder holds another run.
        JobError: a loss is no number, a gate is not passed, or the run was cancelled.
        WorldError: the disk does not take it.
    """
    workspace = Workspace(written, place, say)
    claim = make_claim(workspace)
    run = RunFolder(place.out)
    with hold(run, "spanmill training run"):
        begin(workspace, claim, Turn.BEGUN)
        with noting_failure(run), showing(place.out, say) as refresh:
            take_steps(workspace, say, refresh)
    return workspace.folder(workspace.needed[-1])


def take_steps(workspace: Workspace, say: Say, refresh: Callable[[], None]) -> None:
    """Take all steps that are needed and not finished; ``refresh`` the run's page after each."""
    for name, step in workspace.recipe.steps.items():
        if name not in workspace.needed:
            say(f"{name}: no step that is taken stands on it")
        elif workspace.find_done(name) is not None:
            say(f"{name}: finished before")
        else:
            say(f"{name}: from {step.start}")
            workspace.note_done(take_step(name, workspace))
            refresh()


def make_claim(workspace: Workspace) -> dict[str, Any]:
    """Find and prove everything outside; return what the run's folder is to be for.

    Raises:
        UsageError: something is not there, or cannot be used.
    """
    recipe = json.loads(msgspec.json.encode(workspace.recipe))
    return {"recipe": recipe, "files": workspace.proofs}


def begin(
    workspace: Workspace,
    claim: dict[str, Any],
    turn: Turn,
    *,
    processes: int | None = None,
    tensorboard: bool = False,
) -> None:
    """Claim the folder, which is held, and write down what is to be done in it.

    ``processes`` and ``tensorboard`` are for who does it elsewhere.

    Raises:
        UsageError: it holds another run, or the rows are of no use.
        WorldError: the disk does not take it.
    """
    written, place = workspace.written, workspace.place
    sweep(place.out)
    claim_folder(place.out, claim)
    write_whole(place.out / "recipe.toml", written.text.rstrip("\n"))
    note_revision(place.out)
    if any(isinstance(written.recipe.steps[name], Pack) for name in workspace.unfinished):
        refuse_uncalibratable(workspace.rows.held_out)  # not only after hours of training
    refuse_unfit(workspace)
    run = RunFolder(place.out)
    run.put_order(
        Order(
            text=written.text,
            settings=written.settings,
            steps=tuple(workspace.needed),
            data=str(place.data.absolute()),
            encoder=None if place.encoder is None else locate(place.encoder),
            processes=processes,
            cwd=str(Path.cwd()),
            tensorboard=tensorboard,
        )
    )
    run.put_turn(turn)


def locate(encoder: str) -> str:
    """Return a folder's whole path: elsewhere a short one could be taken for a hub name."""
    folder = Path(encoder)
    return str(folder.absolute()) if folder.exists() else encoder


def claim_folder(out: Path, claim: dict[str, Any]) -> None:
    """Note what the folder is for, or refuse one that is for something else.

    Raises:
        UsageError: it holds a run of another recipe, over other files, or from other weights.
    """
    file = out / CLAIM
    if not file.is_file():
        write_whole(file, json.dumps(claim, indent=1))
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{file} is damaged ({error}): give another folder by --out, or delete this one"
        ) from error
    changed = find_change(_complete(before), claim)
    if changed is not None:
        raise UsageError(
            f"{out} holds a run in which {changed} was another: give the recipe as it was, or"
            " another folder by --out"
        )


def _complete(claim: Any) -> Any:
    """Return a claim with all values of its recipe: an earlier version knew fewer."""
    try:
        recipe = msgspec.convert(claim["recipe"], Recipe)
    except (msgspec.ValidationError, KeyError, TypeError):
        return claim
    return claim | {"recipe": json.loads(msgspec.json.encode(recipe))}


def find_change(before: Any, now: Any, inside: str = "") -> str | None:
    """Return the dotted name of the first value that differs, None where all are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before | now:
            if key not in before or key not in now:
                return f"{inside}{key}"
            found = find_change(before[key], now[key], f"{inside}{key}.")
            if found is not None:
                return found
        return None
    return None if before == now else inside.rstrip(".")


@contextmanager
def hold(run: RunFolder, who: str) -> Iterator[None]:
    """Make a run's folder, and be the one who writes in it.

    Raises:
        UsageError: another process follows the run.
        WorldError: the folder cannot be written.
    """
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorldError(
            f"the folder {run.folder} cannot be written ({error.strerror}): make room, or give"
            " another one"
        ) from error
    taken = take_fence(run.folder, Holder(who=who, process=name_self()), ask_for(run))
    if not isinstance(taken, Fence):
        raise UsageError(
            f"another process works in {run.folder}, {describe_hold(taken)}: wait for it, or give"
            " another folder by --out"
        )
    with taken:
        yield


@contextmanager
def noting_failure(run: RunFolder) -> Iterator[None]:
    """Write down why a run fails inside, as it is told."""
    try:
        yield
    except StoppedError:
        raise
    except SpanmillError as error:
        with suppress(SpanmillError):  # what is in the way may be in the way of this, too
            run.put_turn(Turn.FAILED, str(error))
        raise
