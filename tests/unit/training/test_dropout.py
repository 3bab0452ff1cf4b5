"""Dropout whose bits come from a fast generator."""

import torch
from torch import nn

from training.dropout import ByteDropout, replace_dropout


def test_a_tenth_of_the_numbers_is_dropped_and_their_mean_is_kept() -> None:
    torch.manual_seed(5)
    seen = ByteDropout(0.1)(torch.ones(1_000_003))
    assert abs(float((seen == 0).float().mean()) - 26 / 256) < 0.002
    assert abs(float(seen.mean()) - 1) < 0.002


def test_a_share_close_to_one_leaves_some_numbers() -> None:
    torch.manual_seed(5)
    seen = ByteDropout(0.999)(torch.ones(100_000))
    assert abs(float((seen > 0).float().mean()) - 1 / 256) < 0.002
    assert torch.isfinite(seen).all()


def test_one_seed_gives_one_mask_and_another_gives_another() -> None:
    drop, values = ByteDropout(0.5), torch.ones(3, 1_000)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(drop(values))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_the_gradient_is_dropped_where_the_value_was() -> None:
    values = torch.ones(64, requires_grad=True)
    seen = ByteDropout(0.5)(values)
    seen.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(values.grad, seen.detach())


def test_nothing_is_dropped_outside_training() -> None:
    values = torch.ones(64)
    assert ByteDropout(0.5).eval()(values) is values


def test_every_dropout_of_a_model_that_drops_is_replaced() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)))
    model.append(nn.Dropout(0.0))
    replace_dropout(model)
    assert [type(one).__name__ for one in model.modules() if "Dropout" in type(one).__name__] == [
        "ByteDropout",
        "ByteDropout",
        "Dropout",
    ]
