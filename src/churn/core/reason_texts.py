"""A family's feature values in words: the same values give the same words, in every release of a feature service."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from churn.domain.reasons import ReasonCode

Values = Mapping[str, float]
_HALVES = "last 90 days against the 90 before"


def reason_text(code: ReasonCode, values: Values) -> str:
    """The text of one family for a user's features by name, nan = null."""
    return _TEXTS[code](values)


def _recency(values: Values) -> str:
    order, activity = values["days_since_last_order"], values["days_since_last_activity"]
    if math.isnan(activity):
        return "has never been active"
    if math.isnan(order):
        return f"has never ordered, no session for {_days(activity)}{_usual_gap(values)}"
    if activity < order:
        return f"no order for {_days(order)}, no session for {_days(activity)}{_usual_gap(values)}"
    return f"no order for {_days(order)}{_usual_gap(values)}"


def _usual_gap(values: Values) -> str:
    gap = values["mean_gap_days"]
    return "; too new for a usual gap" if math.isnan(gap) else f"; usual gap {gap:.0f}"


def _rhythm(values: Values) -> str:
    active = f"active on {_days(values['active_days'])}"
    if math.isnan(values["mean_gap_days"]):
        return f"{active}, so no gap"
    return f"{active}; usual gap {values['mean_gap_days']:.0f}, longest {values['max_gap_days']:.0f}"


def _trend(values: Values) -> str:
    trend = values["activity_trend"]
    if trend == 0:
        return f"activity steady, {_HALVES}"
    return f"activity {'rising' if trend > 0 else 'falling'}, {_HALVES} ({trend:+.2f})"


def _tenure(values: Values) -> str:
    return f"signed up {_days(values['days_since_signup'])} ago"


def _orders(values: Values) -> str:
    if values["total_orders"] == 0:
        return "has never ordered"
    return f"{_counted(values['total_orders'], 'order')} in {_days(values['days_since_signup'])}"


def _recent_orders(values: Values) -> str:
    return f"{_counted(values['orders_30d'], 'order')} in 30 days, {values['orders_365d']:.0f} in 365"


def _spending(values: Values) -> str:
    if math.isnan(values["avg_order_value"]):
        return "has never ordered, so never spent"
    each, last = values["avg_order_value"], values["last_order_amount"]
    return f"spent {values['total_spent']:.2f} in all, {each:.2f} an order, {last:.2f} on the last"


def _recent_spending(values: Values) -> str:
    return f"spent {values['spent_30d']:.2f} in 30 days, {values['spent_365d']:.2f} in 365"


def _sessions(values: Values) -> str:
    if values["total_sessions"] == 0:
        return "has had no session"
    length = values["avg_session_duration"]
    told = "of unknown length" if math.isnan(length) else f"of {length:.1f} minutes on average"
    return f"{_counted(values['total_sessions'], 'session')} {told}"


def _recent_sessions(values: Values) -> str:
    return f"{_counted(values['sessions_30d'], 'session')} in 30 days, {values['sessions_365d']:.0f} in 365"


def _refunds(values: Values) -> str:
    share = values["refund_share"]
    return "no refunds" if share == 0 else f"{share:.0%} of orders and refunds are refunds"


def _days(value: float) -> str:
    return _counted(value, "day")


def _counted(value: float, noun: str) -> str:
    number = f"{value:.0f}"
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


_TEXTS: dict[ReasonCode, Callable[[Values], str]] = {
    ReasonCode.RECENCY: _recency,
    ReasonCode.RHYTHM: _rhythm,
    ReasonCode.TREND: _trend,
    ReasonCode.TENURE: _tenure,
    ReasonCode.ORDERS: _orders,
    ReasonCode.RECENT_ORDERS: _recent_orders,
    ReasonCode.SPENDING: _spending,
    ReasonCode.RECENT_SPENDING: _recent_spending,
    ReasonCode.SESSIONS: _sessions,
    ReasonCode.RECENT_SESSIONS: _recent_sessions,
    ReasonCode.REFUNDS: _refunds,
}
