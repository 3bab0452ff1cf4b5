"""Fine-tuning: from labelled rows to a checkpoint that reads."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from training.checkpoint import find_checkpoint
from training.data import Labelled, refuse_shared_passages
from training.features import pad
from training.loop import train
from training.losses import span_loss
from training.predict import SpanModel
from training.run import Run
from training.schedule import Schedule, Stage, plan_run
from worker.contracts.family import WindowSizes


def finetune(
    checkpoint: str,
    stages: Sequence[Stage],
    held_out: Sequence[Labelled],
    schedule: Schedule,
    sizes: WindowSizes,
    out: Path,
) -> Path:
    """Fine-tune a checkpoint; return the folder of the one that reads held-out rows best.

    Called again with the same arguments it resumes from ``out/latest``, to the same weights.

    Raises:
        UsageError: the checkpoint or the data cannot be used, or ``out`` holds another run.
        JobError: the loss is no number any more; the last checkpoint stays.
        WorldError: a checkpoint could not be written; the previous one stays.
    """
    learner = partial(Supervised, smoothing=schedule.label_smoothing)
    run = Run(find_checkpoint(checkpoint), schedule, sizes, out, learner)
    refuse_shared_passages((row for stage in stages for row in stage.rows), held_out)
    plan = plan_run(stages, schedule, run.encoder)
    loader = run.open_loader(plan, plan.features, pad)
    done = run.resume(plan.digest())
    return train(run, plan, loader, done, held_out)


class Supervised(torch.nn.Module):
    """Learns from labels alone."""

    def __init__(self, reader: SpanModel, smoothing: float) -> None:
        """Take the reader that learns."""
        super().__init__()
        self.reader = reader
        self.extra = torch.nn.ModuleDict()
        self._smoothing = smoothing

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the cross-entropy of starts and ends."""
        start, end = self.reader(batch)
        return {"hard": span_loss(start, end, batch, self._smoothing)}
