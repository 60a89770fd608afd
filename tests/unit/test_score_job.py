"""score: the table of a batch, and that its numbers are those of the one scoring function."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from churn.core.scoring import ServedModel, score
from churn.core.value import ContactPlan, Economics
from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY
from churn.errors import NotReady
from churn.jobs.score import BATCH, Scored, score_users
from tests.exports import at, feature_frame
from tests.memory import BuiltShop
from tests.models import served_model

CUTOFF = at("2011-10-10")
USERS = 40


def shop(count: int = USERS, **changes: object) -> BuiltShop:
    return BuiltShop(feature_frame(range(1, count + 1), CUTOFF, **changes))


def scored(built: BuiltShop, model: ServedModel | None = None) -> Scored:
    return score_users(built, model or served_model(), CUTOFF, lambda done, total: None)


def changed(built: BuiltShop, user: UserId, **values: float) -> BuiltShop:
    """The same shop with other features of one user."""
    frame = built.frame.copy()
    for name, value in values.items():
        frame.loc[frame[JOIN_KEY] == user, name] = value
    return BuiltShop(frame)


def test_the_table_has_these_columns_and_types() -> None:
    table = scored(shop()).table
    assert {name: str(kind) for name, kind in table.dtypes.items()} == {
        "user_id": "int64",
        "churn_probability": "float64",
        "risk_segment": "object",
        "customer_lifetime_value": "float64",
        "expected_value_at_risk": "float64",
        "model_version": "object",
        "cutoff": "datetime64[us, UTC]",
        "contact": "bool",
        "expected_contact_value": "float64",
    }
    assert len(table) == USERS
    assert set(table["model_version"]) == {"1"}
    assert set(table["cutoff"]) == {pd.Timestamp("2011-10-10", tz="UTC")}


def test_each_number_is_that_of_the_one_scoring_function_asked_for_this_user_alone() -> None:
    built, model = shop(), served_model()
    table = scored(built, model).table.set_index("user_id")
    for user, *vector in built.offline_rows(CUTOFF)[[JOIN_KEY, *FEATURE_NAMES]].itertuples(index=False):
        row = FeatureRow(user, CUTOFF, tuple(vector))
        (alone,) = score(model, [user], [row], now=CUTOFF, max_age=timedelta(days=1))
        assert table.loc[user, "churn_probability"] == alone.probability


def test_the_value_at_risk_is_probability_times_lifetime_value_and_never_negative() -> None:
    table = scored(changed(shop(), 3, customer_lifetime_value=-500.0)).table.set_index("user_id")
    kept = table.drop(index=3)
    assert kept["expected_value_at_risk"].to_numpy() == pytest.approx(
        (kept["churn_probability"] * kept["customer_lifetime_value"]).to_numpy()
    )
    # A net refund is no value that could be lost; the lifetime value itself is told as it is.
    assert table.loc[3, "expected_value_at_risk"] == 0.0
    assert table.loc[3, "customer_lifetime_value"] == -500.0


def test_the_highest_value_at_risk_stands_first_and_ties_stand_by_user() -> None:
    table = scored(shop(customer_lifetime_value=[0.0] * 20 + [float(value) for value in range(20)])).table
    assert (np.diff(table["expected_value_at_risk"]) <= 0).all()
    worthless = table.loc[table["expected_value_at_risk"] == 0.0, "user_id"].tolist()
    assert worthless == [*range(1, 21), 21]


def share_of_signup(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, 0]


def planned(threshold: float, economics: Economics, *probabilities: float, **changes: object) -> Scored:
    """Scores of users with these probabilities, under a version's plan of contacts."""
    plan = ContactPlan(economics, threshold, 0.0, 0.0)
    model = ServedModel("1", "", "churn_v1", FEATURE_NAMES, 60, share_of_signup, plan)
    return scored(shop(len(probabilities), days_since_signup=list(probabilities), **changes), model)


def contacted_users(done: Scored) -> list[int]:
    return sorted(done.table.loc[done.table["contact"], "user_id"])


def test_users_from_the_versions_own_threshold_on_are_to_be_contacted() -> None:
    done = planned(0.4, Economics(cost=2.0, margin=10.0), 0.1, 0.4, 0.9, 0.39)
    assert contacted_users(done) == [2, 3]
    value = done.table.set_index("user_id")["expected_contact_value"].sort_index()
    assert value.tolist() == pytest.approx([-1.0, 2.0, 7.0, 1.9])
    assert done.contacts == 2
    assert done.expected_value == pytest.approx(9.0)


def test_the_budget_goes_to_the_highest_probabilities_and_among_equals_to_the_highest_value_at_risk() -> None:
    money = Economics(cost=2.0, margin=10.0, budget=4.0)
    done = planned(0.4, money, 0.5, 0.5, 0.9, 0.5, customer_lifetime_value=[10.0, 30.0, 1.0, 20.0])
    assert contacted_users(done) == [2, 3]
    assert done.contacts == 2


def test_a_model_without_a_plan_contacts_nobody() -> None:
    model = ServedModel("1", "", "churn_v1", FEATURE_NAMES, 60, lambda vectors: np.ones(len(vectors)))
    done = scored(shop(3), model)
    assert (done.contacts, done.expected_value) == (0, 0.0)


