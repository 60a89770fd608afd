"""How sure a figure is: the bootstrap by user, paired between models.

Users are drawn again with replacement and bring all of their rows (the cluster bootstrap: Field and Welsh 2007): a
user's rows at several cutoffs are no independent evidence. Every model is judged on the same draws, so that what is
hard in a draw is hard for all, and the difference of two models is far surer than either. A draw is a weight a row:
each figure is computed for all draws of a block at once, from one sort of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churn.core.evaluation import CLIP

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Outcomes = NDArray[np.int64]
CELLS = 250_000  # of one block of weights: 2 MB, which a processor's cache can hold


@dataclass(frozen=True)
class Resampling:
    """How often users are drawn again, how wide an interval is, and the seed of the draws."""

    replicates: int = 1000
    confidence: float = 0.95
    seed: int = 42


@dataclass(frozen=True)
class Interval:
    """A figure with the two-sided percentile interval of its replicates; nan where it has no value."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Answers:
    """What a model says of n rows: the probability, and what acting on it brought, both (n,)."""

    probability: Array
    value: Array | None = None


Replicates = dict[str, Array]


def resampled(
    y: Outcomes, user_id: NDArray[np.object_], models: Mapping[str, Answers], resampling: Resampling
) -> dict[str, Replicates]:
    """Per model and figure (1 + replicates,) values: the rows as they are, then each draw, the same for every model.

    Figures: auc_score, pr_auc, log_loss, brier, calibration_in_the_large and, where `value` is given, expected_value.
    The first two are nan in draws with one outcome only.
    """
    _, place = np.unique(user_id.astype(str), return_inverse=True)
    judges = {name: _Judge(y, answers) for name, answers in models.items()}
    blocks = [
        {name: judge.figures(weights) for name, judge in judges.items()} for weights in _weights(place, resampling)
    ]
    return {
        name: {key: np.concatenate([block[name][key] for block in blocks]) for key in blocks[0][name]}
        for name in judges
    }


def intervals(replicates: Replicates, confidence: float) -> dict[str, Interval]:
    """Each figure of one model with its interval."""
    return {key: _interval(values, confidence) for key, values in replicates.items()}


def differences(ours: Replicates, theirs: Replicates, confidence: float) -> dict[str, Interval]:
    """Our figures less theirs, draw by draw."""
    return {key: _interval(values - theirs[key], confidence) for key, values in ours.items()}


def _interval(values: Array, confidence: float) -> Interval:
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn):
        return Interval(float(values[0]), np.nan, np.nan)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values[0]), float(low), float(high))


def _weights(place: Places, resampling: Resampling) -> Iterator[Array]:
    """Blocks (b, n) of how often each row counts; the very first row is ones. `place` is each row's user."""
    yield np.ones((1, len(place)))
    users, left = int(place.max()) + 1, resampling.replicates
    rng = np.random.default_rng(resampling.seed)
    size = max(1, CELLS // len(place))
    while left > 0:
        drawn = rng.integers(users, size=(min(size, left), users)) + users * np.arange(min(size, left))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield counts[:, place].astype(np.float64)
        left -= len(drawn)


class _Judge:
    """The figures of one model under any weights of its rows: (b, n) weights to (b,) values of each figure."""

    def __init__(self, y: Outcomes, answers: Answers) -> None:
        probability = answers.probability
        clipped = np.clip(probability, CLIP, 1 - CLIP)
        self._means = {
            "log_loss": -np.log(np.where(y == 1, clipped, 1 - clipped)),
            "brier": (probability - y) ** 2,
            "calibration_in_the_large": probability - y,
            **({} if answers.value is None else {"expected_value": answers.value}),
        }
        self._order = np.argsort(probability, kind="stable")
        ordered = probability[self._order]
        self._ties = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self._y = y[self._order]

    def figures(self, weights: Array) -> Replicates:
        churned, stayed = self._by_probability(weights)
        means = weights @ np.column_stack([*self._means.values()]) / weights.sum(axis=1, keepdims=True)
        return {
            "auc_score": _roc_auc(churned, stayed),
            "pr_auc": _average_precision(churned, stayed),
            **dict(zip(self._means, means.T, strict=True)),
        }

    def _by_probability(self, weights: Array) -> tuple[Array, Array]:
        """Weights (b, t) of those who churned and of those who stayed, per distinct probability, lowest first."""
        ordered = weights[:, self._order]
        everybody = np.add.reduceat(ordered, self._ties, axis=1)
        ordered *= self._y
        churned = np.add.reduceat(ordered, self._ties, axis=1)
        return churned, everybody - churned


def _roc_auc(churned: Array, stayed: Array) -> Array:
    """The share of pairs of a churner and a stayer in the right order, ties counting half."""
    below = np.cumsum(stayed, axis=1) - stayed / 2
    return _share(np.einsum("bt,bt->b", churned, below), churned.sum(axis=1) * stayed.sum(axis=1))


def _average_precision(churned: Array, stayed: Array) -> Array:
    """Precision at each probability, weighted by the recall that it adds: what scikit-learn computes."""
    found = np.cumsum(churned[:, ::-1], axis=1)
    taken = found + np.cumsum(stayed[:, ::-1], axis=1)
    precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
    answer = _share(np.einsum("bt,bt->b", churned[:, ::-1], precision), found[:, -1])
    return np.where(taken[:, -1] > found[:, -1], answer, np.nan)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
