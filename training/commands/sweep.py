"""`spanmill training sweep`: a recipe over a grid of values, with its table."""

from pathlib import Path

import click

from training.commands.options import processes_option
from training.commands.recipe_options import data_dir_option, encoder_option
from training.commands.run import say
from training.grid import combine, parse_axis
from training.recipe_file import find_recipe
from training.sweep import follow_all
from training.sweep_text import to_markdown
from training.workspace import Place

#: The exit status where some combinations failed and others did not.
SOME_FAILED = 3
FAILED = 1


@click.command()
@click.argument("recipe")
@click.option("--over", "axes", multiple=True, required=True, metavar="KEY=VALUE,VALUE",
              help="Of the recipe, such as steps.first.schedule.seed=1,2; repeat it.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="For all combinations; repeat it.")  # fmt: skip
@click.option("--until", metavar="STEP",
              help="The last step to take, to leave out the bundle; default: all.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path),
              help="The sweep's folder. Default: <recipe>-sweep in --runs-root.")  # fmt: skip
@click.option("--runs-root", default="spanmill-runs", show_default=True,
              envvar="SPANMILL_RUNS_ROOT", type=click.Path(path_type=Path),
              help="Folder of the runs.")  # fmt: skip
@data_dir_option
@encoder_option
@processes_option
@click.pass_context
def sweep(
    ctx: click.Context,
    recipe: str,
    axes: tuple[str, ...],
    settings: tuple[str, ...],
    until: str | None,
    out: Path | None,
    runs_root: Path,
    data_dir: Path,
    encoder: str | None,
    processes: int,
) -> None:
    """Follow a RECIPE once for every combination of values; prints a table.

    Each combination has a folder of its own. The same command goes on where it was interrupted, and
    tries again what failed. The table's numbers are in sweep.json too.
    """
    name = find_recipe(recipe).stem
    place = Place(
        out=runs_root / f"{name}-sweep" if out is None else out,
        data=data_dir,
        encoder=encoder,
        processes=processes,
        until=until,
    )
    try:
        outcomes = follow_all(recipe, settings, combine([*map(parse_axis, axes)]), place, say)
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from the last checkpoint")
        raise
    click.echo(to_markdown(outcomes), nl=False)
    failed = sum(1 for one in outcomes if one.error is not None)
    if failed:
        ctx.exit(FAILED if failed == len(outcomes) else SOME_FAILED)
