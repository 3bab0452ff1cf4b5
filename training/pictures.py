"""How all pictures look, and how they are written: PNG and SVG, equal bytes for equal numbers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.fence import draft_of, writing
from worker.contracts.errors import WorldError

#: What would make the bytes differ for the same numbers is left out.
_KINDS: dict[str, dict[str, str | None]] = {"png": {"Software": None}, "svg": {"Date": None}}
PAPER, INK, FAINT, RULE = "#ffffff", "#1f2430", "#697386", "#d5dae3"
#: Of lines, in the order in which they are drawn.
COLOURS = ("#2f6fde", "#d9730d", "#0f8a6a", "#8a4fd3", "#c2334d", "#6b7a0f", "#0e7c9b", "#9a5b2f")
_LOOK: Any = {
    "svg.hashsalt": "spanmill",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a set's name may hold a dollar sign
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": RULE,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "legend.edgecolor": "none",
    "legend.facecolor": PAPER,
    "legend.framealpha": 0.8,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in spanmill's look, while this is open."""
    with mpl.rc_context(_LOOK):
        yield


def open_axes(width: float = 4.9, height: float = 3.6) -> tuple[Figure, Axes]:
    """Return an empty figure, its sides in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures under their names into a folder and return their paths.

    Raises:
        WorldError: the disk does not take one.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for kind, metadata in _KINDS.items():
                path = folder / f"{name}.{kind}"
                draft = draft_of(path)
                figure.savefig(draft, format=kind, dpi=150, metadata=metadata)
                with writing():
                    written.append(draft.replace(path))
    except OSError as error:
        raise WorldError(
            f"the pictures in {folder} could not be written ({error.strerror}): make room there"
        ) from error
    return written
