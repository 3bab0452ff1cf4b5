"""Fine-tuning: it learns, resumes to the same weights, and stops before it spoils anything."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from tests.tiny import PASSAGES, SIZES, Tiny
from training.checkpoint import point
from training.data import Gold, Labelled
from training.fence import Fence, StoppedError, Wish, take_fence
from training.finetune import finetune
from training.holds import Holder, name_self
from training.losses import span_loss
from training.predict import SpanModel
from training.progress import Progress
from training.run import Run, make_optimizer
from training.schedule import Plan, Schedule, Stage
from worker.contracts.errors import InputError, JobError, UsageError
from worker.contracts.family import FAMILIES

FAST = Schedule(
    learning_rate=5e-3,
    batch_windows=4,
    accumulation=2,
    checkpoint_every_steps=3,
    average_decay=0.9,
    dropout=0.1,
    precision="no",
)


def _ask(word: str, passage: int) -> Labelled:
    context = PASSAGES[passage]
    return Labelled(f"{word}?", f"What about {word}?", context, (Gold(word, context.index(word)),))


ROWS = tuple(
    _ask(word, passage)
    for passage, words in enumerate(
        (["Joan", "1742", "weir", "stones", "wheel"], ["hand", "October", "threads", "60", "day"])
    )
    for word in words
)
HELD_OUT = (_ask("cat", 2), _ask("Ruiz", 2), replace(_ask("ship", 2), answers=()))


def _train(
    tiny: Tiny, out: Path, schedule: Schedule = FAST, family: str = "bert", epochs: int = 6
) -> Path:
    checkpoint = str(tiny.checkpoint(family))
    return finetune(checkpoint, [Stage(ROWS, epochs)], HELD_OUT, schedule, SIZES, out)


def _metrics(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "latest" / "training.safetensors")


def _train_until(
    step: int, monkeypatch: pytest.MonkeyPatch, tiny: Tiny, out: Path, **changes: Any
) -> None:
    """Train, and be killed after so many steps."""
    learn = Run.learn

    def learn_or_die(run: Run, batch: dict[str, torch.Tensor], plan: Plan) -> bool:
        if run.progress.step == step:
            raise KeyboardInterrupt
        return learn(run, batch, plan)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "learn", learn_or_die)
        with pytest.raises(KeyboardInterrupt):
            _train(tiny, out, replace(FAST, **changes))


def _alter(out: Path, **settings: Any) -> None:
    """Let the latest checkpoint say that its run had these settings."""
    file = out / "latest" / "progress.json"
    noted = json.loads(file.read_text())
    file.write_text(json.dumps(noted | {"settings": noted["settings"] | settings}))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_that_was_cut_resumes_to_the_same_weights(
    precision: Literal["no", "bf16"], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(FAST, precision=precision)
    _train(tiny, tmp_path / "whole", schedule)
    _train_until(5, monkeypatch, tiny, tmp_path / "cut", precision=precision)
    assert json.loads((tmp_path / "cut/latest/progress.json").read_text())["step"] == 3
    _train(tiny, tmp_path / "cut", schedule)
    whole, resumed = _tensors(tmp_path / "whole"), _tensors(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [line["step"] for line in _metrics(tmp_path / "cut") if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))


def test_a_folder_with_another_run_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    _train(tiny, tmp_path, epochs=2)
    with pytest.raises(UsageError, match="other rows"):
        _train(tiny, tmp_path, replace(FAST, seed=9), epochs=2)


@pytest.mark.parametrize(
    ("change", "named"), [({"learning_rate": 1e-3}, "learning rate"), ({"dropout": 0.2}, "dropout")]
)
def test_a_folder_with_a_run_of_another_schedule_is_refused(
    change: dict[str, float], named: str, tiny: Tiny, tmp_path: Path
) -> None:
    _train(tiny, tmp_path, epochs=1)
    with pytest.raises(UsageError, match=f"other {named}"):
        _train(tiny, tmp_path, replace(FAST, **change), epochs=1)  # type: ignore[arg-type]


def test_a_folder_with_a_run_from_other_weights_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    best = _train(tiny, tmp_path / "first", epochs=1)
    _train(tiny, tmp_path / "second", epochs=1)
    with pytest.raises(UsageError, match="other starting weights"):
        finetune(str(best), [Stage(ROWS, 1)], HELD_OUT, FAST, SIZES, tmp_path / "second")


def test_a_folder_with_a_run_of_another_model_is_refused_in_a_sentence(
    tiny: Tiny, tmp_path: Path
) -> None:
    _train(tiny, tmp_path, epochs=1)
    with pytest.raises(UsageError, match="other starting weights") as caught:
        _train(tiny, tmp_path, family="distilbert", epochs=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["training.safetensors", "progress.json"])
def test_a_damaged_checkpoint_is_refused_and_an_older_one_is_resumed(
    name: str, tiny: Tiny, tmp_path: Path
) -> None:
    schedule = replace(FAST, checkpoint_every_steps=1, stop_after_steps=2)
    _train(tiny, tmp_path, schedule, epochs=1)
    whole = _tensors(tmp_path)
    file = tmp_path / "latest" / name
    part = file.read_bytes()[:100]
    file.unlink()  # the tensors above are mapped from it
    file.write_bytes(part)
    with pytest.raises(UsageError, match=r"step-0000002 cannot be resumed .* older") as caught:
        _train(tiny, tmp_path, schedule, epochs=1)
    assert "\n" not in str(caught.value)
    point(tmp_path, "latest", "step-0000001")
    _train(tiny, tmp_path, schedule, epochs=1)
    assert all(torch.equal(whole[name], value) for name, value in _tensors(tmp_path).items())


def test_a_run_that_noted_its_plan_alone_goes_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train_until(4, monkeypatch, tiny, tmp_path)
    file = tmp_path / "latest" / "progress.json"
    noted = json.loads(file.read_text())
    del noted["settings"]
    file.write_text(json.dumps(noted))
    _train(tiny, tmp_path)
    after = json.loads((tmp_path / "latest" / "progress.json").read_text())
    assert after["plan"] == noted["plan"]
    assert after["step"] > noted["step"]
    assert after["settings"]["learning_rate"] == FAST.learning_rate


@pytest.mark.parametrize("held_out", [(), (replace(ROWS[0], id="again", answers=()),)])
def test_held_out_rows_that_judge_nothing_are_refused(
    held_out: tuple[Labelled, ...], tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="held-out"):
        finetune(
            str(tiny.checkpoint("bert")), [Stage(ROWS)], held_out, FAST, SIZES, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_windows_that_the_model_cannot_read_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    sizes = replace(SIZES, max_window_tokens=513)
    checkpoint = str(tiny.checkpoint("bert"))
    with pytest.raises(UsageError, match="reads 512 tokens"):
        finetune(checkpoint, [Stage(ROWS)], HELD_OUT, FAST, sizes, tmp_path / "out")


def test_runs_of_one_process_have_each_their_own_precision(tiny: Tiny, tmp_path: Path) -> None:
    for precision in ("no", "bf16", "no"):
        schedule = replace(FAST, precision=precision, checkpoint_every_steps=99)
        _train(tiny, tmp_path / precision, schedule, epochs=1)
    first = _metrics(tmp_path / "no")[0]["loss"]
    assert 0 < abs(first - _metrics(tmp_path / "bf16")[0]["loss"]) < 0.1 * first


def test_a_finished_run_stays_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    _train(tiny, tmp_path, epochs=2)
    before = _tensors(tmp_path)
    _train(tiny, tmp_path, epochs=2)
    assert all(torch.equal(before[name], value) for name, value in _tensors(tmp_path).items())


def test_a_run_that_is_to_stop_has_the_weights_of_a_whole_one_there(
    tiny: Tiny, tmp_path: Path
) -> None:
    schedule = replace(FAST, checkpoint_every_steps=3, checkpoints_kept=9)
    _train(tiny, tmp_path / "whole", schedule)
    whole = load_file(tmp_path / "whole" / "step-0000003" / "training.safetensors")
    for _ in range(2):  # nor does it go on when it is called again
        _train(tiny, tmp_path / "part", replace(schedule, stop_after_steps=3))
    part = _tensors(tmp_path / "part")
    assert all(torch.equal(whole[name], value) for name, value in part.items())
    lines = [line for line in _metrics(tmp_path / "part") if "loss" in line]
    assert [(line["step"], line["steps"]) for line in lines] == [(1, 3), (2, 3), (3, 3)]


def test_a_run_is_at_a_checkpoint_whenever_a_wish_to_stop_comes(tiny: Tiny, tmp_path: Path) -> None:
    for moment in range(3, 6):
        asked: list[int] = []

        def ask(asked: list[int] = asked, moment: int = moment) -> Wish | None:
            asked.append(1)
            return Wish.LEAVE if len(asked) >= moment else None

        out = tmp_path / str(moment)
        out.mkdir()
        taken = take_fence(out, Holder(who="me", process=name_self()), ask)
        assert isinstance(taken, Fence)
        with taken, pytest.raises(StoppedError):
            _train(tiny, out, replace(FAST, checkpoint_every_steps=99), epochs=9)
        progress = json.loads((out / "latest" / "progress.json").read_text())
        assert progress["step"] == _metrics(out)[-1]["step"]


def test_the_loss_falls_and_every_step_is_recorded(tiny: Tiny, tmp_path: Path) -> None:
    _train(tiny, tmp_path, replace(FAST, dropout=0.0), epochs=10)
    lines = _metrics(tmp_path)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, steps[0]["steps"] + 1))
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert all(line["examples_per_second"] > 0 and line["lr"] > 0 for line in steps)
    assert steps[-1]["epoch"] == 10
    scores = [line["held_out"] for line in lines if "held_out" in line]
    assert scores[-1]["rows"] == len(HELD_OUT)
    assert 0 <= scores[-1]["answerable_f1"] <= 100


def test_a_run_that_died_before_it_named_the_best_names_it_when_it_goes_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    schedule = replace(FAST, checkpoint_every_steps=99)  # one checkpoint, the run's last
    with monkeypatch.context() as patched:
        patched.setattr("training.run.point", die)
        with pytest.raises(KeyboardInterrupt):
            _train(tiny, tmp_path, schedule, epochs=1)
    assert (tmp_path / "latest").exists()
    best = _train(tiny, tmp_path, schedule, epochs=1)
    assert best.resolve() == (tmp_path / "latest").resolve()


def test_the_best_checkpoint_is_returned_and_kept(tiny: Tiny, tmp_path: Path) -> None:
    best = _train(tiny, tmp_path, epochs=8)
    scored = {line["step"]: line["score"] for line in _metrics(tmp_path) if "score" in line}
    step = json.loads((best / "progress.json").read_text())["step"]
    assert scored[step] == max(scored.values())
    assert len(set(scored.values())) > 1
    assert {path.name for path in best.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


@pytest.mark.parametrize("every", [1, 99])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    every: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train_until(4, monkeypatch, tiny, tmp_path)
    before = _tensors(tmp_path)
    _alter(tmp_path, checkpoint_every_steps=every, learning_rate=math.inf)
    broken = replace(FAST, learning_rate=math.inf, checkpoint_every_steps=every)
    with pytest.raises(JobError, match="step-0000003 is kept"):
        _train(tiny, tmp_path, broken)
    assert all(torch.equal(before[name], value) for name, value in _tensors(tmp_path).items())
    assert all(torch.isfinite(value).all() for value in before.values())


def test_a_run_that_gets_no_better_stops_early(tiny: Tiny, tmp_path: Path) -> None:
    schedule = replace(FAST, learning_rate=0.0, checkpoint_every_steps=1, patience=2)
    _train(tiny, tmp_path, schedule, epochs=8)
    _train(tiny, tmp_path, schedule, epochs=8)  # nor does it go on when it is called again
    assert (
        json.loads((tmp_path / "latest/progress.json").read_text())["step"] == 3
    )  # the best, and two that are no better


def test_patience_counts_from_the_best_checkpoint() -> None:
    progress = Progress()
    for score in (50.0, 60.0, 60.0, 55.0):
        progress.note(score)
    assert (progress.best_score, progress.checkpoints_since_best) == (60.0, 2)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_learns(family: str, tiny: Tiny, tmp_path: Path) -> None:
    schedule = replace(FAST, learning_rate=1e-3, checkpoint_every_steps=99)
    best = _train(tiny, tmp_path, schedule, family, epochs=1)
    trained = load_file(best / "model.safetensors")
    begun = load_file(tiny.checkpoint(family) / "model.safetensors")
    assert trained.keys() == begun.keys()
    assert not torch.equal(trained["qa_outputs.weight"], begun["qa_outputs.weight"])


def test_the_average_follows_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    _train(tiny, tmp_path, replace(FAST, average_decay=0.0), epochs=1)
    tensors = _tensors(tmp_path)
    name = "model.qa_outputs.weight"
    assert torch.equal(tensors[f"model.{name}"], tensors[f"average.module.{name}"])


def _batch(lengths: list[int], starts: list[int], ends: list[int]) -> dict[str, torch.Tensor]:
    longest = max(lengths)
    mask = torch.tensor([[1] * one + [0] * (longest - one) for one in lengths])
    return {
        "attention_mask": mask,
        "starts": torch.tensor(starts),
        "ends": torch.tensor(ends),
    }


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_cross_entropy_of_starts_and_ends(smoothing: float) -> None:
    start, end = torch.randn(2, 7, generator=torch.Generator().manual_seed(1)), torch.eye(2, 7)
    batch = _batch([7, 7], [3, 0], [4, 0])
    expected = [
        cross_entropy(logits, batch[name], label_smoothing=smoothing)
        for logits, name in ((start, "starts"), (end, "ends"))
    ]
    loss = span_loss(start, end, batch, smoothing)
    assert torch.allclose(loss, (expected[0] + expected[1]) / 2)


def test_padding_changes_no_loss() -> None:
    start, end = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(2))
    short = span_loss(start, end, _batch([5], [1], [2]), 0.1)
    padding = torch.full((1, 3), -1e4)
    batch = _batch([5, 8], [1, 1], [2, 2])
    batch = {name: value[:1] for name, value in batch.items()}
    long = span_loss(torch.cat([start, padding], 1), torch.cat([end, padding], 1), batch, 0.1)
    assert torch.allclose(short, long)


def test_a_step_is_as_small_as_its_clipped_gradient(tiny: Tiny, tmp_path: Path) -> None:
    begun = load_file(tiny.checkpoint("bert") / "model.safetensors")["qa_outputs.weight"]
    moved = {}
    for norm in (1.0, 1e-9):  # far below AdamW's eps: else it undoes a gradient's scale
        schedule = replace(FAST, weight_decay=0.0, stop_after_steps=1, max_gradient_norm=norm)
        best = _train(tiny, tmp_path / str(norm), schedule, epochs=1)
        trained = load_file(best / "model.safetensors")["qa_outputs.weight"]
        moved[norm] = float((trained - begun).abs().max())
    assert 0 < moved[1e-9] < 0.1 * moved[1.0]


def test_weight_decay_spares_vectors() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    groups = make_optimizer(model, Schedule(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(weight.ndim > 1 for weight in groups[0]["params"])
    assert len(groups[0]["params"]) + len(groups[1]["params"]) == len(list(model.parameters()))


def test_padding_gets_no_probability(tiny: Tiny) -> None:
    from training.checkpoint import open_model

    pretrained, _ = open_model(tiny.checkpoint("bert"), dropout=0.0, attention="eager")
    ids = torch.full((1, 8), 5)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    start, _ = SpanModel(pretrained.eval())(batch)
    assert start.softmax(-1)[0, 5:].sum() == 0
