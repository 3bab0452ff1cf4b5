"""`spanmill answer`: the questions of files, on this machine."""

from typing import Any

import click

from producer.commands.answering import WORKERS, answer_here
from producer.commands.running import PAUSE, How, open_command_log
from producer.commands.starting import start
from producer.options import JSON, job_options


@click.command()
@job_options
@WORKERS
@PAUSE
@JSON
@click.pass_obj
def answer(
    look: str | None,
    /,
    workers: int | None,
    max_pause_seconds: float,
    as_json: bool,
    overwrite: bool,
    dry_run: bool,
    jobs_root: str | None,
    **given: Any,  # the options are the request's fields
) -> int:
    """Answer the questions of INPUT... (Parquet, SQuAD JSON, JSON lines; files, folders, globs).

    The same command again goes on where it was stopped, and says so when all is done.
    """
    how = How(answer_here(workers), max_pause_seconds, as_json, open_command_log(look))
    return start(given, jobs_root, how, overwrite=overwrite, dry_run=dry_run)
