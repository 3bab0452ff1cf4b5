"""`spanmill training compare`: bundles side by side on labelled rows."""

import functools
import importlib.util
from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from training.commands.options import language_option, processes_option
from training.compare import Comparison, Meaning, Request, name_bundles
from training.compare import compare as compare_all
from training.compare_text import to_markdown
from training.data import load, sample
from worker.contracts.bundle import find_bundle, load_bundle
from worker.contracts.errors import UsageError


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path),
              help="Labelled rows: SQuAD JSON, JSON lines or Parquet.")  # fmt: skip
@click.option("--rows", "count", default=None, type=click.IntRange(1), help="Take so many only.")
@language_option
@click.option("--encoder", help="Checkpoint of an encoder, for BERTScore.")
@click.option("--timed-questions", default=200, type=click.IntRange(1), show_default=True,
              help="So many give the times.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write Markdown there.")
@click.option("--plots", type=click.Path(path_type=Path), help="A folder for PNG and SVG.")
@processes_option
def compare(
    bundles: tuple[str, ...],
    data: Path,
    count: int | None,
    language: str,
    encoder: str | None,
    timed_questions: int,
    json_file: Path | None,
    markdown: Path | None,
    plots: Path | None,
    processes: int,
) -> None:
    """Lay BUNDLES side by side: size, scores with intervals, times; a baseline comes first."""
    if plots is not None:
        _need_matplotlib()
    opened = {
        name: load_bundle(find_bundle(where)) for name, where in name_bundles(bundles).items()
    }
    rows = load(data).rows
    request = Request(
        bundles=opened,
        data=data.name,
        rows=rows if count is None else sample(rows, count, seed=13),
        language=language,
        timed_questions=timed_questions,
        processes=processes,
        meaning=None if encoder is None else _open_meaning(encoder),
    )
    found = compare_all(request, lambda line: click.echo(line, err=True))
    text = to_markdown(found)
    click.echo(text, nl=False)
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(asdict(found)), indent=1))
    if plots is not None:
        _plot(found, plots)


def _open_meaning(encoder: str) -> Meaning:
    from training.bertscore import Encoder, score_rows  # here: it loads torch

    return functools.partial(score_rows, encoder=Encoder(encoder))


def _need_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plots need the package matplotlib: pip install 'spanmill[training]'")


def _plot(found: Comparison, folder: Path) -> None:
    from training.compare_plot import plot  # here: it needs matplotlib

    for path in plot(found, folder):
        click.echo(f"written: {path}", err=True)
