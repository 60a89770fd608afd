"""THE list of features, and the columns of the raw tables. dbt, Feast, training and serving follow this list;
`tests/house/test_one_list_of_features.py` fails when one of them differs.

To add a feature: add it here, in `warehouse/models/marts/user_analytics.sql` and `.yml`, and in the twin
(`tests/twin.py`); then raise the version in `FEATURE_SERVICE`, because a model depends on the service by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PROJECT = "churn"
FEATURE_SERVICE = "churn_v1"
FEATURE_VIEW = "user_analytics"
ENTITY = "user"
JOIN_KEY = "user_id"
TIMESTAMP = "event_timestamp"
WINDOWS_DAYS = (7, 30, 90, 180, 365)


@dataclass(frozen=True)
class Feature:
    """One feature: a float64, null only where `null_means` says why; outside [low, high] it is invalid.

    `risk`: +1 when a larger value never makes silence less likely, -1 when never more likely, 0 when it may do either.
    """

    name: str
    meaning: str
    low: float | None = None
    high: float | None = None
    null_means: str = ""
    risk: Literal[-1, 0, 1] = 0

    @property
    def nullable(self) -> bool:
        return bool(self.null_means)


def _counts(prefix: str, what: str) -> tuple[Feature, ...]:
    return tuple(
        Feature(f"{prefix}_{days}d", f"{what} in the {days} days before the cutoff", low=0, risk=-1)
        for days in WINDOWS_DAYS
    )


NEVER_ORDERED = "the user has never ordered"
NEVER_ACTIVE = "the user has had neither order nor session"
ONE_DAY = "fewer than two active days, so no gap"

FEATURES: tuple[Feature, ...] = (
    Feature("days_since_signup", "days from the earlier of created_at and the first event to the cutoff", low=0),
    Feature("total_orders", "orders that are no refunds", low=0, risk=-1),
    Feature("total_spent", "sum of order amounts, refunds subtracted"),
    Feature("avg_order_value", "total_spent / total_orders", null_means=NEVER_ORDERED),
    Feature("days_since_last_order", "days from the last order to the cutoff", low=0, null_means=NEVER_ORDERED, risk=1),
    Feature("total_sessions", "sessions", low=0, risk=-1),
    Feature(
        "avg_session_duration",
        "mean session duration in minutes",
        low=0,
        null_means="no session with a known duration",
    ),
    Feature(
        "days_since_last_activity",
        "days from the last order or session to the cutoff",
        low=0,
        null_means=NEVER_ACTIVE,
        risk=1,
    ),
    Feature(
        "order_frequency", "total_orders / days_since_signup, a tenure below one day counted as one", low=0, risk=-1
    ),
    Feature("spending_velocity", "total_spent / days_since_signup, a tenure below one day counted as one"),
    Feature("customer_lifetime_value", "avg_order_value * total_orders * 1.2; 0 when never ordered"),
    *_counts("orders", "orders"),
    *(
        Feature(f"spent_{days}d", f"sum of order amounts, refunds subtracted, in the {days} days before the cutoff")
        for days in WINDOWS_DAYS
    ),
    *_counts("sessions", "sessions"),
    Feature("active_days", "distinct UTC days with an order or a session", low=0, risk=-1),
    Feature("mean_gap_days", "mean days between consecutive active days", low=1, null_means=ONE_DAY),
    Feature("std_gap_days", "population standard deviation of those gaps", low=0, null_means=ONE_DAY),
    Feature("max_gap_days", "longest of those gaps", low=1, null_means=ONE_DAY),
    Feature("recency_over_mean_gap", "days_since_last_activity / mean_gap_days", low=0, null_means=ONE_DAY, risk=1),
    Feature("recency_over_max_gap", "days_since_last_activity / max_gap_days", low=0, null_means=ONE_DAY, risk=1),
    Feature(
        "activity_trend",
        "(a - b) / (a + b) with a, b = active days in the last 90 days and in the 90 before; 0 when both are 0",
        low=-1,
        high=1,
        risk=-1,
    ),
    Feature("last_order_amount", "amount of the last order", low=0, null_means=NEVER_ORDERED),
    Feature("refund_share", "refunds / (orders + refunds); 0 when there are none", low=0, high=1),
)
FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
SEED_FEATURES: tuple[str, ...] = FEATURE_NAMES[:11]

USER_SEGMENTS = ("High Value", "New", "At Risk", "Regular")

RAW_COLUMNS: dict[str, tuple[str, ...]] = {
    "users": ("user_id", "email", "created_at", "updated_at", "last_login_at", "subscription_tier"),
    "orders": ("order_id", "user_id", "order_amount", "order_date", "ingested_at"),
    "user_sessions": ("session_id", "user_id", "session_start", "session_duration_minutes", "ingested_at"),
}
RAW_KEYS: dict[str, str] = {"users": "user_id", "orders": "order_id", "user_sessions": "session_id"}
RAW_EVENT_TIMES: dict[str, str] = {"orders": "order_date", "user_sessions": "session_start"}
