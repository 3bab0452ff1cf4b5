"""`spanmill resume` and `retry-errors`: go on with a job that is there."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from producer.begin import begin_retry, check_untouched
from producer.commands.answering import WORKERS, Where, choose, fleet_options
from producer.commands.broker import choose_broker
from producer.commands.running import PAUSE, How, open_command_log, report_finished, run_command
from producer.diary import Diary
from producer.finished import show
from producer.fleet_status import find_queue
from producer.options import JOBS_ROOT, JSON, option, read_output
from producer.retry import make_retry
from producer.status import find_store
from worker.contracts.errors import JobError
from worker.contracts.flight import DEFAULT_QUEUE
from worker.contracts.folder import JobFolder
from worker.contracts.job import JobManifest
from worker.contracts.url import to_path

F = TypeVar("F", bound=Callable[..., Any])

QUEUE = option(
    "--queue",
    help="Queue that the fleet's workers read.  [default: the job's, else default]",
)


def run_options(function: F) -> F:
    """Give a command the options that say how a job which is there goes on."""
    for decorator in (JSON, PAUSE, WORKERS, QUEUE, fleet_options):
        function = decorator(function)
    return function


@click.command()
@click.argument("job")
@JOBS_ROOT
@run_options
@click.pass_obj
def resume(
    look: str | None,
    /,
    job: str,
    jobs_root: str | None,
    **given: Any,
) -> int:
    """Go on with a job that was stopped, killed or cancelled.

    A job that was submitted goes on through its fleet where a broker is known; one of `answer` goes
    on here, unless the command line has --broker.
    """
    folder = JobFolder(find_store(jobs_root, job), job)

    def prepare() -> tuple[JobManifest, Diary]:
        manifest = folder.need_manifest()
        check_untouched(folder, manifest)
        return manifest, Diary(folder)

    given["broker_url"] = choose_broker(given["broker_url"], folder)
    return run_command(folder, prepare, _read_how(look, job, **given))


@click.command("retry-errors")
@click.argument("job")
@option(
    "--out",
    "output",
    type=read_output,
    metavar="FILE",
    help="Where to write all answers.  [default: the job's output]",
)
@JOBS_ROOT
@run_options
@click.pass_obj
def retry_errors(
    look: str | None,
    /,
    job: str,
    output: str | None,
    jobs_root: str | None,
    **given: Any,
) -> int:
    """Answer a job's error rows again, as a child job, and lay its answers over.

    Those of a job that was submitted are answered by its fleet, as `resume` would.
    """
    parent = JobFolder(find_store(jobs_root, job), job)
    made = make_retry(parent, None if output is None else to_path(output))
    if made is None:
        finished = show(parent, parent.need_manifest())
        if finished is None:
            raise JobError(f"the job {job} has lost its answers: answer it again")
        return report_finished(
            finished, f"the job {job} has no error rows", as_json=given["as_json"]
        )
    folder = JobFolder(parent.store, made.job)
    prepare = partial(begin_retry, made, folder, parent.need_manifest())
    given["broker_url"] = choose_broker(given["broker_url"], folder, parent)
    return run_command(folder, prepare, _read_how(look, folder.job, **given))


def _read_how(
    look: str | None,
    job: str,
    /,
    queue: str | None,
    workers: int | None,
    max_pause_seconds: float,
    as_json: bool,
    **fleet: Any,
) -> How:
    """Return how the job is run, from the values of `run_options`."""
    log = open_command_log(look)
    if queue is None and fleet["broker_url"] is not None:
        queue = find_queue(fleet["broker_url"], job)
    where = Where(queue=DEFAULT_QUEUE if queue is None else queue, **fleet)
    answer = choose(where, workers, log)
    return How(answer, max_pause_seconds, as_json, log, where.words())
