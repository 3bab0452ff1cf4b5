"""The options of the commands that follow a recipe: where its data are, and with which encoder."""

from pathlib import Path

import click

data_dir_option = click.option(
    "--data-dir",
    required=True,
    envvar="SPANMILL_DATA",
    show_envvar=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the recipe's files are.",
)
encoder_option = click.option(
    "--encoder", help="A folder or hub name, instead of the recipe's encoder."
)
settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of the recipe, such as steps.first.schedule.seed=2; repeat it.",
)
