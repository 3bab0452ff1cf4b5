"""How far a fine-tuning run is, and what it writes down on its way."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.fence import writing
from training.run_state import replace_text
from worker.contracts.errors import WorldError

#: Whoever wants to follow a run listens here: a record has a line as its ``metrics``, and where it
#: was written, or neither where only something goes on.
LOGGER = logging.getLogger("spanmill.training")


@dataclass(slots=True)
class Progress:
    """The counters of a run, stored in every checkpoint.

    ``plan`` is the digest of the batches that the steps went through; ``settings`` are what else
    decides the weights, by their names (None in older checkpoints). ``best_step`` is that of the
    best checkpoint, None before the first and in older checkpoints.
    """

    plan: str | None = None
    settings: dict[str, Any] | None = None
    step: int = 0
    best_score: float = -1.0
    checkpoints_since_best: int = 0
    best_step: int | None = None

    def note(self, score: float) -> None:
        """Take a checkpoint's held-out score."""
        better = score > self.best_score
        self.checkpoints_since_best = 0 if better else self.checkpoints_since_best + 1
        self.best_score = max(self.best_score, score)
        if better:
            self.best_step = self.step

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_progress(path: Path) -> Progress:
    """Return what ``Progress.write`` wrote."""
    progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
    if progress.best_step is None and progress.best_score >= 0.0:  # older ones were all scored
        progress.best_step = progress.step if progress.checkpoints_since_best == 0 else None
    return progress


def tell_progress() -> None:
    """Let whoever listens know that work goes on, where no metrics are written."""
    LOGGER.info("progress")


@contextmanager
def listening(handler: logging.Handler) -> Iterator[None]:
    """Let a handler hear what runs tell, while this is open."""
    level = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


class Metrics:
    """A JSON object a line: one for every step, one for every held-out score."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        """Write to a file, if this process is the one that does."""
        self._path = path
        self._writes = writes

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; ``step`` says when.

        Raises:
            WorldError: the disk does not take it.
        """
        if self._writes:
            try:
                with writing(), self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise WorldError(
                    f"{self._path} cannot be written ({error.strerror}): make room and run again;"
                    " the last checkpoint is as it was"
                ) from error
            folder = self._path.parent
            LOGGER.info("metrics", extra={"metrics": line, "run": folder.name, "folder": folder})

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run takes again.

        Raises:
            WorldError: the disk does not take it; every line stays.
        """
        if not self._writes or not self._path.exists():
            return
        with writing():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            if kept != lines:
                replace_text(self._path, "".join(kept))
