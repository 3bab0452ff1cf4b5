"""The broker of trainings: a database of its own, so that nothing of the fleet's is in its way."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import click

from worker.contracts.broker import Broker, parse_broker
from worker.contracts.broker_url import URL as FLEET_URL
from worker.contracts.broker_url import complete_url
from worker.contracts.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

URL = "SPANMILL_TRAINING_BROKER_URL"
#: Where a URL names no database.
DATABASE = 1


def broker_option(*, required: bool = False) -> Callable[[F], F]:
    """Return the option ``--broker``, which gives a command its ``broker``."""

    def read(ctx: click.Context, param: click.Parameter, given: str | None) -> Broker | None:
        if ctx.resilient_parsing:  # the shell asks for completions
            return None
        found = find_broker(given)
        if required and found is None:
            raise click.MissingParameter(ctx=ctx, param=param)
        return found

    return click.option(
        "--broker",
        envvar=URL,
        show_envvar=True,
        metavar="URL",
        callback=read,
        help="The trainings' broker: redis://[user:password@]host[:port][/database], rediss://, or"
        f" unix:///path?db=number; database {DATABASE} where none is named.  [default: the fleet's,"
        f" {FLEET_URL}, in the database after its own]",
    )


def find_broker(given: str | None) -> Broker | None:
    """Return the broker that was given, or else the fleet's with another database.

    Raises:
        UsageError: a URL is none, is the fleet's own, or a file that is to hold a secret cannot be
            read.
    """
    named = os.environ.get(FLEET_URL, "")
    url = complete_url(named if named else None, os.environ)
    fleet = None if url is None else parse_broker(url)
    if given is None:
        return None if fleet is None else replace(fleet, database=fleet.database + 1)
    url = complete_url(given, os.environ)
    assert url is not None  # noqa: S101  something was given
    broker = parse_broker(url)
    if not _names_database(given):
        broker = replace(broker, database=DATABASE)
    if fleet is not None and broker.name.partition("://")[2] == fleet.name.partition("://")[2]:
        raise UsageError(
            f"the trainings' broker {broker.name} is the fleet's own database: name another one in"
            f" --broker or {URL}"
        )
    return broker


def _names_database(url: str) -> bool:
    parts = urlsplit(url)
    named = parts.scheme != "unix" and parts.path not in ("", "/")
    return named or "db" in parse_qs(parts.query)
