"""What one answered question looks like, and the words for its outcome."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

UserId = int | str

LOW_BELOW = 0.3
HIGH_FROM = 0.7
RISK_SEGMENTS = ("Low", "Medium", "High")
RISK_BOUNDS = (LOW_BELOW, HIGH_FROM)


class Status(StrEnum):
    """Outcome for one user; only OK carries a probability."""

    OK = "ok"
    NOT_FOUND = "not_found"
    NOT_ELIGIBLE = "not_eligible"
    STALE = "stale"
    INVALID_FEATURES = "invalid_features"


def risk_segment(probability: float) -> str:
    """Low below 0.3, High from 0.7, Medium between; the lower bound belongs to the segment."""
    return RISK_SEGMENTS[bisect_right(RISK_BOUNDS, probability)]


@dataclass(frozen=True)
class FeatureRow:
    """What the online store knows of one user: the vector in the order asked for (nan = null), and its cutoff."""

    user_id: UserId
    as_of: datetime
    vector: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The answer for one user. `probability` is None unless `status` is OK."""

    user_id: UserId | None
    status: Status
    probability: float | None = None
    features_as_of: datetime | None = None
    vector: tuple[float, ...] | None = None
    reason: str = ""
