"""From a checkpoint to a bundle: export, quantize, calibrate, score, describe, pack."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.bundle import Description, pack_bundle
from training.calibrate import (
    Fit,
    Honesty,
    calibrate,
    find_threshold,
    judge_as_met,
    measure_honesty,
    refuse_uncalibratable,
)
from training.calibration_record import HELD_OUT, record_calibration, write_record
from training.card import Card, Data, Origin, Score, Size, Speed, Texts, to_plain
from training.data import Labelled
from training.disk import keeping
from training.evaluate import Read, estimate, read_rows
from training.export import Checkpoint, check_parity, export_onnx, open_checkpoint
from training.progress import tell_progress
from training.quantize import Gated, Mode, quantize_gated
from worker.contracts.bundle import Bundle
from worker.contracts.errors import InputError
from worker.contracts.family import WindowSizes
from worker.opening import Graph
from worker.reading.reader import ForwardBatch
from worker.reading.windows import Encoder, Window
from worker.session import OnnxScorer
from worker.telemetry import describe_machine

#: Windows that the parity of the export is proven on.
PARITY_WINDOWS = 64
#: Runs that a speed is the median of.
TIMED_RUNS = 30

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make a bundle from.

    ``held_out`` rows, which no training saw, serve the gate and the calibration; ``ranges`` are
    training rows whose windows give a static graph its ranges. ``reports`` are sets by their
    names, scored for the card and used for nothing else. ``record`` is where a file for plots goes:
    what calibration saw.
    """

    checkpoint: str
    held_out: tuple[Labelled, ...]
    ranges: tuple[Labelled, ...]
    reports: Mapping[str, tuple[Labelled, ...]]
    mode: Mode
    sizes: WindowSizes
    processes: int
    record: Path | None = None


@dataclass(frozen=True, slots=True)
class _Graphs:
    """Of a checkpoint, the graph in full precision and the one that passed the gate.

    ``difference`` is the largest one of a logit between checkpoint and full graph; ``read`` are the
    held-out rows, as the small graph read them.
    """

    checkpoint: Checkpoint
    small: Path
    difference: float
    gated: Gated
    read: Read


def ship(
    order: Order, origin: Origin, data: tuple[Data, ...], texts: Texts, out: Path, say: Say
) -> Bundle:
    """Make the bundle and put it at ``out``, whole or not at all.

    A process that is to stop does so between two tries at a graph, or two parts that are read;
    nothing of it is kept then.

    Raises:
        UsageError: the checkpoint or the rows cannot be used.
        JobError: a gate is not passed, or the process is to stop.
        WorldError: the disk does not take it.
    """
    refuse_uncalibratable(order.held_out)
    refuse_no_ranges(order.ranges)
    checkpoint = open_checkpoint(order.checkpoint, order.sizes)
    with keeping(out), _drafts(out.parent) as folder:
        graphs = _make_graphs(order, checkpoint, folder, texts.language, say)
        fit = calibrate(graphs.read)
        say(f"calibrated: null threshold {fit.null_threshold:.3f}")
        graph = _graph_of(order, checkpoint, graphs.small, texts.language)
        seen = {HELD_OUT: graphs.read, **read_sets(graph, order.reports, order.processes)}
        if order.record is not None:
            write_record(order.record, record_calibration(seen, fit))
        card = _fill_card(graphs, seen, fit, origin, data, texts)
        described = _describe(order, graphs, fit, texts, card)
        return pack_bundle(out, graphs.small, _tokenizer_of(checkpoint), described)


