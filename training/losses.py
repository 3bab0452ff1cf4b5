"""The losses of fine-tuning and distillation: pure functions of what a student and a teacher give.

Every one ignores padding. Losses of states and of attention are means over a window's real tokens,
then over windows; those of starts and ends, one distribution over a window's tokens each, are means
over windows. ``mask`` is the batch's attention mask, ``(windows, tokens)``, 1 for a real token.
"""

import math

import torch
from torch.nn.functional import cosine_similarity, kl_div, layer_norm, log_softmax

#: What a masked logit gets: no probability, and yet a number, so that 0 times it stays 0.
_MASKED = -1e4


def span_loss(
    start: torch.Tensor, end: torch.Tensor, batch: dict[str, torch.Tensor], smoothing: float
) -> torch.Tensor:
    """Return the mean cross-entropy of starts and ends; smoothing spares the padding.

    Shapes: logits ``(windows, tokens)``, those of padding masked already (``predict.SpanModel``).
    Source: Devlin et al. 2019, §4.2; label smoothing: Szegedy et al. 2016, §7.
    """
    mask = batch["attention_mask"].to(start.dtype)
    losses = []
    for logits, target in ((start, batch["starts"]), (end, batch["ends"])):
        log_p = log_softmax(logits, dim=-1)
        gold = -log_p.gather(1, target[:, None])[:, 0]
        uniform = -(log_p * mask).sum(-1) / mask.sum(-1)
        losses.append(((1 - smoothing) * gold + smoothing * uniform).mean())
    return (losses[0] + losses[1]) / 2


def soft_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return T² times the divergence of the student's softened probabilities from the teacher's.

    T² keeps the gradients' size when the temperature changes. Shapes: logits of starts or of ends,
    ``(windows, tokens)``. Source: Hinton et al. 2015, §2.
    """
    return temperature**2 * _diverge(student / temperature, teacher / temperature, mask).mean()


def hidden_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of hidden states, the student's projected to equal width.

    Shapes: ``(windows, tokens, width)``. Source: Jiao et al. 2020 (TinyBERT), §3.1, eq. 8; of
    embeddings, eq. 9.
    """
    return _mean_of_tokens((student - teacher).square().mean(-1), mask)


def cosine_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return one minus the cosine of hidden states: their directions count, not their lengths.

    Shapes: ``(windows, tokens, width)``. Source: Sanh et al. 2019 (DistilBERT), the training loss's
    cosine term.
    """
    return _mean_of_tokens(1 - cosine_similarity(student, teacher, dim=-1), mask)


def feature_map_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of feature maps after a layer normalization without weights.

    Shapes: ``(windows, tokens, width)``. Source: Sun et al. 2020 (MobileBERT), feature map transfer
    (eq. 2); the normalization is that of their code.
    """
    width = student.shape[-1:]
    return hidden_loss(layer_norm(student, width), layer_norm(teacher, width), mask)


def feature_mean_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the squared error of feature maps' means, which normalization leaves out.

    Shapes: ``(windows, tokens, width)``. Source: Sun et al. 2020 (MobileBERT), their code.
    """
    return _mean_of_tokens((student.mean(-1) - teacher.mean(-1)).square(), mask)


def feature_variance_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the absolute error of feature maps' variances, which normalization leaves out.

    Shapes: ``(windows, tokens, width)``. Source: Sun et al. 2020 (MobileBERT), their code.
    """
    found, wanted = student.var(-1, correction=0), teacher.var(-1, correction=0)
    return _mean_of_tokens((found - wanted).abs(), mask)


def score_attention(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the scaled dot products of queries and keys, before any mask and softmax.

    Shapes: ``(windows, tokens, width)`` each; the result ``(windows, heads, tokens, tokens)``.
    Source: Vaswani et al. 2017, §3.2.1.
    """
    split_query, split_key = _split_heads(query, heads), _split_heads(key, heads)
    return split_query @ split_key.transpose(-1, -2) / math.sqrt(query.shape[-1] // heads)


def attention_score_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of attention scores not yet normalized.

    Shapes: ``(windows, heads, tokens, tokens)``. Source: Jiao et al. 2020 (TinyBERT), §3.1, eq. 7.
    """
    error = (student - teacher).square().mean(1)
    over_keys = (error * mask[:, None, :]).sum(-1) / mask.sum(-1)[:, None]
    return _mean_of_tokens(over_keys, mask)


def attention_map_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the divergence of the student's attention, head by head, from the teacher's.

    Takes scores not yet normalized; their softmax is compared. Shapes: ``(windows, heads, tokens,
    tokens)``. Source: Sun et al. 2020 (MobileBERT), attention transfer (eq. 3); the same in Wang et
    al. 2020 (MiniLM), §3.1.
    """
    return _mean_of_tokens(_diverge(student, teacher, mask[:, None, None, :]).mean(1), mask)


def relation_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, heads: int
) -> torch.Tensor:
    """Return the divergence of the relations, softmax(X Xᵀ / √d), between tokens' vectors X.

    Of values in the models' own heads they are MiniLM's value relations (Wang et al. 2020, §3.2);
    of queries, keys or values cut anew into ``heads`` relation heads, those of MiniLMv2 (Wang et
    al. 2021, §3). Only the number of heads must agree, not the width. Shapes: ``(windows, tokens,
    width)``.
    """
    related = [score_attention(vectors, vectors, heads) for vectors in (student, teacher)]
    return attention_map_loss(related[0], related[1], mask)


def _split_heads(vectors: torch.Tensor, heads: int) -> torch.Tensor:
    return vectors.reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)


def _diverge(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher ‖ student) of logits over the last axis, in nats."""
    log_p, log_q = (
        log_softmax(logits.masked_fill(mask == 0, _MASKED), dim=-1) for logits in (teacher, student)
    )
    return kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _mean_of_tokens(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over real tokens, then windows. Shapes: ``(windows, tokens)`` both."""
    return ((values * mask).sum(-1) / mask.sum(-1)).mean()
