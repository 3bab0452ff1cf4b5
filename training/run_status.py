"""How a run stands and how far it is, from its folder alone; as a record and as a line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.history import METRICS
from training.lines import describe_seconds
from training.run_state import RunFolder, RunState

#: So much of a step's metrics is read, and as much again until there is a held-out score.
TAIL_BYTES = 512 * 1024
#: The speed is that of so many steps, the last ones.
RECENT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run's state and progress. ``steps`` are the recipe's, the other numbers its current one's.

    ``seconds_left`` is for the current step of the recipe alone, scoring not counted.
    """

    run: str
    state: str
    reason: str | None
    holder: str | None
    steps: dict[str, bool]
    step: str | None
    position: int | None = None
    positions: int | None = None
    epoch: int | None = None
    loss: float | None = None
    held_out_f1: float | None = None
    seconds_left: float | None = None


def read_status(run: RunFolder) -> RunStatus:
    """Return how a run stands now.

    Raises:
        UsageError: there is no run.
        WorldError: the folder is away.
    """
    standing = run.read()
    step = None if standing.state is RunState.FINISHED else standing.next_step
    progress = {} if step is None else read_progress(run.folder / step / METRICS)
    return RunStatus(
        run=run.name,
        state=standing.state,
        reason=standing.reason,
        holder=standing.holder,
        steps=standing.steps,
        step=step,
        **progress,
    )


def read_progress(metrics: Path) -> dict[str, Any]:
    """Return how far a step is, from the last lines of its metrics; nothing before the first."""
    lines = _read_tail(metrics)
    learned = [line for line in lines if "loss" in line]
    scored = [line["held_out"]["best_f1"] for line in lines if "held_out" in line]
    if not learned:
        return {}
    last = learned[-1]
    took = [line["seconds"] for line in learned[-RECENT:] if "seconds" in line]
    left = last["steps"] - last["step"]
    return {
        "position": last["step"],
        "positions": last["steps"],
        "epoch": last["epoch"],
        "loss": round(last["loss"], 4),
        "held_out_f1": round(scored[-1], 2) if scored else None,
        "seconds_left": round(left * sum(took) / len(took), 1) if took else None,
    }


def describe(status: RunStatus) -> str:
    """Say it in a line, and the reason in another one."""
    parts = [f"{status.run}: {status.state}"]
    if status.step is not None:
        done = sum(status.steps.values())
        parts.append(f"step {status.step} ({done + 1} of {len(status.steps)})")
    if status.position is not None:
        parts.append(f"{status.position} of {status.positions}, epoch {status.epoch}")
        parts.append(f"loss {status.loss:.3f}")
    if status.held_out_f1 is not None:
        parts.append(f"held-out F1 {status.held_out_f1:.2f}")
    if status.seconds_left and status.state == RunState.RUNNING:
        parts.append(f"{describe_seconds(status.seconds_left)} left of it")
    if status.holder is not None:
        parts.append(f"by {status.holder}")
    reason = "" if status.reason is None else f"\n{status.reason}"
    return ", ".join(parts) + reason


def _read_tail(path: Path) -> list[dict[str, Any]]:
    """Return the last lines, back to a held-out score if there is one: those are far apart."""
    try:
        with path.open("rb") as file:
            start, raw = file.seek(0, 2), b""
            while start > 0 and b'"held_out"' not in raw.partition(b"\n")[2]:
                end, start = start, max(0, start - TAIL_BYTES)
                file.seek(start)
                raw = file.read(end - start) + raw
    except OSError:
        return []
    found = []
    for line in raw.split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:  # the first, cut, or the last, which is being written
            continue
    return [line for line in found if isinstance(line, dict)]
