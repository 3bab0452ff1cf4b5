"""A run's metrics as TensorBoard's event files, under ``tensorboard`` in each training's folder."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from training.fence import writing
from training.progress import listening
from worker.contracts.errors import UsageError, WorldError

FOLDER = "tensorboard"


@contextmanager
def writing_events(*, wanted: bool) -> Iterator[None]:
    """Write what runs tell as event files, while this is open, if that is wanted.

    Raises:
        UsageError: TensorBoard's package is not installed.
    """
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard needs the package tensorboard: pip install 'spanmill[tensorboard]'"
        )
    handler = _Events() if wanted else None
    try:
        with nullcontext() if handler is None else listening(handler):
            yield
    finally:
        if handler is not None:
            handler.close()


class _Events(logging.Handler):
    """Has a writer for each training that tells something."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._writers: dict[Path, Any] = {}

    def emit(self, record: logging.LogRecord) -> None:
        line, folder = getattr(record, "metrics", None), getattr(record, "folder", None)
        if line is None or folder is None:
            return
        try:
            with writing():
                writer = self._open(folder / FOLDER, line["step"])
                for name, value in list_scalars(line).items():
                    writer.add_scalar(name, value, line["step"])
                writer.flush()  # what waited would be written later, by whoever was overtaken too
        except OSError as error:
            raise WorldError(
                f"the event files in {folder / FOLDER} cannot be written ({error.strerror}): make"
                " room and run again, or leave out --tensorboard"
            ) from error

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        super().close()

    def _open(self, folder: Path, step: int) -> Any:
        """Return a training's writer; one that goes on lets older files count up to its step."""
        if folder not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # here: an extra of its own

            goes_on = folder.is_dir()
            self._writers[folder] = SummaryWriter(str(folder), purge_step=step if goes_on else None)
        return self._writers[folder]


def list_scalars(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a metrics line by the names that TensorBoard shows them under."""
    if "held_out" in line:
        scores = {"score": line["score"], **line["held_out"]}
        return {f"held_out/{name}": value for name, value in scores.items() if name != "rows"}
    losses = {f"loss/{name}": value for name, value in line["losses"].items()}
    return losses | {
        "loss/all": line["loss"],
        "learning_rate": line["lr"],
        "windows_per_second": line["examples_per_second"],
    }
