"""A group whose commands are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click


class Lazy(click.Group):
    """``table``: name -> (module of this package, one line for --help), so that listing the commands imports none."""

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The ``command`` of the module that the table names."""
        if cmd_name not in self._table:
            return None
        command: click.Command = import_module(f".{self._table[cmd_name][0]}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table as the help shows it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but with a guess at what a mistyped name was to be."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            near = get_close_matches(args[0], self._table, 1)
            ctx.fail(f"No such command '{args[0]}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)
