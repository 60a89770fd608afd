"""Readers of the log: monitoring, audits. Never loaded by the service, which need not pay for pandas and Arrow."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from churn.errors import Unavailable
from churn.stores.prediction_log.days import days_of
from churn.stores.prediction_log.segments import is_open, segments_of, unavailable
from churn.stores.prediction_log.tables import Part, frame_of, joined, read_segment

if TYPE_CHECKING:
    import pandas as pd

# A request that is sent again carries the key of the first. Its first record may lie before the window.
RETRIES_FOLLOW_WITHIN = timedelta(hours=1)
_ATTEMPTS = 10


def read_predictions(folder: Path, since: datetime, until: datetime) -> tuple[pd.DataFrame, int]:
    """Predictions made in [since, until), in the order of `predicted_at`, and how many lines had to be skipped.

    Columns: see tables.frame_of (nan = null; probability nan unless the status is ok). Lines that are torn, damaged
    or of an unknown schema are skipped and counted. Of several records with the same idempotency key the first
    counts. May run beside writers and a compaction. Raises Unavailable.
    """
    parts = _parts(folder, _earlier(since), until)
    table = _between(joined([part.rows for part in parts]), since, until)
    return frame_of(table), sum(part.damaged + part.torn for part in parts)


def _parts(folder: Path, since: datetime, until: datetime) -> list[Part]:
    for _ in range(_ATTEMPTS):
        try:
            return _parts_now(folder, since, until)
        except FileNotFoundError:  # a compaction was faster: what was there is now in its day
            continue
        except OSError as error:
            raise unavailable(error) from error
    raise Unavailable(
        "the prediction log cannot be read: its files vanish while they are read",
        hint="Something other than churn compact removes them.",
        facts={"reason": "prediction_log"},
    )


def _parts_now(folder: Path, since: datetime, until: datetime) -> list[Part]:
    """Segments are listed before days: whatever goes from one to the other meanwhile is in what is opened later."""
    segments = segments_of(folder)
    with ExitStack() as stack:
        days = [stack.enter_context(day) for day in days_of(folder)]
        held = {name for day in days for name in day.segments}
        rest = [read_segment(path, is_open=is_open(path)) for path in segments if path.name not in held]
        return [*(day.read(since, until) for day in days), *(_within(part, since, until) for part in rest)]


def _within(part: Part, since: datetime, until: datetime) -> Part:
    return Part(_between(part.rows, since, until), part.damaged, part.torn)


def _between(table: pa.Table, since: datetime, until: datetime) -> pa.Table:
    """Rows with since <= predicted_at < until."""
    moments = table["predicted_at"]
    low, high = (pa.scalar(moment, type=moments.type) for moment in (since, until))
    return table.filter(pc.and_(pc.greater_equal(moments, low), pc.less(moments, high)))


def _earlier(since: datetime) -> datetime:
    try:
        return since - RETRIES_FOLLOW_WITHIN
    except OverflowError:  # there is nothing before the first moment of the calendar
        return since
