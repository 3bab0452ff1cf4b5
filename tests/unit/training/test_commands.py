"""`spanmill training`: each step by its command, from a checkpoint to a bundle that reads."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny
from training.cli import COMMANDS, training
from training.export import open_checkpoint
from worker.contracts.bundle import load_bundle
from worker.contracts.errors import InputError, UsageError
from worker.contracts.family import WindowSizes

TEXTS = """
name = "mine"
language = "en"
licence = "Apache-2.0"
summary = "Nonsense, for tests."
limits = []
[licences]
rows = "CC0-1.0"
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines: list[dict[str, object]] = [
        {
            "id": str(number),
            "question": QUESTIONS[number % 3],
            "context": f"{PASSAGES[number % 3]} ({number})",
            "answers": {"text": ["The mill"], "answer_start": [0]}
            if number % 2 and PASSAGES[number % 3].startswith("The mill")
            else {"text": [], "answer_start": []},
        }
        for number in range(60)
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_export_then_quantize_give_a_smaller_graph(tiny: Tiny, rows: Path, tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint("bert")
    full, small = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    said = _run("export", str(checkpoint), "--out", str(full)).output
    assert "logits differ from torch's by at most" in said
    said = _run(
        "quantize", str(full), "--out", str(small), "--tokenizer",
        str(checkpoint / "tokenizer.json"), "--data", str(rows), "--held-out-share", "0.3",
        "--mode", "dynamic", "--processes", "1",
    ).output  # fmt: skip
    assert "dynamic int8" in said
    assert small.stat().st_size < full.stat().st_size


def test_quantize_gates_by_the_rules_of_a_language(tiny: Tiny, tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {
            "id": str(number),
            "question": QUESTIONS[0],
            "context": f"{'the a ' * 20}({number})",
            "answers": {"text": ["the a the"], "answer_start": [0]},
        }
        for number in range(20)
    ]
    bundle = load_bundle(tiny.bundle("bert"))
    english, spanish = (
        _run(
            "quantize", str(bundle.model), "--out", str(tmp_path / "int8.onnx"), "--tokenizer",
            str(bundle.tokenizer), "--data", str(_write(tmp_path / "rows.jsonl", lines)),
            "--held-out-share", "0.3", "--held-out-seed", "5", "--range-rows", "2", "--mode",
            "static", "--language", language, "--processes", "1",
        ).output
        for language in ("en", "es")
    )  # fmt: skip
    assert "static int8" in english
    assert "F1 100.00" in english, "articles alone are no answer, and all are equally right"
    assert "static int8" in spanish
    assert "F1 100.00" not in spanish


def test_bundle_goes_all_the_way_and_calibrate_and_evaluate_go_on(
    tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    out = tmp_path / "bundle"
    _run(
        "bundle", str(tiny.checkpoint("bert")), "--out", str(out), "--data", str(rows),
        "--held-out-share", "0.4", "--held-out-seed", "5", "--report", f"mine={rows}", "--texts",
        str(tmp_path / "texts.toml"), "--mode", "static", "--processes", "1",
    )  # fmt: skip
    made = load_bundle(out)
    assert made.manifest.name == "mine"
    assert made.manifest.card["origin"]["seeds"] == {"held-out split": 5}
    assert made.manifest.card["quantization"]["mode"] == "static"

    again = tmp_path / "again"
    _run("calibrate", str(out), "--data", str(rows), "--out", str(again), "--processes", "1")
    fitted = load_bundle(again)
    assert fitted.manifest.files == made.manifest.files
    card = fitted.manifest.card
    assert card["calibrated_again"] == {
        "from": made.digest, "rows": 60, "unanswerable": 50,
        "data": {rows.name: hashlib.sha256(rows.read_bytes()).hexdigest()},
    }  # fmt: skip
    assert card["calibration"]["rows"] == 60
    assert "scores" not in card, "they were of the old threshold"
    assert "honesty" not in card

    said = _run("evaluate", str(again), str(rows), "--json", "--processes", "1").stdout
    scores = json.loads(said)
    assert scores["f1"] == pytest.approx(scores["best"]["f1"])
    assert scores["total"] == 60


def test_held_out_passages_that_were_trained_on_elsewhere_are_refused(
    tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    with pytest.raises(InputError, match="held-out passages are trained on too"):
        _run(
            "bundle", str(tiny.checkpoint("bert")), "--out", str(tmp_path / "b"), "--data",
            str(rows), "--held-out-share", "0.4", "--also-trained-on", str(rows), "--texts",
            str(tmp_path / "texts.toml"),
        )  # fmt: skip


def test_a_report_that_names_no_file_is_refused(tiny: Tiny, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    with pytest.raises(UsageError, match="NAME=FILE"):
        _run(
            "bundle", str(tiny.checkpoint("bert")), "--out", str(tmp_path / "b"), "--data",
            str(rows), "--report", "mine=nowhere.json", "--texts", str(tmp_path / "texts.toml"),
        )  # fmt: skip


def test_data_without_any_answer_is_refused(tiny: Tiny, rows: Path, tmp_path: Path) -> None:
    silent = tmp_path / "rows.jsonl"
    silent.write_text("\n".join(
        json.dumps(json.loads(line) | {"answers": {"text": [], "answer_start": []}})
        for line in rows.read_text().splitlines()
    ))  # fmt: skip
    out = str(tmp_path / "b")
    with pytest.raises(InputError, match=r"all 60 rows .* are unanswerable"):
        _run("calibrate", str(tiny.bundle("bert")), "--data", str(silent), "--out", out)


def _write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize(
    ("answered", "passages", "named"),
    [(range(60), 60, "no unanswerable"), (range(30), 1, "one passage")],
)
def test_rows_on_which_nothing_can_be_fitted_are_refused_before_they_are_read(
    answered: Sequence[int],
    passages: int,
    named: str,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[dict[str, object]] = [
        {
            "id": str(number),
            "question": QUESTIONS[0],
            "context": f"{PASSAGES[0]} ({number % passages})",
            "answers": {"text": ["The mill"], "answer_start": [0]} if number in answered else {},
        }
        for number in range(60)
    ]
    file = _write(tmp_path / "rows.jsonl", lines)
    monkeypatch.setattr("training.commands.bundle.read_rows", None)  # reading would be an error
    with pytest.raises(InputError, match=named):
        _run(
            "calibrate", str(tiny.bundle("bert")), "--data", str(file), "--out",
            str(tmp_path / "b"),
        )  # fmt: skip


@pytest.mark.parametrize("command", ["bundle", "quantize"])
@pytest.mark.parametrize(("held_out_share", "named"), [("1e-9", "held.out"), ("0.999999", "all")])
def test_a_split_that_leaves_nothing_is_refused_before_any_work(
    command: str, held_out_share: str, named: str, tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.toml").write_text(TEXTS)
    (tmp_path / "no.onnx").write_text("this would be read first")
    given = {
        "bundle": [str(tiny.checkpoint("bert")), "--texts", str(tmp_path / "texts.toml")],
        "quantize": [
            str(tmp_path / "no.onnx"), "--tokenizer",
            str(tiny.checkpoint("bert") / "tokenizer.json"),
        ],
    }[command]  # fmt: skip
    with pytest.raises(InputError, match=named):
        _run(
            command, *given, "--data", str(rows), "--held-out-share", held_out_share, "--out",
            str(tmp_path / "out"),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("bundle", ["--range-rows", "0"]),
        ("bundle", ["--held-out-share", "0"]),
        ("quantize", ["--range-rows", "0"]),
        ("quantize", ["--held-out-share", "1"]),
        ("finetune", ["--learning-rate", "0"]),
        *((name, ["--processes", "0"])
          for name in ("bundle", "calibrate", "evaluate", "quantize", "compare")),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_usage_errors(command: str, more: list[str]) -> None:
    with pytest.raises(click.BadParameter, match="range"):
        _run(command, *more)


def test_a_precision_whose_overflows_would_end_the_run_is_not_offered() -> None:
    with pytest.raises(click.BadParameter, match="fp16"):
        _run("finetune", "checkpoint", "--precision", "fp16")


@pytest.mark.parametrize("command", ["export", "quantize", "finetune", "distill", "bundle"])
def test_windows_too_short_to_step_forward_are_a_usage_error(
    command: str, tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    file, data = str(rows), ["--data", str(rows)]
    more = {
        "quantize": [*data, "--tokenizer", file],
        "finetune": data,
        "distill": [*data, "--teacher", file],
        "bundle": [*data, "--texts", file],
    }.get(command, [])
    with pytest.raises(UsageError, match="--max-window-tokens 128 is too low"):
        _run(command, file, *more, "--out", str(tmp_path / "x"), "--max-window-tokens", "128")


def test_a_reader_of_few_tokens_goes_all_the_way_in_windows_that_it_reads(
    tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    short = Path(shutil.copytree(tiny.checkpoint("bert"), tmp_path / "short"))
    weights = load_file(short / "model.safetensors")
    name = "bert.embeddings.position_embeddings.weight"
    weights[name] = weights[name][:256].clone()
    save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 256}
    (short / "config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    long = _write(tmp_path / "rows.jsonl", [
        line | {"context": line["context"] * 6} for line in lines
    ])  # fmt: skip
    (tmp_path / "texts.toml").write_text(TEXTS)
    common = ["--max-window-tokens", "256", "--data", str(long), "--held-out-share", "0.4"]
    learning = [*common, "--precision", "no", "--batch-windows", "8"]

    tuned = _run("finetune", str(short), "--out", str(tmp_path / "tuned"), *learning)
    best = tuned.stdout.strip()
    taught = _run(
        "distill", best, "--teacher", best, "--out", str(tmp_path / "taught"), *learning
    ).stdout.strip()
    _run(
        "bundle", taught, "--out", str(tmp_path / "bundle"), "--texts",
        str(tmp_path / "texts.toml"), "--range-rows", "5", "--processes", "1", *common,
    )  # fmt: skip
    made = load_bundle(tmp_path / "bundle").manifest
    assert made.sizes == WindowSizes(max_window_tokens=256)
    assert made.card["speed"]["window_384_tokens_ms"] is None
    graph = tmp_path / "fp32.onnx"
    _run("export", taught, "--out", str(graph), "--max-window-tokens", "256")
    said = _run(
        "quantize", str(graph), "--out", str(tmp_path / "int8.onnx"), "--tokenizer",
        str(short / "tokenizer.json"), "--range-rows", "5", "--processes", "1", *common,
    ).output  # fmt: skip
    assert "held-out F1" in said


def test_finetune_then_distill_give_checkpoints_that_read(
    tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    common = [
        "--data", str(rows), "--held-out-share", "0.3", "--precision", "no", "--batch-windows",
        "8", "--learning-rate", "1e-3",
    ]  # fmt: skip
    tuned = _run(
        "finetune", str(tiny.checkpoint("bert")), "--out", str(tmp_path / "tuned"), "--epochs", "2",
        *common,
    )  # fmt: skip
    assert tuned.stdout.strip() == str(tmp_path / "tuned" / "best")
    assert "rows to learn from" in tuned.stderr
    assert "tuned: step 1 of" in tuned.stderr
    taught = _run(
        "distill", tuned.stdout.strip(), "--teacher", tuned.stdout.strip(), "--teacher",
        str(tiny.checkpoint("bert")), "--layers", "2", "--weigh", "soft=1", "--out",
        str(tmp_path / "small"), *common,
    )  # fmt: skip
    small = open_checkpoint(taught.stdout.strip(), SIZES)
    assert small.model.config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--layers", "two"], "--layers two"),
        (["--weigh", "sofft=1"], "sofft"),
        (["--weigh", "soft"], "LOSS=WEIGHT"),
    ],
)
def test_a_lesson_that_cannot_be_understood_is_refused(
    more: list[str], named: str, tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    checkpoint = str(tiny.checkpoint("bert"))
    with pytest.raises(UsageError, match=named):
        _run(
            "distill", checkpoint, "--teacher", checkpoint, "--data", str(rows), "--out",
            str(tmp_path / "out"), *more,
        )  # fmt: skip


def test_thaw_writes_a_checkpoint_and_never_over_one(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "thawed"
    _run("thaw", str(tiny.bundle("bert")), "--out", str(out))
    assert open_checkpoint(str(out), SIZES).family.name == "bert"
    with pytest.raises(UsageError, match="exists"):
        _run("thaw", str(tiny.bundle("bert")), "--out", str(out))


def test_data_summarize_counts_each_file_and_all_together(
    tiny: Tiny, rows: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(
        rows.read_text().splitlines()[3] + '\n{"question": "", "context": "", "answers": {}}'
    )
    bundle = ["--bundle", str(tiny.bundle("bert"))]
    found = json.loads(_run("data", "summarize", str(rows), str(more), "--json", *bundle).stdout)
    assert [found[name]["rows"] for name in (str(rows), str(more), "all")] == [60, 1, 61]
    assert found["all"]["dropped"] == 1
    assert found[str(rows)]["unanswerable"] == 50
    assert found[str(rows)]["unanswerable_share"] == pytest.approx(50 / 60)
    assert found[str(rows)]["windows"] == 60
    assert found[str(rows)]["question_words"] == {"who": 20, "how": 20, "what": 20}
    said = _run("data", "summarize", str(more), *bundle).stdout
    assert "1 (1 dropped)" in said
    assert "unanswerable    0 (0.0%)" in said


def test_summarizing_needs_no_torch() -> None:
    code = "import sys, training.commands.data; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from training.cli import training;"
        "training(['--help'], standalone_mode=False);"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


def _run(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(
        training, [command, *arguments], standalone_mode=False, catch_exceptions=False
    )
