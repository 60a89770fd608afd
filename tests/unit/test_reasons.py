"""Reasons add up to the log-odds of the probability that is served, whatever calibrated it, and say true things."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from churn.core.forest import Member, forest_members, forest_predictor
from churn.core.reasons import Explainer, explanations, family_sums, margin, margins
from churn.core.scoring import score_vectors
from churn.domain.predictions import Prediction, Status
from churn.domain.reasons import Explanation, ReasonCode
from churn.domain.schema import FEATURE_NAMES
from tests.models import RECENCY, random_vectors, served_model

ROWS = 10_000
MODELS = ["temperature", "sigmoid", "isotonic", "two members", "bare forest"]


def outcomes(vectors: Any, seed: int) -> Any:
    return (vectors[:, RECENCY] + np.random.default_rng(seed).normal(0, 15, len(vectors)) > 30).astype(int)


@cache
def forest() -> RandomForestClassifier:
    """As training grows it, with fewer trees."""
    vectors = random_vectors(6_000, seed=1)
    grown = RandomForestClassifier(12, max_depth=10, min_samples_split=5, min_samples_leaf=50, random_state=42)
    return grown.fit(vectors, outcomes(vectors, 1))


@cache
def model(name: str) -> Any:
    if name == "bare forest":
        return forest()
    vectors = random_vectors(2_000, seed=2)
    labels = outcomes(vectors, 2)
    if name == "two members":
        grown = RandomForestClassifier(6, max_depth=10, min_samples_leaf=20, random_state=1)
        return CalibratedClassifierCV(grown, method="temperature", cv=2).fit(vectors, labels)
    return CalibratedClassifierCV(FrozenEstimator(forest()), method=name, ensemble=False).fit(vectors, labels)


@pytest.mark.parametrize("name", MODELS)
def test_contributions_add_up_to_the_log_odds_of_scikit_learns_probability_on_ten_thousand_rows(name: str) -> None:
    estimator, vectors = model(name), random_vectors(ROWS, seed=3)
    assert np.isnan(vectors).any(axis=1).mean() > 0.5
    found = Explainer(forest_members(estimator))(vectors)
    probability = estimator.predict_proba(vectors)[:, 1]
    sums = found.base_margin + found.features.sum(axis=1)
    assert found.features.shape == (ROWS, len(FEATURE_NAMES))
    assert np.abs(sums - margins(probability)).max() <= 1e-9


def test_the_members_are_two() -> None:
    assert len(forest_members(model("two members"))) == 2


@pytest.mark.parametrize("name", MODELS)
def test_no_rows_have_no_contributions(name: str) -> None:
    found = Explainer(forest_members(model(name)))(np.zeros((0, len(FEATURE_NAMES))))
    assert found.features.shape == (0, len(FEATURE_NAMES))


def test_one_row_alone_is_explained_as_it_is_among_others() -> None:
    explain, vectors = Explainer(forest_members(model("isotonic"))), random_vectors(30, seed=3)
    alone = [explain(vectors[row : row + 1]).features[0].tolist() for row in range(30)]
    assert np.abs(np.array(alone) - explain(vectors).features).max() <= 1e-12


def test_calibration_stretches_all_contributions_of_a_row_alike() -> None:
    vectors = random_vectors(200, seed=3)
    bare = Explainer(forest_members(forest()))(vectors).features
    tempered = Explainer(forest_members(model("temperature")))(vectors).features
    asked = np.abs(bare) > 1e-6
    for row in range(200):
        ratios = (tempered[row] / bare[row])[asked[row]]
        assert ratios == pytest.approx(np.full(len(ratios), ratios[0]), rel=1e-6)


def test_the_feature_that_decides_gets_the_largest_contribution_and_the_right_sign() -> None:
    vectors = random_vectors(400, seed=5)
    found = Explainer(forest_members(model("temperature")))(vectors).features
    assert int(np.abs(found).mean(axis=0).argmax()) == RECENCY
    assert (found[vectors[:, RECENCY] > 45, RECENCY] > 0).all()
    assert (found[vectors[:, RECENCY] < 15, RECENCY] < 0).all()


# -- calibrations that are hard to divide ----------------------------------------------------------------------------


def calibrated_by(calibrate: Any) -> Explainer:
    (bare,) = forest_members(forest())
    return Explainer([Member(bare.trees, bare.column, bare.votes, calibrate)])


def step_at_the_base() -> Any:
    """Isotonic calibration that jumps from .2 to .8 within 1e-7 around the forest's base."""
    (bare,) = forest_members(forest())
    base = Explainer([bare])._parts[0].shap.base
    points = np.array([0.0, base - 1e-7, base + 1e-7, 1.0])
    return IsotonicRegression(out_of_bounds="clip").fit(points, [0.2, 0.2, 0.8, 0.8]).predict


