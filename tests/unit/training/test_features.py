"""Training windows: the worker's own, with targets, in padded batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import PASSAGES, Tiny
from training.checkpoint import open_encoder, read_family
from training.data import Gold, Labelled
from training.features import LENGTH_STEP_TOKENS, Feature, make_features, pad, plan_batches
from worker.contracts.family import WindowSizes
from worker.reading.windows import Encoder

SMALL = WindowSizes(max_window_tokens=40, overlap_tokens=12, max_question_tokens=10)
QUESTION = "Who built the mill at Arden?"


@pytest.fixture(scope="module", params=["bert", "roberta"])
def encoder(request: pytest.FixtureRequest, tiny: Tiny) -> Encoder:
    folder = tiny.checkpoint(request.param)
    return open_encoder(folder, read_family(folder), SMALL)


def _row(text: str, context: str) -> Labelled:
    return Labelled("a", QUESTION, context, (Gold(text, context.index(text)),))


def _read_target(feature: Feature, row: Labelled, encoder: Encoder) -> str:
    passage = encoder.tokenize_passage(row.context)
    shift = feature.window.first_token - feature.window.context_start
    first, last = feature.start + shift, feature.end + shift
    return row.context[int(passage.starts[first]) : int(passage.ends[last])].strip()


@pytest.mark.parametrize("word", ["Joan Whitlock", "300 pounds", "weir", "The mill", "Brújula"])
def test_a_target_reads_its_answer(word: str, encoder: Encoder) -> None:
    row = _row(word, " ".join(PASSAGES))
    found = [one for one in make_features([row], encoder) if one.start]
    assert found
    assert {_read_target(one, row, encoder) for one in found} == {word}


def test_a_window_without_a_whole_answer_points_at_its_first_token(encoder: Encoder) -> None:
    row = _row("Joan Whitlock", " ".join(PASSAGES))
    features = make_features([row], encoder)
    away = [one for one in features if one.window.first_token > 30]
    assert away
    assert all((one.start, one.end) == (0, 0) for one in away)


def test_an_answer_that_a_window_cuts_is_no_answer_there(encoder: Encoder) -> None:
    long = " ".join(PASSAGES[0].split()[:33])
    row = _row(long, " ".join(PASSAGES))
    assert all((one.start, one.end) == (0, 0) for one in make_features([row], encoder))


def test_an_unanswerable_row_has_null_targets_only(encoder: Encoder) -> None:
    row = replace(_row("weir", PASSAGES[0]), answers=())
    assert {(one.start, one.end) for one in make_features([row], encoder)} == {(0, 0)}


def test_what_training_windows_the_worker_windows(encoder: Encoder) -> None:
    rows = [_row("weir", PASSAGES[0]), replace(_row("cat", PASSAGES[2]), question="What?")]
    made = iter(make_features(rows, encoder))
    for row in rows:
        served = encoder.encode(row.question, encoder.tokenize_passage(row.context)).windows
        for window in served:
            assert np.array_equal(next(made).window.input_ids, window.input_ids)
    assert next(made, None) is None


@given(
    st.lists(st.integers(5, 384), max_size=200),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(0, 5),
)
def test_an_epoch_sees_every_window_once(
    lengths: list[int], batch_windows: int, pool_batches: int, seed: int
) -> None:
    planned = plan_batches(lengths, batch_windows, pool_batches, seed)
    assert sorted(at for batch in planned for at in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= batch_windows for batch in planned)
    assert planned == plan_batches(lengths, batch_windows, pool_batches, seed)


def test_pools_sorted_by_length_leave_little_padding_and_no_order() -> None:
    lengths = np.random.default_rng(3).integers(20, 384, 4096).tolist()
    planned = plan_batches(lengths, 16, 64, seed=1)
    longest = [max(lengths[at] for at in batch) for batch in planned]
    padded = sum(most * len(batch) for most, batch in zip(longest, planned, strict=True))
    assert padded < 1.04 * sum(lengths)
    assert longest != sorted(longest)
    assert planned != plan_batches(lengths, 16, 64, seed=2)


def test_padding_rounds_up_and_is_masked(encoder: Encoder) -> None:
    features = make_features([_row("weir", PASSAGES[0]), _row("cat", "A cat.")], encoder)
    batch = pad(features, encoder.pad)
    rows, tokens = batch["input_ids"].shape
    assert rows == len(features)
    assert tokens % LENGTH_STEP_TOKENS == 0
    assert 0 <= tokens - max(len(one.window) for one in features) < LENGTH_STEP_TOKENS
    lengths = torch.tensor([len(one.window) for one in features])
    assert torch.equal(batch["attention_mask"].sum(1), lengths)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == encoder.pad).all()
    assert batch["starts"].tolist() == [one.start for one in features]
    assert batch["ends"].tolist() == [one.end for one in features]
    first = features[0].window
    assert np.array_equal(batch["input_ids"][0, : len(first)], first.input_ids)
    assert np.array_equal(batch["token_type_ids"][0, : len(first)], first.token_type_ids)