def test_risk_segments_follow_the_probabilities() -> None:
    model = ServedModel("1", "", "churn_v1", FEATURE_NAMES, 60, share_of_signup)
    table = scored(shop(4, days_since_signup=[0.1, 0.3, 0.7, 0.69]), model).table.set_index("user_id")
    assert table["risk_segment"].sort_index().tolist() == ["Low", "Medium", "High", "Medium"]


def test_users_who_are_not_scored_are_counted_by_reason_and_not_listed() -> None:
    built = changed(shop(), 1, days_since_last_activity=60.5)
    built = changed(built, 2, days_since_last_activity=np.nan)
    built = changed(built, 3, total_orders=np.nan)
    done = scored(built)
    assert done.not_scored == {"not_eligible": 2, "invalid_features": 1}
    assert sorted(done.table["user_id"]) == list(range(4, USERS + 1))


def test_everybody_eligible_leaves_nothing_to_count() -> None:
    assert scored(shop()).not_scored == {}


def test_features_at_the_cutoff_are_never_stale_however_long_ago_that_is() -> None:
    old = datetime(1997, 1, 1, tzinfo=UTC)
    built = BuiltShop(feature_frame([1, 2], old))
    assert len(score_users(built, served_model(), old, lambda done, total: None).table) == 2


def test_string_ids_stay_strings() -> None:
    built = BuiltShop(feature_frame(["7b1e-1", "0042"], CUTOFF))
    assert sorted(scored(built).table["user_id"]) == ["0042", "7b1e-1"]


def test_more_users_than_one_batch_give_one_table_and_progress_up_to_their_number() -> None:
    count = BATCH + 3
    # The last batch has nobody to score: it must not change the table's types.
    idle = [1.0] * BATCH + [90.0] * 3
    model = ServedModel("1", "", "churn_v1", FEATURE_NAMES, 60, lambda vectors: np.full(len(vectors), 0.5))
    told: list[tuple[int, int]] = []
    done = score_users(
        shop(count, days_since_last_activity=idle), model, CUTOFF, lambda part, whole: told.append((part, whole))
    )
    assert len(done.table) == BATCH
    assert done.not_scored == {"not_eligible": 3}
    assert told == [(BATCH, count), (count, count)]
    assert str(done.table.dtypes["user_id"]) == "int64"


def test_where_nobody_is_eligible_there_is_no_table() -> None:
    with pytest.raises(NotReady, match="nobody is eligible at 2011-10-10"):
        scored(shop(3, days_since_last_activity=61.0))


def test_a_cutoff_that_was_not_built_is_not_ready() -> None:
    with pytest.raises(NotReady, match="no features at 2012-01-01"):
        score_users(shop(), served_model(), at("2012-01-01"), lambda done, total: None)


# -- reasons ---------------------------------------------------------------------------------------------------------


def explained(built: BuiltShop, model: ServedModel | None = None) -> pd.DataFrame:
    return score_users(built, model or served_model(), CUTOFF, lambda done, total: None, explain=True).table


def test_reasons_add_columns_and_change_none() -> None:
    table, plain = explained(shop()), scored(shop()).table
    pd.testing.assert_frame_equal(table[list(plain.columns)], plain)
    assert [name for name in table.columns if name not in plain.columns] == [
        "reason_1",
        "reason_2",
        "reason_3",
        "base_margin",
        "contribution_recency",
        "contribution_rhythm",
        "contribution_trend",
        "contribution_tenure",
        "contribution_orders",
        "contribution_recent_orders",
        "contribution_spending",
        "contribution_recent_spending",
        "contribution_sessions",
        "contribution_recent_sessions",
        "contribution_refunds",
    ]


def test_contributions_of_a_batch_add_up_to_the_log_odds_of_each_probability() -> None:
    table = explained(shop())
    probability = table["churn_probability"].to_numpy()
    sums = table["base_margin"] + table.filter(like="contribution_").sum(axis=1)
    assert np.abs(sums.to_numpy() - np.log(probability / (1 - probability))).max() <= 1e-9


def test_the_first_reason_is_the_weightiest_and_tells_the_users_own_values() -> None:
    silent = {"days_since_last_order": 41.0, "days_since_last_activity": 41.0, "mean_gap_days": 12.0}
    table = explained(changed(shop(), 3, **silent)).set_index("user_id")
    assert table.loc[3, "reason_1"] == "no order for 41 days; usual gap 12"
    sizes = table.loc[3].filter(like="contribution_").abs()
    assert sizes.astype(float).idxmax() == "contribution_recency"


def test_reasons_do_not_depend_on_how_users_are_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explained(shop())
    monkeypatch.setattr("churn.jobs.score.EXPLAINED_BATCH", 7)
    pd.testing.assert_frame_equal(explained(shop()), whole, rtol=0, atol=1e-12)


def test_a_model_that_cannot_be_explained_is_told_before_anything_is_scored() -> None:
    model = ServedModel("9", "", "churn_v1", FEATURE_NAMES, 60, lambda vectors: np.full(len(vectors), 0.5))
    with pytest.raises(NotReady, match="version 9"):
        explained(shop(), model)
