"""A run as pictures: how training went, by step; what calibration saw, by threshold and trust."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.calibration_record import HELD_OUT, CalibrationRecord, Seen
from training.history import History, Numbers
from training.pictures import FAINT, open_axes

#: A longer way is drawn as so many means.
SPOTS = 250


def plot_history(history: History) -> dict[str, Figure]:
    """Return the pictures of a training: ``loss``, ``rate``, and ``f1`` after a checkpoint."""
    figures = {"loss": _plot_loss(history), "rate": _plot_rate(history)}
    if history.checkpoints:
        figures["f1"] = _plot_f1(history)
    return figures


def plot_calibration(record: CalibrationRecord) -> dict[str, Figure]:
    """Return ``reliability``, ``risk-coverage``, and ``threshold-sweep`` where one was kept."""
    figures = {
        "reliability": _plot_reliability(record.sets),
        "risk-coverage": _plot_risk(record.sets),
    }
    swept = {name: seen for name, seen in record.sets.items() if seen.sweep}
    if swept:
        figures = {"threshold-sweep": _plot_sweep(swept, record.null_threshold), **figures}
    return figures


def thin(values: Numbers, spots: int = SPOTS) -> tuple[Numbers, Numbers, Numbers]:
    """Return means of neighbours, and their 10th and 90th percentiles; each ``(spots,)`` at most.

    Shape: ``values`` is ``(steps,)``.
    """
    parts = np.array_split(values, min(spots, len(values)))
    low, high = (np.array([np.quantile(one, share) for one in parts]) for share in (0.1, 0.9))
    return np.array([one.mean() for one in parts]), low, high


def _plot_loss(history: History) -> Figure:
    figure, axes = open_axes()
    steps = thin(history.steps.astype(np.float64))[0]
    for name, values in history.losses.items():
        mean, low, high = thin(values)
        (line,) = axes.plot(steps, mean, label=name)
        if len(values) > SPOTS:
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.16, linewidth=0)
    axes.set_ylim(bottom=0)
    _finish(axes, "step", "loss")
    return figure


def _plot_rate(history: History) -> Figure:
    figure, axes = open_axes()
    axes.plot(history.steps, history.rates)
    axes.set_ylim(bottom=0)
    _finish(axes, "step", "learning rate", legend=False)
    return figure


def _plot_f1(history: History) -> Figure:
    figure, axes = open_axes()
    steps = [one.step for one in history.checkpoints]
    axes.plot(steps, [one.best_f1 for one in history.checkpoints], "o-", ms=4,
              label="all rows, best threshold")  # fmt: skip
    axes.plot(steps, [one.answerable_f1 for one in history.checkpoints], "s-", ms=4,
              label="answerable rows, all answered")  # fmt: skip
    if history.best is not None:
        _mark(axes, history.best.step, "best checkpoint")
    _finish(axes, "step", "F1 on held-out rows")
    return figure


def _plot_sweep(sets: Mapping[str, Seen], threshold: float) -> Figure:
    figure, axes = open_axes()
    for name, seen in sets.items():
        at = [one.threshold for one in seen.sweep]
        fitted = name == HELD_OUT
        (line,) = axes.plot(at, [one.f1 for one in seen.sweep], label=f"{name}: all rows",
                            lw=2 if fitted else 1.3)  # fmt: skip
        if fitted:
            for values, style, what in (
                ([one.has_answer_f1 for one in seen.sweep], "--", "of answerable rows"),
                ([one.no_answer_f1 for one in seen.sweep], ":", "of unanswerable rows"),
            ):
                axes.plot(at, [np.nan if one is None else one for one in values], style, lw=1.3,
                          color=line.get_color(), label=f"{name}: {what}")  # fmt: skip
    _mark(axes, threshold, f"threshold {threshold:.2f}")
    axes.set_ylim(0, 102)
    _finish(axes, "threshold on null odds", "F1")
    return figure


def _plot_reliability(sets: Mapping[str, Seen]) -> Figure:
    figure, axes = open_axes()
    axes.plot([0, 1], [0, 1], "--", color=FAINT, lw=1, label="means what it says")
    for name, seen in sets.items():
        bins, error = seen.honesty.bins, seen.honesty.expected_error
        said, right = [one.confidence for one in bins], [one.right for one in bins]
        (line,) = axes.plot(said, right, lw=1.4, label=f"{name}: error {error:.3f}")
        shares = np.array([one.rows for one in bins]) / max(1, seen.honesty.rows)
        axes.scatter(said, right, s=6 + 400 * shares, color=line.get_color(), alpha=0.5, lw=0)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
    _finish(axes, "confidence", "share that is right")
    return figure


def _plot_risk(sets: Mapping[str, Seen]) -> Figure:
    figure, axes = open_axes()
    for name, seen in sets.items():
        curve = seen.honesty.curve
        axes.plot([one.coverage for one in curve], [one.risk for one in curve], label=name)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(bottom=0)
    _finish(axes, "coverage: rows with the highest confidence", "risk: share of them wrong")
    return figure


def _mark(axes: Axes, place: float, label: str) -> None:
    axes.axvline(place, color=FAINT, lw=1, ls=(0, (2, 2)), label=label)


def _finish(axes: Axes, across: str, up: str, *, legend: bool = True) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if legend:
        axes.legend(loc="best")
