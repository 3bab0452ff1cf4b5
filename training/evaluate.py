"""Scores a graph or a bundle on labelled rows, as the worker reads them, with intervals."""

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from training.data import Labelled
from training.fence import heed
from worker.contracts.options import ReadingOptions
from worker.contracts.records import Answer, Example
from worker.contracts.verdict import Calibration, Logistic
from worker.opening import Graph, open_graph
from worker.orphan import die_with
from worker.reading.reader import Reader
from worker.reading.sample import read_all
from worker.reading.scores import (
    ENGLISH,
    LANGUAGES,
    Scored,
    score_best,
    score_exact,
    score_f1,
)

RESAMPLES = 1_000
#: Rows that are read at once: after each the process stops, if that is wished.
PART_ROWS = 64
#: Confidence is not looked at here: before calibration there is none.
_UNCALIBRATED = Calibration(Logistic(0.0, 0.0), Logistic(0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean in percent with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Read:
    """Rows with the answers that a graph gave when it always answered, and their language."""

    rows: tuple[Labelled, ...]
    answers: tuple[Answer, ...]
    language: str = ENGLISH


def choose_rules(language: str) -> str:
    """Return the language by whose rules answers in this one are compared."""
    return language if language in LANGUAGES else ENGLISH


def read_rows(graph: Graph, rows: Sequence[Labelled], processes: int) -> Read:
    """Answer every row, always, in so many processes, one window a run on one thread each.

    A question put to the same passage twice is read once.

    Raises:
        StoppedError: the process is to stop.
    """
    first: dict[tuple[str, str], Labelled] = {}
    for row in rows:
        first.setdefault((row.question, row.context), row)
    found = dict(zip(first, _read_parts(graph, tuple(first.values()), processes), strict=True))
    answers = tuple(found[row.question, row.context] for row in rows)
    return Read(tuple(rows), answers, choose_rules(graph.language))


def to_scored(read: Read, threshold: float | None) -> list[Scored]:
    """Return what the official rules score: at a threshold on null odds, None to answer always."""
    return [_to_scored(*pair, threshold) for pair in zip(read.rows, read.answers, strict=True)]


def estimate(
    read: Read, threshold: float | None, seed: int = 13, language: str | None = None
) -> tuple[Estimate, Estimate]:
    """Return exact match and F1 with their intervals, by the rules of a language or the read's own.

    Passages are drawn, not rows: questions on one passage fail together. Source: Efron 1979.
    """
    rules = read.language if language is None else language
    exact, f1 = score_rows(to_scored(read, threshold), rules)
    groups = number_passages(read.rows)
    return bootstrap(exact, groups, seed), bootstrap(f1, groups, seed)


def score_rows(
    rows: Sequence[Scored], language: str = ENGLISH
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exact match and F1 of each row, from 0 to 1. Shapes: both ``(rows,)``."""
    exact = [score_best(score_exact, row.golds, row.prediction, language) for row in rows]
    f1 = [score_best(score_f1, row.golds, row.prediction, language) for row in rows]
    return np.array(exact), np.array(f1)


def number_passages(rows: Sequence[Labelled]) -> NDArray[np.int64]:
    """Return the number of each row's passage, from 0. Shape: ``(rows,)``."""
    passages = {row.context: number for number, row in enumerate(rows)}
    return np.unique([passages[row.context] for row in rows], return_inverse=True)[1]


def bootstrap(values: NDArray[np.float64], groups: NDArray[np.int64], seed: int = 13) -> Estimate:
    """Return the mean of values and its interval when whole groups are drawn with replacement.

    Shapes: ``values`` and ``groups`` are ``(rows,)``; groups count from 0.
    """
    count = int(groups.max()) + 1
    sums = np.bincount(groups, values, count)
    sizes = np.bincount(groups, minlength=count)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    means = (draws @ sums) / (draws @ sizes)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(100.0 * float(values.mean()), 100.0 * float(low), 100.0 * float(high))


def _read_parts(graph: Graph, rows: Sequence[Labelled], processes: int) -> list[Answer]:
    size = max(1, min(PART_ROWS, math.ceil(len(rows) / processes)))
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    if processes == 1:
        reader = _open(graph)
        return _join(_read_part(reader, part) for part in parts)
    pool = ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=die_with, initargs=(os.getpid(),)
    )
    try:
        return _join(pool.map(_read_elsewhere, [graph] * len(parts), parts))
    finally:
        pool.shutdown(cancel_futures=True)


def _join(parts: Iterable[list[Answer]]) -> list[Answer]:
    """Return the answers of all parts, as long as nobody wishes this process to stop."""
    answers: list[Answer] = []
    for part in parts:
        answers += part
        heed()
    return answers


def _open(graph: Graph) -> Reader:
    return open_graph(graph, _UNCALIBRATED, ReadingOptions(null_threshold=None))


#: In a process of a pool, which reads one graph and ends.
_open_once = lru_cache(maxsize=1)(_open)


def _read_elsewhere(graph: Graph, rows: Sequence[Labelled]) -> list[Answer]:
    return _read_part(_open_once(graph), rows)


def _read_part(reader: Reader, rows: Sequence[Labelled]) -> list[Answer]:
    examples = [
        Example(number, row.id, row.question, row.context) for number, row in enumerate(rows)
    ]
    return read_all(reader, examples)


def _to_scored(row: Labelled, answer: Answer, threshold: float | None) -> Scored:
    golds = tuple(gold.text for gold in row.answers)
    best = "" if answer.best is None else answer.best.text
    null_odds = float("inf") if answer.null_odds is None else answer.null_odds
    abstains = threshold is not None and null_odds > threshold
    return Scored(golds, "" if abstains else best, best, null_odds)
