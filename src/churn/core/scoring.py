"""The one scoring function, used by the service and by batch scoring alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

import numpy as np
from numpy.typing import NDArray

from churn.core.value import NO_PLAN, ContactPlan
from churn.domain.predictions import FeatureRow, Prediction, Status, UserId
from churn.domain.schema import FEATURES
from churn.domain.windows import longest_idle

Vectors = NDArray[np.float64]
ACTIVITY = "days_since_last_activity"
LARGEST = float(np.finfo(np.float32).max)  # forests read float32: beyond it every number is infinite
STATUSES = tuple(Status)
_PLACE = {status: place for place, status in enumerate(STATUSES)}
_RULES = {feature.name: feature for feature in FEATURES}


@dataclass(frozen=True)
class Contributions:
    """What each feature of n rows adds to the log-odds of the probability, (n, f); all start from `base_margin`."""

    base_margin: float
    features: Vectors


Explain = Callable[[Vectors], Contributions]


@dataclass(frozen=True)
class ServedModel:
    """A loaded, verified model version. `predict` maps (n, len(features)) to n probabilities in [0, 1].

    `explain` divides these probabilities among the features (reasons.py); None when the model is not made of forests.
    `size_bytes` is that of the served files; `newest_label` the end (UTC) of the newest horizon it was trained or
    tested on, None when it is not known.
    """

    version: str
    digest: str
    feature_service: str
    features: tuple[str, ...]
    horizon_days: int
    predict: Callable[[Vectors], Vectors]
    contact: ContactPlan = NO_PLAN
    explain: Explain | None = None
    size_bytes: int = 0
    newest_label: datetime | None = None


@dataclass(frozen=True)
class Judgement:
    """What n rows came to.

    `wrong`: (n, f) cells that must not be scored; `status`: (n,) places in STATUSES; `probability`: (n,), nan unless
    the status is OK.
    """

    wrong: NDArray[np.bool_]
    status: NDArray[np.int64]
    probability: Vectors

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(n,) which rows have a probability."""
        return np.asarray(self.status == _PLACE[Status.OK])


def judge(model: ServedModel, vectors: Vectors, stale: NDArray[np.bool_] | None = None) -> Judgement:
    """The judgement of (n, f) `vectors`, `stale` among them: the rules by which the service and batches score.

    Only rows that are valid, fresh and eligible get a probability; the first rule that a row breaks is its status.
    """
    wrong = invalid_features(model.features, vectors)
    idle = vectors[:, model.features.index(ACTIVITY)]
    status = np.full(len(vectors), _PLACE[Status.OK])
    status[~(idle <= longest_idle(timedelta(days=model.horizon_days)))] = _PLACE[Status.NOT_ELIGIBLE]
    if stale is not None:
        status[stale] = _PLACE[Status.STALE]
    status[wrong.any(axis=1)] = _PLACE[Status.INVALID_FEATURES]
    probability = np.full(len(vectors), np.nan)
    scored = status == _PLACE[Status.OK]
    if scored.any():
        probability[scored] = _checked(model.predict(vectors[scored]))
    return Judgement(wrong, status, probability)


def invalid_features(features: Sequence[str], vectors: Vectors) -> NDArray[np.bool_]:
    """Which cells of (n, f) `vectors` must not be scored: beyond float32, null without leave, or out of range."""
    low, high, required = _bounds(tuple(features))
    return np.asarray((vectors < low) | (vectors > high) | (np.isnan(vectors) & required))


@cache
def _bounds(features: tuple[str, ...]) -> tuple[Vectors, Vectors, NDArray[np.bool_]]:
    """(f,) lowest and highest values, and which features must not be null."""
    rules = [_RULES[name] for name in features]
    low = [-LARGEST if rule.low is None else max(rule.low, -LARGEST) for rule in rules]
    high = [LARGEST if rule.high is None else min(rule.high, LARGEST) for rule in rules]
    return np.array(low), np.array(high), np.array([not rule.nullable for rule in rules])


def score(
    model: ServedModel,
    user_ids: Sequence[UserId],
    rows: Sequence[FeatureRow | None],
    *,
    now: datetime,
    max_age: timedelta,
) -> list[Prediction]:
    """One Prediction per user id, in order. `rows[i]` are the features of `user_ids[i]`, None when unknown.

    Only users whose features are fresh, valid and eligible get a probability.
    """
    known = [(place, row) for place, row in enumerate(rows) if row is not None]
    answers = [Prediction(user_id, Status.NOT_FOUND, reason="no features for this user") for user_id in user_ids]
    if not known:
        return answers
    vectors = np.array([row.vector for _, row in known], dtype=np.float64)
    oldest = now - max_age
    told = _told(model, vectors, [row.as_of if row.as_of < oldest else None for _, row in known])
    for (place, row), (status, probability, reason) in zip(known, told, strict=True):
        answers[place] = Prediction(user_ids[place], status, probability, row.as_of, row.vector, reason)
    return answers


def score_vectors(model: ServedModel, vectors: Vectors) -> list[Prediction]:
    """One Prediction per row of (n, f) `vectors`: raw features without user or time."""
    return [
        Prediction(None, status, probability, None, tuple(vector.tolist()), reason)
        for vector, (status, probability, reason) in zip(
            vectors, _told(model, vectors, [None] * len(vectors)), strict=True
        )
    ]


def _told(
    model: ServedModel, vectors: Vectors, stale: Sequence[datetime | None]
) -> list[tuple[Status, float | None, str]]:
    """Status, probability and reason of each row; `stale` says of when the features are where they are too old."""
    judged = judge(model, vectors, np.array([moment is not None for moment in stale], dtype=bool))
    told: list[tuple[Status, float | None, str]] = []
    for status, probability, wrong, as_of in zip(
        judged.status.tolist(), judged.probability.tolist(), judged.wrong, stale, strict=True
    ):
        if STATUSES[status] is Status.OK:
            told.append((Status.OK, probability, ""))
        else:
            told.append((STATUSES[status], None, _reason(model, STATUSES[status], wrong, as_of)))
    return told


def _reason(model: ServedModel, status: Status, wrong: NDArray[np.bool_], as_of: datetime | None) -> str:
    if status is Status.INVALID_FEATURES:
        return "invalid: " + ", ".join(name for name, bad in zip(model.features, wrong, strict=True) if bad)
    if status is Status.STALE:
        return f"features are as of {as_of:%Y-%m-%d}"
    return f"not active in the last {model.horizon_days} days"


def _checked(probabilities: Vectors) -> Vectors:
    if not ((probabilities >= 0.0) & (probabilities <= 1.0)).all():
        raise AssertionError("a verified model left [0, 1]")
    return probabilities
