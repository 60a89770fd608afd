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


def baselines(train: Rows, test: Rows, horizon: timedelta) -> dict[str, Array]:
    """P(churn) on `test` by name. BG/NBD is left out where it cannot be fitted (no repeat activity)."""
    answers = {
        "recency": _logistic(train, test, RECENCY),
        "logistic_seed": _logistic(train, test, SEED_FEATURES),
        "logistic_rich": _logistic(train, test, FEATURE_NAMES),
        "hist_gradient_boosting": _boosting(train, test),
    }
    with suppress(NotReady):
        answers["bg_nbd"] = _bg_nbd(train, test, horizon)
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


def _bg_nbd(train: Rows, test: Rows, horizon: timedelta) -> Array:
    newest = train.where(train.cutoff == train.cutoff.max())
    return bgnbd.fit(histories(newest)).p_silent(histories(test), horizon.days)


def histories(rows: Rows) -> bgnbd.History:
    """BG/NBD's view of a user: active days after the first, from the rhythm features."""
    repeat = np.maximum(rows.column("active_days") - 1, 0)
    last = np.nan_to_num(rows.column("mean_gap_days")) * repeat
    return bgnbd.History(repeat, last, last + rows.column("days_since_last_activity"))
