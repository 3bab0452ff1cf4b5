"""A group of commands that loads each when it is called, so that `--help` is quick."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are named by "module:attribute" strings, each with a line of help.

    With ``extra`` a package that is missing is told as one of that extra of spanmill.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]], extra: str | None = None, **rest: Any
    ) -> None:
        """Take the commands in the order in which a user meets them; nothing is imported yet."""
        super().__init__(*args, **rest)
        self._lazy, self._extra = lazy, extra

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in their order."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command's module."""
        if cmd_name not in self._lazy:
            return None
        module, attribute = self._lazy[cmd_name][0].split(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if self._extra is None:
                raise
            raise click.ClickException(
                f"{self._extra} needs the package {error.name}: pip install"
                f" 'spanmill[{self._extra}]'"
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])
