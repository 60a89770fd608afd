"""Leak alarms: what must never be true of an honest training. They run with every training, before it is recorded.

Each looks at what came out rather than at the code that made it, so that a leak is caught wherever it crept in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from churn.core.training_set import Rows, SplitRows
from churn.domain.predictions import UserId
from churn.domain.schema import FEATURE_NAMES
from churn.domain.windows import matured
from churn.errors import Refused

Array = NDArray[np.float64]
SINGLE_FEATURE_AUC = 0.98
# The highest honest figure seen on eligible users of any real log is .88.
TEST_AUC = 0.95
# Among fewer rows of one outcome some column of 35 reaches a high figure by chance.
ENOUGH_OF_EACH = 30
# Columns of `users` that are overwritten in place: at a past cutoff they tell the future.
MUTABLE_TIMES = ("last_login_at", "updated_at")
MUTABLE_GROUPS = ("subscription_tier",)
MUTABLE_COLUMNS = frozenset({*MUTABLE_TIMES, *MUTABLE_GROUPS, "email"})
FOLLOWS = 0.999  # rank correlation; the last activity itself, of which a login is one, stays below .95
SINCE = ("days_since_signup", "days_since_last_order", "days_since_last_activity")


@dataclass(frozen=True)
class Alarm:
    """One leak: its name, and what was found."""

    name: str
    found: str


@dataclass(frozen=True)
class Log:
    """What is known of the log behind the rows: its end, and the horizon its labels were made for."""

    end: datetime
    label_horizon: timedelta


Mutable = Mapping[str, Mapping[UserId, str]]


def before_fit(rows: SplitRows, horizon: timedelta, log: Log, mutable: Mutable) -> None:
    """Look at the rows; raises Refused that names every alarm.

    `mutable`: today's values of the mutable columns by user, ISO times and texts; users without one are left out.
    """
    alarms = [*_of_time(rows, horizon, log), *_of_columns(FEATURE_NAMES)]
    for part in (rows.train, rows.test):
        alarms += [*_of_rows(part), *_of_mutable(part, mutable)]
    _stop(alarms)


def after_test(test: Rows, probability: Array) -> None:
    """Look at the result on the test rows (n,); raises Refused that names the alarm."""
    if not _enough(test):
        return
    auc = float(roc_auc_score(test.y, probability))
    too_good = f"ROC-AUC {auc:.3f} on eligible users; above {TEST_AUC} something knows the future"
    _stop([Alarm("test_auc", too_good)] if auc > TEST_AUC else [])


def _of_time(rows: SplitRows, horizon: timedelta, log: Log) -> Iterator[Alarm]:
    for cutoff in (*rows.split.train, *rows.split.test):
        if not matured(cutoff, log.label_horizon, log.end):
            yield Alarm("label_not_matured", f"the horizon at {cutoff:%Y-%m-%d} ends after the log, {log.end:%Y-%m-%d}")
        if cutoff > log.end - horizon:
            yield Alarm("cutoff_too_late", f"{cutoff:%Y-%m-%d} lies after the end of the log less the horizon")


def _of_columns(features: Sequence[str]) -> Iterator[Alarm]:
    for name in sorted(MUTABLE_COLUMNS.intersection(features)):
        yield Alarm("mutable_column", f"{name} has no history: its value is of today, not of the cutoff")


def _of_mutable(rows: Rows, mutable: Mutable) -> Iterator[Alarm]:
    """Features that say the same as a mutable column, whatever they are called, at the newest cutoff of `rows`."""
    newest = rows.where(rows.cutoff == rows.cutoff.max())
    for column, values in mutable.items():
        told = np.array([values.get(user) for user in newest.user_id], dtype=object)
        known = newest.where(told != None)  # noqa: E711  # element by element
        texts = told[told != None].astype(str)  # noqa: E711  # element by element
        follows = _in_the_order_of if column in MUTABLE_TIMES else _one_value_each
        for place, name in enumerate(FEATURE_NAMES):
            feature = known.X[:, place]
            there = ~np.isnan(feature)
            if there.sum() >= ENOUGH_OF_EACH and follows(feature[there], texts[there]):
                yield Alarm("mutable_column", f"{name} follows {column}, which has no history: its value is of today")


def _in_the_order_of(feature: Array, times: NDArray[np.str_]) -> bool:
    if len(np.unique(feature)) < 3 or len(np.unique(times)) < 3:
        return False
    found = spearmanr(feature, times.astype("datetime64[us]").astype(np.int64)).statistic
    return bool(abs(found) > FOLLOWS)


def _one_value_each(feature: Array, groups: NDArray[np.str_]) -> bool:
    """Whether the feature is a code of the groups: one value in each, and not the same in all."""
    values = [np.unique(feature[groups == group]) for group in np.unique(groups)]
    return len(values) > 1 and all(len(each) == 1 for each in values) and len(np.unique(feature)) > 1


def _of_rows(rows: Rows) -> Iterator[Alarm]:
    for name in SINCE:
        late = int(np.sum(rows.column(name) <= 0))
        if late:
            yield Alarm("event_at_or_after_cutoff", f"{name} is not positive in {late} rows")
    for name, auc in _single_feature_aucs(rows) if _enough(rows) else ():
        if max(auc, 1 - auc) > SINGLE_FEATURE_AUC:
            yield Alarm("single_feature_auc", f"{name} alone reaches ROC-AUC {max(auc, 1 - auc):.3f}")


def _enough(rows: Rows) -> bool:
    return int(np.bincount(rows.y, minlength=2).min()) >= ENOUGH_OF_EACH


def _single_feature_aucs(rows: Rows) -> Iterator[tuple[str, float]]:
    """ROC-AUC of each column alone, nulls as a value below all others."""
    for place, name in enumerate(FEATURE_NAMES):
        values = rows.X[:, place]
        lowest = np.nanmin(values) - 1 if np.isfinite(values).any() else 0.0
        yield name, float(roc_auc_score(rows.y, np.where(np.isnan(values), lowest, values)))


def _stop(alarms: Sequence[Alarm]) -> None:
    if alarms:
        raise Refused(
            "leak alarm: " + "; ".join(f"{alarm.name}: {alarm.found}" for alarm in alarms),
            hint="Find how the future got into the rows; nothing was recorded.",
            facts={"alarms": [alarm.name for alarm in alarms]},
        )
