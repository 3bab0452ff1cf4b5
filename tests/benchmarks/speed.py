"""Rows per second beside EM and F1: spanmill, the transformers pipeline, OpenVINO, in turns.

    python -m tests.benchmarks.speed --rows 400 --rounds 3 --out bench/speed.json

The same rows and weights for all. A round lets every contender run once; medians over the rounds
are reported. Without --checkpoint the bundle's own weights are written out in fp32.
"""

import argparse
import functools
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import Contender, Field, Turn, run_openvino, run_pipeline
from tests.benchmarks.contenders import run_spanmill as run_ours
from tests.benchmarks.questions import choose_questions
from tests.benchmarks.report import describe_conditions, format_table, write_report
from training.thaw import thaw
from worker.contracts.bundle import find_bundle, load_bundle
from worker.reading.scores import Scored, evaluate
from worker.settings import count_cores

OURS = "spanmill answer"
BATCH_SIZES = (1, 8, 32)
WINDOWS_PER_RUN = (1, 8)
#: What the project promises: end to end, against the pipeline's best without its start.
TIMES_PIPELINE = 3.0


def list_contenders(given: Field) -> dict[str, Contender]:
    """Return those whose environments are there, in the order of their turns."""
    found: dict[str, Contender] = {OURS: functools.partial(run_ours, given)}
    if given.pythons["transformers"].exists():
        for size in BATCH_SIZES:
            name = f"transformers pipeline, batch {size}"
            found[name] = functools.partial(run_pipeline, given, size)
    if given.pythons["openvino"].exists():
        for count in WINDOWS_PER_RUN:
            name = f"OpenVINO, forward only, {count} a run"
            found[name] = functools.partial(run_openvino, given, count)
    return found


def export_graphs(checkpoint: Path, folder: Path) -> dict[str, Path]:
    """Write the checkpoint's fp32 graph without a mask, and with one."""
    from training.export import export_onnx, open_checkpoint
    from worker.contracts.family import WindowSizes

    graphs = {"plain": folder / "plain.onnx", "masked": folder / "masked.onnx"}
    opened = open_checkpoint(str(checkpoint), WindowSizes())
    for name, path in graphs.items():
        export_onnx(opened, path, mask=name == "masked")
    return graphs


def compare(given: Field, rounds: int) -> dict[str, list[Turn]]:
    """Run the rounds; no contender waits for another's rounds to end."""
    contenders = list_contenders(given)
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            turn = run()
            turns[name].append(turn)
            rate = len(turn.predictions) / turn.seconds
            print(f"round {number + 1}: {name}: {rate:.1f} rows/s", flush=True)
    return turns


def digest(given: Field, turns: list[Turn]) -> dict[str, Any]:
    """Return a contender's medians, its spread, and its scores."""
    rows = len(given.questions.golds)
    rates = [rows / turn.seconds for turn in turns]
    walls = [rows / turn.wall_seconds for turn in turns]
    scored = [
        Scored(golds, prediction, prediction, 0.0)
        for golds, prediction in zip(given.questions.golds, turns[0].predictions, strict=True)
    ]
    scores = evaluate(scored)
    return {
        "rows_per_second": round(statistics.median(rates), 2),
        "rows_per_second_all": [round(rate, 2) for rate in rates],
        "rows_per_second_with_start": round(statistics.median(walls), 2),
        "exact": round(scores.exact, 2),
        "f1": round(scores.f1, 2),
        "same_answers_each_round": len({turn.predictions for turn in turns}) == 1,
        "facts": turns[-1].facts,
    }


def main() -> None:
    """Compare, print a table, write the JSON."""
    given = _parse()
    conditions = describe_conditions()
    bundle = load_bundle(find_bundle(given.bundle))
    with tempfile.TemporaryDirectory(prefix="spanmill-speed-") as name:
        folder = Path(name)
        checkpoint = given.checkpoint
        if checkpoint is None:
            checkpoint = thaw(bundle, folder / "checkpoint")
        field = Field(
            questions=choose_questions(given.data, given.rows, folder),
            bundle=bundle,
            checkpoint=checkpoint,
            graphs=export_graphs(checkpoint, folder),
            pythons={"transformers": given.transformers, "openvino": given.openvino},
            threads=given.threads,
        )
        turns = compare(field, given.rounds)
        results = {name: digest(field, one) for name, one in turns.items()}
    ratios = find_ratios(results)
    report = {
        "benchmark": "speed", **conditions, "rows": len(field.questions.golds),
        "data": given.data.name, "rounds": given.rounds, "threads": given.threads,
        "bundle": {"name": bundle.manifest.name, "digest": bundle.digest},
        "weights": "the bundle's own, in fp32" if given.checkpoint is None else "as given",
        "contenders": results, "ratios": ratios,
    }  # fmt: skip
    write_report(report, given.out)
    print(tabulate(results))
    print(f"ratios of spanmill's: {ratios}")
    if ratios.get("end to end / best pipeline", TIMES_PIPELINE) < TIMES_PIPELINE:
        raise SystemExit(1)


def find_ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return how many times as fast as each kind's best we are; the first is the strictest.

    "End to end" counts our start and nobody else's.
    """
    ours = results[OURS]
    ratios = {}
    for kind, word in (("transformers", "pipeline"), ("OpenVINO", "OpenVINO")):
        rates = [one["rows_per_second"] for name, one in results.items() if name.startswith(kind)]
        if rates:
            ratios[f"end to end / best {word}"] = ours["rows_per_second_with_start"] / max(rates)
            ratios[f"steady / best {word}"] = ours["rows_per_second"] / max(rates)
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def tabulate(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    columns = ("rows_per_second", "rows_per_second_with_start", "exact", "f1")
    rows = [[name, *(f"{one[column]:.1f}" for column in columns)] for name, one in results.items()]
    return format_table(["", "rows/s", "rows/s with start", "EM", "F1"], rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=_find_data(), help="SQuAD JSON")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.add_argument("--bundle", help="path or name of the bundle; the default one if not given")
    parser.add_argument("--checkpoint", type=Path, help="fp32 checkpoint of the same weights")
    parser.add_argument("--out", type=Path, default=Path("bench/speed.json"))
    for peer in ("transformers", "openvino"):
        home = Path(f".venv-bench-{peer}/bin/python")
        parser.add_argument(f"--{peer}", type=Path, default=home, help="its interpreter")
    return parser.parse_args()


def _find_data() -> Path:
    """Return SQuAD's development set if it is there, else the project's own examples."""
    home = os.environ.get("SPANMILL_DATA")
    squad = Path("" if home is None else home) / "eval" / "squad-dev-v2.0.json.gz"
    return squad if squad.is_file() else Path("examples/questions.json")


if __name__ == "__main__":
    main()
