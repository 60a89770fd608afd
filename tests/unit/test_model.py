"""The model: how its training rows are divided, and what its probabilities keep to."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from churn.core.forest import forest_predictor
from churn.core.model import (
    CALIBRATIONS,
    RISK_DIRECTIONS,
    Calibration,
    Candidate,
    Fitted,
    ForestParameters,
    choice,
    divide,
    fit,
    probabilities,
)
from churn.core.training_set import Rows, naive
from churn.domain.schema import FEATURE_NAMES, FEATURES
from churn.errors import NotReady
from tests.exports import HORIZON, at, labelled_rows
from tests.models import random_vectors

MONTHS = [at(f"2011-{month:02}-01") for month in range(1, 7)]  # 60 days before June 1 is April 2
FEW_TREES = ForestParameters(n_estimators=8)


@pytest.fixture(scope="module")
def train() -> Rows:
    return labelled_rows(MONTHS, users=150)


@pytest.fixture(scope="module")
def fitted(train: Rows) -> Fitted:
    return fit(train, FEW_TREES, HORIZON)


# -- the division ----------------------------------------------------------------------------------------------------


def test_the_newest_cutoff_calibrates_and_the_forest_grows_on_horizons_that_end_by_then(train: Rows) -> None:
    division = divide(train, HORIZON)
    assert division.how == "newest training cutoff"
    assert set(train.cutoff[division.calibration]) == {naive(at("2011-06-01"))}
    assert set(train.cutoff[division.forest]) == {
        naive(at(day)) for day in ("2011-01-01", "2011-02-01", "2011-03-01", "2011-04-01")
    }


def test_a_forest_horizon_may_end_at_the_calibration_cutoff_and_not_later() -> None:
    rows = labelled_rows([at("2011-04-01"), at("2011-04-02"), at("2011-04-03"), at("2011-06-01")], users=150)
    grown = rows.cutoff[divide(rows, HORIZON).forest]
    assert set(grown) == {naive(at("2011-04-01")), naive(at("2011-04-02"))}


@given(
    days=st.lists(st.integers(0, 200), min_size=1, max_size=6, unique=True),
    horizon=st.integers(1, 120),
    users=st.integers(60, 130),
)
def test_a_row_never_both_grows_the_forest_and_calibrates(days: list[int], horizon: int, users: int) -> None:
    start = at("2011-01-01")
    rows = labelled_rows([start + timedelta(days=day) for day in days], users)
    division = divide(rows, timedelta(days=horizon))
    assert not (division.forest & division.calibration).any()
    assert division.forest.any()
    assert division.calibration.any()
    if division.how == "newest training cutoff":
        last = rows.cutoff[division.forest].max() + np.timedelta64(horizon, "D")
        assert last <= rows.cutoff[division.calibration].min()
    else:
        assert not set(rows.user_id[division.forest]) & set(rows.user_id[division.calibration])
        assert (division.forest | division.calibration).all()


@pytest.mark.parametrize(
    "rows",
    [
        labelled_rows(MONTHS[:1], users=300),
        labelled_rows(MONTHS[:2], users=300),  # 31 days apart: no horizon has ended
        labelled_rows([MONTHS[0], MONTHS[5]], users=99),  # a hundred rows a part are wanted
    ],
    ids=["one cutoff", "cutoffs too close", "too few rows"],
)
def test_without_a_later_cutoff_a_third_of_the_users_calibrates(rows: Rows) -> None:
    division = divide(rows, HORIZON)
    assert division.how == "held-out users"
    grow, calibrate = set(rows.user_id[division.forest]), set(rows.user_id[division.calibration])
    assert not grow & calibrate
    assert len(grow) + len(calibrate) == len(set(rows.user_id))
    assert len(calibrate) / len(grow | calibrate) == pytest.approx(1 / 3, abs=0.1)


def test_the_newest_cutoff_does_not_calibrate_where_nearly_nobody_churned_there() -> None:
    rows = labelled_rows([MONTHS[0], MONTHS[5]], users=200)
    newest = rows.cutoff == naive(MONTHS[5])
    rare = replace(rows, y=np.where(newest, np.arange(len(rows)) % 25 == 0, rows.y))  # 8 of 200
    assert divide(rare, HORIZON).how == "held-out users"


@pytest.mark.parametrize("make_id", [int, lambda number: f"user-{number}"], ids=["integer ids", "string ids"])
def test_the_held_out_users_are_the_same_whoever_else_is_there(make_id: type) -> None:
    rows = labelled_rows(MONTHS[:1], users=300)
    rows = replace(rows, user_id=np.array([make_id(user) for user in rows.user_id], dtype=object))
    half = rows.where(np.arange(300) % 2 == 0)
    everywhere = set(rows.user_id[divide(rows, HORIZON).calibration])
    assert set(half.user_id[divide(half, HORIZON).calibration]) == everywhere & set(half.user_id)


def test_which_users_are_held_out_never_changes_between_releases() -> None:
    rows = labelled_rows(MONTHS[:1], users=12)
    assert rows.user_id[divide(rows, HORIZON).calibration].tolist() == [3, 4, 8, 9, 10, 11]


# -- the fit ---------------------------------------------------------------------------------------------------------


def test_a_fit_says_on_how_many_rows_and_how_it_was_calibrated(fitted: Fitted) -> None:
    assert (fitted.forest_rows, fitted.calibration_rows) == (600, 150)
    assert fitted.calibrated_on == "newest training cutoff"


def test_the_parameters_arrive_at_the_forest(train: Rows) -> None:
    asked = ForestParameters(
        n_estimators=3, max_depth=2, min_samples_split=7, min_samples_leaf=11, random_state=5, shape="sharp"
    )
    (member,) = fit(train, asked, HORIZON).estimator.calibrated_classifiers_
    forest = member.estimator.estimator
    assert isinstance(forest, RandomForestClassifier)
    found = {name: getattr(forest, name) for name in asked.as_dict() if name not in ("calibration", "shape")}
    assert found == {
        "n_estimators": 3,
        "max_depth": 2,
        "min_samples_split": 7,
        "min_samples_leaf": 11,
        "random_state": 5,
    }
    assert (forest.max_features, forest.monotonic_cst) == (0.4, list(RISK_DIRECTIONS))


def test_the_seeds_parameters_are_the_defaults() -> None:
    defaults = ForestParameters()
    assert (defaults.n_estimators, defaults.max_depth, defaults.min_samples_split) == (200, 10, 5)
    assert defaults.random_state == 42


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_probabilities_lie_between_zero_and_one_and_follow_the_signal(train: Rows, calibration: Calibration) -> None:
    estimator = fit(train, replace(FEW_TREES, n_estimators=40, calibration=calibration), HORIZON).estimator
    later = labelled_rows([at("2011-09-01")], users=400, seed=50)
    answer = probabilities(estimator, later.X)
    assert answer.shape == (400,)
    assert ((answer >= 0) & (answer <= 1)).all()
    assert roc_auc_score(later.y, answer) > 0.75
    assert answer.mean() == pytest.approx(later.y.mean(), abs=0.1)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_the_fast_path_gives_the_numbers_of_scikit_learn(train: Rows, calibration: Calibration) -> None:
    estimator = fit(train, replace(FEW_TREES, calibration=calibration), HORIZON).estimator
    vectors = random_vectors(200, seed=9)
    assert np.abs(forest_predictor(estimator)(vectors) - probabilities(estimator, vectors)).max() <= 1e-9


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_model(train: Rows, fitted: Fitted) -> None:
    vectors = random_vectors(200, seed=9)
    wanted = probabilities(fitted.estimator, vectors)
    again = fit(train, FEW_TREES, HORIZON)
    other = fit(train, replace(FEW_TREES, random_state=43), HORIZON)
    assert probabilities(again.estimator, vectors).tobytes() == wanted.tobytes()
    assert not np.array_equal(probabilities(other.estimator, vectors), wanted)


def test_null_is_accepted_in_training_and_in_answering_even_where_training_had_none(
    train: Rows, fitted: Fitted
) -> None:
    assert np.isnan(train.X).any()
    all_null = np.full((1, len(FEATURE_NAMES)), np.nan)
    complete = fit(replace(train, X=np.nan_to_num(train.X, nan=1.0)), FEW_TREES, HORIZON)
    for model in (fitted, complete):
        assert 0 <= probabilities(model.estimator, all_null)[0] <= 1


def test_calibration_rows_do_not_touch_a_forest_whose_shape_is_given(train: Rows) -> None:
    smooth = replace(FEW_TREES, shape="smooth")
    division = divide(train, HORIZON)
    X = train.X.copy()
    X[~division.forest] = 0.0
    forest, other = (
        model.estimator.calibrated_classifiers_[0].estimator.estimator
        for model in (fit(train, smooth, HORIZON), fit(replace(train, X=X), smooth, HORIZON))
    )
    vectors = random_vectors(200, seed=9)
    assert np.array_equal(forest.predict_proba(vectors), other.predict_proba(vectors))


@pytest.mark.parametrize("churners", [1, 2, 8])
def test_too_few_users_of_one_outcome_are_refused_before_anything_is_fitted(churners: int) -> None:
    rows = labelled_rows(MONTHS[:1], users=60)
    rare = replace(rows, y=(np.arange(60) < churners).astype(np.int64))
    with pytest.raises(NotReady, match=r"users of the rarer outcome among .* rows, fewer than 5"):
        fit(rare, FEW_TREES, HORIZON)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("days_since_last_activity", 1),
        ("days_since_last_order", 1),
        ("recency_over_mean_gap", 1),
        ("active_days", -1),
        ("orders_30d", -1),
        ("sessions_7d", -1),
    ],
)
def test_a_longer_silence_never_lowers_the_probability_and_one_more_visit_never_raises_it(
    fitted: Fitted, name: str, direction: int
) -> None:
    vectors = random_vectors(200, seed=5)
    more = vectors.copy()
    more[:, FEATURE_NAMES.index(name)] += 10.0
    change = direction * (probabilities(fitted.estimator, more) - probabilities(fitted.estimator, vectors))
    assert (np.nan_to_num(change) >= -1e-12).all()
    assert {feature.name: feature.risk for feature in FEATURES}[name] == direction


def test_money_tenure_and_gaps_may_raise_or_lower_the_probability() -> None:
    free = {feature.name for feature in FEATURES if feature.risk == 0}
    assert free == {
        "days_since_signup",
        "total_spent",
        "avg_order_value",
        "avg_session_duration",
        "spending_velocity",
        "customer_lifetime_value",
        "spent_7d",
        "spent_30d",
        "spent_90d",
        "spent_180d",
        "spent_365d",
        "mean_gap_days",
        "std_gap_days",
        "max_gap_days",
        "last_order_amount",
        "refund_share",
    }


# -- the search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sharp", "free", "chosen"),
    [
        ((-0.004, 0.005), (-0.003, 0.004), "smooth"),  # ahead, but by less than a standard error
        ((-0.004, 0.003), (-0.009, 0.010), "sharp"),  # the other is further ahead, but not beyond its error
        ((-0.004, 0.003), (-0.005, 0.003), "free"),
        ((0.004, 0.001), (0.002, 0.001), "smooth"),
    ],
)
def test_the_first_shape_stays_unless_another_is_ahead_by_more_than_a_standard_error(
    sharp: tuple[float, float], free: tuple[float, float], chosen: str
) -> None:
    tried = (
        Candidate("smooth", 0.5, 0.0, 0.0),
        Candidate("sharp", 0.5 + sharp[0], *sharp),
        Candidate("free", 0.5 + free[0], *free),
    )
    assert choice(tried) == chosen


def test_a_world_against_the_directions_of_risk_is_learned_by_a_free_forest(train: Rows) -> None:
    turned = replace(train, y=1 - train.y)
    found = fit(turned, replace(FEW_TREES, n_estimators=20), HORIZON)
    assert found.parameters.shape == "free"
    assert [each.shape for each in found.search] == ["smooth", "sharp", "free"]
    assert found.search[0].less == 0.0 > found.search[2].less


def test_the_search_is_repeatable_and_a_given_shape_is_not_searched_for(train: Rows, fitted: Fitted) -> None:
    assert fit(train, FEW_TREES, HORIZON).search == fitted.search
    again = fit(train, fitted.parameters, HORIZON)
    assert again.search == ()
    vectors = random_vectors(50, seed=4)
    assert np.array_equal(probabilities(again.estimator, vectors), probabilities(fitted.estimator, vectors))
