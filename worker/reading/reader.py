"""The reader: examples in, answers out, in three stages that the caller can time.

No stage raises for a row's sake: a row that cannot be read becomes a ``RowError`` in its place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.contracts.errors import RowError, WorldError
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.records import Answer, Example, Status
from worker.contracts.verdict import Calibration, judge
from worker.reading.spans import WindowLogits, read_spans
from worker.reading.windows import Encoded, Encoder, TokenizedText, Window

P = ParamSpec("P")
T = TypeVar("T")

#: Hears the indices of the examples that are read next, so that a crash can name its row.
BeforeRows = Callable[[Sequence[int]], None]


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """Windows of one model run, padded to the longest. Shapes: all ``(windows, tokens)``."""

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class Scorer(Protocol):
    """A model: a forward batch in, start and end logits out, both ``(windows, tokens)``."""

    @property
    def takes_mask(self) -> bool:
        """Whether windows of different lengths may share a run."""

    def score(self, batch: ForwardBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the model once."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The logits of one example's windows, and how many tokens were computed for padding alone."""

    logits: tuple[WindowLogits, ...]
    padding_tokens: int


class Reader:
    """Answers examples with one model, its tokenizer, its calibration, and a job's options."""

    def __init__(
        self,
        encoder: Encoder,
        scorer: Scorer,
        calibration: Calibration,
        options: ReadingOptions,
        policy: ForwardPolicy,
    ) -> None:
        """Hold the parts; nothing is loaded here."""
        self._encoder = encoder
        self._scorer = scorer
        self._calibration = calibration
        self._options = options
        self._policy = policy

    def encode(self, examples: Sequence[Example], before: BeforeRows) -> list[Encoded | RowError]:
        """Tokenize and cut into windows; a passage that repeats is tokenized once."""
        passages: dict[str, TokenizedText] = {}
        encoded = []
        for index, example in enumerate(examples):
            before([index])
            encoded.append(_or_error(self._encode_one, example, passages))
        return encoded

    def score(
        self, encoded: Sequence[Encoded | RowError], before: BeforeRows, *, alone: bool = False
    ) -> list[Scored | RowError]:
        """Run the model over all windows.

        A run that fails is repeated window by window, so that it costs no neighbour; ``alone``
        does that from the start.
        """
        policy = ForwardPolicy(max_windows=1) if alone else self._policy
        owners: list[int] = []
        windows: list[Window] = []
        for number, one in enumerate(encoded):
            if isinstance(one, Encoded) and len(one.passage):
                owners += [number] * len(one.windows)
                windows += one.windows
        outcome: list[_Outcome] = [_Outcome() for _ in encoded]
        for group in cut_forward_batches(windows, policy, mask=self._scorer.takes_mask):
            before(sorted({owners[index] for index in group}))
            for index, result in zip(group, self._run([windows[i] for i in group]), strict=True):
                outcome[owners[index]].add(index, result)
        return [
            one if isinstance(one, RowError) else result.settle()
            for one, result in zip(encoded, outcome, strict=True)
        ]

    def decode(
        self, example: Example, encoded: Encoded | RowError, scored: Scored | RowError
    ) -> Answer:
        """Turn one example's logits into its answer; total: every row gets one."""
        if isinstance(encoded, RowError):
            return fail(example, str(encoded))
        if isinstance(scored, RowError):
            return fail(example, str(scored))
        decoded = _or_error(self._decode_one, example, encoded, scored)
        return fail(example, str(decoded)) if isinstance(decoded, RowError) else decoded

    def _encode_one(self, example: Example, passages: dict[str, TokenizedText]) -> Encoded:
        if example.fault is not None:
            raise RowError(example.fault)
        if not example.question.strip():
            raise RowError("the question is empty: give it a text")
        context = example.context[: self._options.max_context_chars]
        if context not in passages:
            passages[context] = self._encoder.tokenize_passage(context)
        return self._encoder.encode(example.question, passages[context])

    def _run(self, windows: Sequence[Window]) -> Iterator[tuple[WindowLogits, int] | RowError]:
        result = _or_error(self._run_together, windows)
        if not isinstance(result, RowError):
            yield from result
        elif len(windows) == 1:
            yield result
        else:
            for window in windows:
                alone = _or_error(self._run_together, [window])
                yield alone if isinstance(alone, RowError) else alone[0]

    def _run_together(self, windows: Sequence[Window]) -> list[tuple[WindowLogits, int]]:
        batch = pad_windows(windows, self._encoder.pad)
        starts, ends = self._scorer.score(batch)
        longest = batch.input_ids.shape[1]
        return [
            (WindowLogits(start[: len(window)], end[: len(window)]), longest - len(window))
            for window, start, end in zip(windows, starts, ends, strict=True)
        ]

    def _decode_one(self, example: Example, encoded: Encoded, scored: Scored) -> Answer:
        options = self._options
        warning = self._warn(example, encoded)
        if not len(encoded.passage):
            verdict = judge(None, None, options.null_threshold, self._calibration)
            return Answer(
                example.row, example.id, verdict.status, confidence=verdict.confidence,
                warning=warning,
            )  # fmt: skip
        reading = read_spans(
            example.context,
            encoded,
            scored.logits,
            options.max_answer_tokens,
            count=max(options.top_k, 1) + 1,
        )
        best = reading.spans[0] if reading.spans else None
        # As narrow as they are stored, so that a threshold means the same before and after.
        null_odds = None if best is None else _narrow(reading.null_score - best.score)
        margin = None
        if best is not None and len(reading.spans) > 1:
            margin = _narrow(best.score - reading.spans[1].score)
        verdict = judge(null_odds, margin, options.null_threshold, self._calibration)
        return Answer(
            row=example.row,
            id=example.id,
            status=verdict.status,
            best=best,
            null_odds=null_odds,
            margin=margin,
            confidence=verdict.confidence,
            alternatives=reading.spans[: options.top_k],
            windows=len(encoded.windows),
            warning=warning,
        )

    def _warn(self, example: Example, encoded: Encoded) -> str | None:
        warnings = [] if example.warning is None else [example.warning]
        if encoded.question_was_cut:
            kept = self._encoder.sizes.max_question_tokens
            warnings.append(f"the question was cut after {kept} tokens")
        limit = self._options.max_context_chars
        if len(example.context) > limit:
            warnings.append(f"the context was read up to character {limit} only")
        return "; ".join(warnings) if warnings else None


