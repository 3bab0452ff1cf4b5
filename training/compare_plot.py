"""A comparison as pictures, PNG and SVG: score against time, and score by kind of question."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.compare import Comparison
from training.pictures import drawing, open_axes, save
from training.slices import Slice


def plot(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the pictures into a folder and return their paths."""
    with drawing():
        figures = {"f1-by-time": _plot_speed(comparison)}
        for by in dict.fromkeys(one.by for one in comparison.slices):
            name = f"f1-by-{by.replace(chr(39), '').replace(' ', '-')}"
            figures[name] = _plot_slices([one for one in comparison.slices if one.by == by])
        return save(figures, folder)


def _plot_speed(comparison: Comparison) -> Figure:
    figure, axes = open_axes(7, 4.5)
    for system in comparison.systems:
        error = [[system.f1.value - system.f1.low], [system.f1.high - system.f1.value]]
        axes.errorbar(system.p50_ms, system.f1.value, yerr=error, fmt="o", capsize=3)
        axes.annotate(
            system.name,
            (system.p50_ms, system.f1.value),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize="small",
        )
    axes.set_xscale("log")
    axes.margins(x=0.2)  # room for the last one's name
    axes.set_xlabel("milliseconds a question (median, one thread)")
    axes.set_ylabel("F1, with its 95 % interval")
    axes.set_title(f"{comparison.questions} questions of {comparison.data}", fontsize="medium")
    return figure


def _plot_slices(slices: list[Slice]) -> Figure:
    figure, axes = open_axes(8, 4.5)
    names = [cell.system for cell in slices[0].cells]
    places = np.arange(len(slices))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        heights = [one.cells[number].f1 for one in slices]
        axes.bar(places + (number - (len(names) - 1) / 2) * width, heights, width, label=name)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(places, [f"{one.value}\n{one.questions}" for one in slices])
    axes.set_xlabel(f"{slices[0].by}, and questions")
    axes.set_ylabel("F1")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    return figure
