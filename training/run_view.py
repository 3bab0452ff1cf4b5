"""A run's folder, looked at: its recipe, its revisions, and how far each step is."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from training.calibration_record import CalibrationRecord, read_card, read_record
from training.card import Trained, read_revision
from training.history import METRICS, History, read_history
from training.recipe import Recipe, list_needed
from training.run_state import CLAIM, RunFolder, write_whole
from worker.contracts.bundle import MANIFEST, BundleManifest, digest_bytes, parse_manifest
from worker.contracts.errors import UsageError

_RECIPE, _REVISIONS = "recipe.toml", "revisions.json"


class Revision(msgspec.Struct, frozen=True):
    """The code that took a run's steps, and since when."""

    since: str
    revision: str


@dataclass(frozen=True, slots=True)
class StepSeen:
    """A step: what it is, what it made, and what it wrote of it. ``done`` when it is finished.

    ``source`` is the file that its pictures follow from.
    """

    name: str
    kind: str
    start: str
    taken: bool = True
    done: Trained | None = None
    source: Path | None = None
    history: History | None = None
    record: CalibrationRecord | None = None
    manifest: BundleManifest | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run. Without a recipe it is one training alone; ``files`` are digests by name."""

    name: str
    steps: tuple[StepSeen, ...]
    recipe: Recipe | None = None
    text: str = ""
    files: dict[str, str] | None = None
    revisions: tuple[Revision, ...] = ()

    @property
    def finished(self) -> bool:
        """Say whether the last step that is to be taken is done."""
        return [step for step in self.steps if step.taken][-1].done is not None

    @property
    def bundle(self) -> BundleManifest | None:
        """Return the manifest of the newest bundle that was made."""
        made = [step.manifest for step in self.steps if step.manifest is not None]
        return made[-1] if made else None


def look_at(folder: Path) -> RunSeen:
    """Read a run's folder: a recipe's, or that of one fine-tuning or distillation.

    Raises:
        UsageError: it is neither, or a file in it is damaged.
    """
    claim = folder / CLAIM
    if not claim.is_file():
        if not (folder / METRICS).is_file():
            raise UsageError(
                f"{folder} holds no run: give the folder of `training run`, `finetune` or `distill`"
            )
        name = folder.resolve().name
        return RunSeen(name, (_look_at_training(folder, StepSeen(name, "training", "")),))
    try:
        told = json.loads(claim.read_text(encoding="utf-8"))
        recipe = msgspec.convert(told["recipe"], Recipe)
        files = msgspec.convert(told["files"], dict[str, str])
    except (ValueError, KeyError, msgspec.ValidationError) as error:
        raise UsageError(
            f"{claim} is damaged, or another version wrote it ({error}): show the run with that one"
        ) from error
    text = folder / _RECIPE
    order = RunFolder(folder).read_order()
    taken = list_needed(recipe) if order is None else order.steps
    return RunSeen(
        name=recipe.name,
        steps=tuple(_look_at_step(folder, recipe, name, taken) for name in recipe.steps),
        recipe=recipe,
        text=text.read_text(encoding="utf-8") if text.is_file() else "",
        files=files,
        revisions=_read_revisions(folder),
    )


def note_revision(folder: Path) -> None:
    """Note which code goes on from here, unless it is the one that did before.

    Raises:
        WorldError: the disk does not take it.
    """
    before, now = _read_revisions(folder), read_revision(Path(__file__).parent)
    if not before or before[-1].revision != now:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        raw = msgspec.json.encode([*before, Revision(since, now)])
        write_whole(folder / _REVISIONS, msgspec.json.format(raw, indent=1).decode())


def _read_revisions(folder: Path) -> tuple[Revision, ...]:
    file = folder / _REVISIONS
    if not file.is_file():
        return ()
    revisions: tuple[Revision, ...] = _decode(file, tuple[Revision, ...])
    return revisions


def _decode(file: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise UsageError(f"{file} is damaged ({error}): delete it and go on") from error


def _look_at_step(folder: Path, recipe: Recipe, name: str, taken: Collection[str]) -> StepSeen:
    step = recipe.steps[name]
    mark = folder / f"{name}.done.json"
    done = _decode(mark, Trained) if mark.is_file() else None
    kind = str(type(step).__struct_config__.tag)
    seen = StepSeen(name, kind, step.start, taken=name in taken, done=done)
    if kind == "bundle":
        return _look_at_bundle(folder, seen)
    return _look_at_training(folder / name, seen)


def _look_at_training(folder: Path, seen: StepSeen) -> StepSeen:
    source = folder / METRICS
    return replace(seen, source=source, history=read_history(source))


def _look_at_bundle(folder: Path, seen: StepSeen) -> StepSeen:
    source, manifest = folder / f"{seen.name}.calibration.json", folder / seen.name / MANIFEST
    record = read_record(source)
    if not manifest.is_file():
        return replace(seen, source=source, record=record)
    raw = manifest.read_bytes()
    read = parse_manifest(raw, manifest)
    if record is None:  # a run from before such records
        source, record = manifest, read_card(read.null_threshold, read.card)
    return replace(seen, source=source, record=record, manifest=read, digest=digest_bytes(raw))
