"""The scores are the official script's on the real development sets.

The expected numbers are those of the port of the official script in transformers 4.57.3 (the last
line with ``data/metrics/squad_metrics.py``), fed with exactly these predictions. The predictions
are made from the golds: some right, some nearly, some wrong, some abstained from.
"""

import gzip
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import reference
from worker.reading.scores import Evaluation, Scored, evaluate

THRESHOLD = 0.0

#: exact, f1, total; the same of each half; best exact, its threshold, best f1, its threshold.
OFFICIAL = {
    "v1.1": (
        60.794701986754966, 72.59100202241612, 10570,
        60.794701986754966, 72.59100202241612, 10570,
        60.794701986754966, 4.0, 72.5910020224162, 4.0,
    ),
    "v2.0": (
        54.274404110165925, 58.20350617622118, 11873,
        41.261808367071524, 49.13128016704991, 5928,
        67.24978973927671, 67.24978973927671, 5945,
        60.11117661922008, -4.0, 62.02264754485907, -3.9,
    ),
}  # fmt: skip


def read_set(version: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return id, context and golds of each question."""
    folder = os.environ.get("SPANMILL_DATA")
    if folder is None:
        pytest.skip("SPANMILL_DATA does not name the folder of the data")
    path = Path(folder) / "eval" / f"squad-dev-{version}.json.gz"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in SPANMILL_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        articles = json.load(stream)["data"]
    return [
        (asked["id"], paragraph["context"], tuple(one["text"] for one in asked["answers"]))
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def predict_all(version: str) -> Iterator[tuple[str, Scored]]:
    """Yield id and row of each question; the same ones on every machine."""
    for name, context, golds in read_set(version):
        seed = hashlib.sha256(name.encode()).digest()
        chance = random.Random(int.from_bytes(seed[:8], "big"))  # noqa: S311  not for secrets
        best = predict_text(chance, context, golds)
        # To one decimal, so that many are equal; lower where there is an answer, on the whole.
        odds = round(chance.uniform(-8, 4) if golds else chance.uniform(-4, 8), 1)
        abstains = version == "v2.0" and odds > THRESHOLD
        yield name, Scored(golds, "" if abstains else best, best, odds)


def predict_text(chance: random.Random, context: str, golds: tuple[str, ...]) -> str:
    words = context.split()
    first = chance.randrange(len(words))
    guess = " ".join(words[first : first + chance.randint(1, 6)])
    kind = chance.random()
    if kind < 0.03:
        return chance.choice(["", "the", "...", "\u2014"])
    if not golds or kind < 0.2:
        return guess
    gold = chance.choice(golds)
    near = [gold, f"the {gold.upper()}.", f"{gold} {words[first]}", gold[: len(gold) // 2 + 1]]
    return gold if kind < 0.6 else chance.choice(near)


def flatten(result: Evaluation) -> tuple[float, ...]:
    numbers: list[float] = [result.exact, result.f1, result.total]
    for part in (result.has_answer, result.no_answer):
        if part is not None:
            numbers += [part.exact, part.f1, part.total]
    best = result.best
    return (*numbers, best.exact, best.exact_threshold, best.f1, best.f1_threshold)


@pytest.mark.parametrize("version", ["v1.1", "v2.0"])
def test_scores_on_the_development_set_are_the_official_scripts(version: str) -> None:
    rows = [row for _, row in predict_all(version)]
    assert flatten(evaluate(rows)) == pytest.approx(OFFICIAL[version], rel=1e-13)


@pytest.mark.parametrize("version", ["v1.1", "v2.0"])
def test_scores_on_the_development_set_are_those_of_the_slow_reference(version: str) -> None:
    rows = [row for _, row in predict_all(version)]
    table = [(row.golds, row.best, row.null_odds) for row in rows]
    threshold = THRESHOLD if version == "v2.0" else float("inf")
    result = evaluate(rows)
    assert result.exact == pytest.approx(reference.mean_at(reference.exact, table, threshold))
    assert result.f1 == pytest.approx(reference.mean_at(reference.f1, table, threshold))
    best = result.best
    assert (best.exact, best.exact_threshold) == reference.find_best_thresh(reference.exact, table)
    assert (best.f1, best.f1_threshold) == reference.find_best_thresh(reference.f1, table)


@pytest.mark.parametrize("version", ["v1.1", "v2.0"])
def test_no_question_has_only_golds_that_normalize_to_nothing(version: str) -> None:
    # With such a question the protocol's own rules would contradict each other. Three questions
    # have such a gold beside others: there alone SQuAD 1.1's own script, which keeps it, gives a
    # point of exact match for a prediction that normalizes to nothing, and this one does not.
    blank = 0
    for _, _, golds in read_set(version):
        kept = [gold for gold in golds if reference.normalize_answer(gold)]
        assert kept or not golds
        blank += len(kept) < len(golds)
    assert blank == 3
