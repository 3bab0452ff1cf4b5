"""Evaluation: the official scores, over exactly the gold questions."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from producer.collect import collect
from producer.commands.evaluate import evaluate
from tests import reference
from tests.making import make_answer, make_job
from worker.contracts.errors import InputError, UsageError
from worker.contracts.records import Answer, Span, Status

WORDS = ["the", "Mill", "of", "Arden,", "a", "river", "1742", "é", "an", "stones."]


def score(answers: Path, gold: Path, *more: str) -> Any:
    done = CliRunner().invoke(
        evaluate, [str(answers), "--gold", str(gold), *more], standalone_mode=False
    )
    if done.exception is not None:
        raise done.exception
    assert done.return_value == 0
    return json.loads(done.output) if "--json" in more else done.output


def write(root: Path, answers: Sequence[Answer], name: str = "job") -> Path:
    folder, manifest = make_job(root / "jobs", [answers], job=name, output=root / f"{name}.parquet")
    collect(folder, manifest, manifest.output, partial=False)
    return Path(manifest.output)


def write_gold(path: Path, golds: dict[str, Sequence[str]]) -> Path:
    rows = [
        {"id": name, "answers": [{"text": text} for text in texts]} for name, texts in golds.items()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_rows(count: int, seed: int) -> tuple[list[Answer], dict[str, Sequence[str]]]:
    """Make random answers of every status, and gold for them."""
    chance = random.Random(seed)  # noqa: S311

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 4)))

    answers, golds = [], {}
    for row in range(count):
        status = chance.choices(list(Status), [6, 4, 1])[0]
        answer = make_answer(row, status)
        if status is not Status.ERROR and chance.random() < 0.9:
            odds = chance.randint(-40, 40) / 8
            answer = replace(answer, best=Span(text(), 0, 1, 1.0), null_odds=odds)
        elif status is not Status.ERROR:
            answer = replace(answer, status=Status.UNANSWERABLE, best=None, null_odds=None)
        answers.append(answer)
        golds[f"q{row}"] = [text() for _ in range(chance.randint(0, 3))]
    return answers, golds


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_slow_reference(tmp_path: Path, seed: int) -> None:
    answers, golds = make_rows(120, seed)
    found = score(write(tmp_path, answers), write_gold(tmp_path / "gold.jsonl", golds), "--json")
    predicted = [
        one.best.text if one.status is Status.ANSWERED and one.best is not None else ""
        for one in answers
    ]
    swept = [
        (
            golds[one.id],
            "" if one.best is None else one.best.text,
            float("inf") if one.null_odds is None else one.null_odds,
        )
        for one in answers
    ]
    for name, rule in (("exact", reference.exact), ("f1", reference.f1)):
        scores = [
            reference.raw_score(rule, golds[one.id], text)
            for one, text in zip(answers, predicted, strict=True)
        ]
        assert found[name] == pytest.approx(100 * sum(scores) / len(scores))
        for part, kept in (("has_answer", True), ("no_answer", False)):
            some = [
                one for one, (gold, *_) in zip(scores, swept, strict=True) if bool(gold) is kept
            ]
            assert found[part][name] == pytest.approx(100 * sum(some) / len(some))
            assert found[part]["total"] == len(some)
        best, threshold = reference.find_best_thresh(rule, swept)
        assert found["best"][name] == pytest.approx(best)
        told = found["best"][f"{name}_threshold"]
        assert (math.inf if told is None else told) == threshold  # JSON has no infinity
    assert found["total"] == len(answers)
    assert list(found) == ["exact", "f1", "total", "has_answer", "no_answer", "best"]


def test_scores_are_told_in_words(tmp_path: Path) -> None:
    answers = [make_answer(0), make_answer(1, Status.UNANSWERABLE)]
    path = write(tmp_path, answers)
    told = score(path, write_gold(tmp_path / "gold.jsonl", {"q0": ["answer 0"], "q1": []}))
    assert "exact 100.00   f1 100.00   of 2 questions" in told
    assert "has answer: exact 100.00" in told
    only = score(path, write_gold(tmp_path / "gold.jsonl", {"q0": ["answer 0"]}), "--json")
    assert only["no_answer"] is None


def test_answers_without_gold_do_not_count_and_gold_without_answers_is_refused(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, [make_answer(0), make_answer(1)])
    assert (
        score(path, write_gold(tmp_path / "one.jsonl", {"q1": ["answer 1"]}), "--json")["total"]
        == 1
    )
    gold = write_gold(tmp_path / "two.jsonl", {"q1": ["x"], "q8": [], "q9": []})
    with pytest.raises(InputError, match="lacks 2 of the 3 gold questions, the first is 'q8'"):
        score(path, gold)


def test_an_id_that_was_answered_twice_is_refused_only_where_it_counts(tmp_path: Path) -> None:
    answers = [make_answer(0), replace(make_answer(1), id="q0"), make_answer(2)]
    path = write(tmp_path, answers)
    assert score(path, write_gold(tmp_path / "one.jsonl", {"q2": []}), "--json")["total"] == 1
    with pytest.raises(InputError, match="answers the id 'q0' twice"):
        score(path, write_gold(tmp_path / "two.jsonl", {"q0": []}))


def test_parts_are_scored_together(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(2):
        answer = replace(make_answer(0), id=f"q{number}")
        write(tmp_path, [answer], f"j{number}").rename(
            tmp_path / "parts" / f"part-0000{number}.parquet"
        )
    gold = write_gold(tmp_path / "gold.jsonl", {"q0": ["answer 0"], "q1": ["answer 0"]})
    assert score(tmp_path / "parts", gold, "--json")["exact"] == 100.0


def test_what_is_no_answers_file_is_refused(tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold.jsonl", {"q0": []})
    pq.write_table(pa.table({"id": ["q0"]}), tmp_path / "plain.parquet")
    (tmp_path / "text.parquet").write_text("text")
    for name in ("plain.parquet", "text.parquet"):
        with pytest.raises(InputError, match="is no answers file"):
            score(tmp_path / name, gold)
    with pytest.raises(UsageError, match="do not exist"):
        score(tmp_path / "none.parquet", gold)


def test_the_language_decides_which_texts_are_equal(tmp_path: Path) -> None:
    answer = replace(make_answer(0), best=Span("¿El Ebro?", 0, 9, 1.0))
    path, gold = write(tmp_path, [answer]), write_gold(tmp_path / "gold.jsonl", {"q0": ["Ebro"]})
    assert score(path, gold, "--json")["exact"] == 0.0
    assert score(path, gold, "--json", "--language", "es")["exact"] == 100.0
    with pytest.raises(click.BadParameter, match="'tlh' is not one of 'en', 'es'"):
        score(path, gold, "--language", "tlh")