class _Outcome:
    """Collects one example's windows in their order, whatever order they were run in."""

    def __init__(self) -> None:
        self._results: dict[int, WindowLogits] = {}
        self._padding = 0
        self._error: RowError | None = None

    def add(self, index: int, result: tuple[WindowLogits, int] | RowError) -> None:
        if isinstance(result, RowError):
            self._error = result
        else:
            self._results[index] = result[0]
            self._padding += result[1]

    def settle(self) -> Scored | RowError:
        if self._error is not None:
            return self._error
        ordered = tuple(self._results[index] for index in sorted(self._results))
        return Scored(ordered, self._padding)


def _narrow(value: float) -> float:
    return float(np.float32(value))


def fail(example: Example, error: str) -> Answer:
    """Return the answer of a row that could not be read."""
    return Answer(example.row, example.id, Status.ERROR, warning=example.warning, error=error)


def cut_forward_batches(
    windows: Sequence[Window], policy: ForwardPolicy, *, mask: bool
) -> Iterator[list[int]]:
    """Yield the windows' numbers, grouped into model runs within the policy's bounds.

    Runs of several windows take them by length, so that little is padding; without a mask only
    equal lengths share a run. One window a run keeps the order of rows.
    """
    order = list(range(len(windows)))
    if policy.max_windows > 1:
        order.sort(key=lambda index: len(windows[index]))
    group: list[int] = []
    for index in order:
        length = len(windows[index])
        full = len(group) == policy.max_windows or (len(group) + 1) * length > policy.max_tokens
        uneven = not mask and group and len(windows[group[0]]) != length
        if group and (full or uneven):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def pad_windows(windows: Sequence[Window], pad: int) -> ForwardBatch:
    """Lay windows side by side, padded to the longest."""
    shape = (len(windows), max(len(window) for window in windows))
    input_ids = np.full(shape, pad, dtype=np.int64)
    token_type_ids = np.zeros(shape, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    for row, window in enumerate(windows):
        input_ids[row, : len(window)] = window.input_ids
        token_type_ids[row, : len(window)] = window.token_type_ids
        attention_mask[row, : len(window)] = 1
    return ForwardBatch(input_ids, token_type_ids, attention_mask)


def _or_error(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | RowError:
    """Run one row's step; whatever it raises for the row's sake becomes that row's error."""
    try:
        return step(*args, **kwargs)
    except RowError as error:
        return error
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, WorldError):
        raise
    except BaseException as error:  # noqa: BLE001  a Rust panic is a BaseException
        return RowError(f"the row could not be read ({type(error).__name__}): check its text")
