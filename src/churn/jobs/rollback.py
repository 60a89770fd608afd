"""rollback: the version before is in service again, at once and from the local cache; registry and ledger follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from churn.domain.artifacts import Pointer
from churn.domain.ledger import Kind
from churn.domain.ports import Ledger, RollbackCache
from churn.errors import ChurnError


@dataclass(frozen=True)
class RolledBack:
    """From which version to which. `troubles` are sentences about what did not follow."""

    left: Pointer
    now: Pointer
    troubles: tuple[str, ...]


@dataclass(frozen=True)
class RollbackParts:
    """What a rollback changes. `move_alias` points the alias at a version; `tell` hears (left, now) at once."""

    cache: RollbackCache
    ledger: Ledger
    move_alias: Callable[[str], None]
    tell: Callable[[Pointer, Pointer], None]


def roll_back(parts: RollbackParts, *, why: str, by: str) -> RolledBack:
    """Serve the previous version on this host; then, as far as they answer, tell the ledger and move the alias.

    Raises NotReady when there is no previous version, Refused when it is damaged, Unavailable when the disk fails:
    then nothing has changed.
    """
    left, now = parts.cache.roll_back()
    parts.tell(left, now)
    facts = {"version": now.version, "left": left.version, "why": why, "by": by}
    troubles = (
        _trouble("the ledger does not know of it", lambda: parts.ledger.note(Kind.ROLLBACK, facts)),
        _trouble(_alias_stays(left), lambda: parts.move_alias(now.version)),
    )
    return RolledBack(left, now, tuple(filter(None, troubles)))


def _trouble(consequence: str, action: Callable[[], None]) -> str:
    try:
        action()
    except ChurnError as error:
        return f"{consequence}: {error.message}"
    return ""


def _alias_stays(left: Pointer) -> str:
    return (
        f"the alias champion could not be moved, so other hosts still serve version {left.version}"
        " (here it stays out until the alias has pointed elsewhere)"
    )
