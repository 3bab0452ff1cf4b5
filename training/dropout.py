"""Dropout for CPUs: its random bits come from a generator that is as fast as the memory."""

import numpy as np
import torch
from torch import nn

#: A byte decides on each number, so a share is met to this part.
_STEPS = 256


class ByteDropout(nn.Module):
    """Dropout (Srivastava et al. 2014, section 4) with a share rounded to 1/256, below 1.

    torch draws a number at a time on CPUs, which takes half the time of training a small model.
    Seeded by torch's own generator, so that one seed gives one mask.
    """

    def __init__(self, share: float) -> None:
        """Take the share that is dropped."""
        super().__init__()
        self.dropped = min(round(share * _STEPS), _STEPS - 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values, some zeroed and the others scaled; unchanged outside training."""
        if not self.training or self.dropped == 0:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.dropped / _STEPS)
        seed = int(torch.randint(2**62, ()))
        words = np.random.SFC64(seed).random_raw(-(-values.numel() // 8))
        drawn = torch.from_numpy(words.view(np.uint8)[: values.numel()]).view(values.shape)
        kept = (drawn >= self.dropped).to(values.dtype).mul_(_STEPS / (_STEPS - self.dropped))
        return values * kept


def replace_dropout(module: nn.Module) -> None:
    """Put ByteDropout in the place of every dropout below this module that drops anything."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout) and child.p > 0:
            setattr(module, name, ByteDropout(child.p))
        else:
            replace_dropout(child)
