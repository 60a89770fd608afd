"""Facts of a checked log: its ends, and how long its users pause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from churn.domain.schema import RAW_EVENT_TIMES
from churn.domain.windows import as_utc

QUANTILES = (50, 75, 90, 95, 99)
NUMBERS = {"orders": "order_amount"}
MICROSECONDS_A_DAY = 86_400_000_000


@dataclass(frozen=True)
class Span:
    """First and last event of a table, UTC; None for a table without events."""

    first: datetime | None
    last: datetime | None


def span(table: pa.Table, column: str) -> Span:
    ends = pc.min_max(table.column(column)).as_py()
    return Span(*(None if ends[end] is None else as_utc(ends[end]) for end in ("min", "max")))


def joint_span(spans: Mapping[str, Span]) -> tuple[datetime, datetime]:
    """First and last event over all tables, of which at least one has events."""
    firsts = [each.first for each in spans.values() if each.first is not None]
    lasts = [each.last for each in spans.values() if each.last is not None]
    return min(firsts), max(lasts)


def events_of(tables: Mapping[str, pa.Table], *, activity_only: bool) -> pa.Table:
    """(user_id, time, known_at) of all events, known once they are written; of activity only, refunds are left out."""
    parts = []
    for name, time in RAW_EVENT_TIMES.items():
        table = tables[name]
        if activity_only and name in NUMBERS:
            refund = pc.less(table.column(NUMBERS[name]), 0).combine_chunks().fill_null(False)
            table = table.filter(pc.invert(refund))
        known_at = pc.max_element_wise(table.column(time), table.column("ingested_at"))  # passes over nulls
        columns = {"user_id": table.column("user_id"), "time": table.column(time), "known_at": known_at}
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def first_events(tables: Mapping[str, pa.Table]) -> pa.Table:
    """(user_id, known_at_min): when each user was first seen, refunds included, sorted by user.

    Seen is when the event had been written: a late first event must not tell an earlier cutoff of the user.
    """
    events = events_of(tables, activity_only=False)
    return events.group_by("user_id").aggregate([("known_at", "min")]).sort_by("user_id")


def gap_quantiles(tables: Mapping[str, pa.Table]) -> dict[str, float | None]:
    """{p50, p75, p90, p95, p99} of the days between consecutive active days of a user; None without any such pair."""
    gaps = _gaps(events_of(tables, activity_only=True))
    days = np.percentile(gaps, QUANTILES).tolist() if len(gaps) else [None] * len(QUANTILES)
    return {f"p{quantile}": value for quantile, value in zip(QUANTILES, days, strict=True)}


def _gaps(events: pa.Table) -> npt.NDArray[np.int64]:
    if not events.num_rows:
        return np.array([], dtype=np.int64)
    users = pa.concat_arrays(events.column("user_id").chunks).dictionary_encode().indices.to_numpy().astype(np.int64)
    micros = events.column("time").cast(pa.int64()).to_numpy()
    days = np.floor_divide(micros, MICROSECONDS_A_DAY)
    width = int(days.max() - days.min()) + 1
    active = np.sort(users * width + (days - days.min()))  # one number a (user, day), in the order of both
    gaps = np.diff(active)
    same_user = active[1:] // width == active[:-1] // width
    return np.asarray(gaps[same_user & (gaps > 0)], dtype=np.int64)
