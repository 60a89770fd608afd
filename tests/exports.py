"""What a build of features leaves behind, made without dbt: feature rows with a signal, their exports, their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from churn.core.training_set import Rows, rows_of
from churn.domain.predictions import UserId
from churn.domain.schema import FEATURE_NAMES, FEATURE_VIEW, FEATURES, JOIN_KEY, TIMESTAMP
from tests.models import random_vectors

HORIZON = timedelta(days=60)
CUTOFF_NAME = "%Y-%m-%dT%H%M%SZ"


def at(text: str) -> datetime:
    """`2011-10-10` or `2011-10-10 13:45` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def feature_frame(user_ids: Sequence[UserId], cutoff: datetime, seed: int = 1, **changes: Any) -> pd.DataFrame:
    """Valid features of eligible users at `cutoff`; `changes` overwrite whole columns."""
    ids = pd.DataFrame({JOIN_KEY: list(user_ids), TIMESTAMP: _stamps(cutoff, len(user_ids))})
    lowest = [-np.inf if feature.low is None else feature.low for feature in FEATURES]
    vectors = pd.DataFrame(np.maximum(random_vectors(len(user_ids), seed), lowest), columns=list(FEATURE_NAMES))
    return pd.concat([ids, vectors], axis=1).assign(**changes)


def _stamps(cutoff: datetime, count: int) -> np.ndarray:
    return np.full(count, np.datetime64(cutoff.replace(tzinfo=None), "us"))


def write_export(home: Path, frame: pd.DataFrame) -> Path:
    """One cutoff's rows where the warehouse exports them, with its further columns `cutoff` and `user_segment`."""
    stamp = pd.Timestamp(frame[TIMESTAMP].iloc[0])
    path = home / "offline" / FEATURE_VIEW / f"{stamp:{CUTOFF_NAME}}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    # Null, not nan, is what DuckDB writes.
    table = table.append_column("cutoff", table[TIMESTAMP])
    table = table.append_column("user_segment", pa.array(["Regular"] * len(frame)))
    pq.write_table(table, path)
    return path


def churned_of(frame: pd.DataFrame, seed: int = 1, strength: float = 1.0) -> pd.Series:
    """Labels that follow recency, with noise; strength 0 is noise alone."""
    noise = np.random.default_rng(seed).normal(0, 15, len(frame))
    return pd.Series(strength * (frame["days_since_last_activity"].to_numpy() - 30) + noise > 0, index=frame.index)


def labelled_frame(cutoffs: Iterable[datetime], users: int, seed: int = 1) -> pd.DataFrame:
    """Features and labels of users 1..`users` at every cutoff."""
    parts = []
    for place, cutoff in enumerate(cutoffs):
        frame = feature_frame(range(1, users + 1), cutoff, seed=seed + place)
        parts.append(frame.assign(churned=churned_of(frame, seed + place)))
    return pd.concat(parts, ignore_index=True)


def labelled_rows(cutoffs: Iterable[datetime], users: int, seed: int = 1) -> Rows:
    """The same as rows of a training set."""
    return rows_of(labelled_frame(cutoffs, users, seed))
