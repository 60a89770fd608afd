"""How near the shipped model comes to the best that anybody could say of a shop with known truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict

from benchmarks.graded_figures import Figure, Goal
from benchmarks.graded_shops import HORIZON, KnownShop, expected_auc, expected_log_loss
from churn.core.baselines import baselines
from churn.core.evaluation import expected_calibration_error
from churn.core.model import ForestParameters, Shape, fit, probabilities
from churn.core.plots import SHIPPED

Array = NDArray[np.float64]
AUC_GOAL, ECE_GOAL = Goal("at most", 0.01), Goal("at most", 0.02)
LEAST = 1e-3  # a regression may answer 0 or less, which no probability is
RIVALS = ("logistic_rich", "hist_gradient_boosting")
ATTAINABLE = "the attainable probability itself"
REPRESENTABLE = "boosting on the attainable probability of other rows of the same cutoff"
SHAPED: tuple[Shape, ...] = ("smooth", "free")  # with directions of risk and without: docs/decisions/0019


@dataclass(frozen=True)
class Answers:
    """What each model says of a shop's test rows, and the shape that the shipped forest chose."""

    shop: KnownShop
    by_model: Mapping[str, Array]
    chosen: Shape


def answers(shop: KnownShop) -> Answers:
    """The shipped model, what could be attained, and what stands between the two."""
    train, test = shop.train.rows, shop.test.rows
    fitted, rivals = fit(train, ForestParameters(), HORIZON), baselines(train, test, HORIZON)
    by_model = {
        SHIPPED: probabilities(fitted.estimator, test.X),
        ATTAINABLE: shop.test.attainable,
        REPRESENTABLE: representable(shop),
        **{f"forest of shape {shape}": shaped(shop, shape) for shape in SHAPED},
        **{name: rivals[name] for name in RIVALS},
    }
    return Answers(shop, by_model, fitted.parameters.shape)


def shaped(shop: KnownShop, shape: Shape) -> Array:
    """What the shipped forest says when its shape is given, (n,)."""
    fitted = fit(shop.train.rows, ForestParameters(shape=shape), HORIZON)
    return probabilities(fitted.estimator, shop.test.rows.X)


def representable(shop: KnownShop) -> Array:
    """What the features can say of the probability when no outcome's chance and no season stands in the way, (n,).

    Each fifth of the test rows is answered by a regression on the other four.
    """
    folds = KFold(5, shuffle=True, random_state=shop.seed)
    model = HistGradientBoostingRegressor(max_iter=300, learning_rate=0.05, random_state=42)
    answer: Array = cross_val_predict(model, shop.test.rows.X, shop.test.attainable, cv=folds)
    return answer.clip(LEAST, 1 - LEAST)


def model_figures(found: Answers) -> Iterator[Figure]:
    """The two goals of one shop, and the same two figures of the models beside it."""
    shop = found.shop
    best = expected_auc(shop.test.attainable, shop.test.attainable)
    for name, answer in found.by_model.items():
        goals = (AUC_GOAL, ECE_GOAL) if name == SHIPPED else (None, None)
        called = f"{name} (shape {found.chosen})" if name == SHIPPED else name
        short = best - expected_auc(shop.test.attainable, answer)
        ece = expected_calibration_error(shop.test.rows.y, answer)
        yield _figure(shop, f"AUC below the attainable: {called}", short, goals[0], note=_ranking(shop, answer))
        yield _figure(shop, f"ECE: {called}", ece, goals[1], note=_calibration(shop, answer))


def _figure(shop: KnownShop, name: str, value: float, goal: Goal | None, *, note: str) -> Figure:
    return Figure(f"{name}, shop {shop.seed}", value, goal, trials=1, seed=shop.seed, n=len(shop.test), note=note)


def _ranking(shop: KnownShop, answer: Array) -> str:
    expected, drawn = expected_auc(shop.test.attainable, answer), roc_auc_score(shop.test.rows.y, answer)
    loss = expected_log_loss(shop.test.attainable, answer)
    return f"AUC {expected:.4f} expected, {drawn:.4f} on what happened; expected log loss {loss:.4f}"


def _calibration(shop: KnownShop, answer: Array) -> str:
    return f"mean probability {answer.mean() - shop.test.attainable.mean():+.4f} from the attainable's"
