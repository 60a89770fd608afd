"""How good a probability is: ranking, calibration, lift. Pure functions of outcomes and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

Array = NDArray[np.float64]
Outcomes = NDArray[np.int64]
BINS = 10
CLIP = 1e-6
NEWTON_STEPS = 50


def expected_calibration_error(y: Outcomes, probability: Array, bins: int = BINS) -> float:
    """Mean |observed - predicted| over `bins` groups of equal size, weighted by size; row order plays no part.

    Equal-size groups: Nixon et al. 2019 (adaptive calibration error), since churn probabilities crowd at one end.
    """
    groups = reliability_groups(y, probability, bins)
    return float(np.average(np.abs(groups.observed - groups.predicted), weights=groups.size))


@dataclass(frozen=True)
class Groups:
    """Rows in groups of equal size by their probability: mean prediction, churn rate and size of each, lowest first."""

    predicted: Array
    observed: Array
    size: Array


def reliability_groups(y: Outcomes, probability: Array, bins: int = BINS) -> Groups:
    """At most `bins` groups of equal size; a tie that an edge cuts through has its churn rate on both sides."""
    shared = _share_among_ties(y, probability)
    order = np.argsort(probability, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group)]
    means = np.array([(probability[group].mean(), shared[group].mean(), len(group)) for group in groups])
    return Groups(*means.T)


def _share_among_ties(y: Outcomes, probability: Array) -> Array:
    """Per row the churn rate of all rows with its probability: a group's edge may cut through ties."""
    _, tie = np.unique(probability, return_inverse=True)
    share: Array = np.bincount(tie, weights=y) / np.bincount(tie)
    return share[tie]


def brier_parts(y: Outcomes, probability: Array, bins: int = BINS) -> tuple[float, float, float]:
    """Reliability, resolution and uncertainty (Murphy 1973): brier = reliability - resolution + uncertainty, exactly.

    Reliability is taken over groups of equal size. What varies inside a group counts as resolution: the generalised
    resolution of Stephenson, Coelho and Jolliffe 2008, without which the parts of a binned forecast do not add up.
    """
    groups = reliability_groups(y, probability, bins)
    reliability = float(np.average((groups.observed - groups.predicted) ** 2, weights=groups.size))
    uncertainty = float(y.mean() * (1 - y.mean()))
    brier = float(np.mean((probability - y) ** 2))
    return reliability, uncertainty + reliability - brier, uncertainty


def calibration_line(y: Outcomes, probability: Array) -> tuple[float, float]:
    """Intercept and slope of the outcomes' log-odds on the probabilities' (Cox 1958), fitted together: (0, 1) is right.

    A slope below 1 says that probabilities are too extreme. Both are nan where the fit has no answer: one outcome,
    one probability, or outcomes that the probabilities part without a mistake.
    """
    base, odds = float(y.mean()), logit(np.clip(probability, CLIP, 1 - CLIP))
    if base in (0.0, 1.0) or np.ptp(odds) == 0:
        return np.nan, np.nan
    line = np.array([logit(base), 0.0])
    for _ in range(NEWTON_STEPS):
        step = _newton_step(y, odds, line)
        if step is None:
            break
        line = line + step
        if np.abs(step).max() < 1e-10:
            return float(line[0]), float(line[1])
    return np.nan, np.nan


def _newton_step(y: Outcomes, odds: Array, line: Array) -> Array | None:
    """One step of Newton's method for a logistic regression on one column; None where the curvature is gone."""
    fitted = expit(line[0] + line[1] * odds)
    weight = fitted * (1 - fitted)
    flat, cross, steep = weight.sum(), weight @ odds, weight @ odds**2
    determinant = flat * steep - cross**2
    if not determinant > np.finfo(float).eps * flat * steep:
        return None
    rise = np.array([(y - fitted).sum(), (y - fitted) @ odds])
    step: Array = np.array([[steep, -cross], [-cross, flat]]) @ rise / determinant
    return step


def lift_at(y: Outcomes, probability: Array, share: float = 0.1) -> float:
    """Churn rate among the `share` with the highest probabilities over the churn rate of all.

    Users tied at the edge count in proportion, so that the figure does not depend on row order.
    """
    take = max(1, round(share * len(y)))
    edge = np.sort(probability)[::-1][take - 1]
    above, tied = probability > edge, probability == edge
    churned = y[above].sum() + y[tied].mean() * (take - above.sum())
    return float(churned / take / y.mean())


def metrics(y: Outcomes, probability: Array) -> dict[str, float]:
    """The figures of one set of rows; ranking figures are nan when only one class is present."""
    base = float(y.mean())
    clipped = np.clip(probability, CLIP, 1 - CLIP)
    one_class = base in (0.0, 1.0)
    reliability, resolution, uncertainty = brier_parts(y, probability)
    intercept, slope = calibration_line(y, probability)
    return {
        "auc_score": np.nan if one_class else float(roc_auc_score(y, probability)),
        "pr_auc": np.nan if one_class else float(average_precision_score(y, probability)),
        "base_rate": base,
        "log_loss": float(log_loss(y, clipped, labels=[0, 1])),
        "brier": float(np.mean((probability - y) ** 2)),
        "brier_base": base * (1 - base),
        "brier_reliability": reliability,
        "brier_resolution": resolution,
        "brier_uncertainty": uncertainty,
        "ece": expected_calibration_error(y, probability),
        "calibration_in_the_large": float(probability.mean() - base),
        "calibration_intercept": intercept,
        "calibration_slope": slope,
        "lift_10": np.nan if one_class else lift_at(y, probability),
        "n": float(len(y)),
    }


def metrics_by_cutoff(y: Outcomes, probability: Array, cutoff: NDArray[np.datetime64]) -> dict[str, dict[str, float]]:
    """The same figures per cutoff, keyed by its date."""
    days = np.datetime_as_string(cutoff, unit="D")
    return {str(day): metrics(y[days == day], probability[days == day]) for day in np.unique(days)}


def comparison(y: Outcomes, probabilities: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """The same figures for several models on the same rows."""
    return {name: metrics(y, probability) for name, probability in probabilities.items()}


def row_log_loss(y: Outcomes, probability: Array) -> Array:
    """The log loss of each row, (n,)."""
    clipped = np.clip(probability, CLIP, 1 - CLIP)
    loss: Array = -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
    return loss


def clustered_error(values: Array, user_ids: NDArray[np.object_]) -> float:
    """Standard error of the mean of (n,) values whose rows of one user depend on each other (Liang and Zeger 1986)."""
    _, user = np.unique(user_ids.astype(str), return_inverse=True)
    sums = np.bincount(user, weights=values - values.mean())
    users = len(sums)
    return float(np.sqrt((sums**2).sum() * users / max(users - 1, 1)) / len(values))
