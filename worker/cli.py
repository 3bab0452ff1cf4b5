"""`spanmill bundle`: look at a model bundle, and have it prove itself on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worker.contracts.bundle import Bundle, find_bundle, load_bundle, show_manifest
from worker.contracts.errors import BundleError
from worker.contracts.options import ReadingOptions
from worker.opening import open_reader
from worker.reading.sample import RIVALS, TOLERANCE, Difference, compare_sample
from worker.session import AUTO, PROVIDERS, choose_provider
from worker.telemetry import describe_machine

FAILED = 1


@click.group()
def bundle() -> None:
    """Look at model bundles."""


@bundle.command()
@click.argument("path", default="default")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, with its digest.")
def show(path: str, as_json: bool) -> None:
    """Say what a bundle is, what it scores, and where it comes from. PATH may be a name."""
    opened = load_bundle(find_bundle(path))
    if as_json:
        manifest = show_manifest(opened.manifest)
        click.echo(msgspec.json.encode({"digest": opened.digest, **manifest}).decode())
        return
    console = Console()
    _print_facts(console, opened)
    for title, part in opened.manifest.card.items():
        if part not in ({}, [], ""):
            _print_part(console, title.replace("_", " "), part)


@bundle.command()
@click.argument("path", default="default")
@click.option(
    "--provider",
    default="cpu",
    show_default=True,
    type=click.Choice([AUTO, *PROVIDERS]),
    help="What runs the sample.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def check(path: str, provider: str, as_json: bool) -> int:
    """Check a bundle's digests, read its sample, and compare with the answers recorded in it."""
    opened = load_bundle(find_bundle(path))
    sample = opened.manifest.sample
    if not sample:
        raise BundleError(f"{opened.folder} has no sample to read: make the bundle again")
    choice = choose_provider(provider, opened.model)
    if choice.note is not None:
        click.echo(f"spanmill: {choice.note}", err=True)
    found = _read_sample(opened, choice.provider)
    harmful = [one for one in found if one.harmful]
    if as_json:
        report = {
            "bundle": str(opened.folder),
            "digest": opened.digest,
            "rows": len(sample),
            "same": len(sample) - len(found),
            "differences": [asdict(one) for one in found],
            "ok": not harmful,
            "provider": choice.provider,
            "cpu": describe_machine().cpu,
        }
        click.echo(msgspec.json.encode(report).decode())
        return FAILED if harmful else 0
    click.echo(f"{opened.folder}: {len(opened.manifest.files)} files are what they were")
    for one in found:
        click.echo(f"  row {one.row}: {_describe(one)}")
    click.echo(
        f"{len(sample) - len(found)} of {len(sample)} sample rows read as recorded, scores within"
        f" {TOLERANCE:g} logits, with {choice.provider} on {describe_machine().cpu}"
    )
    if harmful:
        click.echo(
            f"{len(harmful)} rows read otherwise: this machine does not give this bundle's answers",
            err=True,
        )
    return FAILED if harmful else 0


def _read_sample(opened: Bundle, provider: str) -> list[Difference]:
    options = ReadingOptions(opened.manifest.null_threshold, top_k=RIVALS)
    reader = open_reader(opened, options, provider=provider)
    try:
        return list(compare_sample(reader, opened.manifest.sample))
    except ValueError as error:
        raise BundleError(
            f"the sample of {opened.folder} cannot be read ({error}): get the bundle again"
        ) from error


def _describe(one: Difference) -> str:
    kind = "differs" if one.harmful else "a tie"
    return (
        f"{kind}: {one.answer!r} ({one.score:.2f}, null odds {one.null_odds:.2f}), recorded"
        f" {one.recorded.answer!r} ({one.recorded.score:.2f}, {one.recorded.null_odds:.2f})"
    )


def _print_facts(console: Console, opened: Bundle) -> None:
    manifest = opened.manifest
    size = sum(proof.size_bytes for proof in manifest.files.values()) / 1e6
    sizes = manifest.sizes
    facts = {
        "bundle": manifest.name,
        "folder": str(opened.folder),
        "digest": opened.digest,
        "family": manifest.family,
        "language": manifest.language,
        "size": f"{size:.1f} MB",
        "windows": f"{sizes.max_window_tokens} tokens, {sizes.overlap_tokens} shared,"
        f" questions of {sizes.max_question_tokens}",
        "null threshold": f"{manifest.null_threshold:.3f}",
        "quantization": manifest.quantization,
        "licence": manifest.licence,
        "versions": ", ".join(f"{name} {value}" for name, value in manifest.versions.items()),
    }
    _print_pairs(console, None, facts)


def _print_part(console: Console, title: str, part: Any) -> None:
    """Print whatever a card holds: records as a table, names and values as two columns."""
    if _is_records(part):
        _print_records(console, title, part)
    elif isinstance(part, Mapping):
        _print_pairs(console, title, part)
    elif isinstance(part, list):
        _print_pairs(console, title, {str(number + 1): one for number, one in enumerate(part)})
    else:
        _print_pairs(console, title, {"": part})


def _is_records(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(one, Mapping) for one in part)


def _print_pairs(console: Console, title: str | None, pairs: Mapping[str, Any]) -> None:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in pairs.items():
        table.add_row(escape(name.replace("_", " ")), escape(_show(value)))
    console.print(table)
    console.print()


def _print_records(console: Console, title: str, records: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for name in records[0]:
        table.add_column(name.replace("_", " "))
    for record in records:
        table.add_row(*(escape(_show(record.get(name))) for name in records[0]))
    console.print(table)
    console.print()


def _show(value: Any) -> str:
    if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
        return f"{value['value']:g} ({value['low']:g} to {value['high']:g})"
    if isinstance(value, Mapping):
        return "\n".join(f"{name.replace('_', ' ')}: {_show(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "\n".join(_show_inline(one) for one in value)
    return "-" if value is None else str(value).strip()


def _show_inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_show(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "  ".join(_show(one) for one in value)
    return _show(value)
