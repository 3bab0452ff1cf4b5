"""Bundles side by side on one set: how well they answer, how fast, and where they differ.

The first row is a baseline without a model. Differences are to the first bundle, over the same
rows, with intervals from drawing whole passages (paired bootstrap; Efron 1979, Koehn 2004). Times
are of one thread and one window a run, question by question in turns, so that whatever else the
machine does meets all alike.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.baseline import answer as answer_by_rules
from training.baseline import read_all as read_all_by_rules
from training.data import Labelled, sample
from training.evaluate import (
    Estimate,
    Read,
    bootstrap,
    number_passages,
    read_rows,
    score_rows,
    to_scored,
)
from training.graph_facts import count_layers, count_parameters
from training.slices import Slice, slice_rows
from worker.contracts.bundle import Bundle
from worker.contracts.errors import UsageError
from worker.contracts.options import ReadingOptions
from worker.contracts.records import Example
from worker.opening import graph_of, open_reader
from worker.reading.reader import Reader
from worker.reading.sample import read_all
from worker.reading.scores import ENGLISH, Scored, evaluate
from worker.telemetry import describe_machine

BASELINE = "rules (no model)"
#: Questions that are read before the clock runs.
WARM_UP_QUESTIONS = 5

#: Scores rows by meaning, from 0 to 1; shape ``(rows,)``.
Meaning = Callable[[Sequence[Scored]], NDArray[np.float64]]
#: Reads one question, for the clock.
_ReadOne = Callable[[int, Labelled], object]


@dataclass(frozen=True, slots=True)
class Request:
    """What to compare, and how. ``bundles`` by the names that the table gives them."""

    bundles: Mapping[str, Bundle]
    data: str
    rows: tuple[Labelled, ...]
    language: str = ENGLISH
    timed_questions: int = 200
    processes: int = 1
    meaning: Meaning | None = None


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table; scores from 0 to 100, times in milliseconds a question.

    ``threshold`` is that on null odds, None for one that always answered. Differences are in
    points, and None for the first bundle. Where there is no answer, exact match and F1 are one.
    ``speed_up`` is the first bundle's median time by this one's.
    """

    name: str
    parameters: int | None
    layers: int | None
    size_mb: float | None
    threshold: float | None
    exact: Estimate
    f1: Estimate
    has_answer_exact: float | None
    has_answer_f1: float | None
    no_answer_f1: float | None
    bert_score: float | None
    p50_ms: float
    p95_ms: float
    speed_up: float
    f1_per_ms: float
    exact_difference: Estimate | None
    f1_difference: Estimate | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table, the breakdown, and on what they were made."""

    data: str
    questions: int
    unanswerable: int
    passages: int
    language: str
    timed_questions: int
    cpu: str
    systems: tuple[System, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class _Scores:
    """What one system answered, and what each row scored. Shapes: both ``(rows,)``."""

    scored: Sequence[Scored]
    exact: NDArray[np.float64]
    f1: NDArray[np.float64]


def compare(request: Request, say: Callable[[str], None]) -> Comparison:
    """Read the set with every bundle, and lay their scores and times side by side.

    Raises:
        UsageError: there is no bundle, no row, or nothing to time.
    """
    _check(request)
    thresholds = _choose_thresholds(request)
    scores = {}
    for name in (BASELINE, *request.bundles):
        scored = to_scored(_read(request, name), thresholds[name])
        scores[name] = _Scores(scored, *score_rows(scored, request.language))
        say(f"{name}: F1 {100 * scores[name].f1.mean():.2f}")
    times = _time_all(request)
    first = next(iter(request.bundles))
    say(f"timed: {len(times[first])} questions a system")
    return Comparison(
        data=request.data,
        questions=len(request.rows),
        unanswerable=sum(1 for row in request.rows if not row.answers),
        passages=len({row.context for row in request.rows}),
        language=request.language,
        timed_questions=len(times[first]),
        cpu=describe_machine().cpu,
        systems=tuple(
            _describe(request, name, scores, times, thresholds[name])
            for name in (BASELINE, *request.bundles)
        ),
        slices=slice_rows(
            request.rows, {name: (one.exact, one.f1) for name, one in scores.items()}
        ),
    )


def name_bundles(names: Sequence[str]) -> dict[str, str]:
    """Return what the table calls each bundle, with where it is: its last part, if that is enough.

    Raises:
        UsageError: one is named twice.
    """
    if len(set(names)) < len(names):
        raise UsageError("a bundle is named twice: name each once")
    short = [Path(name).name for name in names]
    called = short if len(set(short)) == len(short) else names
    return dict(zip(called, names, strict=True))


def _check(request: Request) -> None:
    if not request.bundles:
        raise UsageError("there is no bundle to compare: name one or more")
    if not request.rows:
        raise UsageError(f"{request.data} holds no row that can be scored: give another file")
    if request.timed_questions < 1:
        raise UsageError("at least one question must be timed: give --timed-questions 1 or more")


def _choose_thresholds(request: Request) -> dict[str, float | None]:
    """Return each system's own threshold; on a set where all have answers, none abstains."""
    if all(row.answers for row in request.rows):
        return dict.fromkeys((BASELINE, *request.bundles), None)
    own = {name: one.manifest.null_threshold for name, one in request.bundles.items()}
    return {BASELINE: 0.0, **own}


