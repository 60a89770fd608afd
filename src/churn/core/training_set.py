"""The training set: one row per eligible (user, cutoff), split by cutoff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from churn.domain.schema import FEATURE_NAMES, JOIN_KEY, TIMESTAMP
from churn.domain.windows import Split, as_utc
from churn.errors import NotReady

MINIMUM_ROWS = 50


@dataclass(frozen=True)
class Rows:
    """Rows of a training set: `X` (n, f) float64 with nan for null, `y` (n,) 0/1, `cutoff` and `user_id` (n,)."""

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    cutoff: NDArray[np.datetime64]
    user_id: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.y)

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        return Rows(self.X[mask], self.y[mask], self.cutoff[mask], self.user_id[mask])

    def at(self, cutoffs: Sequence[datetime]) -> Rows:
        return self.where(np.isin(self.cutoff, [naive(moment) for moment in cutoffs]))

    def column(self, name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self.X[:, FEATURE_NAMES.index(name)]
        return values


@dataclass(frozen=True)
class SplitRows:
    """Training and test rows with the cutoffs they came from.

    `population`: features (m, f) of all users, eligible or not, at the newest training cutoff, for models of a whole
    population; without it the training rows at that cutoff stand in.
    """

    train: Rows
    test: Rows
    split: Split
    population: NDArray[np.float64] | None = None


def naive(moment: datetime) -> np.datetime64:
    """The instant as numpy's naive UTC microseconds, the form cutoffs have in Parquet."""
    return np.datetime64(as_utc(moment).replace(tzinfo=None), "us")


def entities_of(labels: pd.DataFrame) -> pd.DataFrame:
    """Eligible rows of labels (user, cutoff, eligible, churned) as the feature store takes them, with their outcome."""
    eligible = labels[labels["eligible"]].rename(columns={"cutoff": TIMESTAMP})
    return eligible[[JOIN_KEY, TIMESTAMP, "churned"]].reset_index(drop=True)


def rows_of(frame: pd.DataFrame) -> Rows:
    """Rows of a joined frame (JOIN_KEY, TIMESTAMP, churned, features), in a fixed order: by cutoff, then user.

    The order is part of the seed: a forest draws its bootstrap by row number.
    """
    ordered = frame.sort_values([TIMESTAMP, JOIN_KEY], kind="stable")
    stamps = pd.to_datetime(ordered[TIMESTAMP], utc=True).dt.tz_localize(None)
    return Rows(
        X=ordered[list(FEATURE_NAMES)].to_numpy(np.float64),
        y=ordered["churned"].to_numpy(bool).astype(np.int64),
        cutoff=stamps.to_numpy("datetime64[us]"),
        user_id=ordered[JOIN_KEY].to_numpy(object),
    )


def split_rows(rows: Rows, split: Split, population: NDArray[np.float64] | None = None) -> SplitRows:
    """Rows by role; raises NotReady when a side is too small or has one class only."""
    parts = SplitRows(rows.at(split.train), rows.at(split.test), split, population)
    for name, part in (("training", parts.train), ("test", parts.test)):
        _check_usable(name, part)
    return parts


def _check_usable(name: str, part: Rows) -> None:
    if len(part) < MINIMUM_ROWS:
        raise NotReady(
            f"the {name} set has {len(part)} eligible rows, fewer than {MINIMUM_ROWS}",
            hint="Build features at more cutoffs, or choose a longer horizon (CHURN_HORIZON_DAYS).",
        )
    if len(np.unique(part.y)) < 2:
        outcome = "churned" if part.y[0] else "stayed"
        raise NotReady(
            f"in the {name} set every user {outcome}: nothing to learn",
            hint="Check the horizon against the quantiles of days between active days that `churn ingest` shows.",
        )
