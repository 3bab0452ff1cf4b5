"""The comparison: bundles side by side, on the same rows, beside a baseline."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.tiny import PASSAGES, QUESTIONS, Tiny
from training.baseline import read_all
from training.cli import training
from training.compare import BASELINE, Comparison, Request, compare, name_bundles
from training.compare_text import to_markdown
from training.data import Gold, Labelled
from training.evaluate import Read, estimate, read_rows, to_scored
from worker.contracts.bundle import load_bundle
from worker.contracts.errors import UsageError
from worker.opening import graph_of
from worker.reading.scores import Scored, evaluate

GOLDS = ("Joan Whitlock", "150", "Brújula")
ROWS = tuple(
    Labelled(f"{number}-{other}", question, context, golds)
    for number, (context, gold) in enumerate(zip(PASSAGES, GOLDS, strict=True))
    for other, question in enumerate(QUESTIONS)
    for golds in [(Gold(gold, context.index(gold)),) if other == number else ()]
)
ANSWERABLE = tuple(row for row in ROWS if row.answers)


def length_likeness(rows: list[Scored]) -> np.ndarray:
    return np.array([1.0 / (1 + len(row.prediction)) for row in rows])


@pytest.fixture(scope="module")
def found(tiny: Tiny) -> Comparison:
    bundles = {name: load_bundle(tiny.bundle(name)) for name in ("bert", "distilbert")}
    request = Request(bundles, "ours", ROWS, timed_questions=4, meaning=length_likeness)
    return compare(request, lambda _: None)


def test_the_baseline_comes_first_then_the_bundles_as_they_were_named(found: Comparison) -> None:
    assert [one.name for one in found.systems] == [BASELINE, "bert", "distilbert"]
    assert (found.questions, found.unanswerable, found.passages) == (9, 6, 3)
    assert [one.layers for one in found.systems] == [None, 2, 2]


def test_scores_are_those_of_evaluate_at_each_bundles_own_threshold(
    found: Comparison, tiny: Tiny
) -> None:
    for system in found.systems[1:]:
        bundle = load_bundle(tiny.bundle(system.name))
        read = read_rows(graph_of(bundle), ROWS, 1)
        threshold = bundle.manifest.null_threshold
        assert system.threshold == threshold
        assert (system.exact, system.f1) == estimate(read, threshold)
        official = evaluate(to_scored(read, threshold))
        assert official.has_answer is not None
        assert system.has_answer_f1 == official.has_answer.f1
        assert system.has_answer_exact == official.has_answer.exact
        assert official.no_answer is not None
        assert system.no_answer_f1 == official.no_answer.f1 == official.no_answer.exact
    rules = found.systems[0]
    assert rules.f1 == estimate(Read(ROWS, read_all(ROWS)), 0.0)[1]


def test_differences_are_paired_and_to_the_first_bundle(found: Comparison) -> None:
    rules, first, second = found.systems
    assert first.f1_difference is None
    assert first.exact_difference is None
    for other in (rules, second):
        assert other.f1_difference is not None
        assert other.f1_difference.value == pytest.approx(other.f1.value - first.f1.value)
        assert other.f1_difference.low <= other.f1_difference.value <= other.f1_difference.high


def test_a_bundle_differs_from_its_copy_by_nothing_in_every_draw(tiny: Tiny) -> None:
    bundle = load_bundle(tiny.bundle("bert"))
    request = Request({"one": bundle, "same": bundle}, "ours", ROWS, timed_questions=1)
    same = compare(request, lambda _: None).systems[2].f1_difference
    assert same is not None
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)


def test_times_and_what_follows_from_them_agree(found: Comparison) -> None:
    first = found.systems[1]
    assert first.speed_up == pytest.approx(1.0)
    for system in found.systems:
        assert 0 < system.p50_ms <= system.p95_ms
        assert system.speed_up == pytest.approx(first.p50_ms / system.p50_ms)
        assert system.f1_per_ms == pytest.approx(system.f1.value / system.p50_ms)


def test_meaning_is_scored_where_it_is_asked_for(found: Comparison) -> None:
    assert all(one.bert_score is not None and 0 < one.bert_score <= 100 for one in found.systems)


def test_where_every_question_has_an_answer_none_abstains(tiny: Tiny) -> None:
    bundle = load_bundle(tiny.bundle("bert"))
    made = compare(Request({"one": bundle}, "ours", ANSWERABLE, timed_questions=1), lambda _: None)
    assert [one.threshold for one in made.systems] == [None, None]
    assert [one.no_answer_f1 for one in made.systems] == [None, None]
    assert made.systems[1].f1 == estimate(read_rows(graph_of(bundle), ANSWERABLE, 1), None)[1]
    assert "NoAns" not in to_markdown(made)
    assert "BERTScore" not in to_markdown(made)


def test_the_markdown_is_whole_tables(found: Comparison) -> None:
    lines = to_markdown(found).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    (head,) = [line for line in tables if line.startswith("| system |")]
    assert " exact | F1 | HasAns exact | HasAns F1 | NoAns | BERTScore | p50 ms |" in head
    assert [line for line in lines if line.startswith("## ")] == [
        "## F1 (exact) by question word",
        "## F1 (exact) by answer's words",
        "## F1 (exact) by passage's words",
    ]
    width = 0
    for line in lines:
        if not line.startswith("|"):
            width = 0
            continue
        width = width if width else line.count("|")
        assert line.count("|") == width


def test_the_language_decides_how_texts_are_compared(tiny: Tiny) -> None:
    bundle = load_bundle(tiny.bundle("bert"))
    row = Labelled("0", "What queda en Fontibre?", "Fontibre queda en la casa", (Gold("casa", 21),))
    english, spanish = (
        compare(Request({"one": bundle}, "ours", (row,), language, 1), lambda _: None).systems[0]
        for language in ("en", "es")
    )
    assert english.name == BASELINE  # which answers "la casa"
    assert (english.exact.value, spanish.exact.value) == (0.0, 100.0)
    assert english.has_answer_f1 == pytest.approx(200 / 3)
    assert spanish.has_answer_f1 == 100.0


def test_bundles_are_called_by_their_folders_unless_two_share_a_name() -> None:
    assert name_bundles(["a/one", "b/two"]) == {"one": "a/one", "two": "b/two"}
    assert name_bundles(["a/one", "b/one"]) == {"a/one": "a/one", "b/one": "b/one"}
    with pytest.raises(UsageError, match="named twice"):
        name_bundles(["a/one", "a/one"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundles": {}}, "no bundle to compare"),
        ({"rows": ()}, "ours holds no row"),
        ({"timed_questions": 0}, "at least one question"),
    ],
)
def test_nothing_to_compare_is_refused(
    changes: dict[str, object], message: str, tiny: Tiny
) -> None:
    given = {"bundles": {"one": load_bundle(tiny.bundle("bert"))}, "data": "ours", "rows": ROWS}
    with pytest.raises(UsageError, match=message):
        compare(Request(**given | changes), lambda _: None)  # type: ignore[arg-type]


def test_the_command_writes_json_markdown_and_plots(tiny: Tiny, tmp_path: Path) -> None:
    done = _run(
        str(tiny.bundle("bert")), str(tiny.bundle("distilbert")), "--data", _write(tmp_path),
        "--encoder", str(tiny.checkpoint("bert")), "--timed-questions", "2", "--processes", "1",
        "--json", str(tmp_path / "c.json"), "--markdown", str(tmp_path / "c.md"),
        "--plots", str(tmp_path / "plots"),
    )  # fmt: skip
    assert done.stdout == (tmp_path / "c.md").read_text()
    made = json.loads((tmp_path / "c.json").read_text())
    assert [one["name"] for one in made["systems"]] == [
        BASELINE,
        "bundle-bert",
        "bundle-distilbert",
    ]
    assert all(one["bert_score"] > 0 for one in made["systems"])
    assert made["slices"][0]["by"] == "question word"
    plots = {path.name for path in (tmp_path / "plots").iterdir()}
    pictures = ("f1-by-time", "f1-by-question-word", "f1-by-answers-words", "f1-by-passages-words")
    assert plots == {f"{name}.{kind}" for name in pictures for kind in ("png", "svg")}
    for path in (tmp_path / "plots").iterdir():
        starts = b"\x89PNG" if path.suffix == ".png" else b"<?xml"
        assert path.read_bytes().startswith(starts)
    assert BASELINE in (tmp_path / "plots" / "f1-by-time.svg").read_text()


def test_fewer_rows_are_taken_when_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    done = _run(str(tiny.bundle("bert")), "--data", _write(tmp_path), "--rows", "4",
                "--timed-questions", "9", "--processes", "1")  # fmt: skip
    assert done.stdout.startswith("4 questions")
    assert "times of 4 questions" in done.stdout


def test_plots_without_matplotlib_are_refused_before_any_work(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="matplotlib: pip install"):
        _run("nowhere", "--data", _write(tmp_path), "--plots", str(tmp_path / "plots"))
    assert not (tmp_path / "plots").exists()


def _write(folder: Path) -> str:
    file = folder / "rows.jsonl"
    lines = [
        {
            "id": row.id,
            "question": row.question,
            "context": row.context,
            "answers": {
                "text": [gold.text for gold in row.answers],
                "answer_start": [gold.start_char for gold in row.answers],
            },
        }
        for row in ROWS
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(
        training, ["compare", *arguments], standalone_mode=False, catch_exceptions=False
    )
