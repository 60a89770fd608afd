"""Every boundary in time, once.

The one rule: an event AT the cutoff belongs to the horizon, not to the features. Every window is closed on
the left and open on the right. `tests/spec/test_windows.py` holds the tables; the SQL in `warehouse/` and the
in-memory twin in the tests are checked against the same rule.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Literal

from churn.errors import BadInput, NotReady

Every = Literal["day", "week", "month"]
EVERY: tuple[Every, ...] = ("day", "week", "month")
DAY = timedelta(days=1)


def as_utc(moment: datetime) -> datetime:
    """The same instant in UTC. A naive time is taken to be UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def parse_instant(text: str) -> datetime:
    """`2011-10-10` or `2011-10-10T00:00:00+00:00` as an instant in UTC; raises BadInput."""
    try:
        return as_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"{text!r} is not a date or an ISO 8601 time", hint="Write 2011-10-10 or 2011-10-10T06:00:00Z."
        ) from error


CUTOFF_NAME = "%Y-%m-%dT%H%M%SZ"


def cutoff_name(cutoff: datetime) -> str:
    """`2011-10-10T000000Z`: how a cutoff is spelled in file names and manifests."""
    return f"{as_utc(cutoff):{CUTOFF_NAME}}"


def parse_cutoff_name(name: str) -> datetime:
    return datetime.strptime(name, CUTOFF_NAME).replace(tzinfo=UTC)


def log_end(last_event: datetime) -> datetime:
    """The end of a log: midnight (UTC) after its last event.

    A log is taken to cover whole days, its last day included: day-only logs stamp that day 00:00.
    """
    return _midnight(last_event) + DAY


def complete_until(last_event: datetime, now: datetime) -> datetime:
    """Until when a log is complete as seen at `now`: its end, but never ahead of the clock.

    The day of `now` is still going on, so it does not count: a live log is complete until the last midnight (UTC).
    A label or a cutoff beyond that would take what has not happened yet for silence.
    """
    return min(log_end(last_event), _midnight(now))


def _midnight(moment: datetime) -> datetime:
    """The last midnight in UTC that is not after `moment`."""
    return as_utc(moment).replace(hour=0, minute=0, second=0, microsecond=0)


def known(event_at: datetime, ingested_at: datetime | None, cutoff: datetime) -> bool:
    """Whether an event counts as of `cutoff`: it happened, and had been written, before it."""
    return event_at < cutoff and (ingested_at is None or ingested_at < cutoff)


def in_horizon(event_at: datetime, cutoff: datetime, horizon: timedelta) -> bool:
    """Whether an event lies where churn is looked for: `[cutoff, cutoff + horizon)`."""
    return cutoff <= event_at < cutoff + horizon


def matured(cutoff: datetime, horizon: timedelta, end: datetime) -> bool:
    """Whether the label at `cutoff` exists: its whole horizon lies before the end of the log."""
    return cutoff + horizon <= end


def eligible(days_since_last_activity: float | None, horizon: timedelta) -> bool:
    """Whether a user was active within the horizon's length before the cutoff; None means never active."""
    return days_since_last_activity is not None and days_since_last_activity <= longest_idle(horizon)


def longest_idle(horizon: timedelta) -> float:
    """The most days without activity, inclusive, after which a user is still eligible."""
    return horizon / DAY


def gap(last_train: datetime, horizon: timedelta, first_test: datetime) -> timedelta:
    """From the end of the last training horizon to the first test cutoff; negative means a leak."""
    return first_test - (last_train + horizon)


def cutoffs_between(start: datetime, end: datetime, every: Every) -> list[datetime]:
    """Cutoffs from `start` in steps of `every`; `end` is always the last one, on the step or not.

    A month step keeps the day of `start`, clipped to the length of the month. Raises BadInput if end < start.
    """
    start, end = as_utc(start), as_utc(end)
    if end < start:
        raise BadInput(f"--to {end:%Y-%m-%d} lies before --from {start:%Y-%m-%d}", hint="Swap the two.")
    steps: list[datetime] = []
    for step in count():
        moment = _nth_step(start, every, step)
        if moment >= end:
            return [*steps, end]
        steps.append(moment)
    raise AssertionError("count() does not end")


def _nth_step(start: datetime, every: Every, step: int) -> datetime:
    if every != "month":
        return start + step * (DAY if every == "day" else 7 * DAY)
    month = start.month - 1 + step
    year, month = start.year + month // 12, month % 12 + 1
    return start.replace(year=year, month=month, day=min(start.day, monthrange(year, month)[1]))


@dataclass(frozen=True)
class Split:
    """Cutoffs by role; every training horizon ends at or before the first test cutoff."""

    train: tuple[datetime, ...]
    test: tuple[datetime, ...]
    dropped: tuple[datetime, ...] = ()


def split_cutoffs(cutoffs: Sequence[datetime], horizon: timedelta, test_cutoffs: int = 1) -> Split:
    """The newest `test_cutoffs` cutoffs test; those whose horizon reaches past the first of them are dropped.

    Raises NotReady when nothing is left to train on.
    """
    ordered = sorted(cutoffs)
    test = tuple(ordered[-test_cutoffs:]) if test_cutoffs > 0 else ()
    if not test:
        raise NotReady(
            "no matured cutoff to test on", hint="Build features at earlier cutoffs, or shorten the horizon."
        )
    earlier = [moment for moment in ordered if moment < test[0]]
    train = tuple(moment for moment in earlier if gap(moment, horizon, test[0]) >= timedelta(0))
    if not train:
        raise NotReady(
            f"no training cutoff ends its {horizon.days}-day horizon before the first test cutoff {test[0]:%Y-%m-%d}",
            hint="Build features further back: churn build-features --from … --to … --every month.",
        )
    return Split(train=train, test=test, dropped=tuple(moment for moment in earlier if moment not in train))
