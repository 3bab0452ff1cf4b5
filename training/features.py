"""Labelled rows to training windows: the worker's own windows, plus where the answer lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad as widen

from training.data import Gold, Labelled, choose_answer
from worker.reading.reader import pad_windows
from worker.reading.windows import Encoder, TokenizedText, Window

#: Every new shape costs the CPU's kernels a set-up, so lengths are padded to multiples of this.
LENGTH_STEP_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Feature:
    """A window and its targets: positions in the window, both 0 ([CLS]) without a whole answer."""

    window: Window
    start: int
    end: int


def make_features(rows: Sequence[Labelled], encoder: Encoder) -> list[Feature]:
    """Window every row, each passage tokenized once."""
    passages: dict[str, TokenizedText] = {}
    features = []
    for row in rows:
        if row.context not in passages:
            passages[row.context] = encoder.tokenize_passage(row.context)
        encoded = encoder.encode(row.question, passages[row.context])
        tokens = _find_tokens(encoded.passage, row.answers)
        features += [_target(window, tokens) for window in encoded.windows]
    return features


def plan_batches(
    lengths: Sequence[int], batch_windows: int, pool_batches: int, seed: int
) -> list[list[int]]:
    """Shuffle, cut into pools, sort each pool by length, cut into batches, shuffle the batches.

    Nearly no padding is left, and yet every batch is a new mixture in every epoch. The last batch
    may be smaller.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    known = np.asarray(lengths)
    planned: list[list[int]] = []
    pool_windows = batch_windows * pool_batches
    for first in range(0, len(order), pool_windows):
        pool = order[first : first + pool_windows]
        pool = pool[np.argsort(known[pool], kind="stable")]
        batches = [pool[at : at + batch_windows] for at in range(0, len(pool), batch_windows)]
        planned += [batches[at].tolist() for at in generator.permutation(len(batches))]
    return planned


def pad(features: Sequence[Feature], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad windows on the right to the longest of them, rounded up to a multiple of the step.

    Shapes: ``input_ids``, ``attention_mask`` and ``token_type_ids`` ``(windows, tokens)``; the
    targets ``starts`` and ``ends`` ``(windows,)``.
    """
    batch = pad_windows([feature.window for feature in features], pad_id)
    missing = (0, -batch.input_ids.shape[1] % LENGTH_STEP_TOKENS)
    return {
        "input_ids": widen(torch.from_numpy(batch.input_ids), missing, value=pad_id),
        "attention_mask": widen(torch.from_numpy(batch.attention_mask), missing, value=0),
        "token_type_ids": widen(torch.from_numpy(batch.token_type_ids), missing, value=0),
        "starts": torch.tensor([feature.start for feature in features]),
        "ends": torch.tensor([feature.end for feature in features]),
    }


def _find_tokens(passage: TokenizedText, answers: Sequence[Gold]) -> tuple[int, int] | None:
    """Return the first and last token that the chosen answer touches, None without an answer."""
    if not answers:
        return None
    answer = choose_answer(answers)
    end_char = answer.start_char + len(answer.text)
    touched = np.nonzero((passage.ends > answer.start_char) & (passage.starts < end_char))[0]
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _target(window: Window, tokens: tuple[int, int] | None) -> Feature:
    if tokens is None:
        return Feature(window, 0, 0)
    first, last = (token - window.first_token for token in tokens)
    if first < 0 or last >= window.context_tokens:
        return Feature(window, 0, 0)
    return Feature(window, window.context_start + first, window.context_start + last)
