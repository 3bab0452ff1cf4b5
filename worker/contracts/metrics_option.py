"""Where a program serves its metrics: two options, of the worker and of producers alike."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_PORT = click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    envvar="SPANMILL_METRICS_PORT",
    show_envvar=True,
    help="Serve Prometheus metrics there; 0 is any free port.  [default: none are served]",
)
_HOST = click.option(
    "--metrics-host",
    default="0.0.0.0",  # noqa: S104  who asks for metrics wants them from elsewhere
    show_default=True,
    envvar="SPANMILL_METRICS_HOST",
    show_envvar=True,
    help="Address to serve them at.",
)


def metrics_options(function: F) -> F:
    """Give a command its ``metrics_port``, None for none, and ``metrics_host``."""
    return _PORT(_HOST(function))
