"""The model: a RandomForest, calibrated on rows that neither trained it nor test it.

Order in time: forest | gap | calibration | gap | test. Where the log is too short for a later calibration cutoff,
a fixed third of the users is kept from the forest instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from churn.core.training_set import MINIMUM_ROWS, Rows
from churn.domain.schema import FEATURES
from churn.errors import NotReady

Calibration = Literal["temperature", "sigmoid", "isotonic"]
CALIBRATIONS: tuple[Calibration, ...] = ("temperature", "sigmoid", "isotonic")
HELD_OUT_USERS = 1 / 3
# What is known of a feature need not be learned from a thousand rows: docs/decisions/0019.
RISK_DIRECTIONS = tuple(feature.risk for feature in FEATURES)
LEAST_OF_AN_OUTCOME = 5  # the calibration is fitted by five folds, each of which needs both


@dataclass(frozen=True)
class ForestParameters:
    """Parameters of the forest and its calibration; the defaults are those of every verb and of MLproject."""

    n_estimators: int = 200
    max_depth: int = 10
    min_samples_split: int = 5
    # 50 rather than 1: on every real log we have, small leaves memorise overlapping horizons (docs/quality.md).
    min_samples_leaf: int = 50
    random_state: int = 42
    # One parameter, which cannot carry the churn rate of one calibration cutoff into the next: docs/decisions.
    calibration: Calibration = "temperature"

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True)
class Fitted:
    """A fitted, calibrated model and how its training rows were divided."""

    estimator: CalibratedClassifierCV
    forest_rows: int
    calibration_rows: int
    calibrated_on: str


def fit(train: Rows, parameters: ForestParameters, horizon: timedelta) -> Fitted:
    """Fit the forest on one part of `train` and its calibration on another; raises NotReady when one is too small."""
    division = divide(train, horizon)
    grow, calibrate = train.where(division.forest), train.where(division.calibration)
    for part in (grow, calibrate):
        _check_outcomes(part)
    forest = RandomForestClassifier(
        n_estimators=parameters.n_estimators,
        max_depth=parameters.max_depth,
        min_samples_split=parameters.min_samples_split,
        min_samples_leaf=min(parameters.min_samples_leaf, max(1, len(grow) // 20)),
        random_state=parameters.random_state,
        monotonic_cst=list(RISK_DIRECTIONS),
    )
    forest.fit(grow.X, grow.y)
    model = CalibratedClassifierCV(FrozenEstimator(forest), method=parameters.calibration, ensemble=False)
    model.fit(calibrate.X, calibrate.y)
    return Fitted(model, len(grow), len(calibrate), division.how)


@dataclass(frozen=True)
class Division:
    """Which training rows grow the forest and which calibrate it, as masks (n,), and why so."""

    forest: NDArray[np.bool_]
    calibration: NDArray[np.bool_]
    how: str


def divide(train: Rows, horizon: timedelta) -> Division:
    """The newest cutoff calibrates, and rows whose horizon ends by then grow the forest; else by user."""
    newest = train.cutoff == train.cutoff.max()
    earlier = np.asarray(train.cutoff + np.timedelta64(horizon) <= train.cutoff.max())
    if _usable(train.where(newest)) and _usable(train.where(earlier)):
        return Division(earlier, newest, "newest training cutoff")
    held_out = _held_out(train.user_id)
    return Division(~held_out, held_out, "held-out users")


def _usable(rows: Rows) -> bool:
    return len(rows) >= 2 * MINIMUM_ROWS and bool(np.bincount(rows.y, minlength=2).min() >= MINIMUM_ROWS // 5)


def _check_outcomes(part: Rows) -> None:
    rarer = int(np.bincount(part.y, minlength=2).min())
    if rarer < LEAST_OF_AN_OUTCOME:
        raise NotReady(
            f"a part of the training set has {rarer} users of the rarer outcome among {len(part)} rows,"
            f" fewer than {LEAST_OF_AN_OUTCOME}",
            hint="Build features at more cutoffs, or choose another horizon (CHURN_HORIZON_DAYS).",
        )


def _held_out(user_ids: NDArray[np.object_]) -> NDArray[np.bool_]:
    """A third of the users, the same in every run and on every machine."""
    digests = [hashlib.sha256(str(user).encode()).digest()[:4] for user in user_ids]
    return np.array([int.from_bytes(digest) / 2**32 < HELD_OUT_USERS for digest in digests])


def probabilities(estimator: CalibratedClassifierCV, X: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(churn) per row, (n,), in scikit-learn's own way: the reference of the fast path."""
    column = list(estimator.classes_).index(1)
    answer: NDArray[np.float64] = estimator.predict_proba(X)[:, column]
    return answer
