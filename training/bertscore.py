"""BERTScore: how alike two answers are in meaning, by the contextual vectors of their tokens.

Source: Zhang et al. 2020, §3: each token is matched with the most similar one of the other text,
by cosine; recall is the mean over the gold's tokens, precision over the prediction's. Here the
vectors are those of the encoder's last layer, tokens weigh the same (no idf), special tokens count
nothing, and scores are not rescaled: they are comparable under one encoder only.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoModel, PreTrainedModel

from training.checkpoint import find_checkpoint
from worker.contracts.errors import UsageError
from worker.reading.scores import Scored

#: Texts that are encoded at once.
BATCH_TEXTS = 64
#: No text is read further.
MAX_TEXT_TOKENS = 256


class Encoder:
    """A local encoder that gives each token of a text a vector of length 1."""

    def __init__(self, name: str) -> None:
        """Load a checkpoint's encoder; a head that it has is left out.

        Raises:
            UsageError: it is none, or its weights cannot be read.
        """
        folder = find_checkpoint(name)
        self._model = _load(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TEXT_TOKENS)

    def embed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return for each text an array ``(tokens, width)``, without its special tokens."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: list[NDArray[np.float32]] = [np.empty((0, 0), dtype=np.float32)] * len(texts)
        for first in range(0, len(order), BATCH_TEXTS):
            chosen = order[first : first + BATCH_TEXTS]
            for number, vectors in zip(
                chosen, self._embed([texts[number] for number in chosen]), strict=True
            ):
                found[number] = vectors
        return found

    def _embed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        encoded = self._tokenizer.encode_batch(texts)
        longest = max(len(one.ids) for one in encoded)
        ids = torch.zeros((len(texts), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            mask[row, : len(one.ids)] = 1
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors = torch.nn.functional.normalize(states.float(), dim=-1).numpy()
        plain = [np.array(one.special_tokens_mask) == 0 for one in encoded]
        return [vectors[row, : len(one)][one] for row, one in enumerate(plain)]


def match(gold: NDArray[np.float32], prediction: NDArray[np.float32]) -> float:
    """Return the F1 of greedy matching. Shapes: ``(tokens, width)``, rows of length 1."""
    if not len(gold) or not len(prediction):
        return float(len(gold) == len(prediction))
    likeness = gold @ prediction.T
    recall = float(likeness.max(axis=1).mean())
    precision = float(likeness.max(axis=0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def score_rows(rows: Sequence[Scored], encoder: Encoder) -> NDArray[np.float64]:
    """Return each row's best score against any of its golds, from 0 to 1; ``(rows,)``.

    As in the official scores, a row without golds is right when nothing was predicted; where
    there are golds, predicting nothing scores nothing.
    """
    pairs = [(row.golds, row.prediction) for row in rows]
    texts = dict.fromkeys(text for golds, prediction in pairs for text in (*golds, prediction))
    texts.pop("", None)
    vectors = dict(zip(texts, encoder.embed(list(texts)), strict=True))
    return np.array([_score(golds, prediction, vectors) for golds, prediction in pairs])


def _score(golds: Sequence[str], prediction: str, vectors: dict[str, NDArray[np.float32]]) -> float:
    if not golds or not prediction:
        return float(not golds and not prediction)
    return max(match(vectors[gold], vectors[prediction]) for gold in golds)


def _load(folder: Path) -> PreTrainedModel:
    try:
        loaded = AutoModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(
            f"the encoder {folder.name} cannot be loaded ({error}): give a checkpoint's folder"
        ) from error
    model: PreTrainedModel = loaded.eval()
    return model
