"""`spanmill training bundle`, `calibrate` and `evaluate`: what makes, tunes and scores bundles."""

from pathlib import Path

import click
import msgspec

from training.bundle import recalibrate, refuse_foreign
from training.calibrate import calibrate as fit_held_out
from training.calibrate import refuse_uncalibratable
from training.card import Data, Origin, count_rows, describe_data, read_revision, read_texts
from training.checkpoint import find_checkpoint, prove_weights
from training.commands.options import (
    language_option,
    max_window_tokens_option,
    processes_option,
    range_rows_option,
    resize,
)
from training.data import load, load_all, load_some, refuse_shared_passages, split
from training.evaluate import estimate, read_rows, to_scored
from training.quantize import Mode
from training.ship import Order, choose_rows, ship
from worker.contracts.bundle import find_bundle, load_bundle, prove_file
from worker.contracts.errors import UsageError
from worker.contracts.family import WindowSizes
from worker.opening import graph_of
from worker.reading.scores import evaluate as evaluate_rows

existing = click.Path(exists=True, path_type=Path)
share = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("checkpoint")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option("--data", "paths", required=True, multiple=True, type=existing,
              help="Files whose held-out passages calibrate; repeat it.")  # fmt: skip
@click.option("--also-trained-on", multiple=True, type=existing,
              help="Named on the card; no held-out passage may be in it.")  # fmt: skip
@click.option("--held-out-share", default=0.04, show_default=True, type=share,
              help="As in fine-tuning.")  # fmt: skip
@click.option("--held-out-seed", default=13, show_default=True, help="As in fine-tuning.")
@click.option("--report", "reports", multiple=True, help="NAME=FILE: scored for the card alone.")
@click.option(
    "--texts",
    type=existing,
    required=True,
    help="TOML: name, language, licence, summary, limits, [licences].",
)
@click.option("--recipe", type=existing, help="The recipe of the checkpoint, quoted on the card.")
@click.option("--encoder", type=existing, help="The encoder's weights, for their digest.")
@click.option("--mode", type=click.Choice([one.value for one in Mode]), show_default=True,
              default=Mode.DYNAMIC.value,
              help="When activations get their scales: at each run, or once.")  # fmt: skip
@range_rows_option
@max_window_tokens_option
@processes_option
def bundle(
    checkpoint: str,
    out: Path,
    paths: tuple[Path, ...],
    also_trained_on: tuple[Path, ...],
    held_out_share: float,
    held_out_seed: int,
    reports: tuple[str, ...],
    texts: Path,
    recipe: Path | None,
    encoder: Path | None,
    mode: str,
    range_rows: int,
    max_window_tokens: int | None,
    processes: int,
) -> None:
    """Make a bundle from a CHECKPOINT folder: export, quantize, calibrate, score, pack."""
    refuse_foreign(out)
    sizes = resize(WindowSizes(), max_window_tokens)
    words = read_texts(texts)
    parts = split(load_all(paths).rows, held_out_share, held_out_seed)
    also = (row for path in also_trained_on for row in load(path).rows)
    refuse_shared_passages(also, parts.held_out)
    files = [_read_report(report) for report in reports]
    used = dict.fromkeys(paths, "training, and held-out passages for calibration")
    used |= dict.fromkeys(also_trained_on, "training")
    used |= {path: f"scores only ({name})" for name, path in files}
    data: tuple[Data, ...] = describe_data(used, words)
    order = Order(
        checkpoint=checkpoint,
        held_out=parts.held_out,
        ranges=choose_rows(parts.train, range_rows),
        reports={name: load_some(path) for name, path in files},
        mode=Mode(mode),
        sizes=sizes,
        processes=processes,
    )
    origin = Origin(
        recipe="" if recipe is None else recipe.read_text(encoding="utf-8"),
        git_revision=read_revision(Path(__file__).parent),
        seeds={"held-out split": held_out_seed},
        encoder=words.encoder,
        encoder_sha256=None if encoder is None else prove_file(encoder).sha256,
        checkpoint_sha256=prove_weights(find_checkpoint(checkpoint)),
        held_out=f"{held_out_share:g} of the passages of {len(paths)} files:"
        f" {count_rows(parts.held_out)}, none of whose passages was trained on",
    )
    made = ship(order, origin, data, words, out, lambda line: click.echo(line, err=True))
    click.echo(f"{out}: {made.digest[:12]}, threshold {made.manifest.null_threshold:.3f}")


@click.command()
@click.argument("name")
@click.option("--data", "paths", required=True, multiple=True, type=existing, help="Labelled rows.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new bundle.")
@processes_option
def calibrate(name: str, paths: tuple[Path, ...], out: Path, processes: int) -> None:
    """Fit threshold and confidence of the bundle NAME on rows of your own; weights stay."""
    refuse_foreign(out)
    opened = load_bundle(find_bundle(name))
    rows = load_all(paths).rows
    refuse_uncalibratable(rows)
    fit = fit_held_out(read_rows(graph_of(opened), rows, processes))
    recalibrate(opened, fit, rows, paths, out)
    click.echo(
        f"{out}: null threshold {fit.null_threshold:.3f} (it was"
        f" {opened.manifest.null_threshold:.3f}), F1 {fit.held_out_f1:.2f}, expected calibration"
        f" error {fit.honesty.expected_error:.3f} on {len(rows)} rows"
    )


@click.command()
@click.argument("name")
@click.argument("path", type=existing)
@click.option("--null-threshold", default=None, type=float,
              help="inf: answer always.  [default: the bundle's]")  # fmt: skip
@language_option
@processes_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    name: str,
    path: Path,
    null_threshold: float | None,
    language: str,
    processes: int,
    as_json: bool,
) -> None:
    """Score the bundle NAME on the labelled rows of PATH."""
    opened = load_bundle(find_bundle(name))
    rows = load_some(path)
    threshold = opened.manifest.null_threshold if null_threshold is None else null_threshold
    read = read_rows(graph_of(opened), rows, processes)
    scores = evaluate_rows(to_scored(read, threshold), language)
    if as_json:
        click.echo(msgspec.json.encode(scores).decode())
        return
    exact, f1 = estimate(read, threshold, language=language)
    click.echo(
        f"{len(rows)} rows at threshold {threshold:.3f}: exact {exact.value:.2f}"
        f" ({exact.low:.2f}-{exact.high:.2f}), F1 {f1.value:.2f} ({f1.low:.2f}-{f1.high:.2f});"
        f" best F1 {scores.best.f1:.2f} at {scores.best.f1_threshold:.3f}"
    )


def _read_report(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not Path(path).is_file():
        raise UsageError(f"--report {text} is not NAME=FILE with a file that exists")
    return name, Path(path)
