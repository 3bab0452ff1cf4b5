"""Which broker a command about a job talks to."""

import click
from click.core import ParameterSource

from worker.contracts.folder import JobFolder


def choose_broker(broker_url: str | None, *folders: JobFolder) -> str | None:
    """Return the broker of a job, or of a job and its parent; None for one of this machine alone.

    A broker that only the environment names is for jobs that were submitted: it must neither take
    over what `answer` began, nor hold it up when it is away.
    """
    if is_given("broker_url") or any(folder.was_submitted() for folder in folders):
        return broker_url
    return None


def is_given(parameter: str) -> bool:
    """Say whether the command line itself, not the environment, set a parameter."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is ParameterSource.COMMANDLINE
