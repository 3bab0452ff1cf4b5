"""A sweep: a recipe followed once for every combination of values, each in a folder of its own.

Called again it goes on: finished combinations stay, an interrupted one resumes. One that fails is
noted with its reason, and the next begins.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from training.follow import follow, hold
from training.grid import Combination
from training.history import METRICS
from training.lines import telling
from training.recipe import Learning, list_needed
from training.recipe_file import Written, read_recipe
from training.run_state import RunFolder, write_whole
from training.workspace import Place, Say
from worker.contracts.errors import SpanmillError, UsageError

#: The file, in a sweep's folder, with everything that its table shows.
REPORT = "sweep.json"
#: The share of a run's last steps whose mean loss is told.
_LAST = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """What the last trained step came to.

    Scores, from 0 to 100, are those of the held-out rows that choose checkpoints, by the one that
    was kept: at their best threshold, and of answerable rows, all answered. ``loss`` is the mean
    over the last tenth of the steps.
    """

    step: str
    exact: float
    f1: float
    threshold: float
    answerable_f1: float
    loss: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A combination: its result, or in ``error`` the sentence that says why it has none."""

    name: str
    values: dict[str, str]
    seconds: float
    result: Result | None
    error: str | None


def follow_all(
    recipe: str,
    settings: Sequence[str],
    combinations: Sequence[Combination],
    place: Place,
    say: Say,
) -> list[Outcome]:
    """Follow the recipe for every combination, in a folder of its own under the place's.

    Raises:
        UsageError: no combination gives a recipe, or another sweep works in the folder.
        WorldError: the disk does not take the report.
    """
    plans = {one.name: _read(recipe, (*settings, *one.settings)) for one in combinations}
    faults = [plan for plan in plans.values() if isinstance(plan, UsageError)]
    if len(faults) == len(plans):
        raise faults[0]
    with hold(RunFolder(place.out), "spanmill training sweep"):
        outcomes = _read_report(place.out)
        for number, one in enumerate(combinations, 1):
            say(f"{one.name}: {number} of {len(combinations)}")
            before, began = outcomes.get(one.name), time.monotonic()
            outcomes[one.name] = Outcome(one.name, one.values, _spent(before), None, "interrupted")
            try:
                outcomes[one.name] = _follow(one, plans[one.name], place, say, before)
            finally:
                spent = time.monotonic() - began
                outcomes[one.name] = _add_time(outcomes[one.name], before, spent)
                _write_report(place.out, recipe, settings, outcomes)
    return [outcomes[one.name] for one in combinations]


def _read(recipe: str, settings: Sequence[str]) -> Written | UsageError:
    try:
        return read_recipe(recipe, settings)
    except UsageError as error:
        return error


def _follow(
    one: Combination,
    plan: Written | UsageError,
    place: Place,
    say: Say,
    before: Outcome | None,
) -> Outcome:
    def tell(line: str) -> None:
        say(f"{one.name}: {line}")

    out = place.out / one.name
    try:
        if isinstance(plan, UsageError):
            raise plan
        with telling(tell):
            follow(plan, replace(place, out=out), tell)
        result = read_result(plan, out, place.until)
    except (SpanmillError, MemoryError, RuntimeError) as error:
        sentence = _describe(error)
        tell(sentence)
        return Outcome(one.name, one.values, _spent(before), None, sentence)
    return Outcome(one.name, one.values, _spent(before), result, None)


def read_result(written: Written, out: Path, until: str | None = None) -> Result:
    """Return what a finished run's last trained step came to.

    Raises:
        UsageError: the recipe trains nothing.
    """
    steps = written.recipe.steps
    trained = [
        one for one in list_needed(written.recipe, until) if isinstance(steps[one], Learning)
    ]
    if not trained:
        raise UsageError("the recipe trains nothing that a sweep could compare: add a step")
    step = steps[trained[-1]]
    lines = _read_lines(out / trained[-1] / METRICS)
    losses = [line["loss"] for line in lines if "loss" in line]
    judged = [line for line in lines if "held_out" in line]
    keeps_best = isinstance(step, Learning) and step.schedule.keep == "best"
    chosen = max(judged, key=lambda line: line["score"]) if keeps_best else judged[-1]
    scores = chosen["held_out"]
    return Result(
        step=trained[-1],
        exact=scores["best_exact"],
        f1=scores["best_f1"],
        threshold=scores["threshold"],
        answerable_f1=scores["answerable_f1"],
        loss=fmean(losses[-max(1, round(_LAST * len(losses))) :]),
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _describe(error: BaseException) -> str:
    """Return an error as one sentence; what is none of ours is told by its kind and first line."""
    if isinstance(error, SpanmillError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _spent(before: Outcome | None) -> float:
    return 0.0 if before is None else before.seconds


def _add_time(outcome: Outcome, before: Outcome | None, seconds: float) -> Outcome:
    """Count what a call took, unless all was finished before it."""
    if before is not None and before.error is None and outcome.error is None:
        return outcome
    return replace(outcome, seconds=outcome.seconds + seconds)


def _write_report(
    out: Path, recipe: str, settings: Sequence[str], outcomes: dict[str, Outcome]
) -> None:
    runs = [asdict(one) for one in outcomes.values()]
    report = {"recipe": Path(recipe).name, "settings": list(settings), "runs": runs}
    write_whole(out / REPORT, json.dumps(report, indent=1))


def _read_report(out: Path) -> dict[str, Outcome]:
    """Return what is known of combinations from earlier calls.

    Raises:
        UsageError: the report is damaged.
    """
    file = out / REPORT
    if not file.is_file():
        return {}
    try:
        runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
        known = [_to_outcome(run) for run in runs]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} is damaged ({error}): give another folder by --out, or delete this file"
        ) from error
    return {one.name: one for one in known}


def _to_outcome(run: dict[str, Any]) -> Outcome:
    result = None if run["result"] is None else Result(**run["result"])
    return Outcome(**(run | {"result": result}))
