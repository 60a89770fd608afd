"""From rows to a fitted, evaluated model: pure, so that a rebuild and a test run the very same lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.inspection import permutation_importance

from churn.core import plots
from churn.core.baselines import baselines
from churn.core.bootstrap import Answers, Interval, Resampling, differences, intervals, resampled
from churn.core.evaluation import comparison, metrics_by_cutoff
from churn.core.forest import forest_members
from churn.core.model import Fitted, ForestParameters, divide, fit, probabilities
from churn.core.reasons import Explainer, explained
from churn.core.training_set import Rows, SplitRows
from churn.domain.schema import FEATURE_NAMES

Array = NDArray[np.float64]
GOLDEN_ROWS = 32
REFERENCE_ROWS = 20_000
IMPORTANCE_ROWS = 2_000
EXPLAINED_ROWS = 300


@dataclass(frozen=True)
class Evaluated:
    """A fitted model with its figures on the test rows, beside those of its baselines."""

    fitted: Fitted
    probability: Array
    baselines: dict[str, Array]
    comparison: dict[str, dict[str, float]]
    by_cutoff: dict[str, dict[str, float]]
    importance: tuple[Array, Array]


def train(rows: SplitRows, parameters: ForestParameters, horizon: timedelta) -> Evaluated:
    """Fit on the training rows and judge on the test rows, baselines beside it."""
    fitted = fit(rows.train, parameters, horizon)
    answer = probabilities(fitted.estimator, rows.test.X)
    rivals = baselines(rows.train, rows.test, horizon, rows.population)
    return Evaluated(
        fitted=fitted,
        probability=answer,
        baselines=rivals,
        comparison=comparison(rows.test.y, {plots.SHIPPED: answer, **rivals}),
        by_cutoff=metrics_by_cutoff(rows.test.y, answer, rows.test.cutoff),
        importance=_importance(fitted, rows.test),
    )


def validation_rows(train: Rows, horizon: timedelta) -> tuple[Rows, float]:
    """Training rows that the forest did not grow on, and their share of the users at their cutoffs."""
    kept = train.where(divide(train, horizon).calibration)
    return kept, len(kept) / int(np.isin(train.cutoff, kept.cutoff).sum())


def metric_values(result: Evaluated, rows: SplitRows) -> dict[str, float]:
    """Every figure by its MLflow name: of the model plain, per cutoff and per baseline with a prefix."""
    values = {
        **result.comparison[plots.SHIPPED],
        "train_size": float(len(rows.train)),
        "test_size": float(len(rows.test)),
        "forest_rows": float(result.fitted.forest_rows),
        "calibration_rows": float(result.fitted.calibration_rows),
    }
    for prefix, table in (("cutoff", result.by_cutoff), ("baseline", _rivals(result))):
        for name, figures in table.items():
            values.update({f"{prefix}.{name}.{key}": value for key, value in figures.items()})
    return values


def intervals_table(test: Rows, result: Evaluated) -> dict[str, Any]:
    """The shipped model's figures with their intervals by user, and what they differ from each baseline's."""
    resampling = Resampling()
    everybody = {plots.SHIPPED: result.probability, **result.baselines}
    drawn = resampled(test.y, test.user_id, {name: Answers(each) for name, each in everybody.items()}, resampling)
    ours = drawn[plots.SHIPPED]
    less = {name: differences(ours, drawn[name], resampling.confidence) for name in result.baselines}
    return {
        "confidence": resampling.confidence,
        plots.SHIPPED: _plain(intervals(ours, resampling.confidence)),
        "less": {name: _plain(found) for name, found in less.items()},
    }


def _plain(found: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: asdict(each) for name, each in found.items()}


def _rivals(result: Evaluated) -> dict[str, dict[str, float]]:
    return {name: figures for name, figures in result.comparison.items() if name != plots.SHIPPED}


def figures(result: Evaluated, test: Rows) -> dict[str, Any]:
    """The pictures of a run, by file name."""
    everybody = {plots.SHIPPED: result.probability, **result.baselines}
    days = np.datetime_as_string(test.cutoff, unit="D")
    by_cutoff = {str(day): (test.y[days == day], result.probability[days == day]) for day in np.unique(days)}
    return {
        "roc_pr": plots.roc_and_pr(test.y, everybody),
        "reliability": plots.reliability(test.y, result.probability, by_cutoff),
        "lift": plots.lift(test.y, everybody),
        "permutation_importance": plots.importance(FEATURE_NAMES, *result.importance),
        "reason_codes": _reason_codes(result.fitted, test),
    }


def _reason_codes(fitted: Fitted, test: Rows) -> Figure:
    """Reasons of at most EXPLAINED_ROWS evenly spaced test rows."""
    vectors = test.X[_spread(len(test), EXPLAINED_ROWS)]
    explain, probability = Explainer(forest_members(fitted.estimator)), probabilities(fitted.estimator, vectors)
    return plots.reason_codes(explained(explain, FEATURE_NAMES, vectors, probability))


def _importance(fitted: Fitted, test: Rows) -> tuple[Array, Array]:
    """Permutation importance by AUC (Breiman 2001) on at most IMPORTANCE_ROWS evenly spaced test rows."""
    thin = _spread(len(test), IMPORTANCE_ROWS)
    found = permutation_importance(
        fitted.estimator, test.X[thin], test.y[thin], scoring="roc_auc", n_repeats=3, random_state=42
    )
    return found.importances_mean, found.importances_std


def _spread(rows: int, most: int) -> NDArray[np.int64]:
    """At most `most` row numbers, evenly spaced: a sample without chance."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))


def golden_vectors(test: Rows) -> Array:
    """Rows that a loaded model must answer as training did: spread over the test set, nulls where allowed."""
    chosen: Array = test.X[_spread(len(test), GOLDEN_ROWS)]
    return chosen


def reference_frame(rows: SplitRows, fitted: Fitted) -> pd.DataFrame:
    """What drift is measured against: feature rows of the test cutoffs and what the model says of them."""
    thin = _spread(len(rows.test), REFERENCE_ROWS)
    frame = pd.DataFrame(rows.test.X[thin], columns=list(FEATURE_NAMES))
    return frame.assign(churn_probability=probabilities(fitted.estimator, rows.test.X[thin]))


def dataset_frame(rows: Rows) -> pd.DataFrame:
    """Rows as a table for MLflow's dataset digest."""
    frame = pd.DataFrame(rows.X, columns=list(FEATURE_NAMES))
    return frame.assign(cutoff=rows.cutoff, churned=rows.y.astype(np.float64))
