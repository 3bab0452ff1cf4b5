"""Distillation: every loss falls, the student nears its teacher, and nonsense is refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny, write_checkpoint
from training.checkpoint import open_encoder, open_model
from training.data import Gold, Labelled
from training.distill import distill, plan_materials
from training.export import open_checkpoint, score_torch
from training.imitation import UNLABELLED, Imitation
from training.layers import ANATOMIES
from training.lesson import Lesson, Material, Pair, Student, Weights
from training.losses import span_loss
from training.predict import SpanModel
from training.run import Run
from training.schedule import Schedule
from training.teacher import Panel
from worker.contracts.errors import InputError, JobError, UsageError
from worker.contracts.family import FAMILIES

FAST = Schedule(
    learning_rate=5e-3,
    batch_windows=4,
    warmup_share=0.0,
    checkpoint_every_steps=99,
    average_decay=0.9,
    precision="no",
)
PAIRS = tuple(Pair(question, context) for question in QUESTIONS for context in PASSAGES[:2])
HELD_OUT = (
    Labelled("cat", QUESTIONS[2], PASSAGES[2], (Gold("Brújula", PASSAGES[2].index("Brújula")),)),
)


def _ask(word: str, passage: int) -> Labelled:
    context = PASSAGES[passage]
    return Labelled(f"{word}?", f"What about {word}?", context, (Gold(word, context.index(word)),))


ROWS = (_ask("Joan", 0), _ask("weir", 0), _ask("hand", 1), _ask("threads", 1))
MATERIALS = (Material(ROWS, PAIRS, epochs=10),)
#: Steps of an epoch over them: each is another mixture, so that only epochs compare.
EPOCH = 3


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a teacher of four layers."""
    folder = tmp_path_factory.mktemp("teacher") / "deep"
    write_checkpoint("bert", folder, layers=4, seed=1)
    return folder


def _lesson(teacher: Path, root: Path, **weights: float) -> Lesson:
    """Return a lesson for the teacher's even layers."""
    return Lesson(
        student=Student(str(teacher), layers=(2, 4)),
        teachers=(str(teacher),),
        weights=Weights(**weights),
        cache=root / "cache",
    )


def _teach(
    lesson: Lesson,
    out: Path,
    schedule: Schedule = FAST,
    materials: tuple[Material, ...] = MATERIALS,
) -> list[dict[str, Any]]:
    """Distil; return the metrics of every step."""
    distill(lesson, materials, HELD_OUT, schedule, SIZES, out)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def _mean(lines: list[dict[str, Any]]) -> float:
    return sum(line["loss"] for line in lines) / len(lines)


@pytest.mark.parametrize(
    "weights",
    [
        {"soft": 1.0},
        {"hard": 0.3, "soft": 0.7},
        {"hidden": 1.0},
        {"embeddings": 1.0},
        {"cosine": 1.0},
        {"attention_scores": 1.0},
        {"attention_maps": 1.0},
        {"feature_maps": 1.0, "feature_means": 1.0, "feature_variances": 0.1},
        {"relations": 1.0},
    ],
    ids=" ".join,
)
def test_each_loss_falls(
    weights: dict[str, float], teacher: Path, tiny: Tiny, tmp_path: Path
) -> None:
    """From a student that owes nothing to its teacher, and is narrower where that may be."""
    narrow = set(weights) & {"hidden", "embeddings", "cosine"}
    student = tiny.checkpoint("tinybert" if narrow else "bert")
    lesson = replace(
        _lesson(teacher, tmp_path, **weights), student=Student(str(student)), layer_map="uniform"
    )
    lines = _teach(lesson, tmp_path / "out")
    assert _mean(lines[-EPOCH:]) < 0.8 * _mean(lines[:EPOCH])
    assert set(lines[0]["losses"]) == set(weights)
    assert all(sum(one["losses"].values()) == pytest.approx(one["loss"]) for one in lines)


def test_relations_of_minilm_v2_fall_between_models_of_other_heads_and_widths(
    teacher: Path, tiny: Tiny, tmp_path: Path
) -> None:
    lesson = replace(
        _lesson(teacher, tmp_path, relations=1.0),
        student=Student(str(tiny.checkpoint("minilm"))),  # of 8 heads, the teacher of 4
        layer_map="last",
        relations=("query", "key", "value"),
        relation_heads=16,
        relation_layer=3,
    )
    lines = _teach(lesson, tmp_path / "out")
    assert _mean(lines[-EPOCH:]) < 0.8 * _mean(lines[:EPOCH])


