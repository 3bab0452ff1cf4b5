"""A training run: what it learns, its checkpoints, and going on after an interruption."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import skip_first_batches  # type: ignore[import-untyped]
from accelerate.data_loader import prepare_data_loader  # type: ignore[import-untyped]
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from training.checkpoint import (
    check_fit,
    drop_old,
    find_latest,
    flatten_optimizer,
    open_encoder,
    open_model,
    point,
    prove_weights,
    restore_optimizer,
    write_checkpoint,
)
from training.crew import Share, average_gradients, lead, open_accelerator, share_accumulation
from training.data import Labelled
from training.disk import keeping
from training.history import METRICS
from training.predict import HeldOut, SpanModel, score_held_out
from training.progress import Metrics, Progress, read_progress
from training.schedule import Plan, Schedule, count_steps, find_last_step, rate_at
from worker.contracts.errors import JobError, UsageError
from worker.contracts.family import WindowSizes

#: The link, in a run's folder, to the checkpoint that reads held-out rows best.
BEST = "best"
_STATE = "training.safetensors"
_PROGRESS = "progress.json"

#: Joins items to a batch, padded with ``pad_id``.
Collate = Callable[..., dict[str, torch.Tensor]]


class Learner(Protocol):
    """What a run trains: a reader, and what helps it to learn but is no part of it.

    Called with a batch it gives its losses by name; their sum is what is minimized.
    """

    reader: SpanModel
    extra: torch.nn.ModuleDict

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the losses of a batch."""


