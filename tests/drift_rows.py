"""Made-up rows for drift tests: skewed, full of zeros, partly null and correlated, as real feature rows are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from churn.domain.schema import FEATURE_NAMES

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 3, 8, tzinfo=UTC)


def feature_rows(rows: int, seed: int) -> pd.DataFrame:
    """(rows, features + churn_probability), the same distribution for every seed."""
    chance = np.random.default_rng(seed)
    tenure = chance.uniform(20, 700, rows)
    pace = chance.lognormal(-3.2, 0.9, rows)
    basket = chance.lognormal(3.0, 0.7, rows)
    frame: dict[str, Any] = {"days_since_signup": tenure}
    for days in (7, 30, 90, 180, 365):
        known = np.minimum(tenure, days)
        frame[f"orders_{days}d"] = chance.poisson(pace * known).astype(float)
        frame[f"sessions_{days}d"] = chance.poisson(3 * pace * known).astype(float)
        frame[f"spent_{days}d"] = frame[f"orders_{days}d"] * basket * chance.lognormal(0, 0.2, rows)
    orders = frame["orders_365d"] + chance.poisson(pace * np.maximum(tenure - 365, 0))
    spent = orders * basket
    idle = np.minimum(chance.exponential(1 / pace), 60)
    active = orders + chance.poisson(2 * pace * tenure)
    gap = np.where(active > 1, np.clip(tenure / np.maximum(active, 1), 1, None), np.nan)
    ordered = np.where(orders > 0, 1.0, np.nan)
    frame |= {
        "total_orders": orders,
        "total_spent": spent,
        "avg_order_value": basket * ordered,
        "days_since_last_order": np.minimum(idle + chance.exponential(20, rows), tenure) * ordered,
        "total_sessions": chance.poisson(3 * pace * tenure).astype(float),
        "avg_session_duration": np.where(active > 0, chance.lognormal(2, 0.5, rows), np.nan),
        "days_since_last_activity": idle,
        "order_frequency": orders / tenure,
        "spending_velocity": spent / tenure,
        "customer_lifetime_value": 1.2 * spent,
        "active_days": active,
        "mean_gap_days": gap,
        "std_gap_days": gap * chance.uniform(0.3, 1.2, rows),
        "max_gap_days": gap * chance.uniform(1, 4, rows),
        "recency_over_mean_gap": idle / gap,
        "recency_over_max_gap": idle / gap / chance.uniform(1, 4, rows),
        "activity_trend": np.where(active > 3, np.clip(chance.normal(0, 0.4, rows), -1, 1), 0.0),
        "last_order_amount": basket * chance.lognormal(0, 0.3, rows) * ordered,
        "refund_share": np.where(chance.uniform(size=rows) < 0.05, chance.uniform(0, 0.5, rows), 0.0),
    }
    return pd.DataFrame(frame)[list(FEATURE_NAMES)].assign(churn_probability=_probability(frame, chance))


def _probability(frame: dict[str, Any], chance: np.random.Generator) -> Any:
    """What a model might say: idle users go, busy ones stay."""
    noise = chance.normal(0, 0.2, len(frame["days_since_signup"]))
    return 1 / (
        1 + np.exp(-(0.06 * frame["days_since_last_activity"] - 0.8 * np.log1p(frame["orders_90d"]) - 0.7 + noise))
    )


def logged(rows: pd.DataFrame, *, version: str = "3") -> pd.DataFrame:
    """The rows as the prediction log gives them: one user each, all answered by `version` within [START, END)."""
    step = (END - START) / max(1, len(rows))
    facts = {
        "request_id": [f"r{place}" for place in range(len(rows))],
        "predicted_at": pd.to_datetime([START + place * step for place in range(len(rows))], utc=True),
        "source": "id",
        "user_id": np.arange(len(rows)),
        "status": "ok",
        "model_version": version,
        "latency_ms": 2.5,
        "features_as_of": pd.Timestamp(START - timedelta(days=1)),
    }
    return rows.reset_index(drop=True).assign(**facts)
