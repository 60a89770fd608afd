"""Prediction records and what the log reads back, for tests of the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from churn.domain.predictions import Prediction, Status, UserId
from churn.domain.records import PredictionRecord
from churn.domain.schema import FEATURE_NAMES

NOON = datetime(2011, 10, 10, 12, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
VECTOR = tuple(float(place) for place in range(len(FEATURE_NAMES)))


def item(user_id: UserId | None = 7) -> Prediction:
    return Prediction(user_id, Status.OK, 0.1 + 0.2, NOON - timedelta(days=1), VECTOR)


def record(
    request_id: str = "r1", user_id: UserId | None = 7, at: datetime = NOON, *, key: str | None = None
) -> PredictionRecord:
    """One answered request for one user."""
    return PredictionRecord(
        request_id=request_id,
        predicted_at=at,
        source="id",
        predictions=[item(user_id)],
        model_version="3",
        model_digest="d" * 64,
        feature_service="churn_v1",
        features=FEATURE_NAMES,
        latency_ms=1.25,
        flags=("explained", "staging_failing"),
        idempotency_key=key,
    )


def logged(folder: Path) -> tuple[list[str], int]:
    """Request ids in the order of their time, and how many lines were skipped."""
    from churn.stores.prediction_log.reading import read_predictions  # a writer that is killed need not load pandas

    frame, skipped = read_predictions(folder, FIRST, LAST)
    return frame["request_id"].tolist(), skipped


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))
