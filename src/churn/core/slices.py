"""How good a model is for parts of the users: a good figure for all may hide a bad one for the newest, or the few.

Slices are cut by features and, for reports only, by labels of the users: a tier is a mutable column without history,
so it may never be a feature (promise 1), but which users are badly served today may be told by today's tier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn.core.bootstrap import Answers, Interval, Resampling, differences, intervals, resampled
from churn.core.training_set import Rows
from churn.domain.predictions import UserId

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.object_]
# (feature, edges, a name per band): a band holds its lower edge.
BANDS: dict[str, tuple[str, tuple[float, ...], tuple[str, ...]]] = {
    "tenure": ("days_since_signup", (90, 365), ("under_90_days", "90_to_365_days", "from_365_days")),
    "orders": ("total_orders", (1, 2, 5), ("none", "one", "2_to_4", "from_5")),
}
NEWEST_DAYS = 30
NULL_SHARE = 0.1  # of 35 features: users with at most one active day, who have no gaps
UNKNOWN, OTHER = "unknown", "other"
MOST_LABELS = 8
TIER = "subscription_tier"  # the one column of `users` that names a group; the snapshot keeps no others
SLICE_DRAWS = 500  # for the slices of a training: there are many
FIGURES = ("auc_score", "brier", "log_loss", "calibration_in_the_large")


@dataclass(frozen=True)
class Enough:
    """From how many rows, and rows of the rarer outcome, on a slice is judged."""

    rows: int = 100
    of_each_outcome: int = 20


@dataclass(frozen=True)
class Slice:
    """A part of the rows: its size, its churn rate, and the figures of a model on it; none where it is too small.

    `against` holds the model's figures less those of another on the same rows.
    """

    name: str
    n: int
    churn_rate: float
    figures: dict[str, Interval] = field(default_factory=dict)
    against: dict[str, Interval] = field(default_factory=dict)

    @property
    def too_small(self) -> bool:
        return not self.figures

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "too_small": self.too_small}


def labels_of(user_id: Sequence[UserId] | NDArray[np.object_], known: Mapping[UserId, str]) -> Labels:
    """(n,) each user's label, `unknown` where there is none; beyond the MOST_LABELS most frequent, `other`."""
    found = np.array([known.get(user, UNKNOWN) for user in user_id], dtype=object)
    names, counts = np.unique(found.astype(str), return_counts=True)
    kept = names[np.argsort(-counts, kind="stable")[:MOST_LABELS]]
    return np.where(np.isin(found.astype(str), kept), found, OTHER).astype(object)


def masks(rows: Rows, labels: Mapping[str, Labels]) -> dict[str, Mask]:
    """Which rows (n,) each named slice holds. Names are fit for metrics; a column with one label only cuts nothing."""
    cut = {
        f"{kind}.{name}": np.digitize(rows.column(feature), edges) == place
        for kind, (feature, edges, names) in BANDS.items()
        for place, name in enumerate(names)
    }
    cut["newest_users"] = rows.column("days_since_signup") < NEWEST_DAYS
    cut["null_heavy"] = np.isnan(rows.X).mean(axis=1) > NULL_SHARE
    for column, values in labels.items():
        found = np.unique(values.astype(str))
        cut |= {f"{column}.{_word(label)}": values == label for label in found if len(found) > 1}
    return {name: mask for name, mask in cut.items() if mask.any()}


def _word(label: str) -> str:
    """A label as part of a metric's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", label)


@dataclass(frozen=True)
class Judged:
    """A model's probabilities (n,), and those of another to set it against."""

    probability: Array
    other: Array | None = None


def slice_figures(
    rows: Rows, judged: Judged, labels: Mapping[str, Labels], *, enough: Enough, resampling: Resampling
) -> tuple[Slice, ...]:
    """Every slice with its figures and their intervals by user."""
    found = []
    for name, mask in masks(rows, labels).items():
        part = rows.where(mask)
        told = Slice(name, len(part), float(part.y.mean()))
        few = len(part) < enough.rows or int(np.bincount(part.y, minlength=2).min()) < enough.of_each_outcome
        found.append(told if few else _measured(told, part, _within(judged, mask), resampling))
    return tuple(found)


