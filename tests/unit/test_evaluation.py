"""Figures of quality, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from churn.core.evaluation import (
    brier_parts,
    calibration_line,
    comparison,
    expected_calibration_error,
    lift_at,
    metrics,
    metrics_by_cutoff,
)

Y = np.array([0, 0, 1, 1, 1])
P = np.array([0.1, 0.4, 0.35, 0.8, 0.9])


def test_the_figures_of_five_users_are_those_worked_out_by_hand() -> None:
    assert metrics(Y, P) == pytest.approx(
        {
            "auc_score": 5 / 6,  # of six pairs of a churner and a stayer one stands the wrong way round: .35 < .4
            "pr_auc": (1 + 1 + 3 / 4) / 3,
            "base_rate": 0.6,
            "log_loss": -math.log(0.9 * 0.6 * 0.35 * 0.8 * 0.9) / 5,
            "brier": (0.01 + 0.16 + 0.4225 + 0.04 + 0.01) / 5,
            "brier_base": 0.24,
            "brier_reliability": (0.01 + 0.16 + 0.4225 + 0.04 + 0.01) / 5,  # groups of one: nothing is averaged away
            "brier_resolution": 0.24,  # and each outcome is told from every other
            "brier_uncertainty": 0.24,
            "ece": (0.1 + 0.4 + 0.65 + 0.2 + 0.1) / 5,  # five users make five groups of one
            "calibration_in_the_large": 0.51 - 0.6,
            "calibration_intercept": 0.9916852,  # as scikit-learn fits it without a penalty
            "calibration_slope": 1.9602509,
            "lift_10": 1 / 0.6,
            "n": 5.0,
        },
        abs=1e-7,
    )


def test_tied_probabilities_count_half_in_the_auc() -> None:
    assert metrics(np.array([0, 1, 0, 1]), np.full(4, 0.5))["auc_score"] == 0.5


@pytest.mark.parametrize("outcome", [0, 1])
def test_with_one_outcome_only_ranking_figures_are_nan_and_the_others_are_not(outcome: int) -> None:
    found = metrics(np.full(4, outcome), np.array([0.1, 0.2, 0.8, 0.9]))
    nan = {name for name, value in found.items() if math.isnan(value)}
    assert nan == {"auc_score", "pr_auc", "lift_10", "calibration_intercept", "calibration_slope"}
    assert found["base_rate"] == float(outcome)


def test_a_certain_answer_that_is_wrong_costs_a_finite_log_loss() -> None:
    assert metrics(np.array([1, 0]), np.array([0.0, 1.0]))["log_loss"] == pytest.approx(-math.log(1e-6))


# -- calibration -----------------------------------------------------------------------------------------------------


def test_the_calibration_error_is_the_mean_gap_of_groups_of_equal_size() -> None:
    # (.2, .4): half churned, .3 predicted; (.6, .8): all churned, .7 predicted.
    assert expected_calibration_error(np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.6, 0.8]), bins=2) == pytest.approx(
        0.25
    )


def perfectly_calibrated() -> tuple[np.ndarray, np.ndarray]:
    """1,000 users: of the 100 with probability k/10, exactly 10 k churn."""
    probability = np.repeat(np.arange(10) / 10, 100)
    return (np.tile(np.arange(100), 10) < probability * 100).astype(int), probability


def test_a_perfectly_calibrated_model_has_no_calibration_error() -> None:
    assert expected_calibration_error(*perfectly_calibrated()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("bins", [3, 7, 10])
def test_the_calibration_error_does_not_depend_on_row_order_where_probabilities_are_tied(bins: int) -> None:
    # One probability for all, and right for all: each way to cut the ties into groups must say so.
    y, probability = np.array([1] * 40 + [0] * 60), np.full(100, 0.4)
    assert expected_calibration_error(y, probability, bins) == pytest.approx(0, abs=1e-12)
    y, probability = perfectly_calibrated()
    turned = expected_calibration_error(y[::-1], probability[::-1], bins)
    assert turned == pytest.approx(expected_calibration_error(y, probability, bins), abs=1e-12)


def test_a_shift_of_all_probabilities_is_the_calibration_error() -> None:
    y, probability = perfectly_calibrated()
    assert expected_calibration_error(y, probability + 0.05) == pytest.approx(0.05)
    assert metrics(y, probability + 0.05)["calibration_in_the_large"] == pytest.approx(0.05)


def test_the_parts_of_the_brier_score_of_two_groups_are_those_worked_out_by_hand() -> None:
    # (.2, .2): one of two churned; (.8, .8): both did. Rate .75.
    y, probability = np.array([0, 1, 1, 1]), np.array([0.2, 0.2, 0.8, 0.8])
    reliability, resolution, uncertainty = brier_parts(y, probability, bins=2)
    assert reliability == pytest.approx((0.3**2 + 0.2**2) / 2)
    assert resolution == pytest.approx((0.25**2 + 0.25**2) / 2)  # Murphy's own: no probability varies inside a group
    assert uncertainty == pytest.approx(0.75 * 0.25)


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_the_parts_of_the_brier_score_add_up_whatever_the_groups(bins: int) -> None:
    rng = np.random.default_rng(5)
    probability = rng.random(501)
    y = (rng.random(501) < probability**2).astype(int)
    reliability, resolution, uncertainty = brier_parts(y, probability, bins)
    assert reliability - resolution + uncertainty == pytest.approx(np.mean((probability - y) ** 2), abs=1e-14)


def test_a_perfectly_calibrated_model_has_no_brier_reliability() -> None:
    assert brier_parts(*perfectly_calibrated())[0] == pytest.approx(0, abs=1e-12)


def test_the_calibration_line_finds_how_the_log_odds_were_bent() -> None:
    true = np.repeat(np.arange(1, 20) / 20, 200)
    y = (np.tile(np.arange(200), 19) + 0.5 < true * 200).astype(int)
    # Log-odds twice too far out and .5 too high: logit(true) = (logit(told) - .5) / 2.
    told = expit(2 * logit(true) + 0.5)
    assert calibration_line(y, told) == pytest.approx((-0.25, 0.5), abs=1e-9)


@pytest.mark.parametrize(
    ("y", "probability"),
    [([1, 1, 1], [0.2, 0.5, 0.9]), ([0, 1, 1], [0.4, 0.4, 0.4]), ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])],
    ids=["one outcome", "one probability", "parted without a mistake"],
)
def test_there_is_no_calibration_line_where_the_fit_has_no_answer(y: list[int], probability: list[float]) -> None:
    assert all(map(math.isnan, calibration_line(np.array(y), np.array(probability))))


def test_certain_probabilities_have_a_calibration_line() -> None:
    y, probability = np.array([0, 1, 1, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    intercept, slope = calibration_line(y, probability)
    # The odds are even among the first two, three to one among the others; log-odds are cut at 1e-6.
    assert intercept == pytest.approx(math.log(3) / 2, abs=1e-6)
    assert slope == pytest.approx(math.log(3) / 2 / -math.log(1e-6), rel=1e-4)


# -- lift ------------------------------------------------------------------------------------------------------------


def test_lift_is_the_churn_rate_of_the_top_tenth_over_that_of_all() -> None:
    y = np.array([1, 1, *[1] * 4, *[0] * 14])  # 6 of 20 churn; both users of the top tenth do
    probability = np.array([0.9, 0.8, *[0.5] * 18])
    assert lift_at(y, probability) == pytest.approx(1 / 0.3)


def test_users_tied_at_the_edge_count_in_proportion() -> None:
    # The top tenth of 20 is two: one above the edge who churns, and one of four tied, of whom one churns.
    y = np.array([1, 1, 0, 0, 0, *[0] * 15])
    probability = np.array([0.9, 0.8, 0.8, 0.8, 0.8, *[0.1] * 15])
    assert lift_at(y, probability) == pytest.approx((1 + 0.25) / 2 / 0.1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lift_does_not_depend_on_row_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, probability = rng.integers(0, 2, 200), np.round(rng.random(200), 1)
    order = rng.permutation(200)
    assert lift_at(y[order], probability[order]) == pytest.approx(lift_at(y, probability), abs=1e-12)


def test_one_probability_for_all_has_lift_one() -> None:
    assert lift_at(np.array([1, 0, 0, 1, 0]), np.full(5, 0.3)) == pytest.approx(1)


# -- tables ----------------------------------------------------------------------------------------------------------


def test_figures_per_cutoff_are_those_of_its_rows_under_its_date() -> None:
    cutoff = np.array(["2011-08-01"] * 5 + ["2011-10-10T06:00"] * 2, dtype="datetime64[us]")
    found = metrics_by_cutoff(np.array([*Y, 1, 1]), np.array([*P, 0.7, 0.9]), cutoff)
    assert list(found) == ["2011-08-01", "2011-10-10"]
    assert found["2011-08-01"] == metrics(Y, P)
    assert found["2011-10-10"]["n"] == 2.0
    assert math.isnan(found["2011-10-10"]["auc_score"])


def test_models_are_compared_on_the_same_rows() -> None:
    found = comparison(Y, {"shipped": P, "recency": 1 - P})
    assert found["shipped"]["auc_score"] == pytest.approx(5 / 6)
    assert found["recency"]["auc_score"] == pytest.approx(1 / 6)
