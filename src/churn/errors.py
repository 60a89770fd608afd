"""The family of errors. Each carries what was found and what to do next; none knows HTTP or exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ChurnError(Exception):
    """Something the user can act on.

    `message` says what was found, `hint` the way out, `facts` the numbers behind it.
    """

    def __init__(self, message: str, *, hint: str = "", facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts: Mapping[str, Any] = dict(facts or {})


class BadInput(ChurnError):
    """A setting, option or argument that cannot be used."""


class ContractBroken(ChurnError):
    """Raw tables that break the contract in a way that cannot be set aside row by row."""


class NotReady(ChurnError):
    """An earlier step of the river has not been run, or its result does not suffice."""


class Refused(ChurnError):
    """A guard said no: a leak alarm, a failed verdict, an artifact that is not what it claims to be."""


class Unavailable(ChurnError):
    """A store or server outside this process does not answer."""


class Mismatch(ChurnError):
    """Two things that must be equal are not (offline against online, digest against file)."""
