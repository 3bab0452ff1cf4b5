"""Follows a recipe: its steps in their order, into a folder where what is finished stays.

Order: everything outside is found and proved; the folder is claimed for this recipe; then for each
step what it makes, and last the note that it is done.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from training.calibrate import refuse_uncalibratable
from training.recipe import Pack
from training.recipe_file import Written
from training.report import showing
from training.run_folder import CLAIM, note_revision
from training.steps import take_step
from training.workspace import Place, Say, Workspace, write_whole
from worker.contracts.errors import UsageError, WorldError


def follow(written: Written, place: Place, say: Say) -> Path:
    """Take the steps that the last one needs, and it; return the folder of what it made.

    Called again it goes on: finished steps stay, an interrupted one resumes from its checkpoint.

    Raises:
        UsageError: something cannot be used, or the folder holds another run.
        JobError: a loss is no number, or a gate is not passed.
        WorldError: the disk does not take it.
    """
    workspace = Workspace(written, place, say)
    claim = {
        "recipe": json.loads(msgspec.json.encode(written.recipe)),
        "files": workspace.proofs,
    }
    with _hold(place.out):
        claim_folder(place.out, claim)
        write_whole(place.out / "recipe.toml", written.text.rstrip("\n"))
        note_revision(place.out)
        if any(isinstance(written.recipe.steps[name], Pack) for name in workspace.unfinished):
            refuse_uncalibratable(workspace.rows.held_out)  # not only after hours of training
        with showing(place.out, say) as refresh:
            for name in written.recipe.steps:
                if name not in workspace.needed:
                    say(f"{name}: no step that is taken stands on it")
                elif workspace.find_done(name) is not None:
                    say(f"{name}: finished before")
                else:
                    say(f"{name}: from {written.recipe.steps[name].start}")
                    workspace.note_done(take_step(name, workspace))
                    refresh()
    return workspace.folder(workspace.needed[-1])


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
    changed = find_change(before, claim)
    if changed is not None:
        raise UsageError(
            f"{out} holds a run in which {changed} was another: give the recipe as it was, or"
            " another folder by --out"
        )


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
def _hold(out: Path) -> Iterator[None]:
    """Make the folder, and let one process at a time follow a recipe in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise WorldError(
            f"the folder {out} cannot be written ({error.strerror}): make room, or give another one"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another process works in {out}: wait for it, or give another folder by --out"
            ) from error
        yield