def _distance(one: Path, other: Path) -> float:
    """Return the mean squared difference of two readers' logits, each around its mean."""
    models = [open_checkpoint(str(folder), SIZES) for folder in (one, other)]
    encoder = models[0].encoder
    found = []
    for row in ROWS:
        window = encoder.encode(row.question, encoder.tokenize_passage(row.context)).windows[0]
        logits = [np.concatenate(score_torch(model, [window])) for model in models]
        centred = [one - one.mean(axis=1, keepdims=True) for one in logits]
        found.append(float(np.square(centred[0] - centred[1]).mean()))
    return sum(found) / len(found)


def test_a_student_of_every_second_layer_moves_towards_its_teacher(
    teacher: Path, tmp_path: Path
) -> None:
    lines = _teach(_lesson(teacher, tmp_path, soft=1.0), tmp_path / "out")
    assert len(lines) == 30
    assert _mean(lines[-EPOCH:]) < 0.5 * _mean(lines[:EPOCH])
    before = _distance(tmp_path / "out/student", teacher)
    assert _distance(tmp_path / "out/best", teacher) < 0.5 * before
    config = json.loads((tmp_path / "out/best/config.json").read_text())
    assert config["num_hidden_layers"] == 2


@pytest.mark.parametrize("family", sorted(ANATOMIES))
def test_every_family_is_taught_by_its_own(family: str, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    write_checkpoint(family, deep, layers=2, seed=3)
    weights = dict.fromkeys(("hard", "soft", "hidden", "attention_maps", "relations"), 1.0)
    lesson = _lesson(deep, tmp_path, **weights)
    lesson = replace(lesson, student=Student(str(deep), layers=(1,)))
    lines = _teach(lesson, tmp_path / "out", materials=(Material(ROWS, epochs=2),))
    assert set(lines[0]["losses"]) == set(weights)
    assert all(value > 0 for line in lines for value in line["losses"].values())
    assert open_checkpoint(str(tmp_path / "out/best"), SIZES).model.config.num_hidden_layers == 1


def test_pairs_have_no_target_and_rows_have_theirs(teacher: Path) -> None:
    encoder = open_encoder(teacher, FAMILIES["bert"], SIZES)
    plan = plan_materials((Material(ROWS, PAIRS),), HELD_OUT, FAST, encoder)
    targets = [(feature.start, feature.end) for feature in plan.features]
    assert all(0 < start <= end for start, end in targets[: len(ROWS)])
    assert targets[len(ROWS) :] == [(UNLABELLED, UNLABELLED)] * len(PAIRS)


def test_questions_without_a_known_answer_teach_by_soft_targets_alone(
    teacher: Path, tmp_path: Path
) -> None:
    materials = (Material(pairs=PAIRS, epochs=10),)
    lines = _teach(_lesson(teacher, tmp_path, soft=1.0), tmp_path / "out", materials=materials)
    assert _mean(lines[-EPOCH:]) < 0.7 * _mean(lines[:EPOCH])


def test_a_second_run_asks_the_teachers_nothing(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = _lesson(teacher, tmp_path, soft=1.0)
    first = _teach(lesson, tmp_path / "one", materials=(Material(ROWS, PAIRS, epochs=2),))

    def refuse(*_: object) -> None:
        raise AssertionError("a teacher was asked again")

    monkeypatch.setattr(Panel, "ask", refuse)
    again = _teach(lesson, tmp_path / "two", materials=(Material(ROWS, PAIRS, epochs=2),))
    assert [line["loss"] for line in again] == [line["loss"] for line in first]


def test_a_teacher_that_is_watched_says_what_a_cached_one_said(
    teacher: Path, tmp_path: Path
) -> None:
    cached = _teach(_lesson(teacher, tmp_path, soft=1.0), tmp_path / "one")
    watched = _teach(_lesson(teacher, tmp_path, soft=1.0, cosine=1e-9), tmp_path / "two")
    soft = [[line["losses"]["soft"] for line in lines[:5]] for lines in (cached, watched)]
    assert soft[0] == pytest.approx(soft[1], rel=0.01)


@pytest.mark.parametrize("weights", [{"hard": 0.5, "soft": 0.5}, {"soft": 1.0, "hidden": 1.0}])
def test_a_run_that_was_cut_resumes_to_the_same_weights(
    weights: dict[str, float],
    teacher: Path,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lesson = _lesson(teacher, tmp_path, **weights)
    lesson = replace(lesson, student=Student(str(tiny.checkpoint("tinybert"))))
    schedule = replace(FAST, checkpoint_every_steps=2, dropout=0.1, accumulation=2)
    materials = (Material(ROWS, PAIRS, epochs=4),)
    _teach(lesson, tmp_path / "whole", schedule, materials)
    learn = Run.learn

    def cut(run: Run, *given: Any) -> bool:
        if run.progress.step == 3:
            raise KeyboardInterrupt
        return learn(run, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "learn", cut)
        with pytest.raises(KeyboardInterrupt):
            _teach(lesson, tmp_path / "cut", schedule, materials)
    _teach(lesson, tmp_path / "cut", schedule, materials)
    whole, resumed = (
        load_file(tmp_path / name / "latest/training.safetensors") for name in ("whole", "cut")
    )
    assert ("extra.hidden.weight" in whole) == ("hidden" in weights)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_does_not_go_on_with_another_teacher(
    teacher: Path, tiny: Tiny, tmp_path: Path
) -> None:
    lesson = _lesson(teacher, tmp_path, soft=1.0)
    materials = (Material(ROWS),)
    _teach(lesson, tmp_path / "out", materials=materials)
    with pytest.raises(UsageError, match="another folder"):
        _teach(
            replace(lesson, teachers=(str(tiny.checkpoint()),)),
            tmp_path / "out",
            materials=materials,
        )


def test_a_run_goes_on_with_the_same_lesson_alone(teacher: Path, tmp_path: Path) -> None:
    lesson = _lesson(teacher, tmp_path, hard=0.5, soft=0.5)
    materials = (Material(ROWS),)
    for _ in range(2):
        _teach(lesson, tmp_path / "out", materials=materials)
    for other, named in (
        (replace(lesson, weights=Weights(hard=0.1, soft=0.9)), "weights"),
        (replace(lesson, temperature=3.0), "temperature"),
        (replace(lesson, student=Student(str(teacher), layers=(1, 3))), "starting weights"),
    ):
        with pytest.raises(UsageError, match=f"other {named}"):
            _teach(other, tmp_path / "out", materials=materials)


def _imitate(teacher: Path, tmp_path: Path, watched: Path | None, **weights: float) -> Imitation:
    models = [
        None if folder is None else open_model(folder, dropout=0.1, attention="eager")[0]
        for folder in (teacher, watched)
    ]
    assert models[0] is not None
    return Imitation(SpanModel(models[0]), _lesson(teacher, tmp_path, **weights), 0.1, models[1])


def _batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (3, 8), generator=torch.Generator().manual_seed(1))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "starts": torch.tensor([2, UNLABELLED, 0]),
        "ends": torch.tensor([3, UNLABELLED, 0]),
    }


def test_a_window_without_a_target_owes_no_hard_loss(teacher: Path, tmp_path: Path) -> None:
    learner = _imitate(teacher, tmp_path, None, hard=3.0).eval()
    batch = _batch()
    known = {name: value[[0, 2]] for name, value in batch.items()}
    expected = 3.0 * span_loss(*learner.reader(known), known, 0.1) * 2 / 3
    assert torch.allclose(learner(batch)["hard"], expected)
    unknown = {name: value[[1]] for name, value in batch.items()}
    loss = learner(unknown)["hard"]
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_the_watched_teacher_is_no_part_of_the_student(teacher: Path, tmp_path: Path) -> None:
    learner = _imitate(teacher, tmp_path, teacher, soft=1.0, hidden=1.0)
    reader = sum(weight.numel() for weight in learner.reader.parameters())
    assert sum(weight.numel() for weight in learner.parameters()) == reader  # nor projected
    learner.train()
    losses = learner.eval()(_batch())  # without dropout the teacher's twin owes nothing
    assert all(float(loss.detach()) < 1e-6 for loss in losses.values())


@pytest.mark.parametrize(
    ("changes", "weights", "message"),
    [
        ({}, {}, "all weights of the losses are 0"),
        ({}, {"hard": 1.0}, "need no teacher"),
        ({}, {"soft": -1.0}, "the weight of soft is -1.0"),
        ({}, {"soft": math.nan}, "the weight of soft is nan"),
        ({"temperature": 0.0}, {"soft": 1.0}, "the temperature is 0.0"),
        ({"teachers": ()}, {"soft": 1.0}, "names no teacher"),
        ({"layer_map": "sideways"}, {"hidden": 1.0}, "no layer map 'sideways'"),
        ({"relation_layer": 9}, {"relations": 1.0}, "the teacher has no layer 9"),
        ({"relation_heads": 5}, {"relations": 1.0}, "cannot be cut into 5 relation heads"),
        ({"relations": ("hidden",)}, {"relations": 1.0}, "no relations of 'hidden'"),
    ],
)
def test_a_lesson_without_sense_is_refused_in_a_sentence(
    changes: dict[str, Any],
    weights: dict[str, float],
    message: str,
    teacher: Path,
    tmp_path: Path,
) -> None:
    lesson = replace(_lesson(teacher, tmp_path, **weights), **changes)
    with pytest.raises(UsageError, match=message):
        _teach(lesson, tmp_path / "out")


@pytest.mark.parametrize(
    ("student", "loss", "message"),
    [
        ("minilm", "attention_maps", "8 attention heads but the teacher 4"),
        ("minilm", "relations", "8 attention heads but the teacher 4"),
        ("tinybert", "feature_maps", "24 wide but the teacher's 32"),
        ("roberta", "soft", "reads other tokens than the student"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_a_sentence(
    student: str, loss: str, message: str, teacher: Path, tiny: Tiny, tmp_path: Path
) -> None:
    lesson = replace(
        _lesson(teacher, tmp_path, **{loss: 1.0}), student=Student(str(tiny.checkpoint(student)))
    )
    with pytest.raises(UsageError, match=message):
        _teach(lesson, tmp_path / "out")


def test_a_student_deeper_than_its_teacher_is_refused(
    teacher: Path, tiny: Tiny, tmp_path: Path
) -> None:
    lesson = replace(
        _lesson(tiny.checkpoint(), tmp_path, hidden=1.0), student=Student(str(teacher))
    )
    with pytest.raises(UsageError, match="4 layers but the teacher 2"):
        _teach(lesson, tmp_path / "out")


def test_an_ensemble_teaches_by_its_logits_alone(teacher: Path, tiny: Tiny, tmp_path: Path) -> None:
    lesson = replace(
        _lesson(teacher, tmp_path, soft=1.0), teachers=(str(teacher), str(tiny.checkpoint()))
    )
    lines = _teach(lesson, tmp_path / "out")
    assert _mean(lines[-EPOCH:]) < 0.7 * _mean(lines[:EPOCH])
    with pytest.raises(UsageError, match="from 2 teachers"):
        _teach(replace(lesson, weights=Weights(soft=1.0, hidden=1.0)), tmp_path / "inner")


def test_only_an_encoder_that_is_meant_as_one_gets_a_new_head(
    teacher: Path, tmp_path: Path
) -> None:
    encoder = shutil.copytree(teacher, tmp_path / "encoder")
    tensors = load_file(encoder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("qa_outputs")}
    save_file(kept, encoder / "model.safetensors", metadata={"format": "pt"})
    lesson = replace(_lesson(teacher, tmp_path, soft=1.0), student=Student(str(encoder)))
    materials = (Material(ROWS),)
    with pytest.raises(UsageError, match="has no head"):
        _teach(lesson, tmp_path / "out", materials=materials)
    meant = replace(lesson, student=Student(str(encoder), new_head=True))
    _teach(meant, tmp_path / "out", materials=materials)
    assert "qa_outputs.weight" in load_file(tmp_path / "out/best/model.safetensors")


def test_there_must_be_something_to_read_that_is_not_held_out(
    teacher: Path, tmp_path: Path
) -> None:
    lesson = _lesson(teacher, tmp_path, soft=1.0)
    with pytest.raises(InputError, match="nothing to read"):
        _teach(lesson, tmp_path / "out", materials=(Material(),))
    hard = _lesson(teacher, tmp_path, hard=1.0, soft=1.0)
    with pytest.raises(InputError, match="no usable row"):
        _teach(hard, tmp_path / "out", materials=(Material(pairs=PAIRS),))
    shared = (Material(pairs=(Pair(QUESTIONS[0], PASSAGES[2]),)),)
    with pytest.raises(InputError, match="held-out passages"):
        _teach(lesson, tmp_path / "out", materials=shared)


@pytest.mark.parametrize("weights", [{"soft": 1.0}, {"hidden": 1.0}])
def test_a_teacher_gone_wrong_stops_the_run(
    weights: dict[str, float], teacher: Path, tmp_path: Path
) -> None:
    wrong = shutil.copytree(teacher, tmp_path / "wrong")
    tensors = load_file(wrong / "model.safetensors")
    tensors["bert.encoder.layer.1.output.dense.bias"] += math.nan
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    lesson = replace(_lesson(teacher, tmp_path, **weights), teachers=(str(wrong),))
    with pytest.raises(JobError, match="no number"):
        _teach(lesson, tmp_path / "out")
    assert not (tmp_path / "out/latest").exists()