def _read(request: Request, name: str) -> Read:
    if name == BASELINE:
        return Read(request.rows, read_all_by_rules(request.rows))
    return read_rows(graph_of(request.bundles[name]), request.rows, request.processes)


def _time_all(request: Request) -> dict[str, NDArray[np.float64]]:
    """Return milliseconds of each timed question by system; all read the same ones, in turns."""
    rows = sample(request.rows, request.timed_questions, seed=13)
    readers: dict[str, _ReadOne] = {BASELINE: answer_by_rules}
    readers |= {name: _open_reader(bundle) for name, bundle in request.bundles.items()}
    for read_one in readers.values():
        for number, row in enumerate(rows[:WARM_UP_QUESTIONS]):
            read_one(number, row)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for number, row in enumerate(rows):
        for name, read_one in readers.items():
            start = time.perf_counter()
            read_one(number, row)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.array(one) for name, one in times.items()}


def _open_reader(bundle: Bundle) -> _ReadOne:
    reader = open_reader(bundle, ReadingOptions(bundle.manifest.null_threshold))
    return partial(_read_one, reader)


def _read_one(reader: Reader, number: int, row: Labelled) -> object:
    return read_all(reader, [Example(number, row.id, row.question, row.context)])


def _describe(
    request: Request,
    name: str,
    scores: Mapping[str, _Scores],
    times: Mapping[str, NDArray[np.float64]],
    threshold: float | None,
) -> System:
    own, first = scores[name], next(iter(request.bundles))
    groups = number_passages(request.rows)
    halves = evaluate(own.scored, request.language)
    p50, p95 = (float(one) for one in np.percentile(times[name], [50, 95]))
    exact, f1 = bootstrap(own.exact, groups), bootstrap(own.f1, groups)
    differs = name != first
    bundle = request.bundles.get(name)
    meaning = None if request.meaning is None else request.meaning(own.scored)
    return System(
        name=name,
        parameters=None if bundle is None else count_parameters(bundle.model),
        layers=None if bundle is None else count_layers(bundle.model),
        size_mb=None if bundle is None else _measure_mb(bundle),
        threshold=threshold,
        exact=exact,
        f1=f1,
        has_answer_exact=None if halves.has_answer is None else halves.has_answer.exact,
        has_answer_f1=None if halves.has_answer is None else halves.has_answer.f1,
        no_answer_f1=None if halves.no_answer is None else halves.no_answer.f1,
        bert_score=None if meaning is None else 100.0 * float(meaning.mean()),
        p50_ms=p50,
        p95_ms=p95,
        speed_up=float(np.median(times[first])) / p50,
        f1_per_ms=f1.value / p50,
        exact_difference=bootstrap(own.exact - scores[first].exact, groups) if differs else None,
        f1_difference=bootstrap(own.f1 - scores[first].f1, groups) if differs else None,
    )


def _measure_mb(bundle: Bundle) -> float:
    return sum(one.size_bytes for one in bundle.manifest.files.values()) / 1e6
