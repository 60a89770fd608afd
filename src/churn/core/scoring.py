"""The one scoring function, used by the service and by batch scoring alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from churn.core.value import NO_PLAN, ContactPlan
from churn.domain.predictions import FeatureRow, Prediction, Status, UserId
from churn.domain.schema import FEATURES
from churn.domain.windows import eligible

Vectors = NDArray[np.float64]
ACTIVITY = "days_since_last_activity"
LARGEST = float(np.finfo(np.float32).max)  # forests read float32: beyond it every number is infinite
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
    `size_bytes` is that of the served files.
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


def invalid_features(features: Sequence[str], vectors: Vectors) -> NDArray[np.bool_]:
    """Which cells of (n, f) `vectors` must not be scored: beyond float32, null without leave, or out of range."""
    wrong: NDArray[np.bool_] = np.abs(vectors) > LARGEST
    for column, name in enumerate(features):
        rule, values = _RULES[name], vectors[:, column]
        if not rule.nullable:
            wrong[:, column] |= np.isnan(values)
        if rule.low is not None:
            wrong[:, column] |= values < rule.low
        if rule.high is not None:
            wrong[:, column] |= values > rule.high
    return wrong


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
    judged = _judge(model, vectors, [row.as_of for _, row in known], now - max_age)
    for (place, row), (status, probability, reason) in zip(known, judged, strict=True):
        answers[place] = Prediction(user_ids[place], status, probability, row.as_of, row.vector, reason)
    return answers


def score_vectors(model: ServedModel, vectors: Vectors) -> list[Prediction]:
    """One Prediction per row of (n, f) `vectors`: raw features without user or time."""
    judged = _judge(model, vectors, None, None)
    return [
        Prediction(None, status, probability, None, tuple(vector.tolist()), reason)
        for vector, (status, probability, reason) in zip(vectors, judged, strict=True)
    ]


_Judged = tuple[Status, float | None, str]


def _judge(
    model: ServedModel, vectors: Vectors, as_of: Sequence[datetime] | None, oldest: datetime | None
) -> list[_Judged]:
    wrong = invalid_features(model.features, vectors)
    idle = vectors[:, model.features.index(ACTIVITY)]
    horizon = timedelta(days=model.horizon_days)
    judged: list[_Judged] = [(Status.OK, None, "")] * len(vectors)
    for place in range(len(vectors)):
        if wrong[place].any():
            names = [name for name, bad in zip(model.features, wrong[place], strict=True) if bad]
            judged[place] = (Status.INVALID_FEATURES, None, "invalid: " + ", ".join(names))
        elif as_of is not None and oldest is not None and as_of[place] < oldest:
            judged[place] = (Status.STALE, None, f"features are as of {as_of[place]:%Y-%m-%d}")
        elif not eligible(None if np.isnan(idle[place]) else float(idle[place]), horizon):
            judged[place] = (Status.NOT_ELIGIBLE, None, f"not active in the last {model.horizon_days} days")
    scored = [place for place, (status, _, _) in enumerate(judged) if status is Status.OK]
    if scored:
        for place, probability in zip(scored, model.predict(vectors[scored]), strict=True):
            judged[place] = (Status.OK, _checked(float(probability)), "")
    return judged


def _checked(probability: float) -> float:
    if not 0.0 <= probability <= 1.0:
        raise AssertionError("a verified model left [0, 1]")
    return probability
