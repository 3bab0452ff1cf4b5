"""`spanmill training run` and `thaw`: a recipe from its rows to its bundle, and back to weights."""

from pathlib import Path

import click

from training.commands.options import processes_option
from training.commands.recipe_options import data_dir_option, encoder_option, settings_option
from training.event_files import writing_events
from training.follow import follow
from training.lines import telling
from training.recipe_file import read_recipe
from training.run_state import check_name
from training.thaw import thaw as thaw_bundle
from training.workspace import Place
from worker.contracts.bundle import find_bundle, load_bundle
from worker.contracts.errors import UsageError


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path),
              help="The run's folder. Default: the recipe's name in --runs-root.")  # fmt: skip
@click.option("--runs-root", default="spanmill-runs", show_default=True,
              envvar="SPANMILL_RUNS_ROOT", type=click.Path(path_type=Path),
              help="Folder of the runs.")  # fmt: skip
@data_dir_option
@encoder_option
@settings_option
@processes_option
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files too.")
def run(
    recipe: str,
    out: Path | None,
    runs_root: Path,
    data_dir: Path,
    encoder: str | None,
    settings: tuple[str, ...],
    processes: int,
    tensorboard: bool,
) -> None:
    """Follow a RECIPE: a TOML file, or one of the package by its name, such as default.

    What is finished stays: the same command goes on where it was interrupted.
    """
    written = read_recipe(recipe, settings)
    place = Place(
        out=runs_root / check_name(written.recipe.name) if out is None else out,
        data=data_dir,
        encoder=encoder,
        processes=processes,
    )
    try:
        with writing_events(wanted=tensorboard), telling(say):
            made = follow(written, place, say)
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from the last checkpoint")
        raise
    click.echo(made)


@click.command()
@click.argument("bundle")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
def thaw(bundle: str, out: Path) -> None:
    """Write a BUNDLE's weights as safetensors, in a folder that transformers loads."""
    if out.exists():
        raise UsageError(f"{out} exists: give a new folder by --out")
    click.echo(thaw_bundle(load_bundle(find_bundle(bundle)), out))


def say(line: str) -> None:
    """Print a line about the progress."""
    click.echo(line, err=True)
