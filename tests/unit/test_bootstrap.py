"""The bootstrap by user: the figures under weights are scikit-learn's, draws are shared, and users stay whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from churn.core.bootstrap import Answers, Interval, Resampling, differences, intervals, resampled

RNG = np.random.default_rng(7)
N = 300
P = np.round(RNG.random(N), 1)  # eleven probabilities: ties everywhere
Y = (RNG.random(N) < P).astype(np.int64)
USERS = RNG.integers(0, 120, N).astype(object)
VALUE = np.where(P >= 0.5, 10.0 * Y - 2, 0.0)
FEW = Resampling(replicates=40, seed=3)


def shares_of_draws(users: np.ndarray, resampling: Resampling) -> np.ndarray:
    """(replicates, n) each row's share of a draw: the mean of a column that is 1 in that row alone."""
    tells = np.eye(len(users))
    found = [resampled(Y[: len(users)], users, {"": Answers(P[: len(users)], row)}, resampling) for row in tells]
    return np.array([each[""]["expected_value"][1:] for each in found]).T


def test_the_figures_of_each_draw_are_those_of_scikit_learn_under_the_same_weights() -> None:
    users, y, p = USERS[:60], Y[:60], P[:60]
    share = shares_of_draws(users, FEW)
    found = resampled(y, users, {"model": Answers(p, VALUE[:60])}, FEW)["model"]
    for place, weight in enumerate(share, start=1):
        clipped = np.clip(p, 1e-6, 1 - 1e-6)
        assert found["auc_score"][place] == pytest.approx(roc_auc_score(y, p, sample_weight=weight))
        assert found["pr_auc"][place] == pytest.approx(average_precision_score(y, p, sample_weight=weight))
        assert found["log_loss"][place] == pytest.approx(log_loss(y, clipped, sample_weight=weight))
        assert found["brier"][place] == pytest.approx(np.average((p - y) ** 2, weights=weight))
        assert found["calibration_in_the_large"][place] == pytest.approx(np.average(p - y, weights=weight))
        assert found["expected_value"][place] == pytest.approx(np.average(VALUE[:60], weights=weight))


def test_the_estimate_is_the_figure_of_the_rows_as_they_are() -> None:
    found = intervals(resampled(Y, USERS, {"model": Answers(P)}, FEW)["model"], 0.95)
    assert found["auc_score"].estimate == pytest.approx(roc_auc_score(Y, P))
    assert found["pr_auc"].estimate == pytest.approx(average_precision_score(Y, P))
    assert set(found) == {"auc_score", "pr_auc", "log_loss", "brier", "calibration_in_the_large"}


def test_all_rows_of_a_user_are_drawn_together() -> None:
    users = np.repeat(np.arange(20), 3).astype(object)
    share = shares_of_draws(users, FEW)
    of_user = share.reshape(len(share), 20, 3)
    assert np.allclose(of_user, of_user[:, :, :1])
    assert np.ptp(of_user) > 0
    drawn = of_user[:, :, 0] * 60
    assert np.allclose(drawn, np.round(drawn))
    assert np.allclose(drawn.sum(axis=1), 20)  # as many users as there are, some of them twice


def test_a_model_does_not_differ_from_itself() -> None:
    found = resampled(Y, USERS, {"a": Answers(P, VALUE), "b": Answers(P.copy(), VALUE.copy())}, FEW)
    assert set(differences(found["a"], found["b"], 0.95).values()) == {Interval(0.0, 0.0, 0.0)}


def test_a_difference_is_surer_than_the_figures_it_is_made_of() -> None:
    found = resampled(Y, USERS, {"a": Answers(P), "b": Answers(0.9 * P)}, Resampling(500))
    alone, apart = intervals(found["a"], 0.95)["log_loss"], differences(found["a"], found["b"], 0.95)["log_loss"]
    assert apart.high - apart.low < 0.5 * (alone.high - alone.low)


def test_four_copies_of_each_users_row_make_nobody_surer() -> None:
    alone = np.arange(N).astype(object)
    once = intervals(resampled(Y, alone, {"": Answers(P)}, Resampling(1000))[""], 0.95)["brier"]
    copies = (np.tile(Y, 4), np.tile(alone, 4), {"": Answers(np.tile(P, 4))})
    four = intervals(resampled(*copies, Resampling(1000))[""], 0.95)["brier"]
    taken_for_others = intervals(
        resampled(copies[0], np.arange(4 * N).astype(object), copies[2], Resampling(1000))[""], 0.95
    )["brier"]
    assert [four.estimate, four.low, four.high] == pytest.approx([once.estimate, once.low, once.high])
    assert (taken_for_others.high - taken_for_others.low) == pytest.approx((once.high - once.low) / 2, rel=0.1)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(11), 0
    for trial in range(200):
        p = rng.random(200)
        y = (rng.random(200) < p).astype(np.int64)
        found = resampled(y, np.arange(200).astype(object), {"": Answers(p)}, Resampling(200, 0.9, trial))
        band = intervals(found[""], 0.9)["brier"]
        hits += band.low <= 1 / 6 <= band.high  # the mean of p (1 - p) over [0, 1]
    assert 165 <= hits <= 195  # 180 are promised; two in three standard deviations of a binomial are 4


def test_equal_seeds_draw_equally_and_others_do_not() -> None:
    models = {"": Answers(P)}
    first, again, other = (
        resampled(Y, USERS, models, Resampling(50, seed=seed))[""]["brier"].tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_draws_do_not_depend_on_how_they_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resampled(Y, USERS, {"": Answers(P)}, FEW)[""]["brier"]
    monkeypatch.setattr("churn.core.bootstrap.CELLS", 7 * N)
    assert np.allclose(resampled(Y, USERS, {"": Answers(P)}, FEW)[""]["brier"], whole, rtol=0, atol=1e-12)


def test_draws_with_one_outcome_only_say_nothing_of_ranking_and_are_left_out() -> None:
    y, p, users = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3]), np.arange(4).astype(object)
    found = resampled(y, users, {"": Answers(p)}, Resampling(200))[""]
    assert np.isnan(found["auc_score"]).any()
    assert np.array_equal(np.isnan(found["auc_score"]), np.isnan(found["pr_auc"]))
    assert intervals(found, 0.95)["auc_score"] == Interval(1.0, 1.0, 1.0)


def test_rows_of_one_outcome_have_no_ranking_and_no_interval_of_it() -> None:
    found = intervals(resampled(np.ones(5, int), np.arange(5).astype(object), {"": Answers(P[:5])}, FEW)[""], 0.95)
    assert all(map(math.isnan, (found["auc_score"].estimate, found["auc_score"].low, found["pr_auc"].high)))
    assert math.isfinite(found["brier"].low)
