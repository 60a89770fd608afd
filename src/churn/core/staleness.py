"""What a model loses by its age: models trained until earlier and earlier, all judged on the newest test rows.

A model of age a is the one that would be in service had nobody trained for that long: the training cutoffs of the
last a weeks are taken away, everything else stays. Where it starts to lose more than LIMIT, it is time to train again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn.core.evaluation import clustered_error, metrics, row_log_loss
from churn.core.model import ForestParameters, divide, fit, probabilities
from churn.core.training_set import Rows, SplitRows, naive

Array = NDArray[np.float64]
WEEK = timedelta(weeks=1)
# Twelve weeks, and with monthly cutoffs the three months that hold them.
OLDEST = timedelta(days=92)
MOST_AGES = 5
# A comparison needs no final digit: enough trees to rank ages, few enough for five forests a training.
TREES = 100
# Log loss above that of a fresh model: as much as policy.yaml lets a challenger lose to the champion.
LIMIT = 0.005


@dataclass(frozen=True)
class Aged:
    """A model of some age on the test rows; `log_loss_increase` is against age 0, with its standard error by user."""

    weeks: float
    newest_training_cutoff: str
    training_rows: int
    auc_score: float
    log_loss: float
    brier: float
    log_loss_increase: float
    standard_error: float


@dataclass(frozen=True)
class Staleness:
    """The curve over ages, age 0 first, and the advice. Without a curve there is none, and `reason` says why."""

    ages: tuple[Aged, ...]
    advised_weeks: int | None
    reason: str

    def table(self) -> dict[str, Any]:
        """The curve and its terms in JSON's types."""
        return {**asdict(self), "ages": [asdict(aged) for aged in self.ages], "limit": LIMIT, "most_trees": TREES}


def staleness(rows: SplitRows, parameters: ForestParameters, horizon: timedelta) -> Staleness:
    """Up to MOST_AGES models no older than OLDEST, on the test rows of `rows`, and when to train again."""
    newest = _comparable(rows, horizon)
    if len(newest) < 2:
        return Staleness((), None, _too_few(rows))
    few = replace(parameters, n_estimators=min(parameters.n_estimators, TREES))
    parts = [rows.train.where(rows.train.cutoff <= naive(moment)) for moment in newest]
    answers = [probabilities(fit(part, few, horizon).estimator, rows.test.X) for part in parts]
    ages = tuple(
        _aged(rows.test, answer, answers[0], weeks=(newest[0] - moment) / WEEK, part=part)
        for moment, part, answer in zip(newest, parts, answers, strict=True)
    )
    return Staleness(ages, *advised(ages))


def _comparable(rows: SplitRows, horizon: timedelta) -> list[datetime]:
    """The newest training cutoff of each model, newest first: evenly spread over those that can be compared.

    A log that gets too short to calibrate in the same way would show the cost of that, not of age.
    """
    ordered = sorted(rows.split.train, reverse=True)
    how = divide(rows.train, horizon).how
    young = [moment for moment in ordered if ordered[0] - moment <= OLDEST]
    alike = [
        moment for moment in young if divide(rows.train.where(rows.train.cutoff <= naive(moment)), horizon).how == how
    ]
    places = np.unique(np.linspace(0, len(alike) - 1, min(MOST_AGES, len(alike))).round().astype(int))
    return [alike[place] for place in places]


def _too_few(rows: SplitRows) -> str:
    return (
        f"not measured: of {len(rows.split.train)} training cutoffs only the newest can be calibrated as the model is"
        f" within {OLDEST.days} days; build features at more and earlier cutoffs"
    )


def _aged(test: Rows, answer: Array, fresh: Array, *, weeks: float, part: Rows) -> Aged:
    found = metrics(test.y, answer)
    lost = row_log_loss(test.y, answer) - row_log_loss(test.y, fresh)
    return Aged(
        weeks=weeks,
        newest_training_cutoff=str(np.datetime_as_string(part.cutoff.max(), unit="D")),
        training_rows=len(part),
        auc_score=found["auc_score"],
        log_loss=found["log_loss"],
        brier=found["brier"],
        log_loss_increase=float(lost.mean()),
        standard_error=clustered_error(lost, test.user_id),
    )


def advised(ages: tuple[Aged, ...]) -> tuple[int, str]:
    """The age at which the curve, straight between its points, first crosses LIMIT, in whole weeks, at least one."""
    for younger, older in pairwise(ages):
        if older.log_loss_increase > LIMIT:
            share = (LIMIT - younger.log_loss_increase) / (older.log_loss_increase - younger.log_loss_increase)
            crossed = younger.weeks + share * (older.weeks - younger.weeks)
            return max(1, int(crossed)), f"log loss rises by more than {LIMIT:g} from an age of {crossed:.1f} weeks on"
    return max(1, int(ages[-1].weeks)), _none_seen(ages[-1])


def _none_seen(oldest: Aged) -> str:
    low, high = (oldest.log_loss_increase + sign * 1.96 * oldest.standard_error for sign in (-1, 1))
    return (
        f"log loss rises by no more than {LIMIT:g} up to {oldest.weeks:.1f} weeks, the oldest measured"
        f" (there by {oldest.log_loss_increase:.4f}, 95 % interval {low:.4f} to {high:.4f})"
    )
