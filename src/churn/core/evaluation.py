"""How good a probability is: ranking, calibration, lift. Pure functions of outcomes and probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

Array = NDArray[np.float64]
Outcomes = NDArray[np.int64]
BINS = 10
CLIP = 1e-6


def expected_calibration_error(y: Outcomes, probability: Array, bins: int = BINS) -> float:
    """Mean |observed - predicted| over `bins` groups of equal size, weighted by size; row order plays no part.

    Equal-size groups: Nixon et al. 2019 (adaptive calibration error), since churn probabilities crowd at one end.
    """
    observed = _share_among_ties(y, probability)
    order = np.argsort(probability, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group)]
    gaps = [abs(observed[group].mean() - probability[group].mean()) * len(group) for group in groups]
    return float(sum(gaps) / len(y))


def _share_among_ties(y: Outcomes, probability: Array) -> Array:
    """Per row the churn rate of all rows with its probability: a group's edge may cut through ties."""
    _, tie = np.unique(probability, return_inverse=True)
    share: Array = np.bincount(tie, weights=y) / np.bincount(tie)
    return share[tie]


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
    return {
        "auc_score": np.nan if one_class else float(roc_auc_score(y, probability)),
        "pr_auc": np.nan if one_class else float(average_precision_score(y, probability)),
        "base_rate": base,
        "log_loss": float(log_loss(y, clipped, labels=[0, 1])),
        "brier": float(np.mean((probability - y) ** 2)),
        "brier_base": base * (1 - base),
        "ece": expected_calibration_error(y, probability),
        "calibration_in_the_large": float(probability.mean() - base),
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
