"""The trials behind docs/decisions/0019: forests on the rows of `make quality`, judged on its test cutoffs.

Nothing is chosen by this program; it shows what was compared. `python benchmarks/forest_trials.py`
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
from quality import CASES, rows_of_case
from rich.console import Console
from rich.progress import track
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss, roc_auc_score

from churn.core.model import RISK_DIRECTIONS, divide, probabilities
from churn.core.training_set import SplitRows

DIRECTED = {"monotonic_cst": list(RISK_DIRECTIONS)}
TRIALS: dict[str, Mapping[str, Any]] = {
    "100 trees, no directions": {},
    "100 trees": DIRECTED,
    "200 trees": {**DIRECTED, "n_estimators": 200},
    "300 trees": {**DIRECTED, "n_estimators": 300},
    "200 trees, leaves of 20": {**DIRECTED, "n_estimators": 200, "min_samples_leaf": 20},
    "200 trees, 3 features a split": {**DIRECTED, "n_estimators": 200, "max_features": 3},
    "200 trees, 40 % of features a split": {**DIRECTED, "n_estimators": 200, "max_features": 0.4},
}
SHIPPED = {"n_estimators": 100, "max_depth": 10, "min_samples_split": 5, "min_samples_leaf": 50, "random_state": 42}


def main() -> None:
    console = Console(stderr=True)
    found: dict[str, list[str]] = {}
    for case in track(CASES, "logs", console=console):
        rows, horizon = rows_of_case(case), timedelta(days=case.horizon)
        for name, changes in TRIALS.items():
            found.setdefault(name, []).append(figures(rows, horizon, {**SHIPPED, **changes}))
            found.setdefault(f"{name}, grown on all rows, not calibrated", []).append(
                whole(rows, {**SHIPPED, **changes})
            )
    for name, each in sorted(found.items(), key=lambda item: "all rows" in item[0]):
        print(f"| {name} | {' | '.join(each)} |")


def figures(rows: SplitRows, horizon: timedelta, parameters: Mapping[str, Any]) -> str:
    """Grown and calibrated as the shipped model is; `past`: log loss on its calibration slice."""
    division = divide(rows.train, horizon)
    grow, later = rows.train.where(division.forest), rows.train.where(division.calibration)
    forest = RandomForestClassifier(**parameters).fit(grow.X, grow.y)
    model = CalibratedClassifierCV(FrozenEstimator(forest), method="temperature", ensemble=False).fit(later.X, later.y)
    past = log_loss(later.y, forest.predict_proba(later.X)[:, 1])
    return f"{told(rows, probabilities(model, rows.test.X))} (past {past:.4f})"


def whole(rows: SplitRows, parameters: Mapping[str, Any]) -> str:
    """Grown on every training row: nothing is left to calibrate on."""
    forest = RandomForestClassifier(**parameters).fit(rows.train.X, rows.train.y)
    return told(rows, forest.predict_proba(rows.test.X)[:, 1])


def told(rows: SplitRows, probability: np.ndarray[Any, Any]) -> str:
    auc, brier = roc_auc_score(rows.test.y, probability), np.mean((probability - rows.test.y) ** 2)
    return f"{auc:.4f} / {brier:.4f}"


if __name__ == "__main__":
    main()
