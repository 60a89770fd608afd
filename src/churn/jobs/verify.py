"""verify: the service would read the offline rows of the cutoff, bit by bit, and those of nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import pandas as pd

from churn.domain.ports import OfflineFeatures, OnlineFeatures
from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY
from churn.errors import Mismatch

BATCH = 1000
SHOWN = 5
SAMPLE = 100  # of users whom Feast reads too: ten times slower than the service's own way


class CountedFeatures(OnlineFeatures, Protocol):
    """An online store that also says how many users it holds, and what Feast reads of it."""

    def online_users(self) -> int:
        """Raises Unavailable when the store does not answer."""

    def read_by_feast(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """As `read`, by Feast's own get_online_features."""


Read = Callable[[Sequence[UserId]], list[FeatureRow | None]]


@dataclass(frozen=True)
class Verified:
    """How many users were compared, and at which cutoff."""

    users: int
    cutoff: datetime


def verify(offline: OfflineFeatures, online: CountedFeatures, cutoff: datetime) -> Verified:
    """Compare all users of `cutoff` as the service reads them and some as Feast does; look for users online only.

    Raises Mismatch that names users and features, or says how many users are too many.
    """
    rows = offline.offline_rows(cutoff)
    differing = [sample for part in _batches(rows) for sample in _differences(part, online.read, cutoff)]
    if not differing:
        spread = rows.iloc[:: max(1, len(rows) // SAMPLE)]
        differing = [f"by Feast, {sample}" for sample in _differences(spread, online.read_by_feast, cutoff)]
    if differing:
        raise Mismatch(
            f"{len(differing)} of {len(rows)} users differ between offline and online store at {cutoff:%Y-%m-%d}: "
            + "; ".join(differing[:SHOWN]),
            hint="Run `churn build-features` again; if it stays, something else writes to the online store.",
        )
    _refuse_others(online.online_users() - len(rows), cutoff)
    return Verified(len(rows), cutoff)


def _refuse_others(others: int, cutoff: datetime) -> None:
    """Every user of the cutoff is online by now, so that whoever is counted beyond them is not of the cutoff."""
    if others > 0:
        raise Mismatch(
            f"{others} {'user is' if others == 1 else 'users are'} online but not at the cutoff {cutoff:%Y-%m-%d}",
            hint="Run `churn build-features` again; it removes them.",
        )


def _batches(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, len(rows), BATCH):
        yield rows.iloc[start : start + BATCH]


def _differences(part: pd.DataFrame, read: Read, cutoff: datetime) -> list[str]:
    ids: Sequence[UserId] = part[JOIN_KEY].tolist()
    wanted = part[list(FEATURE_NAMES)].to_numpy(np.float64)
    found = [_difference(*row, cutoff) for row in zip(ids, wanted, read(ids), strict=True)]
    return [text for text in found if text]


def _difference(user_id: UserId, wanted: np.ndarray, row: FeatureRow | None, cutoff: datetime) -> str:
    if row is None:
        return f"user {user_id} is not online"
    if row.as_of != cutoff:
        return f"user {user_id} is online as of {row.as_of:%Y-%m-%d}"
    same = (wanted == np.array(row.vector)) | (np.isnan(wanted) & np.isnan(row.vector))
    return "" if same.all() else f"user {user_id}: " + ", ".join(np.array(FEATURE_NAMES)[~same])
