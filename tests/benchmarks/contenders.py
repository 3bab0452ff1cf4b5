"""The contenders of a speed run: each answers the same rows, timed, in its own processes."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.benchmarks.questions import Questions
from worker.contracts.bundle import Bundle
from worker.contracts.errors import RowError
from worker.contracts.options import ReadingOptions
from worker.contracts.records import Status
from worker.opening import open_reader
from worker.reading.reader import Reader, Scored
from worker.reading.spans import WindowLogits
from worker.reading.windows import Encoded

_PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's run over all rows.

    ``seconds`` is what it says itself, its start and loading left out; ``wall_seconds`` is from
    starting its process to its end.
    """

    seconds: float
    wall_seconds: float
    predictions: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


Contender = Callable[[], Turn]


@dataclass(frozen=True, slots=True)
class Field:
    """What all contenders share."""

    questions: Questions
    bundle: Bundle
    checkpoint: Path
    graphs: dict[str, Path]
    pythons: dict[str, Path]
    threads: int


def run_spanmill(given: Field) -> Turn:
    """`spanmill answer`, the whole command, from Parquet to Parquet."""
    with tempfile.TemporaryDirectory(prefix="spanmill-speed-") as name:
        out = Path(name) / "answers.parquet"
        command = [
            str(Path(sys.executable).with_name("spanmill")), "answer",
            str(given.questions.parquet), "--out", str(out), "--bundle", str(given.bundle.folder),
            "--workers", str(given.threads), "--json",
        ]  # fmt: skip
        wall, printed = _time(command)
        summary = json.loads(printed)
        answers = pq.read_table(out, columns=["answer"]).column("answer").to_pylist()
    facts = {name: summary[name] for name in ("tokenize_ms", "inference_ms", "decode_ms")}
    predictions = tuple("" if one is None else one for one in answers)
    return Turn(summary["seconds"], wall, predictions, facts)


def run_pipeline(given: Field, batch_size: int) -> Turn:
    """The question-answering pipeline of transformers, on the fp32 checkpoint."""
    with tempfile.TemporaryDirectory(prefix="spanmill-speed-") as name:
        out = Path(name) / "out.json"
        peer = [str(given.pythons["transformers"]), str(_PEERS / "pipeline.py")]
        told = [given.checkpoint, given.questions.lines, out, batch_size, given.threads]
        wall, _ = _time([*peer, *map(str, told)])
        report = json.loads(out.read_text(encoding="utf-8"))
    return Turn(report["seconds"], wall, tuple(report["answers"]), report["versions"])


def run_openvino(given: Field, per_run: int) -> Turn:
    """OpenVINO's forward pass on windows made by us; decoding is ours too, and not timed."""
    graph = given.graphs["plain" if per_run == 1 else "masked"]
    reader = open_reader(given.bundle, ReadingOptions(given.bundle.manifest.null_threshold))
    encoded = reader.encode(given.questions.examples, _ignore)
    windows = [window for one in encoded if isinstance(one, Encoded) for window in one.windows]
    lengths = np.array([len(window) for window in windows])
    shape = (len(windows), int(lengths.max()))
    ids, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, window in enumerate(windows):
        ids[number, : len(window)] = window.input_ids
        types[number, : len(window)] = window.token_type_ids
    with tempfile.TemporaryDirectory(prefix="spanmill-speed-") as name:
        made, out = Path(name) / "windows.npz", Path(name) / "logits.npz"
        np.savez(made, ids=ids, types=types, lengths=lengths)
        peer = [str(given.pythons["openvino"]), str(_PEERS / "openvino_forward.py")]
        wall, _ = _time([*peer, *map(str, (graph, made, out, per_run, given.threads))])
        found = np.load(out)
        logits = [
            WindowLogits(start[:length], end[:length])
            for start, end, length in zip(found["starts"], found["ends"], lengths, strict=True)
        ]
        facts = {"precision": str(found["precision"]), "openvino": str(found["version"])}
        seconds = float(found["seconds"])
    return Turn(seconds, wall, _decode(given, reader, encoded, logits), facts)


def _decode(
    given: Field,
    reader: Reader,
    encoded: Sequence[Encoded | RowError],
    logits: list[WindowLogits],
) -> tuple[str, ...]:
    predictions, place = [], 0
    for example, one in zip(given.questions.examples, encoded, strict=True):
        count = len(one.windows) if isinstance(one, Encoded) else 0
        scored = Scored(tuple(logits[place : place + count]), 0)
        place += count
        answer = reader.decode(example, one, scored)
        answered = answer.status is Status.ANSWERED and answer.best is not None
        predictions.append(answer.best.text if answered and answer.best is not None else "")
    return tuple(predictions)


def _time(command: list[str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} ended with {done.returncode}:\n{done.stderr}")
    return seconds, done.stdout


def _ignore(_rows: Sequence[int]) -> None:
    """Hear which rows come next, and do nothing about it."""
