"""The baselines: what each looks at, and that none fails on columns that say nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from churn.core.baselines import baselines, histories, signed_log
from churn.core.training_set import Rows, naive
from churn.domain.schema import FEATURE_NAMES
from tests.exports import HORIZON, at, labelled_rows

EARLY, LATE, TEST = at("2011-04-01"), at("2011-06-01"), at("2011-08-01")


@pytest.fixture(scope="module")
def rows() -> Rows:
    return labelled_rows([EARLY, LATE, TEST], users=300)


@pytest.fixture(scope="module")
def train(rows: Rows) -> Rows:
    return rows.at([EARLY, LATE])


@pytest.fixture(scope="module")
def test(rows: Rows) -> Rows:
    return rows.at([TEST])


def with_column(rows: Rows, name: str, value: float) -> Rows:
    X = rows.X.copy()
    X[:, FEATURE_NAMES.index(name)] = value
    return replace(rows, X=X)


def test_there_are_five_baselines_each_with_a_probability_for_every_test_row(train: Rows, test: Rows) -> None:
    answers = baselines(train, test, HORIZON)
    assert list(answers) == ["recency", "logistic_seed", "logistic_rich", "hist_gradient_boosting", "bg_nbd"]
    for name, answer in answers.items():
        assert answer.shape == (300,), name
        assert ((answer >= 0) & (answer <= 1)).all(), name


def test_recency_alone_ranks_users_by_their_days_since_the_last_activity(train: Rows, test: Rows) -> None:
    answer = baselines(train, test, HORIZON)["recency"]
    by_days = np.argsort(test.column("days_since_last_activity"), kind="stable")
    assert (np.diff(answer[by_days]) >= 0).all()


@pytest.mark.parametrize("name", ["recency", "logistic_seed", "logistic_rich", "hist_gradient_boosting"])
def test_a_baseline_finds_the_signal_in_later_rows(train: Rows, test: Rows, name: str) -> None:
    assert roc_auc_score(test.y, baselines(train, test, HORIZON)[name]) > 0.8


def test_the_same_rows_give_the_same_answers(train: Rows, test: Rows) -> None:
    one, again = baselines(train, test, HORIZON), baselines(train, test, HORIZON)
    assert all(np.array_equal(one[name], again[name]) for name in one)


@pytest.mark.parametrize("value", [np.nan, 0.0], ids=["null everywhere", "constant"])
def test_a_column_that_says_nothing_in_training_changes_no_answer(train: Rows, test: Rows, value: float) -> None:
    told = baselines(with_column(train, "total_sessions", value), test, HORIZON)
    silent = baselines(with_column(train, "total_sessions", value), with_column(test, "total_sessions", value), HORIZON)
    assert all(np.array_equal(told[name], silent[name]) for name in told)


def test_a_null_that_training_has_never_seen_is_answered(train: Rows, test: Rows) -> None:
    filled = replace(train, X=np.nan_to_num(train.X, nan=1.0))
    answers = baselines(filled, with_column(test, "mean_gap_days", np.nan), HORIZON)
    assert all(np.isfinite(answer).all() for answer in answers.values())


def test_where_recency_says_nothing_its_baseline_is_the_churn_rate_of_training(train: Rows, test: Rows) -> None:
    same = with_column(train, "days_since_last_activity", 7.0)
    assert baselines(same, test, HORIZON)["recency"] == pytest.approx(np.full(300, train.y.mean()))


def test_bg_nbd_is_left_out_where_nobody_came_back(train: Rows, test: Rows) -> None:
    once = with_column(train, "active_days", 1.0)
    assert set(baselines(once, test, HORIZON)) == {
        "recency",
        "logistic_seed",
        "logistic_rich",
        "hist_gradient_boosting",
    }


def test_bg_nbd_is_fitted_on_the_newest_training_cutoff_alone(train: Rows, test: Rows) -> None:
    X = train.X.copy()
    X[train.cutoff == naive(EARLY), FEATURE_NAMES.index("active_days")] = 500.0
    answer = baselines(replace(train, X=X), test, HORIZON)["bg_nbd"]
    assert np.array_equal(answer, baselines(train, test, HORIZON)["bg_nbd"])


def test_a_history_is_read_off_the_rhythm_features(test: Rows) -> None:
    rhythm = {"active_days": [4.0, 1.0], "mean_gap_days": [10.0, np.nan], "days_since_last_activity": [5.5, 20.0]}
    X = test.X[:2].copy()
    for name, values in rhythm.items():
        X[:, FEATURE_NAMES.index(name)] = values
    found = histories(X)
    # Four active days are three repeats, ten days apart on average; one active day is none.
    assert found.x.tolist() == [3.0, 0.0]
    assert found.t_x.tolist() == [30.0, 0.0]
    assert found.T.tolist() == [35.5, 20.0]


def test_the_signed_logarithm_keeps_order_and_sign_and_null() -> None:
    values = np.array([-1e12, -1.0, 0.0, np.e - 1, 1e12])
    found = signed_log(values)
    assert (np.diff(found) > 0).all()
    assert found[[2, 3]] == pytest.approx([0.0, 1.0])
    assert found[0] == -found[4]
    assert np.isnan(signed_log(np.array([np.nan]))).all()