def test_a_step_of_the_calibration_adds_up_and_makes_no_giants() -> None:
    calibrate, vectors = step_at_the_base(), random_vectors(500, seed=3)
    (bare,) = forest_members(forest())
    found = calibrated_by(calibrate)(vectors)
    wanted = margins(calibrate(bare.votes(vectors)))
    assert np.abs(found.base_margin + found.features.sum(axis=1) - wanted).max() <= 1e-9
    assert np.abs(found.features).max() < 30


def test_a_calibration_that_says_the_same_of_everybody_leaves_nothing_to_explain() -> None:
    found = calibrated_by(lambda votes: np.full(len(votes), 0.25))(random_vectors(50, seed=3))
    assert found.base_margin == pytest.approx(-1.0986122886681098)
    assert np.abs(found.features).max() <= 1e-12


def test_probabilities_of_0_and_1_have_the_margins_of_one_in_a_million_millions() -> None:
    found = calibrated_by(np.round)(random_vectors(200, seed=3))
    sums = found.base_margin + found.features.sum(axis=1)
    assert set(np.round(sums, 3)) == {-27.631, 27.631}
    assert (margin(0.0), margin(0.5)) == pytest.approx((-27.631021115, 0.0))


# -- explanations ----------------------------------------------------------------------------------------------------


def explained() -> list[tuple[Prediction, Explanation]]:
    predictions = score_vectors(served_model(), random_vectors(100, seed=3))
    found = explanations(served_model(), predictions)
    return [(each, why) for each, why in zip(predictions, found, strict=True) if why is not None]


def test_the_reasons_of_a_prediction_add_up_to_the_log_odds_of_its_probability() -> None:
    assert len(explained()) > 90
    for prediction, why in explained():
        assert prediction.probability is not None
        assert why.margin == pytest.approx(np.log(prediction.probability / (1 - prediction.probability)), abs=1e-12)
        total = why.base_margin + sum(reason.contribution for reason in why.reasons)
        assert total == pytest.approx(why.margin, abs=1e-9)


def test_every_code_stands_once_the_weightiest_first() -> None:
    for _, why in explained():
        assert {reason.code for reason in why.reasons} == set(ReasonCode)
        weights = [abs(reason.contribution) for reason in why.reasons]
        assert weights == sorted(weights, reverse=True)
    assert explained()[0][1].reasons[0].code is ReasonCode.RECENCY


def test_who_has_no_probability_has_no_reasons() -> None:
    vectors = random_vectors(2, seed=3)
    vectors[1, FEATURE_NAMES.index("refund_share")] = 2.0
    predictions = [*score_vectors(served_model(), vectors), Prediction(404, Status.NOT_FOUND)]
    assert [why is None for why in explanations(served_model(), predictions)] == [False, True, True]


def test_the_sum_of_a_family_is_that_of_its_features() -> None:
    row = np.zeros((1, len(FEATURE_NAMES)))
    for name, value in (("orders_7d", 0.5), ("orders_365d", -0.125), ("refund_share", 2.0)):
        row[0, FEATURE_NAMES.index(name)] = value
    sums = dict(zip(ReasonCode, family_sums(FEATURE_NAMES, row)[0].tolist(), strict=True))
    assert {code: value for code, value in sums.items() if value} == {
        ReasonCode.RECENT_ORDERS: 0.375,
        ReasonCode.REFUNDS: 2.0,
    }


def test_a_model_that_is_no_forest_has_no_members_to_explain() -> None:
    vectors = np.nan_to_num(random_vectors(300, seed=5)) / 100
    with pytest.raises(ValueError, match="no forest"):
        forest_members(LogisticRegression(max_iter=5_000).fit(vectors, np.arange(300) % 2))


def test_the_explained_probability_is_the_one_that_is_served() -> None:
    vectors = random_vectors(50, seed=3)
    found = Explainer(forest_members(model("sigmoid")))(vectors)
    served = forest_predictor(model("sigmoid"))(vectors)
    assert np.abs(found.base_margin + found.features.sum(axis=1) - margins(served)).max() <= 1e-12
