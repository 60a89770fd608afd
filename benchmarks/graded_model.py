"""How near the shipped model comes to the best that anybody could say of a shop with known truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict

from benchmarks.graded_figures import Figure, Goal
from benchmarks.graded_shops import HORIZON, KnownShop, expected_auc, expected_log_loss
from churn.core.baselines import baselines
from churn.core.evaluation import expected_calibration_error
from churn.core.model import RISK_DIRECTIONS, ForestParameters, divide, fit, probabilities
from churn.core.plots import SHIPPED
from churn.core.training_set import Rows

Array = NDArray[np.float64]
AUC_GOAL, ECE_GOAL = Goal("at most", 0.01), Goal("at most", 0.02)
LEAST = 1e-3  # a regression may answer 0 or less, which no probability is
RIVALS = ("logistic_rich", "hist_gradient_boosting")
ATTAINABLE = "the attainable probability itself"
REPRESENTABLE = "boosting on the attainable probability of other rows of the same cutoff"
# What stands between the shipped forest and the attainable: the same forest told other directions of risk.
OTHER_DIRECTIONS: dict[str, list[int] | None] = {
    "shipped without directions of risk": None,
    "shipped with directions for times alone": [max(risk, 0) for risk in RISK_DIRECTIONS],
}


@dataclass(frozen=True)
class Answers:
    """What each model says of a shop's test rows."""

    shop: KnownShop
    by_model: Mapping[str, Array]


def answers(shop: KnownShop) -> Answers:
    """The shipped model, what could be attained, and what stands between the two."""
    train, test = shop.train.rows, shop.test.rows
    rivals = baselines(train, test, HORIZON)
    return Answers(
        shop,
        {
            SHIPPED: probabilities(fit(train, ForestParameters(), HORIZON).estimator, test.X),
            ATTAINABLE: shop.test.attainable,
            REPRESENTABLE: representable(shop),
            **{name: directed(train, test, directions) for name, directions in OTHER_DIRECTIONS.items()},
            **{name: rivals[name] for name in RIVALS},
        },
    )


def representable(shop: KnownShop) -> Array:
    """What the features can say of the probability when no outcome's chance and no season stands in the way, (n,).

    Each fifth of the test rows is answered by a regression on the other four.
    """
    folds = KFold(5, shuffle=True, random_state=shop.seed)
    model = HistGradientBoostingRegressor(max_iter=300, learning_rate=0.05, random_state=42)
    answer = cross_val_predict(model, shop.test.rows.X, shop.test.attainable, cv=folds)
    return np.clip(answer, LEAST, 1 - LEAST)


def directed(train: Rows, test: Rows, directions: list[int] | None) -> Array:
    """The shipped forest and calibration, told other directions of risk, (n,)."""
    division, shipped = divide(train, HORIZON), ForestParameters().as_dict()
    calibration = shipped.pop("calibration")
    grow, later = train.where(division.forest), train.where(division.calibration)
    chosen: dict[str, Any] = {**shipped, "monotonic_cst": directions}
    forest = RandomForestClassifier(**chosen).fit(grow.X, grow.y)
    model = CalibratedClassifierCV(FrozenEstimator(forest), method=calibration, ensemble=False).fit(later.X, later.y)
    return probabilities(model, test.X)


def model_figures(found: Answers) -> Iterator[Figure]:
    """The two goals of one shop, and the same two figures of the models beside it."""
    best = expected_auc(found.shop.test.attainable, found.shop.test.attainable)
    for name, answer in found.by_model.items():
        goals = (AUC_GOAL, ECE_GOAL) if name == SHIPPED else (None, None)
        short, ece = best - _auc(found, answer), expected_calibration_error(found.shop.test.rows.y, answer)
        yield _figure(found, f"AUC below the attainable: {name}", short, goals[0], note=_ranking(found, answer))
        yield _figure(found, f"ECE: {name}", ece, goals[1], note=_calibration(found, answer))


def _figure(found: Answers, name: str, value: float, goal: Goal | None, *, note: str) -> Figure:
    shop = found.shop
    return Figure(f"{name}, shop {shop.seed}", value, goal, trials=1, seed=shop.seed, n=len(shop.test), note=note)


def _auc(found: Answers, answer: Array) -> float:
    return expected_auc(found.shop.test.attainable, answer)


def _ranking(found: Answers, answer: Array) -> str:
    test = found.shop.test
    drawn, loss = roc_auc_score(test.rows.y, answer), expected_log_loss(test.attainable, answer)
    return f"AUC {_auc(found, answer):.4f} expected, {drawn:.4f} on what happened; expected log loss {loss:.4f}"


def _calibration(found: Answers, answer: Array) -> str:
    off = answer.mean() - found.shop.test.attainable.mean()
    return f"mean probability {off:+.4f} from the attainable's"
