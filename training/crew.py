"""Several processes that train one model, as `accelerate launch` starts them: shares, and accord.

Every step's batches are dealt out in turn. Each process learns from its own, then all take the mean
of their gradients, so that a step is what it is for one process. The first one leads: it alone
writes, and what it does the others wait for.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import (  # type: ignore[import-untyped]
    AcceleratorState,
    DistributedType,
    GradientState,
    PartialState,
)
from accelerate.utils import (  # type: ignore[import-untyped]
    InitProcessGroupKwargs,
    broadcast_object_list,
    reduce,
)
from torch.utils.data import Sampler

from training.schedule import Plan, Schedule
from worker.contracts.errors import SpanmillError, UsageError

_T = TypeVar("_T")
#: Others wait while the first one asks teachers or scores: longer than the minutes torch bears.
_PATIENCE = timedelta(days=7)
#: One whole model for each process, or one process.
_WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class Share(Sampler[list[int]]):
    """A process's batches of a plan. All have equally many, so that none waits in vain.

    Where a plan's last step is too short for all, some get its first batch again; ``is_filler``
    tells which batches those are.
    """

    def __init__(self, plan: Plan, accumulation: int, processes: int = 1, index: int = 0) -> None:
        """Take the batches of each step, and which process of how many this is."""
        self.plan, self.batch_size = plan, plan.batch_size
        self._accumulation, self._processes, self._index = accumulation, processes, index

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's batches in order."""
        batches = self.plan.batches
        for first in range(0, len(batches), self._accumulation):
            step = batches[first : first + self._accumulation]
            for at in range(self._index, _round_up(len(step), self._processes), self._processes):
                yield step[at] if at < len(step) else step[0]

    def __len__(self) -> int:
        """Return the number of batches."""
        whole, left = divmod(len(self.plan), self._accumulation)
        own = self._accumulation // self._processes
        return whole * own + _round_up(left, self._processes) // self._processes


def _round_up(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor


def open_accelerator(schedule: Schedule) -> Accelerator:
    """Return this process's device, and its tie to the others that train.

    Raises:
        UsageError: the precision is not to be had, or the batches cannot be shared.
    """
    # What an earlier run of this process chose for all, such as its precision, is not ours.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    processes = count_processes()
    try:
        accelerator = Accelerator(
            mixed_precision=schedule.precision,
            gradient_accumulation_steps=share_accumulation(schedule.accumulation, processes),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
    except ValueError as error:
        raise UsageError(
            f"the precision {schedule.precision} is not to be had here ({error}): use bf16 or no"
        ) from error
    if accelerator.distributed_type not in _WHOLE:
        raise UsageError(
            f"processes that train have each a whole model, but accelerate is set to"
            f" {accelerator.distributed_type.value}: launch them with --multi_gpu alone"
        )
    return accelerator


def count_processes() -> int:
    """Return how many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Say whether this process is the first one, or alone."""
    return os.environ.get("RANK", "0") == "0"


def share_accumulation(accumulation: int, processes: int) -> int:
    """Return how many batches of a step each process gets.

    Raises:
        UsageError: they cannot be shared evenly.
    """
    if accumulation % processes:
        raise UsageError(
            f"{processes} processes cannot share a step's batches, whose number (the accumulation)"
            f" is {accumulation}: choose one that {processes} divides, and batches so much smaller"
        )
    return accumulation // processes


def average_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients.

    After the backward passes and not within them, which would be quicker: weights that no loss
    reaches have no gradient in any process, and need no search for them.
    """
    if count_processes() > 1:
        for weight in weights:
            if weight.grad is not None:
                weight.grad = reduce(weight.grad, "mean")


def lead(act: Callable[[], _T]) -> _T:
    """Let the first process act while the others wait; all return what it got.

    Raises:
        SpanmillError: what the first one raised, in all of them.
    """
    if count_processes() == 1:
        return act()
    told: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            told[0] = act()
        except SpanmillError as error:
            told[1] = error
    broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    result: _T = told[0]
    return result


def go_first(act: Callable[[], _T]) -> _T:
    """Let the first process act before the others do; each returns what it got itself.

    Raises:
        SpanmillError: what the first one raised, in all of them.
    """
    own: list[_T] = []
    lead(lambda: own.append(act()))
    return own[0] if own else act()
