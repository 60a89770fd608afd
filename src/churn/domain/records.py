"""What the prediction log keeps of one answered prediction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from churn.domain.predictions import UserId

Source = Literal["id", "vector"]


@dataclass(frozen=True)
class PredictionRecord:
    """One answered item. `vector` follows `features` (nan = null) and is None when no features were found.

    `predicted_at` is the service's clock (UTC), `latency_ms` the time from the request's arrival to this record.
    """

    request_id: str
    predicted_at: datetime
    source: Source
    user_id: UserId | None
    status: str
    churn_probability: float | None
    model_version: str
    model_digest: str
    feature_service: str
    features: tuple[str, ...]
    vector: tuple[float, ...] | None
    features_as_of: datetime | None
    latency_ms: float
