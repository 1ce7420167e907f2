"""Options whose value may be left out, as --errors [FILE]; Typer itself has none."""

from __future__ import annotations

import itertools
from typing import Any

from typer.core import TyperCommand

PRINTED = "-"  # the value where none is given


def optional_value(*names: str) -> type[TyperCommand]:
    """A command's class in which these options stand with a value or without one."""

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            filled: list[str] = []
            for arg, following in itertools.zip_longest(args, args[1:], fillvalue="--"):
                filled.append(arg)
                if arg in names and following.startswith("-"):
                    filled.append(PRINTED)
            return super().parse_args(ctx, filled)

    return Command
