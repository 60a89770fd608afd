"""The model: a RandomForest, calibrated on rows that neither trained it nor test it.

Order in time: forest | gap | calibration | gap | test. Where the log is too short for a later calibration cutoff,
a fixed third of the users is kept from the forest instead. The forest's shape is chosen on the calibration rows too:
they are the newest past that no forest has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from churn.core.evaluation import clustered_error, row_log_loss
from churn.core.training_set import MINIMUM_ROWS, Rows
from churn.domain.schema import FEATURES
from churn.errors import NotReady

Shape = Literal["auto", "smooth", "sharp", "free"]
Calibration = Literal["temperature", "sigmoid", "isotonic"]
CALIBRATIONS: tuple[Calibration, ...] = ("temperature", "sigmoid", "isotonic")
HELD_OUT_USERS = 1 / 3
# What is known of a feature need not be learned from a thousand rows: docs/decisions/0019.
RISK_DIRECTIONS = tuple(feature.risk for feature in FEATURES)
# What the search may choose from, the one that must be beaten first: docs/decisions/0019.
SHAPES: Mapping[Shape, Mapping[str, Any]] = {
    "smooth": {"monotonic_cst": list(RISK_DIRECTIONS), "max_features": "sqrt"},
    "sharp": {"monotonic_cst": list(RISK_DIRECTIONS), "max_features": 0.4},
    "free": {"monotonic_cst": None, "max_features": "sqrt"},
}
# The search compares, it does not ship: so many trees and rows rank the shapes, and bound what it costs.
SEARCH_TREES = 100
SEARCH_ROWS = 30_000
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
    # auto: chosen on past rows (see `search`); a trained version records what was chosen.
    shape: Shape = "auto"

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A shape on the calibration rows: its log loss, and that less the first shape's with a standard error by user."""

    shape: Shape
    log_loss: float
    less: float
    standard_error: float


@dataclass(frozen=True)
class Fitted:
    """A fitted, calibrated model, how its training rows were divided, and its parameters, the shape as chosen."""

    estimator: CalibratedClassifierCV
    forest_rows: int
    calibration_rows: int
    calibrated_on: str
    parameters: ForestParameters
    search: tuple[Candidate, ...] = ()


def fit(train: Rows, parameters: ForestParameters, horizon: timedelta) -> Fitted:
    """Fit the forest on one part of `train` and its calibration on another; raises NotReady when one is too small."""
    division = divide(train, horizon)
    grow, calibrate = train.where(division.forest), train.where(division.calibration)
    for part in (grow, calibrate):
        _check_outcomes(part)
    tried = search(grow, calibrate, parameters) if parameters.shape == "auto" else ()
    chosen = replace(parameters, shape=choice(tried)) if tried else parameters
    model = _calibrated_forest(grow, calibrate, chosen)
    return Fitted(model, len(grow), len(calibrate), division.how, chosen, tried)


def search(grow: Rows, later: Rows, parameters: ForestParameters) -> tuple[Candidate, ...]:
    """Every shape, grown on at most SEARCH_ROWS of `grow` and judged on `later`; the same rows give the same answer."""
    thin = grow.where(np.arange(len(grow)) % (len(grow) // SEARCH_ROWS + 1) == 0)
    few = replace(parameters, n_estimators=min(parameters.n_estimators, SEARCH_TREES))
    losses = {shape: _past_loss(thin, later, replace(few, shape=shape)) for shape in SHAPES}
    first = losses["smooth"]
    return tuple(
        Candidate(shape, float(loss.mean()), float((loss - first).mean()), clustered_error(loss - first, later.user_id))
        for shape, loss in losses.items()
    )


def choice(tried: tuple[Candidate, ...]) -> Shape:
    """The best of those ahead of the first by more than one standard error, else the first (Breiman et al. 1984)."""
    ahead = [each for each in tried if each.less < -each.standard_error]
    return min(ahead, key=lambda each: each.log_loss).shape if ahead else tried[0].shape


def _past_loss(grow: Rows, later: Rows, parameters: ForestParameters) -> NDArray[np.float64]:
    model = _calibrated_forest(grow, later, parameters)
    return row_log_loss(later.y, probabilities(model, later.X))


def _calibrated_forest(grow: Rows, later: Rows, parameters: ForestParameters) -> CalibratedClassifierCV:
    forest = RandomForestClassifier(
        n_estimators=parameters.n_estimators,
        max_depth=parameters.max_depth,
        min_samples_split=parameters.min_samples_split,
        min_samples_leaf=min(parameters.min_samples_leaf, max(1, len(grow) // 20)),
        random_state=parameters.random_state,
        **SHAPES[parameters.shape],
    )
    forest.fit(grow.X, grow.y)
    model = CalibratedClassifierCV(FrozenEstimator(forest), method=parameters.calibration, ensemble=False)
    return model.fit(later.X, later.y)


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
