"""The loop that fine-tuning and distillation share: learn, judge, keep, stop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data import Labelled
from training.fence import find_wish, stop
from training.run import BEST, Run
from training.schedule import Plan, find_last_step


def train(run: Run, plan: Plan, loader: Any, done: int, held_out: Sequence[Labelled]) -> Path:
    """Learn from the loader's batches, after the ``done`` steps; return the best one's folder.

    Raises:
        JobError: the loss is no number any more; the last checkpoint stays.
        StoppedError: the process is to stop; it was at a checkpoint by then.
        WorldError: a checkpoint could not be written; the previous one stays.
    """
    schedule = run.schedule
    last_step = find_last_step(plan, schedule)
    for batch in run.skip(loader, done):
        if run.progress.step >= last_step or run.has_lost_patience():
            break
        if not run.learn(batch, plan):
            continue
        is_last = run.progress.step == last_step
        is_judged = is_last or run.progress.step % schedule.checkpoint_every_steps == 0
        if is_judged:
            run.evaluate(held_out)
        wish = None if is_last else find_wish()  # once: whatever it says, a checkpoint comes first
        if is_judged or wish is not None:
            run.save()
        if wish is not None:
            stop(wish)
    return run.out / BEST
