"""What the ledger holds: who was judged, who carried the alias, who served, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What an entry tells. Its facts name at least a `version`, except at an alias without one and at a stop."""

    ALIAS_SEEN = "alias_seen"
    VERDICT = "verdict"
    OVERRIDE = "override"
    REFUSED = "refused"
    TOOK_UP = "took_up"
    ROLLBACK = "rollback"
    SERVICE_STOPPED = "service_stopped"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. `sequence` counts from 1, `at` is the machine's time in UTC, `facts` hold plain JSON."""

    sequence: int
    at: datetime
    kind: Kind
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """A ledger, read. `torn` counts lines that a crash cut short; `breaks` says where the chain does not hold."""

    entries: tuple[Entry, ...] = ()
    torn: int = 0
    breaks: tuple[str, ...] = ()
