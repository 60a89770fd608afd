"""The public words for why a prediction is what it is: a code per family of features, and what one answer holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from churn.domain.schema import WINDOWS_DAYS


class ReasonCode(StrEnum):
    """A family of features. Programs may branch on the codes: they stay while the feature service keeps its name."""

    RECENCY = "recency"
    RHYTHM = "rhythm"
    TREND = "trend"
    TENURE = "tenure"
    ORDERS = "orders"
    RECENT_ORDERS = "recent_orders"
    SPENDING = "spending"
    RECENT_SPENDING = "recent_spending"
    SESSIONS = "sessions"
    RECENT_SESSIONS = "recent_sessions"
    REFUNDS = "refunds"


def _windowed(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{days}d" for days in WINDOWS_DAYS)


# Every feature belongs to one family.
FAMILIES: dict[ReasonCode, tuple[str, ...]] = {
    ReasonCode.RECENCY: (
        "days_since_last_activity",
        "days_since_last_order",
        "recency_over_mean_gap",
        "recency_over_max_gap",
    ),
    ReasonCode.RHYTHM: ("active_days", "mean_gap_days", "std_gap_days", "max_gap_days"),
    ReasonCode.TREND: ("activity_trend",),
    ReasonCode.TENURE: ("days_since_signup",),
    ReasonCode.ORDERS: ("total_orders", "order_frequency"),
    ReasonCode.RECENT_ORDERS: _windowed("orders"),
    ReasonCode.SPENDING: (
        "total_spent",
        "avg_order_value",
        "spending_velocity",
        "customer_lifetime_value",
        "last_order_amount",
    ),
    ReasonCode.RECENT_SPENDING: _windowed("spent"),
    ReasonCode.SESSIONS: ("total_sessions", "avg_session_duration"),
    ReasonCode.RECENT_SESSIONS: _windowed("sessions"),
    ReasonCode.REFUNDS: ("refund_share",),
}


@dataclass(frozen=True)
class Reason:
    """What one family adds to the log-odds of going silent (below 0: it lowers them), and its values in words."""

    code: ReasonCode
    text: str
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """Why a probability is what it is: `base_margin` and the contributions add up to `margin`, its log-odds.

    Every family has its reason, the one that moves the margin most first.
    """

    base_margin: float
    margin: float
    reasons: tuple[Reason, ...]
