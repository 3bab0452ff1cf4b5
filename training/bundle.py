"""Packs a graph, its tokenizer and what is known of them into a bundle, whole or not at all."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from training.calibrate import Fit
from training.card import to_plain
from training.data import Labelled
from training.fence import draft_of, writing
from training.samples import SAMPLE
from worker.contracts.bundle import (
    FORMAT,
    MANIFEST,
    MODEL,
    TOKENIZER,
    Bundle,
    BundleManifest,
    SampleRow,
    load_bundle,
    prove_file,
    write_manifest,
)
from worker.contracts.errors import JobError, UsageError, WorldError
from worker.contracts.family import WindowSizes
from worker.contracts.options import ReadingOptions
from worker.contracts.verdict import Calibration
from worker.opening import Graph, open_graph
from worker.reading.reader import Reader
from worker.reading.sample import answer_sample

#: What a bundle's answers, or its making, depend on.
_PACKAGES = ("spanmill", "onnxruntime", "onnx", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Description:
    """What a manifest says beside what follows from the files."""

    name: str
    family: str
    language: str
    sizes: WindowSizes
    null_threshold: float
    calibration: Calibration
    quantization: str
    licence: str
    card: dict[str, Any] = field(default_factory=dict)


def pack_bundle(
    out: Path,
    graph: Path,
    tokenizer: Path,
    described: Description,
    sample: Sequence[tuple[str, str]] = SAMPLE,
) -> Bundle:
    """Write a bundle's folder beside ``out``, read the sample with it, and put it in its place.

    Raises:
        UsageError: at ``out`` is something else than a bundle.
        JobError: a row of the sample has no span.
        WorldError: the disk is full or does not take it; what was at ``out`` is as it was.
    """
    refuse_foreign(out)
    draft = draft_of(out.with_name(f"{out.name}.{os.getpid()}"))
    try:
        draft.mkdir(parents=True)
        shutil.copyfile(graph, draft / MODEL)
        (draft / TOKENIZER).write_text(strip_tokenizer(tokenizer), encoding="utf-8")
        write_manifest(draft, _describe(draft, described, sample))
        bundle = load_bundle(draft)
        with writing():
            _exchange(draft, out)
    except OSError as error:
        raise WorldError(
            f"the bundle could not be written to {out} ({error.strerror}): make room there"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Bundle(out, bundle.manifest, bundle.digest)


def refuse_foreign(out: Path) -> None:
    """Refuse a place where a bundle would replace something else; for before any work.

    Raises:
        UsageError: there is a file, or a folder that is no bundle.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise UsageError(f"{out} exists and is no bundle: give another place by --out")


def recalibrate(
    bundle: Bundle, fit: Fit, rows: Sequence[Labelled], files: Sequence[Path], out: Path
) -> Bundle:
    """Write the bundle again with another threshold and calibration; its card says so.

    ``rows`` of ``files`` were fitted on. What the card told of the old ones goes: scores at that
    threshold, and how honest they were.
    """
    manifest = bundle.manifest
    kept = {key: told for key, told in manifest.card.items() if key not in ("scores", "honesty")}
    described = Description(
        name=out.name,
        family=manifest.family,
        language=manifest.language,
        sizes=manifest.sizes,
        null_threshold=fit.null_threshold,
        calibration=fit.calibration,
        quantization=manifest.quantization,
        licence=manifest.licence,
        card=kept
        | {
            "calibration": to_plain(fit.honesty),
            "calibrated_again": {
                "from": bundle.digest,
                "rows": len(rows),
                "unanswerable": sum(1 for row in rows if not row.answers),
                "data": {path.name: prove_file(path).sha256 for path in files},
            },
        },
    )
    texts = [(row.question, row.context) for row in manifest.sample]
    return pack_bundle(out, bundle.model, bundle.tokenizer, described, texts)


def strip_tokenizer(path: Path) -> str:
    """Return a tokenizer.json without truncation and padding: the worker cuts and pads itself."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["truncation"] = None
    settings["padding"] = None
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":"))


def read_sample(reader: Reader, texts: Sequence[tuple[str, str]]) -> tuple[SampleRow, ...]:
    """Return what a bundle answers to the texts that prove it elsewhere.

    Raises:
        JobError: one of them gives no span.
    """
    try:
        return answer_sample(reader, texts)
    except ValueError as error:
        raise JobError(
            f"the bundle cannot be proven by its sample ({error}): see whether the tokenizer is the"
            " one that the model was trained with"
        ) from error


def list_versions() -> dict[str, str]:
    """Return the versions of what made the bundle."""
    return {name: _version(name) for name in _PACKAGES}


def _describe(
    folder: Path, described: Description, sample: Sequence[tuple[str, str]]
) -> BundleManifest:
    model, tokenizer, sizes = folder / MODEL, folder / TOKENIZER, described.sizes
    graph = Graph(model, tokenizer, described.family, sizes, described.language)
    reader = open_graph(graph, described.calibration, ReadingOptions(described.null_threshold))
    return BundleManifest(
        format=FORMAT,
        name=described.name,
        family=described.family,
        language=described.language,
        sizes=described.sizes,
        null_threshold=described.null_threshold,
        calibration=described.calibration,
        quantization=described.quantization,
        licence=described.licence,
        files={name: prove_file(folder / name) for name in (MODEL, TOKENIZER)},
        sample=read_sample(reader, sample),
        versions=list_versions(),
        card=described.card,
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _exchange(draft: Path, out: Path) -> None:
    """Put the draft where ``out`` is; a crash between leaves the old one under its other name."""
    old = draft.with_suffix(".old")
    if out.exists():
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)
