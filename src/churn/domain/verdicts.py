"""Answers of judges: a status and its reasons, never a bare boolean."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class Reason:
    """One rule and what it found. `passed` None: told, but not judged."""

    rule: str
    passed: bool | None
    found: str


@dataclass(frozen=True)
class PromotionVerdict:
    """Whether the challenger may become champion, and why."""

    challenger: str
    champion: str | None
    reasons: tuple[Reason, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True when at least one rule was judged and none failed."""
        judged = [reason.passed for reason in self.reasons if reason.passed is not None]
        return bool(judged) and all(judged)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


class DriftStatus(StrEnum):
    """OK and WARN leave with exit code 0; the others have codes of their own (see cli.py)."""

    OK = "ok"
    WARN = "warn"
    DRIFT = "drift"
    INSUFFICIENT = "insufficient"
    FAILED = "failed"


@dataclass(frozen=True)
class DriftVerdict:
    """What a window of the prediction log says against the champion's reference."""

    status: DriftStatus
    reasons: tuple[Reason, ...]
    drift: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    reference_rows: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
