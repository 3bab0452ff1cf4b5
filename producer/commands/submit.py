"""`spanmill submit`: the questions of files, through the workers at a broker."""

from typing import Any

import click

from producer.commands.answering import Where, answer_at, fleet_options
from producer.commands.running import PAUSE, How, open_command_log
from producer.commands.starting import start
from producer.options import JSON, job_options, option
from worker.contracts.errors import UsageError
from worker.contracts.flight import DEFAULT_QUEUE


@click.command()
@job_options
@fleet_options
@option("--queue", default=DEFAULT_QUEUE, help="Queue that the fleet's workers read.")
@option("--no-wait", is_flag=True, help="Stop when all is published; `resume` collects later.")
@PAUSE
@JSON
@click.pass_obj
def submit(
    look: str | None,
    /,
    broker_url: str | None,
    queue: str,
    no_wait: bool,
    in_flight_batches: int,
    in_flight_bytes: int,
    metrics_port: int | None,
    metrics_host: str,
    max_pause_seconds: float,
    as_json: bool,
    overwrite: bool,
    dry_run: bool,
    jobs_root: str | None,
    **given: Any,
) -> int:
    """Answer the questions of INPUT... through the workers at a broker, as `answer` does here.

    The same command again, or `resume` with the broker, goes on where it was stopped.
    """
    if broker_url is None:
        raise UsageError("submit has no broker: give --broker URL, or set SPANMILL_BROKER_URL")
    if given["provider"] == "auto":  # it is the workers that answer, not this machine
        given["provider"] = "cpu"
    log = open_command_log(look)
    where = Where(broker_url, queue, in_flight_batches, in_flight_bytes, metrics_host, metrics_port)
    answer = answer_at(broker_url, where, log, wait=not no_wait)
    how = How(answer, max_pause_seconds, as_json, log, where.words())
    return start(given, jobs_root, how, overwrite=overwrite, dry_run=dry_run)
