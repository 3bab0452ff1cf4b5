"""`spanmill training report`: the page of a run, written again from what is in its folder."""

from pathlib import Path

import click

from training.report import write_page


@click.command()
@click.argument("run_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run_folder: Path) -> None:
    """Draw the pictures of RUN_FOLDER and write index.html there: the run as one page.

    The folder is that of `training run`, or of one `finetune` or `distill`.
    """
    click.echo(write_page(run_folder))
