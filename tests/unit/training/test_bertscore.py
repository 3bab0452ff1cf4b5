"""BERTScore: greedy matching by hand, and vectors from a local encoder."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import Tiny
from training.bertscore import Encoder, match, score_rows
from worker.contracts.errors import UsageError
from worker.reading.scores import Scored


@pytest.fixture(scope="module")
def encoder(tiny: Tiny) -> Encoder:
    return Encoder(str(tiny.checkpoint("bert")))


def rows(*directions: tuple[float, float]) -> np.ndarray:
    vectors = np.array(directions, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_each_token_is_matched_with_the_most_similar_one() -> None:
    gold, prediction = rows((1, 0), (0, 1)), rows((1, 0))
    # Recall is (1 + 0) / 2, precision 1.
    assert match(gold, prediction) == pytest.approx(2 * 0.5 * 1.0 / 1.5)
    leaning = rows((3, 4))
    assert match(gold, leaning) == pytest.approx(2 * 0.7 * 0.8 / 1.5)


def test_swapping_gold_and_prediction_swaps_recall_and_precision_alone() -> None:
    gold, prediction = rows((1, 0), (0, 1), (1, 1)), rows((2, 1))
    assert match(gold, prediction) == pytest.approx(match(prediction, gold))


def test_no_tokens_match_no_tokens_only() -> None:
    nothing = np.empty((0, 2), dtype=np.float32)
    assert match(nothing, nothing) == 1.0
    assert match(nothing, rows((1, 0))) == 0.0
    assert match(rows((1, 0)), rows((-1, 0))) <= 0.0


def test_special_tokens_have_no_vector(encoder: Encoder) -> None:
    three, one = encoder.embed(["built the mill", "mill"])
    assert (len(three), len(one)) == (3, 1)
    assert np.allclose(np.linalg.norm(three, axis=1), 1.0, atol=1e-5)


def test_vectors_depend_on_the_text_around_and_not_on_the_batch(encoder: Encoder) -> None:
    alone = encoder.embed(["the mill"])[0]
    padded = encoder.embed(["the mill", "the wheel turned until the flood of 1868"])[0]
    assert np.allclose(alone, padded, atol=1e-5)
    assert not np.allclose(alone[1], encoder.embed(["mill"])[0][0], atol=1e-3)


def test_rows_score_as_the_official_rules_count_golds_and_silence(encoder: Encoder) -> None:
    found = score_rows(
        [
            Scored(("the flood", "the mill"), "the mill", "", 0.0),
            Scored(("the flood",), "the mill", "", 0.0),
            Scored(("the flood",), "", "", 0.0),
            Scored((), "", "", 0.0),
            Scored((), "the mill", "", 0.0),
        ],
        encoder,
    )
    assert found[0] == pytest.approx(1.0, abs=1e-5)
    assert 0.0 < found[1] < 0.999
    assert list(found[2:]) == [0.0, 1.0, 0.0]


def test_a_pickled_encoder_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny.checkpoint("bert"), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="pickled weights are never opened"):
        Encoder(str(folder))


def test_damaged_weights_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny.checkpoint("bert"), folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be loaded"):
        Encoder(str(folder))
