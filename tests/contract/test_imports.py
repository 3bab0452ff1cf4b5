"""Imports stay light: help is quick, and what only reads files loads no model and no broker."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]

HEAVY = ("torch", "transformers", "onnxruntime", "tokenizers", "celery", "redis")
#: Generous: it is some 0.05 s, and the machine may be busy.
HELP_CPU_SECONDS = 2.0

HELP = """
import sys, time
from producer.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
print(time.process_time(), file=sys.stderr)
"""


def load(*names: str) -> set[str]:
    """Return the packages that a fresh interpreter holds after importing modules."""
    code = (
        f"import sys, {', '.join(names)}; print(*{{one.partition('.')[0] for one in sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


def test_help_is_quick_and_loads_neither_arrow_nor_a_model() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    modules, seconds = done.stderr.splitlines()
    assert "Commands:" in done.stdout
    assert not [name for name in (*HEAVY, "pyarrow", "numpy", "rich") if f"'{name}'" in modules]
    assert float(seconds) < HELP_CPU_SECONDS


@pytest.mark.parametrize("package", ["producer", "worker.contracts"])
def test_the_producers_side_loads_no_model_and_no_broker(package: str) -> None:
    names = {
        "producer": [
            f"producer.{name}"
            for name in (
                "source", "json_source", "parquet_source", "scan", "plan", "options", "collect",
                "answers", "books", "gold", "status",
            )
        ],
        "worker.contracts": [
            f"worker.contracts.{name}"
            for name in (
                "bundle", "errors", "family", "folder", "job", "options", "records", "shard",
                "store", "verdict",
            )
        ],
    }[package]  # fmt: skip
    assert not load(*names) & {*HEAVY}


def test_reading_loads_no_runtime_and_no_files() -> None:
    heavy = {*HEAVY, "pyarrow", "click"} - {"tokenizers"}
    assert not load("worker.reading.reader", "worker.reading.scores") & heavy


def test_answering_loads_no_torch() -> None:
    assert not load("worker.local", "producer.commands.answer", "producer.commands.submit") & {
        "torch",
        "transformers",
    }


def test_the_producers_contract_names_all_of_the_worker_but_its_contracts() -> None:
    settings = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [one for one in settings["contracts"] if one["name"].startswith("The producer")]
    assert contract["source_modules"] == ["producer"]
    named = {one for one in contract["forbidden_modules"] if one.startswith("worker.")}
    files = {f"worker.{path.stem}" for path in (HOME / "worker").glob("[!_]*.py")}
    folders = {f"worker.{path.parent.name}" for path in (HOME / "worker").glob("*/__init__.py")}
    assert named == (files | folders) - {"worker.contracts"}


def test_what_keeps_trainings_going_and_looks_at_them_loads_no_torch() -> None:
    names = ("training.app", "training.commands.worker", "training.commands.runs")
    assert not load(*names) & {"torch", "transformers", "onnxruntime"}
