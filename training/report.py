"""Draws a run's pictures and writes its page, index.html: on demand, and while a run goes on."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from training.page import render
from training.pictures import drawing, save
from training.progress import listening
from training.run_plot import plot_calibration, plot_history
from training.run_state import write_whole
from training.run_view import RunSeen, StepSeen, look_at
from worker.contracts.errors import SpanmillError

PAGE, PLOTS = "index.html", "plots"
#: Pictures take a second or two: at checkpoints that come faster the page waits.
SECONDS_BETWEEN = 60.0


def write_page(folder: Path, *, afresh: bool = True) -> Path:
    """Draw what a run's folder tells, and write its page; without ``afresh`` only what is newer.

    Raises:
        UsageError: the folder holds no run, or a damaged one.
        WorldError: the disk does not take it.
    """
    seen = look_at(folder)
    draw(seen, folder / PLOTS, afresh=afresh)
    write_whole(folder / PAGE, render(seen, folder / PLOTS).rstrip("\n"))
    return folder / PAGE


def draw(seen: RunSeen, plots: Path, *, afresh: bool) -> None:
    """Write each step's pictures, ``<step>-<picture>``, as PNG and SVG."""
    with drawing():
        for step in seen.steps:
            if step.history is not None and (afresh or _is_old(plots, step, "loss")):
                _save(step, plot_history(step.history), plots)
            if step.record is not None and (afresh or _is_old(plots, step, "reliability")):
                _save(step, plot_calibration(step.record), plots)


@contextmanager
def showing(folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Keep a run's page up to date at its checkpoints; what is given does so at once.

    A page that cannot be written ends no run: that is said instead.
    """
    page = _Page(folder, say)
    with listening(page):
        yield page.refresh


class _Page(logging.Handler):
    """Writes the page when held-out scores are told, if the last time is long ago."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._folder, self._say = folder, say
        self._written = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        told = "held_out" in getattr(record, "metrics", {})
        if told and time.monotonic() - self._written >= SECONDS_BETWEEN:
            self.refresh()

    def refresh(self) -> None:
        try:
            write_page(self._folder, afresh=False)
        except SpanmillError as error:
            self._say(f"the page of the run was not written: {error}")
        except Exception as error:  # noqa: BLE001  a library of pictures is worth no run
            self._say(
                f"the page of the run was not written (unexpected {type(error).__name__}): see more"
                " by `spanmill --debug training report`"
            )
        self._written = time.monotonic()


def _save(step: StepSeen, figures: Mapping[str, Figure], plots: Path) -> None:
    save({f"{step.name}-{name}": figure for name, figure in figures.items()}, plots)


def _is_old(plots: Path, step: StepSeen, name: str) -> bool:
    picture = plots / f"{step.name}-{name}.svg"
    if step.source is None or not picture.is_file():
        return True
    return picture.stat().st_mtime <= step.source.stat().st_mtime
