"""The words for a prediction's reasons: the public list of codes, and the text of each as a table."""

from __future__ import annotations

import math

import pytest

from churn.core.reason_texts import reason_text
from churn.domain.reasons import FAMILIES, ReasonCode
from churn.domain.schema import FEATURE_NAMES, FEATURES

NULL = math.nan
REGULAR: dict[str, float] = {
    **dict.fromkeys(FEATURE_NAMES, 1.0),
    "days_since_signup": 400.2,
    "total_orders": 7.0,
    "total_spent": 350.0,
    "avg_order_value": 50.0,
    "days_since_last_order": 41.4,
    "days_since_last_activity": 41.4,
    "total_sessions": 23.0,
    "avg_session_duration": 4.5,
    "orders_30d": 0.0,
    "orders_365d": 5.0,
    "spent_30d": 0.0,
    "spent_365d": 210.0,
    "sessions_30d": 1.0,
    "sessions_365d": 9.0,
    "active_days": 14.0,
    "mean_gap_days": 12.3,
    "max_gap_days": 30.0,
    "activity_trend": -0.25,
    "last_order_amount": 25.5,
    "refund_share": 0.125,
}
# A user who signed up and did nothing yet: null where the schema says so, else 0.
NEW = {feature.name: NULL if feature.nullable else 0.0 for feature in FEATURES}


def test_these_are_the_codes() -> None:
    assert [code.value for code in ReasonCode] == [
        "recency",
        "rhythm",
        "trend",
        "tenure",
        "orders",
        "recent_orders",
        "spending",
        "recent_spending",
        "sessions",
        "recent_sessions",
        "refunds",
    ]


def test_every_feature_belongs_to_one_code() -> None:
    assert list(FAMILIES) == list(ReasonCode)
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(FEATURE_NAMES)


@pytest.mark.parametrize(
    ("code", "changes", "text"),
    [
        ("recency", {}, "no order for 41 days; usual gap 12"),
        ("recency", {"days_since_last_activity": 3.0}, "no order for 41 days, no session for 3 days; usual gap 12"),
        ("recency", {"mean_gap_days": NULL}, "no order for 41 days; too new for a usual gap"),
        (
            "recency",
            {"days_since_last_order": NULL, "days_since_last_activity": 1.0},
            "has never ordered, no session for 1 day; usual gap 12",
        ),
        ("rhythm", {}, "active on 14 days; usual gap 12, longest 30"),
        ("rhythm", {"active_days": 1.0, "mean_gap_days": NULL, "max_gap_days": NULL}, "active on 1 day, so no gap"),
        ("trend", {}, "activity falling, last 90 days against the 90 before (-0.25)"),
        ("trend", {"activity_trend": 1.0}, "activity rising, last 90 days against the 90 before (+1.00)"),
        ("trend", {"activity_trend": 0.0}, "activity steady, last 90 days against the 90 before"),
        ("tenure", {}, "signed up 400 days ago"),
        ("tenure", {"days_since_signup": 1.2}, "signed up 1 day ago"),
        ("orders", {}, "7 orders in 400 days"),
        ("recent_orders", {}, "0 orders in 30 days, 5 in 365"),
        ("spending", {}, "spent 350.00 in all, 50.00 an order, 25.50 on the last"),
        ("spending", {"total_spent": -20.0}, "spent -20.00 in all, 50.00 an order, 25.50 on the last"),
        ("recent_spending", {}, "spent 0.00 in 30 days, 210.00 in 365"),
        ("sessions", {}, "23 sessions of 4.5 minutes on average"),
        ("sessions", {"avg_session_duration": NULL, "total_sessions": 1.0}, "1 session of unknown length"),
        ("recent_sessions", {}, "1 session in 30 days, 9 in 365"),
        ("refunds", {}, "12% of orders and refunds are refunds"),
        ("refunds", {"refund_share": 0.0}, "no refunds"),
    ],
)
def test_a_users_values_in_words(code: str, changes: dict[str, float], text: str) -> None:
    assert reason_text(ReasonCode(code), {**REGULAR, **changes}) == text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("recency", "has never been active"),
        ("rhythm", "active on 0 days, so no gap"),
        ("trend", "activity steady, last 90 days against the 90 before"),
        ("tenure", "signed up 0 days ago"),
        ("orders", "has never ordered"),
        ("recent_orders", "0 orders in 30 days, 0 in 365"),
        ("spending", "has never ordered, so never spent"),
        ("recent_spending", "spent 0.00 in 30 days, 0.00 in 365"),
        ("sessions", "has had no session"),
        ("recent_sessions", "0 sessions in 30 days, 0 in 365"),
        ("refunds", "no refunds"),
    ],
)
def test_what_is_null_is_told_as_what_it_means(code: str, text: str) -> None:
    assert reason_text(ReasonCode(code), NEW) == text
