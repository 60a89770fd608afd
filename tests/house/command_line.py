"""The command line as data: its verbs, their options and defaults, asked of the typer application itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import typer

from churn.cli import app


@dataclass(frozen=True)
class Option:
    """`name` with underscores as in MLproject, `flag` as typed ("" where the value stands alone), `default` as text."""

    name: str
    flag: str
    default: str
    is_switch: bool


@dataclass(frozen=True)
class Verb:
    """One subcommand."""

    name: str
    command: Any

    def options(self) -> list[Option]:
        found = [parameter for parameter in self.command.params if getattr(parameter, "opts", None)]
        return [_option(parameter) for parameter in found if "--help" not in parameter.opts]

    def valued_options(self) -> list[Option]:
        return [option for option in self.options() if not option.is_switch]

    def flags(self) -> set[str]:
        return {option.flag for option in self.options() if option.flag}

    def parse(self, arguments: Sequence[str]) -> None:
        """Reads the arguments without running anything; raises a usage error for those that do not exist."""
        verb, *rest = arguments or ("",)
        below = getattr(self.command, "commands", {})
        if below and verb:
            assert verb in below, f"churn {self.name} {verb} does not exist"
            Verb(verb, below[verb]).parse(rest)
        else:
            self.command.make_context(self.name, list(arguments))


def _option(parameter: Any) -> Option:
    flag = next((name for name in parameter.opts if name.startswith("--")), "")
    name = flag.removeprefix("--") or parameter.name
    default = parameter.default
    text = "" if default in (None, (), []) else str(default)
    return Option(name.replace("-", "_"), flag, text, bool(getattr(parameter, "is_flag", False)))


@cache
def verbs() -> dict[str, Verb]:
    """Every subcommand by name, hidden ones too."""
    group: Any = typer.main.get_command(app)
    return {name: Verb(name, command) for name, command in group.commands.items()}
