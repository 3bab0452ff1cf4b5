"""`spanmill training data`: what a set of rows holds, before anything is trained on it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import msgspec
from tokenizers import Tokenizer

from training.data import Loaded, Summary, load
from training.data import summarize as measure
from worker.contracts.bundle import find_bundle, load_bundle
from worker.contracts.family import FAMILIES
from worker.reading.windows import Encoder


@click.group()
def data() -> None:
    """Look at question-answering data."""


@data.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--bundle", "name", default=None, help="Whose tokenizer counts; default: default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def summarize(paths: Sequence[Path], name: str | None, as_json: bool) -> None:
    """Count and measure the rows of files, each, and all together where they are several."""
    bundle = load_bundle(find_bundle(name))
    manifest = bundle.manifest
    encoder = Encoder(
        Tokenizer.from_file(str(bundle.tokenizer)), FAMILIES[manifest.family], manifest.sizes
    )
    loaded = {str(path): load(path) for path in paths}
    if len(loaded) > 1:
        rows = tuple(row for one in loaded.values() for row in one.rows)
        loaded["all"] = Loaded(rows, sum(one.dropped for one in loaded.values()))
    summaries = {title: measure(one, encoder) for title, one in loaded.items()}
    if as_json:
        plain = {
            title: asdict(one) | {"unanswerable_share": one.unanswerable_share}
            for title, one in summaries.items()
        }
        click.echo(msgspec.json.encode(plain).decode())
        return
    click.echo("\n\n".join(_describe(title, one) for title, one in summaries.items()))


def _describe(title: str, summary: Summary) -> str:
    dropped = f" ({summary.dropped} dropped)" if summary.dropped else ""
    return "\n".join(
        [
            title,
            f"  rows            {summary.rows:,}{dropped}",
            f"  unanswerable    {summary.unanswerable:,} ({summary.unanswerable_share:.1%})",
            f"  passages        {summary.passages:,}",
            f"  windows         {summary.windows:,}",
            f"  question        {summary.question_tokens:.1f} tokens on average",
            f"  passage         {summary.context_tokens:.1f} tokens on average",
            f"  answer          {summary.answer_chars:.1f} characters on average",
            f"  question words  {_list(summary.question_words)}",
            f"  sources         {_list(summary.sources)}",
        ]
    )


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) if counts else "none"
