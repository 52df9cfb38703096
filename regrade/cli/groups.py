"""Command groups whose name alone does the usual thing: `regrade cycles TASK` is `regrade cycles list TASK`."""

from typing import Any

from typer.core import TyperGroup


class _DefaultGroup(TyperGroup):
    """A group that runs `default` when its first argument names no command of its own."""

    default: str

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {*self.commands, *ctx.help_option_names}
        if args[0] not in own if args else not self.no_args_is_help:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


class ListGroup(_DefaultGroup):
    """A group that lists."""

    default = "list"


class ShowGroup(_DefaultGroup):
    """A group that shows."""

    default = "show"
