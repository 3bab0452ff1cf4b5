"""`spanmill training export` and `quantize`: a checkpoint to a bundle as it is; fp32 to int8."""

from dataclasses import replace
from pathlib import Path

import click

from training.bundle import refuse_foreign
from training.calibrate import find_threshold
from training.checkpoint import open_tokenizer
from training.data import load_all, split
from training.evaluate import read_rows
from training.export import Checkpoint, check_parity, export_onnx, open_checkpoint
from training.plain_bundle import Plain, cut_sample, pack_plain
from training.quantize import Mode, quantize_gated
from training.ship import choose_rows, cut_windows, describe_quantization, refuse_no_ranges
from worker.contracts.bundle import find_bundle, load_bundle
from worker.contracts.errors import InputError, UsageError
from worker.contracts.family import FAMILIES, WindowSizes
from worker.opening import Graph
from worker.reading.scores import ENGLISH
from worker.reading.windows import Encoder
from worker.settings import count_cores

existing = click.Path(exists=True, path_type=Path)
share = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("checkpoint")
@click.option("--out", required=True, type=click.Path(path_type=Path),
              help="A bundle's folder; a name that ends in .onnx is the graph alone.")  # fmt: skip
@click.option("--like", "model", help="A bundle whose threshold and confidence it takes.")
@click.option("--language", help="Of its texts; default: that of --like, else en.")
@click.option("--licence", help="Of the weights; default: that of --like, else: not told.")
@click.option("--mask", is_flag=True, help="Take an attention mask, for padded runs.")
@click.option("--max-window-tokens", type=int, help="Default: those of --like, else 384.")
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
    sizes = WindowSizes() if like is None else like.manifest.sizes
    if max_window_tokens is not None:
        try:
            sizes = replace(sizes, max_window_tokens=max_window_tokens)
        except ValueError as error:
            raise UsageError(
                f"--max-window-tokens {max_window_tokens} is too low: {error}"
            ) from error
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
@click.option("--mode", type=click.Choice(list(Mode)), default=Mode.DYNAMIC, show_default=True)
@click.option("--data", "paths", required=True, multiple=True, type=existing, help="Rows.")
@click.option("--held-out-share", default=0.04, show_default=True, type=share,
              help="Of passages, for the gate.")  # fmt: skip
@click.option("--seed", default=13, show_default=True, help="Which passages those are.")
@click.option("--range-rows", default=300, show_default=True, type=click.IntRange(min=1),
              help="Rows that give ranges.")  # fmt: skip
@click.option("--processes", default=None, type=click.IntRange(min=1),
              help="How many read; default: the cores.")  # fmt: skip
def quantize(
    graph: Path,
    out: Path,
    tokenizer: Path,
    family: str,
    mode: str,
    paths: tuple[Path, ...],
    held_out_share: float,
    seed: int,
    range_rows: int,
    processes: int | None,
) -> None:
    """Turn an fp32 GRAPH into int8; nodes that cost too much F1 stay in fp32."""
    sizes = WindowSizes()
    parts = split(load_all(paths).rows, held_out_share, seed)
    if not parts.held_out:
        raise InputError("no passage is held out to judge int8 by: raise --held-out-share")
    refuse_no_ranges(parts.train)
    encoder = Encoder(open_tokenizer(tokenizer), FAMILIES[family], sizes)
    windows = cut_windows(choose_rows(parts.train, range_rows), encoder)
    cores = count_cores() if processes is None else processes

    def score(path: Path) -> float:
        read = read_rows(Graph(path, tokenizer, family, sizes, ENGLISH), parts.held_out, cores)
        return find_threshold(read)[0]

    gated = quantize_gated(graph, out, Mode(mode), windows, score)
    click.echo(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {describe_quantization(gated)};"
        f" held-out F1 {gated.int8_f1:.2f}, fp32 {gated.fp32_f1:.2f}"
    )
