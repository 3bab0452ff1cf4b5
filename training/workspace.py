"""What the steps of a recipe share: its rows, its folder, and what earlier steps made."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from training.card import Trained
from training.checkpoint import find_checkpoint, prove_weights
from training.disk import keeping
from training.recipe import list_names, list_needed, list_starts, parse_start
from training.recipe_file import Written
from training.rows import Rows, find_file
from training.run_state import write_whole
from training.teacher import find_teacher
from training.thaw import thaw
from worker.contracts.bundle import Bundle, find_bundle, load_bundle, prove_file
from worker.contracts.errors import UsageError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a recipe is followed: the run's folder, the data, the encoder, the reading processes.

    ``encoder`` is a folder or hub name instead of the recipe's; ``until`` the last step to take,
    instead of the recipe's last.
    """

    out: Path
    data: Path
    encoder: str | None = None
    processes: int = 1
    until: str | None = None


class Workspace:
    """The run's folder: what a finished step made lies in it, and stays.

    ``<step>/`` is what a step makes, ``<step>.done.json`` says that it is whole; ``.cache/`` holds
    what can be made again.
    """

    def __init__(self, written: Written, place: Place, say: Say) -> None:
        """Read nothing yet."""
        self.written, self.recipe, self.place, self.say = written, written.recipe, place, say
        self.rows = Rows(self.recipe, place.data, say)
        self.needed = list_needed(self.recipe, place.until)
        self.names = [name for step in self.needed for name in list_names(self.recipe.steps[step])]

    @cached_property
    def files(self) -> dict[str, Path]:
        """The files that are trained on or held out, by their names in the recipe."""
        return self.rows.find(self.names)

    @cached_property
    def reports(self) -> dict[str, Path]:
        """The files that are scored for the card."""
        given = self.recipe.reports.items()
        return {name: find_file(self.place.data, report.file) for name, report in given}

    @cached_property
    def proofs(self) -> dict[str, str]:
        """The digests of all that is read but lies elsewhere: files, WordNet, encoder, bundles."""
        files = {**self.files, **{f"report {name}": one for name, one in self.reports.items()}}
        found = {name: prove_file(path).sha256 for name, path in files.items()}
        found |= self.rows.prove_words(self.names)
        return found | {start: self._prove_outside(start) for start in self._outside}

    @property
    def cache(self) -> Path:
        """The folder for what can be made again."""
        return self.place.out / ".cache"

    def folder(self, step: str) -> Path:
        """Return where a step works."""
        return self.place.out / step

    def record(self, step: str) -> Path:
        """Return the file for what a bundle's calibration saw."""
        return self.place.out / f"{step}.calibration.json"

    def find_start(self, start: str) -> Path:
        """Return the checkpoint's folder that ``encoder``, ``step:first`` or the like means.

        Raises:
            UsageError: it is not there, or cannot be used.
        """
        given = parse_start(start)
        if given.kind == "step":
            return find_checkpoint(str(self.folder(given.name) / "best"))
        if given.kind == "bundle":
            return self._thaw(self.find_bundle(given.name))
        return find_checkpoint(self._name_encoder() if given.kind == "encoder" else given.name)

    def find_bundle(self, name: str) -> Bundle:
        """Return a bundle of the package, or of a folder.

        Raises:
            BundleError: there is none.
        """
        return load_bundle(find_bundle(name))

    def prove_start(self, start: str) -> str:
        """Return the digest of the weights, or of the bundle, that a start means."""
        given = parse_start(start)
        if given.kind == "bundle":
            return self.find_bundle(given.name).digest
        return prove_weights(self.find_start(start))

    def _prove_outside(self, start: str) -> str:
        """Return the digest of a bundle, or of all files of a checkpoint that matter."""
        given = parse_start(start)
        if given.kind == "bundle":
            return self.find_bundle(given.name).digest
        return find_teacher(str(self.find_start(start))).digest

    def find_done(self, step: str) -> Trained | None:
        """Return what a finished step noted, None while it is not finished."""
        mark = self._mark(step)
        if not mark.is_file():
            return None
        return Trained(**json.loads(mark.read_text(encoding="utf-8")))

    @property
    def unfinished(self) -> list[str]:
        """The needed steps that are still to be taken."""
        return [name for name in self.needed if self.find_done(name) is None]

    def note_done(self, done: Trained) -> None:
        """Say that a step is finished; what it made must be whole by now."""
        write_whole(self._mark(done.step), json.dumps(asdict(done), indent=1))

    def _mark(self, step: str) -> Path:
        return self.place.out / f"{step}.done.json"

    @property
    def _outside(self) -> list[str]:
        """What the needed steps stand on that no step makes, each once."""
        found: dict[str, None] = {}
        for name in self.needed:
            for text in list_starts(self.recipe.steps[name]):
                if parse_start(text).kind != "step":
                    found[text] = None
        return list(found)

    def _name_encoder(self) -> str:
        if self.place.encoder is not None:
            return self.place.encoder
        if self.recipe.encoder is None:
            raise UsageError("the recipe names no encoder: give it by --encoder, or add [encoder]")
        return self.recipe.encoder.name

    def _thaw(self, bundle: Bundle) -> Path:
        folder = self.cache / f"thawed-{bundle.digest[:16]}"
        if not folder.is_dir():
            with keeping(self.cache):
                self.cache.mkdir(parents=True, exist_ok=True)
            thaw(bundle, folder)
        return folder
