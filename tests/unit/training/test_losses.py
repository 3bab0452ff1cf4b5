"""Losses on values worked out by hand: as in the papers, and deaf to padding."""

import math
from collections.abc import Callable

import pytest
import torch

from training.losses import (
    attention_map_loss,
    attention_score_loss,
    cosine_loss,
    feature_map_loss,
    feature_mean_loss,
    feature_variance_loss,
    hidden_loss,
    relation_loss,
    score_attention,
    soft_loss,
)

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

#: KL of (1/4, 3/4) from (1/2, 1/2), in nats.
DIVERGENCE = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
LOG3 = math.log(3)

OF_STATES: dict[str, Loss] = {
    "hidden": hidden_loss,
    "cosine": cosine_loss,
    "feature map": feature_map_loss,
    "feature mean": feature_mean_loss,
    "feature variance": feature_variance_loss,
    "relation": lambda one, other, mask: relation_loss(one, other, mask, 2),
}
OF_ATTENTION: dict[str, Loss] = {
    "attention score": attention_score_loss,
    "attention map": attention_map_loss,
}


def _all(*tokens: int) -> torch.Tensor:
    """Return a mask of windows with so many real tokens each."""
    return torch.tensor([[1] * one + [0] * (max(tokens) - one) for one in tokens])


def _near(loss: torch.Tensor, value: float) -> bool:
    return bool(torch.isclose(loss, torch.tensor(value), rtol=1e-4, atol=1e-6))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_targets_cost_their_divergence_times_the_squared_temperature(
    temperature: float,
) -> None:
    student = torch.tensor([[0.0, 0.0]])
    teacher = torch.tensor([[0.0, temperature * LOG3]])  # softened: a quarter and three
    loss = soft_loss(student, teacher, _all(2), temperature)
    assert _near(loss, temperature**2 * DIVERGENCE)


def test_soft_targets_are_the_teachers_not_the_students() -> None:
    flat, steep = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, LOG3]])
    backwards = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert _near(soft_loss(steep, flat, _all(2), 1.0), backwards)


def test_soft_targets_give_no_padding_a_probability() -> None:
    student, teacher = torch.tensor([[0.0, 0.0, 50.0]]), torch.tensor([[0.0, LOG3, -70.0]])
    assert _near(soft_loss(student, teacher, torch.tensor([[1, 1, 0]]), 1.0), DIVERGENCE)


def test_the_gradient_of_a_soft_target_is_the_difference_of_probabilities() -> None:
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    soft_loss(student, torch.tensor([[0.0, LOG3]]), _all(2), 1.0).backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, torch.tensor([[0.25, -0.25]]))


STUDENT = torch.tensor([[[1.0, 3.0], [3.0, 4.0]]])
TEACHER = torch.tensor([[[10.0, 0.0], [0.0, 4.0]]])


def test_hidden_states_cost_their_mean_squared_error() -> None:
    assert _near(hidden_loss(STUDENT, TEACHER, _all(2)), ((81 + 9) / 2 + 9 / 2) / 2)


def test_cosine_counts_directions_only() -> None:
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]]])
    teacher = torch.tensor([[[0.0, 5.0], [3.0, 3.0], [-1.0, 0.0]]])
    assert _near(cosine_loss(student, teacher, _all(3)), (1 + 0 + 2) / 3)


def test_feature_maps_are_compared_after_normalization() -> None:
    # (1, 3) becomes (-1, 1) and (10, 0) becomes (1, -1); (3, 4) and (0, 4) both become (-1, 1).
    assert _near(feature_map_loss(STUDENT, TEACHER, _all(2)), (4 + 0) / 2)


def test_what_normalization_leaves_out_costs_apart() -> None:
    # Means 2 and 5, 3.5 and 2; variances 1 and 25, 0.25 and 4.
    assert _near(feature_mean_loss(STUDENT, TEACHER, _all(2)), (9 + 2.25) / 2)
    assert _near(feature_variance_loss(STUDENT, TEACHER, _all(2)), (24 + 3.75) / 2)