@contextmanager
def _drafts(place: Path) -> Iterator[Path]:
    """Give a folder for what is made on the way."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".ship-") as folder:
        yield Path(folder)


def _make_graphs(
    order: Order, checkpoint: Checkpoint, folder: Path, language: str, say: Say
) -> _Graphs:
    """Export, prove the parity, and quantize until the held-out rows are read well enough."""
    full, small = folder / "fp32.onnx", folder / "int8.onnx"
    export_onnx(checkpoint, full)
    windows = cut_windows(order.ranges, checkpoint.encoder)
    difference = check_parity(checkpoint, full, windows[:PARITY_WINDOWS])
    say(f"exported: the largest difference of a logit is {difference:.1e}")
    reads: dict[Path, Read] = {}

    def score(path: Path) -> float:
        graph = _graph_of(order, checkpoint, path, language)
        reads[path] = read_rows(graph, order.held_out, order.processes)
        f1 = find_threshold(reads[path])[0]
        tell_progress()
        say(f"{path.stem}: held-out F1 {f1:.2f}")
        return f1

    gated = quantize_gated(full, small, order.mode, windows, score)
    return _Graphs(checkpoint, small, difference, gated, reads[small])


def _fill_card(
    graphs: _Graphs,
    seen: Mapping[str, Read],
    fit: Fit,
    origin: Origin,
    data: tuple[Data, ...],
    texts: Texts,
) -> Card:
    """Score the sets that were read, and write down all that is known."""
    reports = {name: read for name, read in seen.items() if name != HELD_OUT}
    return Card(
        summary=texts.summary,
        scores=tuple(score_all(seen, fit)),
        quantization=graphs.gated,
        calibration=fit.honesty,
        honesty={name: look_honest(read, fit) for name, read in reports.items()},
        graph=Size(graphs.small.stat().st_size, graphs.difference),
        speed=measure_speed(graphs.small, graphs.checkpoint.encoder.sizes),
        origin=origin,
        data=data,
        limits=texts.limits,
    )


def _describe(order: Order, graphs: _Graphs, fit: Fit, texts: Texts, card: Card) -> Description:
    return Description(
        name=texts.name,
        family=graphs.checkpoint.family.name,
        language=texts.language,
        sizes=order.sizes,
        null_threshold=fit.null_threshold,
        calibration=fit.calibration,
        quantization=describe_quantization(graphs.gated),
        licence=texts.licence,
        card=to_plain(card),
    )


def _graph_of(order: Order, checkpoint: Checkpoint, model: Path, language: str) -> Graph:
    return Graph(model, _tokenizer_of(checkpoint), checkpoint.family.name, order.sizes, language)


def _tokenizer_of(checkpoint: Checkpoint) -> Path:
    return checkpoint.folder / "tokenizer.json"


def refuse_no_ranges(rows: Sequence[Labelled]) -> None:
    """Refuse an order whose graph could be proven on no window.

    Raises:
        InputError: there are no rows.
    """
    if not rows:
        raise InputError("all passages are held out, so no row gives ranges: hold out fewer")


def cut_windows(rows: Sequence[Labelled], encoder: Encoder) -> list[Window]:
    """Return the windows of rows, at their real lengths."""
    return [
        window
        for row in rows
        for window in encoder.encode(row.question, encoder.tokenize_passage(row.context)).windows
    ]


def read_sets(
    graph: Graph, sets: Mapping[str, tuple[Labelled, ...]], processes: int
) -> dict[str, Read]:
    """Read sets in one go: what two of them share is read once."""
    every = read_rows(graph, [row for rows in sets.values() for row in rows], processes)
    answers = iter(every.answers)
    return {
        name: Read(rows, tuple(itertools.islice(answers, len(rows))), every.language)
        for name, rows in sets.items()
    }


def choose_rows(rows: tuple[Labelled, ...], count: int) -> tuple[Labelled, ...]:
    """Return about so many rows, evenly from all."""
    return rows[:: max(1, len(rows) // count)][:count]


def score_all(reads: Mapping[str, Read], fit: Fit) -> list[Score]:
    """Score sets: always answering where all have answers, else at three thresholds."""
    scores = []
    for name, read in reads.items():
        settings: dict[str, float | None] = {"always answering": None}
        if any(not row.answers for row in read.rows):
            settings = {
                "stored threshold": fit.null_threshold,
                "threshold 0": 0.0,
                "best threshold of this set (an oracle)": find_threshold(read)[1],
            }
        for setting, threshold in settings.items():
            exact, f1 = estimate(read, threshold)
            scores.append(Score(name, len(read.rows), setting, threshold, exact, f1))
    return scores


def look_honest(read: Read, fit: Fit) -> Honesty:
    """Measure confidence on a set as a user meets it."""
    return measure_honesty(judge_as_met(read, fit))


def measure_speed(model: Path, sizes: WindowSizes) -> Speed:
    """Time windows of two lengths on one thread, the longer one if the bundle has it."""
    scorer = OnnxScorer(model)
    short = _time_window(scorer, 170)
    full = _time_window(scorer, 384) if sizes.max_window_tokens >= 384 else None
    return Speed(describe_machine().cpu, short, full)


def describe_quantization(gated: Gated) -> str:
    """Say in a line how the graph was quantized."""
    kept = f", {len(gated.kept)} nodes in fp32: {', '.join(gated.kept)}" if gated.kept else ""
    return f"{gated.mode} int8, smoothed, unsigned activations x signed weights, per channel{kept}"


def _time_window(scorer: OnnxScorer, tokens: int) -> float:
    ids = np.random.default_rng(0).integers(5, 100, (1, tokens))
    types = (np.arange(tokens)[None] > 16).astype(np.int64)
    batch = ForwardBatch(ids, types, np.ones_like(ids))
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        scorer.score(batch)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))
