"""The slow, plain twin of `warehouse/`: every feature and label from the words in domain/schema.py, one user at a time.

It is written to be read, not to be fast, and shares nothing with the SQL but the boundary rules of domain/windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TypeVar

from churn.domain.schema import FEATURE_NAMES, WINDOWS_DAYS
from churn.domain.windows import DAY, eligible, in_horizon, known

UserId = int | str
Features = dict[str, float | None]


@dataclass(frozen=True)
class User:
    user_id: UserId
    created_at: datetime


@dataclass(frozen=True)
class Order:
    """A negative amount is a refund; an amount of None is not known."""

    order_id: str
    user_id: UserId
    at: datetime
    amount: Decimal | None = Decimal(10)
    ingested_at: datetime | None = None

    @property
    def is_refund(self) -> bool:
        return self.amount is not None and self.amount < 0

    @property
    def money(self) -> Decimal:
        return self.amount or Decimal(0)


@dataclass(frozen=True)
class Session:
    session_id: str
    user_id: UserId
    at: datetime
    minutes: Decimal | None = Decimal(5)
    ingested_at: datetime | None = None


@dataclass(frozen=True)
class Shop:
    """The three raw tables."""

    users: Sequence[User]
    orders: Sequence[Order] = ()
    sessions: Sequence[Session] = ()


@dataclass(frozen=True)
class Label:
    eligible: bool
    churned: bool


Event = TypeVar("Event", Order, Session)


def features_as_of(shop: Shop, cutoff: datetime) -> dict[UserId, Features]:
    """The features of every user who was known at the cutoff."""
    rows: dict[UserId, Features] = {}
    for user in shop.users:
        orders = [order for order in _of(user, shop.orders) if known(order.at, order.ingested_at, cutoff)]
        sessions = [session for session in _of(user, shop.sessions) if known(session.at, session.ingested_at, cutoff)]
        seen = [event.at for event in (*orders, *sessions)] + [user.created_at] * (user.created_at < cutoff)
        if seen:
            row = _features(min(seen), orders, sessions, cutoff)
            rows[user.user_id] = {name: row[name] for name in FEATURE_NAMES}
    return rows


def labels(shop: Shop, cutoff: datetime, horizon: timedelta) -> dict[UserId, Label]:
    """Whether each user known at the cutoff is eligible, and went silent in the horizon."""
    rows = {}
    for user_id, features in features_as_of(shop, cutoff).items():
        events = [order.at for order in shop.orders if order.user_id == user_id and not order.is_refund]
        events += [session.at for session in shop.sessions if session.user_id == user_id]
        active = any(in_horizon(at, cutoff, horizon) for at in events)
        rows[user_id] = Label(eligible(features["days_since_last_activity"], horizon), not active)
    return rows


def user_segment(features: Features) -> str:
    """The descriptive segment; the first that fits counts."""
    spent, tenure, silence = (
        features[name] for name in ("total_spent", "days_since_signup", "days_since_last_activity")
    )
    assert spent is not None
    assert tenure is not None
    if spent > 1000:
        return "High Value"
    if tenure < 30:
        return "New"
    return "At Risk" if silence is None or silence > 60 else "Regular"


def _of(user: User, events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.user_id == user.user_id]


def _features(
    signup_at: datetime, money: Sequence[Order], sessions: Sequence[Session], cutoff: datetime
) -> dict[str, float | None]:
    orders = [order for order in money if not order.is_refund]
    activity = [event.at for event in (*orders, *sessions)]
    tenure = _days(cutoff - signup_at)
    spent = float(sum(order.money for order in money))
    average = _ratio(spent, len(orders))
    return {
        "days_since_signup": tenure,
        "total_orders": float(len(orders)),
        "total_spent": spent,
        "avg_order_value": average,
        "days_since_last_order": _days(cutoff - max(order.at for order in orders)) if orders else None,
        "total_sessions": float(len(sessions)),
        "avg_session_duration": _mean([session.minutes for session in sessions if session.minutes is not None]),
        "days_since_last_activity": _days(cutoff - max(activity)) if activity else None,
        "order_frequency": len(orders) / max(tenure, 1),
        "spending_velocity": spent / max(tenure, 1),
        "customer_lifetime_value": 0.0 if average is None else average * len(orders) * 1.2,
        **_windows(money, sessions, cutoff),
        **_rhythm(activity, cutoff),
        "last_order_amount": float(max(orders, key=lambda order: (order.at, order.order_id)).money) if orders else None,
        "refund_share": _ratio(len(money) - len(orders), len(money)) or 0.0,
    }


def _windows(money: Sequence[Order], sessions: Sequence[Session], cutoff: datetime) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for days in WINDOWS_DAYS:
        start = cutoff - days * DAY
        recent = [order for order in money if start <= order.at]
        row[f"orders_{days}d"] = float(sum(not order.is_refund for order in recent))
        row[f"spent_{days}d"] = float(sum(order.money for order in recent))
        row[f"sessions_{days}d"] = float(sum(start <= session.at for session in sessions))
    return row


def _rhythm(activity: Sequence[datetime], cutoff: datetime) -> dict[str, float | None]:
    days = sorted({at.date() for at in activity})
    gaps = [(later - earlier).days for earlier, later in pairwise(days)]
    silence = _days(cutoff - max(activity)) if activity else None
    mean_gap = _ratio(sum(gaps), len(gaps))
    longest = max(gaps, default=None)
    return {
        "active_days": float(len(days)),
        "mean_gap_days": mean_gap,
        "std_gap_days": _deviation(gaps),
        "max_gap_days": None if longest is None else float(longest),
        "recency_over_mean_gap": None if silence is None or mean_gap is None else silence / mean_gap,
        "recency_over_max_gap": None if silence is None or longest is None else silence / longest,
        "activity_trend": _trend(days, cutoff),
    }


def _trend(days: Sequence[date], cutoff: datetime) -> float:
    """(a - b) / (a + b); a day lies in a window when its midnight does."""
    midnights = [datetime.combine(day, time(), cutoff.tzinfo) for day in days]
    a = sum(cutoff - 90 * DAY <= midnight < cutoff for midnight in midnights)
    b = sum(cutoff - 180 * DAY <= midnight < cutoff - 90 * DAY for midnight in midnights)
    return (a - b) / (a + b) if a + b else 0.0


def _deviation(gaps: Sequence[int]) -> float | None:
    """Population standard deviation, its integers summed exactly."""
    if not gaps:
        return None
    n = len(gaps)
    return math.sqrt(n * sum(gap * gap for gap in gaps) - sum(gaps) ** 2) / n


def _days(length: timedelta) -> float:
    return length / DAY


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[Decimal]) -> float | None:
    return float(sum(values)) / len(values) if values else None
