"""`spanmill training export` and `quantize`: a checkpoint to a bundle as it is; fp32 to int8."""

from pathlib import Path

import click

from training.bundle import refuse_foreign
from training.calibrate import find_threshold
from training.checkpoint import open_tokenizer
from training.commands.options import (
    language_option,
    max_window_tokens_option,
    processes_option,
    range_rows_option,
    resize,
)
from training.data import load_all, split
from training.evaluate import read_rows
from training.export import Checkpoint, check_parity, export_onnx, open_checkpoint
from training.plain_bundle import Plain, cut_sample, pack_plain
from training.quantize import Mode, quantize_gated
from training.ship import choose_rows, cut_windows, describe_quantization, refuse_no_ranges
from worker.contracts.bundle import find_bundle, load_bundle
from worker.contracts.errors import InputError
from worker.contracts.family import FAMILIES, WindowSizes
from worker.opening import Graph
from worker.reading.windows import Encoder

existing = click.Path(exists=True, path_type=Path)
share = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("checkpoint")
@click.option("--out", required=True, type=click.Path(path_type=Path),
              help="A bundle's folder; a name that ends in .onnx is the graph alone.")  # fmt: skip
@click.option(
    "--like", "model", help="A bundle whose threshold, confidence and window sizes it takes."
)
@click.option("--language", help="Of its texts; default: that of --like, else en.")
@click.option("--licence", help="Of the weights; default: that of --like, else: not told.")
@click.option("--mask", is_flag=True, help="Take an attention mask, for padded runs.")
@max_window_tokens_option
def export(
    checkpoint: str,
    out: Path,
    model: str | None,
    language: str | None,
    licence: str | None,
    mask: bool,
    max_window_tokens: int | None,
) -> None:
    """Turn a CHECKPOINT (safetensors; a folder or hub name) into an fp32 bundle, or its graph.

    Any question-answering reader of a known family will do; the logits stay as they are.
    """
    like = None if model is None else load_bundle(find_bundle(model))
    sizes = resize(WindowSizes() if like is None else like.manifest.sizes, max_window_tokens)
    if out.suffix == ".onnx":
        _export_graph(open_checkpoint(checkpoint, sizes), out, mask=mask)
        return
    refuse_foreign(out)
    told = ("en", "not told") if like is None else (like.manifest.language, like.manifest.licence)
    plain = Plain(
        like,
        told[0] if language is None else language,
        told[1] if licence is None else licence,
    )
    made = pack_plain(open_checkpoint(checkpoint, sizes), plain, out, mask=mask)
    click.echo(
        f"{out}: {made.digest[:12]}, {made.model.stat().st_size / 1e6:.1f} MB in fp32, threshold"
        f" {made.manifest.null_threshold:.3f}"
    )


def _export_graph(opened: Checkpoint, out: Path, *, mask: bool) -> None:
    export_onnx(opened, out, mask=mask)
    windows = cut_sample(opened.encoder)
    difference = check_parity(opened, out, windows)
    click.echo(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, logits differ from torch's by at most"
        f" {difference:.1e} on {len(windows)} windows"
    )


@click.command()
@click.argument("graph", type=existing)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The int8 ONNX file.")
@click.option("--tokenizer", required=True, type=existing, help="Its tokenizer.json.")
@click.option("--family", default="bert", type=click.Choice(sorted(FAMILIES)), show_default=True)
@click.option("--mode", type=click.Choice([one.value for one in Mode]), show_default=True,
              default=Mode.DYNAMIC.value,
              help="When activations get their scales: at each run, or once.")  # fmt: skip
@click.option("--data", "paths", required=True, multiple=True, type=existing, help="Rows.")
@click.option("--held-out-share", default=0.04, show_default=True, type=share,
              help="Of passages, for the gate.")  # fmt: skip
@click.option("--held-out-seed", default=13, show_default=True, help="Which passages those are.")
@range_rows_option
@language_option
@max_window_tokens_option
@processes_option
def quantize(
    graph: Path,
    out: Path,
    tokenizer: Path,
    family: str,
    mode: str,
    paths: tuple[Path, ...],
    held_out_share: float,
    held_out_seed: int,
    range_rows: int,
    language: str,
    max_window_tokens: int | None,
    processes: int,
) -> None:
    """Turn an fp32 GRAPH into int8; nodes that cost too much F1 stay in fp32.

    The file alone; `training bundle` makes a bundle of a checkpoint, quantized and calibrated.
    """
    sizes = resize(WindowSizes(), max_window_tokens)
    parts = split(load_all(paths).rows, held_out_share, held_out_seed)
    if not parts.held_out:
        raise InputError("no passage is held out to judge int8 by: raise --held-out-share")
    refuse_no_ranges(parts.train)
    encoder = Encoder(open_tokenizer(tokenizer), FAMILIES[family], sizes)
    windows = cut_windows(choose_rows(parts.train, range_rows), encoder)

    def score(path: Path) -> float:
        read = read_rows(Graph(path, tokenizer, family, sizes, language), parts.held_out, processes)
        return find_threshold(read)[0]

    gated = quantize_gated(graph, out, Mode(mode), windows, score)
    click.echo(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {describe_quantization(gated)};"
        f" held-out F1 {gated.int8_f1:.2f}, fp32 {gated.fp32_f1:.2f}"
    )