def _within(judged: Judged, mask: Mask) -> Judged:
    return Judged(judged.probability[mask], None if judged.other is None else judged.other[mask])


def _measured(told: Slice, part: Rows, judged: Judged, resampling: Resampling) -> Slice:
    models = {"model": Answers(judged.probability)}
    if judged.other is not None:
        models["other"] = Answers(judged.other)
    drawn = resampled(part.y, part.user_id, models, resampling)
    figures = intervals(drawn["model"], resampling.confidence)
    against = differences(drawn["model"], drawn["other"], resampling.confidence) if "other" in drawn else {}
    return Slice(told.name, told.n, told.churn_rate, _chosen(figures), _chosen(against))


def _chosen(figures: Mapping[str, Interval]) -> dict[str, Interval]:
    return {name: figures[name] for name in FIGURES if name in figures}


# -- fairness --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fairness:
    """What users of each group can expect of a threshold, and how far the groups lie apart at most.

    Selection rate: demographic parity; true positive rate: equal opportunity (Hardt et al. 2016); calibration in the
    large: whether a probability means the same in each group. These cannot all be equal where churn rates differ
    (Kleinberg et al. 2017), so they are told, not judged.
    """

    column: str
    threshold: float
    groups: dict[str, dict[str, float]]
    gaps: dict[str, float]


def fairness(
    rows: Rows, probability: Array, column: str, *, labels: Labels, threshold: float, enough: Enough
) -> Fairness:
    """Groups of enough rows beside each other; without two of them there is no gap."""
    groups = {}
    for label in np.unique(labels.astype(str)):
        mask = labels == label
        y, answers = rows.y[mask], probability[mask]
        if len(y) >= enough.rows and int(np.bincount(y, minlength=2).min()) >= enough.of_each_outcome:
            groups[str(label)] = _expectations(y, answers, answers >= threshold)
    names = next(iter(groups.values()), {}).keys() - {"n"}
    gaps = {name: float(np.ptp([group[name] for group in groups.values()])) for name in names if len(groups) > 1}
    return Fairness(column, threshold, groups, dict(sorted(gaps.items())))


def _expectations(y: NDArray[np.int64], probability: Array, selected: Mask) -> dict[str, float]:
    return {
        "n": float(len(y)),
        "selection_rate": float(selected.mean()),
        "true_positive_rate": float(selected[y == 1].mean()),
        "calibration_in_the_large": float(probability.mean() - y.mean()),
    }


# -- what a run keeps of it ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SliceReport:
    """The slices of a training's test rows, and the fairness between groups when a column is named for it."""

    slices: tuple[Slice, ...]
    fairness: Fairness | None = None

    def metric_values(self) -> dict[str, float]:
        """`slice.<name>.<figure>` of each judged slice and `fairness.<figure>_gap`: names are few, whatever the log."""
        values = {
            f"slice.{each.name}.{key}": figure.estimate for each in self.slices for key, figure in each.figures.items()
        }
        gaps = {} if self.fairness is None else self.fairness.gaps
        return values | {f"fairness.{key}_gap": gap for key, gap in gaps.items()}

    def table(self) -> dict[str, Any]:
        """For JSON."""
        told = None if self.fairness is None else asdict(self.fairness)
        return {"slices": [each.as_dict() for each in self.slices], "fairness": told}


def slice_report(
    rows: Rows, probability: Array, labels: Mapping[str, Labels], *, fairness_column: str, threshold: float
) -> SliceReport:
    """The slices of test rows, and the groups of `fairness_column` when one is named."""
    found = slice_figures(
        rows, Judged(probability), labels, enough=Enough(), resampling=Resampling(replicates=SLICE_DRAWS)
    )
    if not fairness_column:
        return SliceReport(found)
    chosen = labels[fairness_column]
    gaps = fairness(rows, probability, fairness_column, labels=chosen, threshold=threshold, enough=Enough())
    return SliceReport(found, gaps)
