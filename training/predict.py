"""A torch model in the worker's own reader: labelled rows to answers and official scores."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad as pad_tensor
from transformers import PreTrainedModel

from training.data import Labelled
from training.features import LENGTH_STEP_TOKENS
from worker.contracts.errors import JobError
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.records import Answer, Example
from worker.contracts.verdict import Calibration, Logistic
from worker.reading.reader import ForwardBatch, Reader
from worker.reading.scores import ENGLISH, Evaluation, Scored, evaluate
from worker.reading.windows import Encoder

PADDING_LOGIT = -1e4
_ALWAYS_ANSWER = ReadingOptions(null_threshold=None)
_BATCHES = ForwardPolicy(max_windows=32)
_UNCALIBRATED = Calibration(answer=Logistic(0.0, -1.0), abstention=Logistic(0.0, 1.0))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out scores from 0 to 100: at the best threshold, and of answerable rows, all answered.

    ``score``, the held-out score, is what checkpoints are chosen by: the mean of both F1.
    """

    best_exact: float
    best_f1: float
    threshold: float
    answerable_exact: float
    answerable_f1: float
    rows: int

    @property
    def score(self) -> float:
        """Return the mean of the F1 at the best threshold and the F1 of answerable rows."""
        return (self.best_f1 + self.answerable_f1) / 2


class SpanModel(torch.nn.Module):
    """A QA model of any family as a function of padded windows; padding gets no probability."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Find out which inputs the family takes."""
        super().__init__()
        self.model = model
        taken = inspect.signature(model.forward).parameters
        segments = "token_type_ids" in taken and model.config.type_vocab_size > 1
        self._inputs = ["input_ids", "attention_mask", *["token_type_ids"] * segments]

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits, both ``(windows, tokens)``."""
        output = self.model(**{name: batch[name] for name in self._inputs})
        padding = batch["attention_mask"] == 0
        return (
            output.start_logits.float().masked_fill(padding, PADDING_LOGIT),
            output.end_logits.float().masked_fill(padding, PADDING_LOGIT),
        )


class TorchScorer:
    """A span model as the scorer that the worker's reader asks for."""

    takes_mask = True

    def __init__(self, model: torch.nn.Module, pad_id: int) -> None:
        """Hold a model that takes padded windows, on whatever device it is."""
        self._model = model
        self._pad_id = pad_id
        self._device = next(model.parameters()).device

    def score(self, batch: ForwardBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the model once, in evaluation mode."""
        missing = -batch.input_ids.shape[1] % LENGTH_STEP_TOKENS
        tensors = {
            "input_ids": self._widen(batch.input_ids, missing, self._pad_id),
            "token_type_ids": self._widen(batch.token_type_ids, missing, 0),
            "attention_mask": self._widen(batch.attention_mask, missing, 0),
        }
        training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            start, end = self._model(tensors)
        self._model.train(training)
        return start.float().cpu().numpy(), end.float().cpu().numpy()

    def _widen(self, array: NDArray[np.int64], missing: int, value: int) -> torch.Tensor:
        tensor = torch.from_numpy(array).to(self._device)
        return pad_tensor(tensor, (0, missing), value=value)


def read_rows(model: torch.nn.Module, rows: Sequence[Labelled], encoder: Encoder) -> list[Answer]:
    """Answer every row, always with a span, as the worker would.

    Raises:
        JobError: the model's logits are no numbers.
    """
    scorer = TorchScorer(model, encoder.pad)
    reader = Reader(encoder, scorer, _UNCALIBRATED, _ALWAYS_ANSWER, _BATCHES)
    examples = [
        Example(number, row.id, row.question, row.context) for number, row in enumerate(rows)
    ]
    encoded = reader.encode(examples, _before)
    scored = reader.score(encoded, _before)
    answers = [reader.decode(*three) for three in zip(examples, encoded, scored, strict=True)]
    failed = next((answer for answer in answers if answer.error is not None), None)
    if failed is not None:
        raise JobError(f"the held-out row {failed.id} cannot be read ({failed.error}): look there")
    return answers


def score_answers(
    rows: Sequence[Labelled], answers: Sequence[Answer], language: str = ENGLISH
) -> Evaluation:
    """Score answers, given always, by the official rules."""
    pairs = zip(rows, answers, strict=True)
    return evaluate([_pair(row, answer) for row, answer in pairs], language)


def score_held_out(
    model: torch.nn.Module, rows: Sequence[Labelled], encoder: Encoder, language: str = ENGLISH
) -> HeldOut:
    """Read rows and keep the scores by which a run is steered."""
    scores = score_answers(rows, read_rows(model, rows, encoder), language)
    answerable = scores.has_answer
    return HeldOut(
        best_exact=scores.best.exact,
        best_f1=scores.best.f1,
        threshold=scores.best.f1_threshold,
        answerable_exact=0.0 if answerable is None else answerable.exact,
        answerable_f1=0.0 if answerable is None else answerable.f1,
        rows=scores.total,
    )


def _pair(row: Labelled, answer: Answer) -> Scored:
    golds = tuple(gold.text for gold in row.answers)
    text = "" if answer.best is None else answer.best.text
    null_odds = float("inf") if answer.null_odds is None else answer.null_odds
    return Scored(golds, prediction=text, best=text, null_odds=null_odds)


def _before(_rows: Sequence[int]) -> None:
    """Hear which rows are read next; training has no use for it."""