class Run:
    """A run's state: model, optimizer, average, progress; on one device of each process."""

    def __init__(
        self,
        source: Path,
        schedule: Schedule,
        sizes: WindowSizes,
        out: Path,
        make_learner: Callable[[SpanModel], Learner],
    ) -> None:
        """Open the checkpoint that the run starts from; a missing head is made from the seed.

        Raises:
            UsageError: the checkpoint or the schedule cannot be used.
        """
        torch.manual_seed(schedule.seed)
        self.schedule, self.source, self.out = schedule, source, out
        self.accelerator = open_accelerator(schedule)
        self.pretrained, family = open_model(
            source, dropout=schedule.dropout, attention=schedule.attention
        )
        check_fit(self.pretrained, source, sizes)
        self.encoder = open_encoder(source, family, sizes)
        reader = SpanModel(self.pretrained)
        self.averaged = AveragedModel(reader, multi_avg_fn=_average_with(schedule.average_decay))
        self.averaged.to(self.accelerator.device)
        learner = cast(torch.nn.Module, make_learner(reader))
        # Evaluation means that accelerate shares no gradients: the crew does.
        self.model = self.accelerator.prepare_model(learner, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(learner, schedule))
        self.progress = Progress()
        self.metrics = Metrics(out / METRICS, writes=self.accelerator.is_main_process)
        self._losses: list[dict[str, float]] = []
        self._windows = 0
        self._began = time.monotonic()

    def open_loader(self, plan: Plan, items: Sequence[Any], collate: Collate) -> Any:
        """Return this process's batches of a plan's items, on its device."""
        process = self.accelerator.num_processes, self.accelerator.process_index
        share = Share(plan, self.schedule.accumulation, *process)
        loader: DataLoader[Any] = DataLoader(
            items,  # type: ignore[arg-type]
            batch_sampler=share,
            collate_fn=partial(collate, pad_id=self.encoder.pad),
        )
        device = self.accelerator.device
        return prepare_data_loader(loader, device, 1, 0, put_on_device=True)  # shared out already

    def skip(self, loader: Any, done: int) -> Any:
        """Return the loader's batches after so many steps."""
        own = share_accumulation(self.schedule.accumulation, self.accelerator.num_processes)
        return skip_first_batches(loader, done * own)

    def learn(self, batch: dict[str, torch.Tensor], plan: Plan) -> bool:
        """Learn from a batch; return whether that completed a step."""
        self.model.train()
        number = self._number_batch()
        # Seeded by its number, a resumed run drops what a whole one does, and several what one.
        torch.manual_seed(self.schedule.seed + number)
        with self.accelerator.accumulate(self.model):
            losses = self.model(batch)
            counts = number < len(plan)  # others fill up a step that is too short for all
            self.accelerator.backward(torch.stack(list(losses.values())).sum() * float(counts))
            if counts:
                self._losses.append({name: float(loss.detach()) for name, loss in losses.items()})
                self._windows += len(batch["input_ids"])
            if not self.accelerator.sync_gradients:
                return False
            self._meet()
            norm = self.accelerator.clip_grad_norm_(
                self.model.parameters(), self.schedule.max_gradient_norm
            )
            self._refuse_nan([*(sum(one.values()) for one in self._losses), float(norm)])
            steps = count_steps(plan, self.schedule)
            self._apply(rate_at(self.progress.step, steps, self.schedule))
        self.progress.step += 1
        self._report_step(plan)
        return True

    def evaluate(self, rows: Sequence[Labelled]) -> HeldOut:
        """Score the averaged weights on held-out rows, and remember whether they are the best."""
        self._refuse_nan([float(weight.detach().sum()) for weight in self.averaged.parameters()])
        scores = lead(partial(self._score, rows))
        keeps_best = self.schedule.keep == "best"
        self.progress.note(scores.score if keeps_best else float(self.progress.step))
        line = {"step": self.progress.step, "score": scores.score, "held_out": asdict(scores)}
        lead(partial(self.metrics.write, line))
        self._began = time.monotonic()
        return scores

    def _score(self, rows: Sequence[Labelled]) -> HeldOut:
        with self.accelerator.autocast():
            return score_held_out(self.averaged, rows, self.encoder, self.schedule.language)

    def has_lost_patience(self) -> bool:
        """Say whether enough checkpoints went by without a better held-out score."""
        patience = self.schedule.patience
        return patience is not None and self.progress.checkpoints_since_best >= patience

    def save(self) -> None:
        """Write a checkpoint: the averaged weights to use, and all that resuming needs."""
        lead(self._save)
        self._began = time.monotonic()

    def _save(self) -> None:
        name = f"step-{self.progress.step:07d}"
        write_checkpoint(self.out, name, self._write_files)
        self._point_best(name)
        drop_old(self.out, self.schedule.checkpoints_kept)

    def resume(self, plan: str, lesson: dict[str, Any] | None = None) -> int:
        """Continue from the latest checkpoint of this plan; return how many steps are done.

        ``lesson`` is what beside plan, schedule and start decides the weights.

        Raises:
            UsageError: the folder holds a run over other batches, or with other settings, or its
                latest checkpoint is damaged.
            WorldError: the disk does not take it.
        """
        settings = {
            "starting weights": prove_weights(self.source),
            **asdict(self.schedule),
            **({} if lesson is None else lesson),
        }
        settings = json.loads(json.dumps(settings))  # as they come back from a checkpoint
        latest = find_latest(self.out)
        with keeping(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        if latest is not None:
            with _opening(latest):
                self.progress = read_progress(latest / _PROGRESS)
            if self.progress.plan not in (None, plan):
                raise UsageError(
                    f"{self.out} holds a run over other rows, windows, seeds or teachers: give the"
                    " same ones, or another folder"
                )
            self._refuse_other(settings)
            with _opening(latest):
                self._restore(load_file(latest / _STATE))
            self._point_best(latest.name)  # a death may have come between the two links
        self.progress.plan, self.progress.settings = plan, settings
        self.metrics.forget_after(self.progress.step)
        return self.progress.step

    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self._learner.reader.load_state_dict(_part(tensors, "model."))
        self._learner.extra.load_state_dict(_part(tensors, "extra."))
        self.averaged.load_state_dict(_part(tensors, "average."))
        restore_optimizer(self.optimizer, _part(tensors, "optimizer."))

    def _point_best(self, name: str) -> None:
        """Let ``best`` name the checkpoint that was just written or opened, if it is the best."""
        if self.accelerator.is_main_process and self.progress.best_step == self.progress.step:
            point(self.out, BEST, name)

    def _refuse_other(self, settings: dict[str, Any]) -> None:
        """Refuse to go on with settings that the run did not begin with."""
        before = {} if self.progress.settings is None else self.progress.settings
        changed = [name for name in settings if name in before and before[name] != settings[name]]
        if changed:
            raise UsageError(
                f"{self.out} holds a run with other {changed[0].replace('_', ' ')}: give the same"
                " command again, or another folder"
            )

    @property
    def _learner(self) -> Learner:
        return cast(Learner, self.accelerator.unwrap_model(self.model))

    def _number_batch(self) -> int:
        """Return which of the plan's batches comes next here, counted from 0."""
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        number: int = len(self._losses) * processes + index
        return self.progress.step * self.schedule.accumulation + number

    def _meet(self) -> None:
        """Have what all processes learned in this step: the gradients' mean, and every loss."""
        average_gradients(self.model.parameters())
        self._losses = gather_object(self._losses)
        self._windows = sum(gather_object([self._windows]))

    def _apply(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averaged.update_parameters(self._learner.reader)

    def _refuse_nan(self, numbers: Sequence[float]) -> None:
        if all(map(math.isfinite, numbers)):
            return
        latest = find_latest(self.out)
        kept = "no checkpoint was written yet" if latest is None else f"{latest.name} is kept"
        raise JobError(
            f"the loss or the weights are no numbers any more near step {self.progress.step + 1}"
            f" ({kept}): train again in another folder, at a lower learning rate or in fp32"
        )

    def _report_step(self, plan: Plan) -> None:
        now = time.monotonic()
        seen = (self.progress.step - 1) * self.schedule.accumulation
        line = {
            "step": self.progress.step,
            "steps": find_last_step(plan, self.schedule),
            "epoch": plan.epoch_at(seen),
            "loss": sum(sum(one.values()) for one in self._losses) / len(self._losses),
            "losses": _mean_by_name(self._losses),
            "lr": self.optimizer.param_groups[0]["lr"],
            "examples_per_second": self._windows / (now - self._began),
            "seconds": now - self._began,
        }
        lead(partial(self.metrics.write, line))
        self._losses, self._windows, self._began = [], 0, now

    def _write_files(self, folder: Path) -> None:
        trained = self._learner.reader.state_dict()
        extra = self._learner.extra.state_dict()
        averaged = self.averaged.state_dict()
        optimizer = flatten_optimizer(self.optimizer)
        tensors = {f"model.{name}": value for name, value in trained.items()}
        tensors |= {f"extra.{name}": value for name, value in extra.items()}
        tensors |= {f"average.{name}": value for name, value in averaged.items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / _STATE)
        cast(SpanModel, self.averaged.module).model.save_pretrained(folder)
        shutil.copyfile(self.source / "tokenizer.json", folder / "tokenizer.json")
        self.progress.write(folder / _PROGRESS)


def make_optimizer(model: torch.nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only: neither biases nor normalization weights."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, fused=True)


@contextmanager
def _opening(latest: Path) -> Iterator[None]:
    """Tell in a sentence that a checkpoint is damaged; torch's own tells every tensor."""
    try:
        yield
    except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise UsageError(
            f"the checkpoint {latest} cannot be resumed from ({type(error).__name__}): let the link"
            " latest beside it name an older one, or train in another folder"
        ) from error


def _average_with(decay: float) -> Any:
    """Return an exponential average that trusts early weights less (as in Polyak's warm-up)."""

    @torch.no_grad()
    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], seen: Any) -> None:
        count = int(seen)
        share = 1.0 - min(decay, (1.0 + count) / (10.0 + count))
        torch._foreach_lerp_(averaged, current, share)

    return update


def _mean_by_name(losses: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in losses) / len(losses) for name in losses[0]}


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