def test_attention_scores_are_scaled_dot_products_head_by_head() -> None:
    query, key = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.tensor([[[5.0, 6.0, 7.0, 8.0]]])
    found = score_attention(query, key, 2)
    assert torch.allclose(found[0, :, 0, 0], torch.tensor([17.0, 53.0]) / math.sqrt(2))
    both = score_attention(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [5.0]]]), 1)
    assert torch.equal(both[0, 0], torch.tensor([[3.0, 5.0], [6.0, 10.0]]))


def test_attention_scores_cost_their_mean_squared_error_over_heads_and_pairs() -> None:
    teacher = torch.zeros(1, 2, 2, 2)
    teacher[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert _near(attention_score_loss(torch.zeros(1, 2, 2, 2), teacher, _all(2)), 14 / 4 / 2)


def test_attention_maps_cost_the_mean_divergence_over_heads_and_tokens() -> None:
    teacher = torch.zeros(1, 2, 2, 2)
    teacher[0, 0, 0] = torch.tensor([0.0, LOG3])
    assert _near(attention_map_loss(torch.zeros(1, 2, 2, 2), teacher, _all(2)), DIVERGENCE / 4)


def test_relations_are_the_softmax_of_scaled_products_of_tokens() -> None:
    # One head of width 4: the first token with itself gives 2 · ln 3 / √4 = ln 3, other pairs 0.
    teacher = torch.zeros(1, 2, 4)
    teacher[0, 0, 0] = math.sqrt(2 * LOG3)
    assert _near(relation_loss(torch.zeros(1, 2, 4), teacher, _all(2), 1), DIVERGENCE / 2)


def test_relations_compare_models_of_different_widths() -> None:
    narrow = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(3))
    wide = torch.zeros(1, 5, 4)  # the same two heads, each with an idle second number
    wide[..., ::2] = narrow * 2**0.25
    assert _near(relation_loss(narrow, wide, _all(5), 2), 0.0)
    crossed = wide[..., [2, 1, 0, 3]]  # heads change places
    assert relation_loss(narrow, crossed, _all(5), 2) > 0.01


@pytest.mark.parametrize("name", [*OF_STATES, *OF_ATTENTION])
def test_padding_changes_no_loss(name: str) -> None:
    make = torch.Generator().manual_seed(5)
    shape = (1, 5, 4) if name in OF_STATES else (1, 2, 5, 5)
    student, teacher = torch.randn(2, *shape, generator=make)
    wider = (1, 8, 4) if name in OF_STATES else (1, 2, 8, 8)
    padded = torch.full((2, *wider), 9.0) * torch.tensor([1.0, -2.0]).view(2, *[1] * len(wider))
    padded[..., : shape[-2], : shape[-1]] = torch.stack([student, teacher])
    loss = (OF_STATES | OF_ATTENTION)[name]
    short = loss(student, teacher, torch.ones(1, 5))
    assert short > 0
    assert _near(loss(padded[0], padded[1], _all(5, 8)[:1]), float(short))


@pytest.mark.parametrize("name", [*OF_STATES, *OF_ATTENTION])
def test_every_window_counts_the_same(name: str) -> None:
    make = torch.Generator().manual_seed(6)
    shape = (2, 6, 4) if name in OF_STATES else (2, 2, 6, 6)
    student, teacher = torch.randn(2, *shape, generator=make)
    mask = _all(3, 6)
    loss = (OF_STATES | OF_ATTENTION)[name]
    alone = [loss(student[[at]], teacher[[at]], mask[[at]]) for at in range(2)]
    assert _near(loss(student, teacher, mask), float(sum(alone)) / 2)


@pytest.mark.parametrize("name", [*OF_STATES, *OF_ATTENTION])
def test_a_student_that_does_as_its_teacher_costs_nothing(name: str) -> None:
    shape = (2, 6, 4) if name in OF_STATES else (2, 2, 6, 6)
    teacher = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    student = teacher.clone().requires_grad_()
    loss = (OF_STATES | OF_ATTENTION)[name](student, teacher, _all(3, 6))
    assert _near(loss, 0.0)
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
