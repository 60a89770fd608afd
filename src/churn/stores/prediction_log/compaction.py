"""Compaction: the finished segments of past days become one Parquet file a day.

Killed at any point it leaves a log that reads the same: a day is put in place by a rename and names the segments that
it holds, which readers leave out from then on; only then are they removed, by this compaction or by the next.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path

from churn.domain.records import CompactedDay
from churn.errors import Unavailable
from churn.stores.prediction_log.days import Day, path_of, write_day
from churn.stores.prediction_log.segments import day_of, segments_of, taken, unavailable
from churn.stores.prediction_log.tables import Part, joined, read_segment

ABANDONED_SECONDS = 3600.0


def compact(folder: Path, today: date) -> list[CompactedDay]:
    """Compacts every day before `today` (UTC), and says which days changed.

    A segment that its writer still holds is left for the next time. One with damaged lines is kept beside its day, as
    `*.damaged`, for a person to look at. Raises Unavailable.
    """
    if not folder.is_dir():
        return []
    try:
        with taken(folder) as alone:
            if not alone:
                raise Unavailable("the prediction log is being compacted already", hint="Wait for the other to end.")
            _remove_unnamed(folder)
            days = sorted(_past_days(folder, today).items())
            return [done for day, segments in days if (done := _compact_day(path_of(folder, day), day, segments))]
    except OSError as error:
        raise unavailable(error) from error


def _past_days(folder: Path, today: date) -> dict[date, list[Path]]:
    days: dict[date, list[Path]] = defaultdict(list)
    for path in segments_of(folder):
        day = day_of(path)
        if day is not None and day < today:
            days[day].append(path)
    return days


def _remove_unnamed(folder: Path) -> None:
    """Files of writers that ended while they opened a segment; they are empty.

    By their age, not by the day in their name: a writer may be at it right now, whatever day it takes it for.
    """
    for path in folder.glob("*.new"):
        with suppress(FileNotFoundError):  # it has got its name meanwhile
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()


def _compact_day(path: Path, day: date, segments: Sequence[Path]) -> CompactedDay | None:
    with ExitStack() as locks:
        finished = [segment for segment in segments if locks.enter_context(taken(segment))]
        parts = {segment: read_segment(segment) for segment in finished}
        before, held = _before(path)
        fresh = {segment.name: part for segment, part in parts.items() if segment.name not in held}
        done = None
        if any(len(part.rows) or part.damaged or part.torn for part in fresh.values()):
            rows = joined([before.rows, *(part.rows for part in fresh.values())])
            damaged = before.damaged + sum(part.damaged + part.torn for part in fresh.values())
            write_day(path, rows, [*held, *fresh], damaged)
            done = CompactedDay(day, len(rows), len(fresh), damaged)
        for segment, part in parts.items():
            _retire(segment, part)
    return done


def _before(path: Path) -> tuple[Part, tuple[str, ...]]:
    """What a compaction before this one made of the day."""
    try:
        with Day(path) as day:
            return day.read(), day.segments
    except FileNotFoundError:
        return Part(joined([])), ()


def _retire(segment: Path, part: Part) -> None:
    if part.damaged:
        segment.rename(segment.with_suffix(".damaged"))
    else:
        segment.unlink()
