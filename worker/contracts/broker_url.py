"""Where the broker's URL comes from: the option, the environment, and files that hold secrets."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import click

from worker.contracts.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

URL = "SPANMILL_BROKER_URL"
#: Files, since what stands in the environment is shown by every tool that inspects a container.
URL_FILE = "SPANMILL_BROKER_URL_FILE"
PASSWORD_FILE = "SPANMILL_BROKER_PASSWORD_FILE"  # noqa: S105  a variable's name


def broker_option(*, required: bool = False) -> Callable[[F], F]:
    """Return the option ``--broker``, which gives a command its ``broker_url``."""

    def complete(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
        if ctx.resilient_parsing:  # the shell asks for completions
            return given
        url = complete_url(given, os.environ)
        if required and url is None:
            raise click.MissingParameter(ctx=ctx, param=param)
        return url

    return click.option(
        "--broker",
        "broker_url",
        envvar=URL,
        show_envvar=True,
        metavar="URL",
        callback=complete,
        help="The fleet's broker: redis://[user:password@]host[:port][/database], rediss://, or"
        " unix:///path. It, or its password alone, can stand in a file named by"
        f" {URL_FILE} or {PASSWORD_FILE}.",
    )


def complete_url(given: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the URL with its password; what was given directly goes before what a file holds.

    Raises:
        UsageError: a file that is to hold a secret cannot be read, or is empty.
    """
    url = _read(environment, URL_FILE) if given is None else given
    if url is None or _has_password(url):
        return url
    password = _read(environment, PASSWORD_FILE)
    return url if password is None else _put_in(url, password)


def _has_password(url: str) -> bool:
    """Say whether there is nothing to add; what is no URL is told by who parses it."""
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return True


def _read(environment: Mapping[str, str], variable: str) -> str | None:
    """Return the secret in the file that a variable names, or None where it names none."""
    path = environment.get(variable, "")
    if path == "":
        return None
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None)
        told = "it is no text" if why is None else why
        raise UsageError(
            f"the file {path} that {variable} names cannot be read ({told}): correct the variable,"
            " or allow the file to be read"
        ) from error
    if secret == "":
        raise UsageError(
            f"the file {path} that {variable} names is empty: write the secret into it"
        )
    return secret


def _put_in(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    signed = f"{user.removesuffix(':')}:{quote(password, safe='')}@{place}"
    return urlunsplit(parts._replace(netloc=signed))
