"""What the service and the batch say of a user: risk segments and statuses, as tables."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn.core.scoring import ServedModel, Vectors, score, score_vectors
from churn.domain.predictions import FeatureRow, Prediction, Status, risk_segment
from churn.domain.schema import FEATURE_NAMES

NOW = datetime(2011, 10, 10, tzinfo=UTC)
MAX_AGE = timedelta(days=31)
NULL = math.nan

# A regular buyer, 3 days idle: valid, fresh and eligible in every respect.
REGULAR: dict[str, float] = {
    **dict.fromkeys(FEATURE_NAMES, 1.0),
    "days_since_signup": 400.0,
    "days_since_last_activity": 3.0,
    "activity_trend": 0.25,
    "refund_share": 0.0,
}


def answer_half_the_idle_share(vectors: Vectors) -> Vectors:
    """A stand-in for a model: 3 days idle of 60 -> 0.025."""
    return vectors[:, FEATURE_NAMES.index("days_since_last_activity")] / 60 / 2


MODEL = ServedModel("7", "d" * 64, "churn_v1", FEATURE_NAMES, 60, answer_half_the_idle_share)


def vector(**changes: float) -> tuple[float, ...]:
    return tuple({**REGULAR, **changes}.values())


def row(user_id: int | str = 1, as_of: datetime = NOW, **changes: float) -> FeatureRow:
    return FeatureRow(user_id, as_of, vector(**changes))


def answer(found: FeatureRow | None) -> Prediction:
    return score(MODEL, [1], [found], now=NOW, max_age=MAX_AGE)[0]


# -- risk segments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "segment"),
    [
        (0.0, "Low"),
        (0.2999999999, "Low"),
        (0.3, "Medium"),
        (0.5, "Medium"),
        (0.6999999999, "Medium"),
        (0.7, "High"),
        (1.0, "High"),
    ],
)
def test_the_lower_bound_of_a_risk_segment_belongs_to_it(probability: float, segment: str) -> None:
    assert risk_segment(probability) == segment


@given(one=st.floats(0, 1), other=st.floats(0, 1))
def test_a_higher_probability_is_never_in_a_lower_segment(one: float, other: float) -> None:
    order = ["Low", "Medium", "High"]
    lower, higher = sorted([one, other])
    assert order.index(risk_segment(lower)) <= order.index(risk_segment(higher))


# -- statuses --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F7", "F8", "F9")
@pytest.mark.parametrize(
    ("found", "status", "reason"),
    [
        (row(), Status.OK, ""),
        (None, Status.NOT_FOUND, "no features for this user"),
        # Eligible: active within the horizon's length before the cutoff; never active is not.
        (row(days_since_last_activity=60.0), Status.OK, ""),
        (row(days_since_last_activity=60.001), Status.NOT_ELIGIBLE, "not active in the last 60 days"),
        (row(days_since_last_activity=NULL), Status.NOT_ELIGIBLE, "not active in the last 60 days"),
        # Stale: older than the limit; as old as the limit is not.
        (row(as_of=NOW - MAX_AGE), Status.OK, ""),
        (row(as_of=NOW - MAX_AGE - timedelta(seconds=1)), Status.STALE, "features are as of 2011-09-08"),
        # Invalid: infinite, null without leave, out of range.
        (row(total_orders=NULL), Status.INVALID_FEATURES, "invalid: total_orders"),
        (row(total_spent=math.inf), Status.INVALID_FEATURES, "invalid: total_spent"),
        (row(total_spent=-math.inf), Status.INVALID_FEATURES, "invalid: total_spent"),
        (row(total_spent=3.5e38), Status.INVALID_FEATURES, "invalid: total_spent"),  # beyond float32, as trees see it
        (row(orders_7d=-1.0), Status.INVALID_FEATURES, "invalid: orders_7d"),
        (row(refund_share=1.0001), Status.INVALID_FEATURES, "invalid: refund_share"),
        (row(activity_trend=-1.01, max_gap_days=0.5), Status.INVALID_FEATURES, "invalid: max_gap_days, activity_trend"),
        # Valid: null with leave, negative money, both ends of a closed range.
        (row(mean_gap_days=NULL, last_order_amount=NULL, avg_order_value=NULL), Status.OK, ""),
        (row(total_spent=-77183.6, spent_365d=-77183.6, customer_lifetime_value=-92620.32), Status.OK, ""),
        (row(refund_share=1.0, activity_trend=-1.0), Status.OK, ""),
        # The first thing wrong is told: invalid before stale before not eligible.
        (row(as_of=NOW - 2 * MAX_AGE, total_orders=NULL), Status.INVALID_FEATURES, "invalid: total_orders"),
        (row(as_of=NOW - 2 * MAX_AGE, days_since_last_activity=90.0), Status.STALE, "features are as of 2011-08-09"),
    ],
)
def test_a_user_gets_a_status_with_its_reason(found: FeatureRow | None, status: Status, reason: str) -> None:
    told = answer(found)
    assert (told.status, told.reason) == (status, reason)
    assert told.probability == (pytest.approx(0.0, abs=0.5) if status is Status.OK else None)


def test_an_answer_carries_the_user_the_probability_and_what_it_was_made_from() -> None:
    assert answer(row()) == Prediction(1, Status.OK, 0.025, NOW, vector(), "")


def test_a_user_without_a_probability_still_says_as_of_when_and_of_what() -> None:
    told = answer(row(days_since_last_activity=90.0))
    assert (told.probability, told.features_as_of, told.vector) == (None, NOW, vector(days_since_last_activity=90.0))


def test_answers_keep_the_order_and_the_duplicates_of_the_question_and_no_user_fails_another() -> None:
    ids = ["b", "a", "zz", "b"]
    found = [
        row("b", days_since_last_activity=6.0),
        row("a", total_orders=NULL),
        None,
        row("b", days_since_last_activity=6.0),
    ]
    told = score(MODEL, ids, found, now=NOW, max_age=MAX_AGE)
    assert [(each.user_id, each.status.value, each.probability) for each in told] == [
        ("b", "ok", 0.05),
        ("a", "invalid_features", None),
        ("zz", "not_found", None),
        ("b", "ok", 0.05),
    ]


def test_no_question_has_no_answer() -> None:
    assert score(MODEL, [], [], now=NOW, max_age=MAX_AGE) == []
    assert score_vectors(MODEL, np.empty((0, len(FEATURE_NAMES)))) == []


def test_the_model_is_not_asked_when_nobody_can_be_scored() -> None:
    def fails(vectors: Vectors) -> Vectors:
        raise AssertionError("asked")

    model = ServedModel("7", "d" * 64, "churn_v1", FEATURE_NAMES, 60, fails)
    told = score(model, [1, 2], [None, row(total_orders=NULL)], now=NOW, max_age=MAX_AGE)
    assert [each.status for each in told] == [Status.NOT_FOUND, Status.INVALID_FEATURES]


def test_eligibility_follows_the_horizon_of_the_model() -> None:
    monthly = ServedModel("7", "d" * 64, "churn_v1", FEATURE_NAMES, 30, answer_half_the_idle_share)
    (told,) = score(monthly, [1], [row(days_since_last_activity=30.5)], now=NOW, max_age=MAX_AGE)
    assert (told.status, told.reason) == (Status.NOT_ELIGIBLE, "not active in the last 30 days")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"days_since_last_activity": 61.0}, Status.NOT_ELIGIBLE),
        ({"total_orders": NULL}, Status.INVALID_FEATURES),
    ],
)
def test_raw_vectors_are_judged_alike_but_have_no_user_and_no_age(changes: dict[str, float], status: Status) -> None:
    (told,) = score_vectors(MODEL, np.array([vector(**changes)]))
    assert (told.user_id, told.features_as_of, told.status) == (None, None, status)


@pytest.mark.fault("L3")
@pytest.mark.parametrize("probability", [-0.001, 1.001, NULL])
def test_a_model_that_leaves_zero_to_one_gives_no_number(probability: float) -> None:
    broken = ServedModel(
        "7", "d" * 64, "churn_v1", FEATURE_NAMES, 60, lambda vectors: np.full(len(vectors), probability)
    )
    with pytest.raises(AssertionError, match="left"):
        score(broken, [1], [row()], now=NOW, max_age=MAX_AGE)
