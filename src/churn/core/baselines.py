"""What the forest must beat: recency alone, logistic regression, gradient boosting, BG/NBD. Fitted on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from churn.core import bgnbd
from churn.core.training_set import Rows
from churn.domain.schema import FEATURE_NAMES, SEED_FEATURES
from churn.errors import NotReady

Array = NDArray[np.float64]
Classifier: TypeAlias = Pipeline | HistGradientBoostingClassifier
RECENCY = ("days_since_last_activity",)


def baselines(train: Rows, test: Rows, horizon: timedelta, population: Array | None = None) -> dict[str, Array]:
    """P(churn) on `test` by name. BG/NBD is left out where it cannot be fitted (no repeat activity).

    BG/NBD describes a whole population, so it is fitted on `population` (see SplitRows), not on eligible users alone.
    """
    answers = {
        "recency": _logistic(train, test, RECENCY),
        "logistic_seed": _logistic(train, test, SEED_FEATURES),
        "logistic_rich": _logistic(train, test, FEATURE_NAMES),
        "hist_gradient_boosting": _boosting(train, test),
    }
    with suppress(NotReady):
        answers["bg_nbd"] = _bg_nbd(_newest(train) if population is None else population, test, horizon)
    return answers


def signed_log(values: Array) -> Array:
    """log(1 + |v|) with the sign of v: money and counts are skewed, and money may be negative."""
    return np.sign(values) * np.log1p(np.abs(values))


def logistic_regression() -> Pipeline:
    return make_pipeline(
        SimpleImputer(add_indicator=True),
        FunctionTransformer(signed_log),
        StandardScaler(),
        LogisticRegression(max_iter=2000),
    )


def _columns(train: Rows, names: Sequence[str]) -> list[int]:
    """Places of the columns that vary in `train`: an all-null column breaks imputer and boosting alike."""
    places = [FEATURE_NAMES.index(name) for name in names]
    return [place for place in places if len(np.unique(train.X[:, place])) > 1]


def _fit_predict(model: Classifier, train: Rows, test: Rows, names: Sequence[str]) -> Array:
    places = _columns(train, names)
    if not places:
        return np.full(len(test), train.y.mean())
    model.fit(train.X[:, places], train.y)
    answer: Array = model.predict_proba(test.X[:, places])[:, 1]
    return answer


def _logistic(train: Rows, test: Rows, names: Sequence[str]) -> Array:
    return _fit_predict(logistic_regression(), train, test, names)


def _boosting(train: Rows, test: Rows) -> Array:
    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=50, max_iter=150, early_stopping=False, random_state=42
    )
    return _fit_predict(model, train, test, FEATURE_NAMES)


def _newest(train: Rows) -> Array:
    return train.where(train.cutoff == train.cutoff.max()).X


def _bg_nbd(population: Array, test: Rows, horizon: timedelta) -> Array:
    active = population[~np.isnan(population[:, FEATURE_NAMES.index("days_since_last_activity")])]
    return bgnbd.fit(histories(active)).p_silent(histories(test.X), horizon.days)


def histories(X: Array) -> bgnbd.History:
    """BG/NBD's view of users (n, f): active days after the first, from the rhythm features."""
    days, gap, idle = (
        X[:, FEATURE_NAMES.index(name)] for name in ("active_days", "mean_gap_days", "days_since_last_activity")
    )
    repeat = np.maximum(days - 1, 0)
    last = np.nan_to_num(gap) * repeat
    return bgnbd.History(repeat, last, last + idle)
