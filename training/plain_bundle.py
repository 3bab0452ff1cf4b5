"""Any reader as a bundle in fp32, as it is: nothing is fitted, so that no data are needed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from training.bundle import Description, pack_bundle
from training.card import read_revision
from training.checkpoint import prove_weights
from training.export import Checkpoint, check_parity, export_onnx
from training.samples import SAMPLE
from worker.contracts.bundle import Bundle
from worker.contracts.errors import WorldError
from worker.contracts.verdict import Calibration, Logistic
from worker.reading.windows import Encoder, Window

#: What the protocol of SQuAD 2.0 begins with, and what bare null odds say.
THRESHOLD = 0.0
BARE = Calibration(answer=Logistic(0.0, -1.0), abstention=Logistic(0.0, 1.0))
_UNFITTED = (
    "Neither threshold nor confidence was fitted: `spanmill training calibrate` does, on rows of"
    " yours."
)


@dataclass(frozen=True, slots=True)
class Plain:
    """What a plain bundle says of itself; with ``like`` it judges as that bundle does."""

    like: Bundle | None
    language: str
    licence: str


def pack_plain(checkpoint: Checkpoint, plain: Plain, out: Path, *, mask: bool = False) -> Bundle:
    """Export a reader, prove its logits, and pack it.

    Raises:
        JobError: a logit differs from torch's, or the sample cannot be read.
        WorldError: the disk does not take it; what was at ``out`` is as it was.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
            graph = Path(folder) / "fp32.onnx"
            export_onnx(checkpoint, graph, mask=mask)
            difference = check_parity(checkpoint, graph, cut_sample(checkpoint.encoder))
            described = _describe(checkpoint, plain, out.name, difference)
            return pack_bundle(out, graph, checkpoint.folder / "tokenizer.json", described)
    except OSError as error:
        raise WorldError(
            f"the bundle could not be written to {out} ({error.strerror}): make room there"
        ) from error


def cut_sample(encoder: Encoder) -> list[Window]:
    """Return windows of the built-in sample, whose passages are long enough for several."""
    return [
        window
        for question, context in SAMPLE
        for window in encoder.encode(question, encoder.tokenize_passage(context * 6)).windows
    ]


def _describe(checkpoint: Checkpoint, plain: Plain, name: str, difference: float) -> Description:
    origin = {
        "git_revision": read_revision(Path(__file__).parent),
        "checkpoint_sha256": prove_weights(checkpoint.folder),
    }
    threshold, calibration, limits = THRESHOLD, BARE, [_UNFITTED]
    if plain.like is not None:
        judge = plain.like.manifest
        threshold, calibration = judge.null_threshold, judge.calibration
        limits = [
            f"Threshold and confidence were fitted with the graph of the bundle {judge.name}."
        ]
        origin["judges_like"] = plain.like.digest
    return Description(
        name=name,
        family=checkpoint.family.name,
        language=plain.language,
        sizes=checkpoint.encoder.sizes,
        null_threshold=threshold,
        calibration=calibration,
        quantization="none (fp32)",
        licence=plain.licence,
        card={
            "summary": "A checkpoint as it is, in fp32.",
            "graph": {"fp32_difference": float(f"{difference:.4g}")},
            "origin": origin,
            "limits": limits,
        },
    )
