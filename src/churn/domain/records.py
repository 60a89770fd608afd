"""What the prediction log keeps of an answered request, and how the log fares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from churn.domain.predictions import Prediction

Source = Literal["id", "vector"]


@dataclass(frozen=True)
class PredictionRecord:
    """One answered request. The vectors of its `predictions` follow `features` (nan = null).

    `predicted_at` is the service's clock (UTC), `latency_ms` the time from the request's arrival to this record.
    `flags` are words on how it was answered; `idempotency_key` is the caller's own name for the question.
    """

    request_id: str
    predicted_at: datetime
    source: Source
    predictions: Sequence[Prediction]
    model_version: str
    model_digest: str
    feature_service: str
    features: tuple[str, ...]
    latency_ms: float
    variant: str = "champion"
    flags: tuple[str, ...] = ()
    idempotency_key: str | None = None


@dataclass(frozen=True)
class LogState:
    """How a log fares: predictions `waiting` for the disk and the age of the oldest; the others count from the start.

    `written` and `refused` count predictions, `failures` counts writes that the disk did not take.
    """

    waiting: int = 0
    oldest_seconds: float = 0.0
    written: int = 0
    refused: int = 0
    failures: int = 0


@dataclass(frozen=True)
class CompactedDay:
    """One UTC day that was compacted: its predictions in all, how many segments went into it now, damaged lines."""

    day: date
    predictions: int
    segments: int
    damaged: int
