"""How the rules that need more than one flag are found: masks of rows, and counts of rows, that break them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from churn.core.contract_work import Work
from churn.core.raw_types import Mask, Times, as_mask

Find = Callable[[Work], Mask]
Count = Callable[[Work], int]

USER_TIMES = ("created_at", "updated_at", "last_login_at")
LATE_BY = timedelta(days=1)
SHORTEST_SILENCE = timedelta(days=60)
ISOLATED_SHARE = 0.001  # also the smallest log that is judged: 1,000 rows, of which one may be isolated
FOREIGN_SHARE = 0.05
REPEATED_SHARE = 0.05
REPEATED_AT_LEAST = 20  # below that a log is too small for a share to mean anything
SET_ASIDE_SHARE = 0.5
SET_ASIDE_AT_LEAST = 100
LONGEST_SESSION_MINUTES = 7 * 24 * 60


def foreign(role: str) -> Find:
    """Times in another format, when they are more than stray ones."""

    def find(work: Work) -> Mask:
        column = work.column(role)
        mask = column.flag("foreign")
        given = column.rows - int(column.flag("missing").sum())
        return mask if mask.sum() > FOREIGN_SHARE * given else np.zeros(work.rows, dtype=bool)

    return find


def unreadable_time(work: Work) -> Mask:
    """Stray ones: those of a foreign format have a rule of their own."""
    return work.column("time").flag("unreadable") & ~foreign("time")(work)


def in_future(role: str) -> Find:
    return lambda work: work.times(role) > work.terms.future


def isolated(work: Work) -> Mask:
    """At most one event in a thousand, beyond a silence longer than the horizon (and 60 days), at an end of the log."""
    times = work.times("time")
    first, last = _settled(np.sort(times[work.alive & ~np.isnat(times)]), max(work.terms.horizon, SHORTEST_SILENCE))
    return np.asarray((times < first) | (times > last), dtype=bool)


def _settled(ordered: Times, silence: timedelta) -> tuple[np.datetime64, np.datetime64]:
    """First and last instant between the isolated ends of `ordered`; NaT, which nothing is beyond, for no event."""
    if not len(ordered):
        return np.datetime64("NaT", "us"), np.datetime64("NaT", "us")
    allowed = int(len(ordered) * ISOLATED_SHARE)
    after = np.flatnonzero(np.diff(ordered) > np.timedelta64(silence)) + 1
    start = max((int(cut) for cut in after if cut <= allowed), default=0)
    end = min((int(cut) for cut in after if len(ordered) - cut <= allowed), default=len(ordered))
    return ordered[start], ordered[end - 1]


def _repeats(work: Work) -> Mask:
    """Rows whose key stands in another living row as well."""
    codes = work.key_codes
    usable = work.alive & (codes >= 0)
    counts = np.bincount(codes[usable], minlength=int(codes.max(initial=-1)) + 1)
    return usable if not len(counts) else usable & (counts[codes] > 1)


def _ranked_repeats(work: Work) -> pd.DataFrame:
    """Repeats of a key, the row to keep first: the one known earliest, as a correction must not change what older
    cutoffs knew. Ties are broken by content, not by the order of rows.
    """
    rows = np.flatnonzero(_repeats(work))
    times, written = work.times("time")[rows], work.times("ingested_at")[rows]
    at = pa.array(rows)
    frame = pd.DataFrame(
        {
            "row": rows,
            "key": work.key_codes[rows],
            "known_at": np.fmax(times, written),  # passes over NaT
            "time": times,
            "user": work.column("user_id").values.take(at).cast(pa.string()).to_pandas(),
            "number": work.column("number").values.take(at).cast(pa.float64()).to_pandas(),
            "written": written,
        }
    )
    return frame.sort_values(["key", "known_at", "time", "user", "number", "written", "row"], kind="stable")


def identical_repeats(work: Work) -> Mask:
    ranked = _ranked_repeats(work)
    same = ranked.duplicated(["key", "time", "user", "number"])
    return _rows(work, ranked["row"][same])


def conflicting_repeats(work: Work) -> Mask:
    ranked = _ranked_repeats(work)
    return _rows(work, ranked["row"][ranked.duplicated(["key"])])


def _rows(work: Work, rows: pd.Series[int]) -> Mask:
    mask = np.zeros(work.rows, dtype=bool)
    mask[rows.to_numpy(dtype=np.int64)] = True
    return mask


def older_users(work: Work) -> Mask:
    """All rows of a user but the one updated last; ties are broken by content, not by the order of rows."""
    rows = np.flatnonzero(_repeats(work))
    frame = pd.DataFrame({"row": rows, "key": work.key_codes[rows]})
    for column in USER_TIMES:
        frame[column] = work.times(column)[rows]
    for column in ("subscription_tier", "email"):
        frame[column] = work.column(column).values.cast(pa.string()).take(pa.array(rows)).to_pandas()
    order = ["key", "updated_at", "created_at", "last_login_at", "subscription_tier", "email", "row"]
    ascending = [True, False, True, False, True, True, True]
    ranked = frame.sort_values(order, ascending=ascending, na_position="last", kind="stable")
    return _rows(work, ranked["row"][ranked.duplicated(["key"])])


def out_of_range(work: Work) -> Mask:
    minutes = work.column("number").values.cast(pa.float64())
    return as_mask(pc.or_(pc.less(minutes, 0), pc.greater(minutes, LONGEST_SESSION_MINUTES)))


def written_before(work: Work) -> Mask:
    return work.times("ingested_at") < work.times("time") - np.timedelta64(LATE_BY)


def compared(compare: Callable[[pa.Array, float], pa.Array]) -> Find:
    return lambda work: as_mask(compare(work.column("number").values.cast(pa.float64()), 0.0))


def has_no_time(work: Work) -> Mask:
    return np.isnat(usable_sign_up(work)) & np.isnat(work.times("first_seen"))


def sign_up_derived(work: Work) -> Mask:
    return np.isnat(usable_sign_up(work))


def usable_sign_up(work: Work) -> Times:
    """created_at, NaT where it lies in the future."""
    created = work.times("created_at")
    return np.where(created > work.terms.future, np.datetime64("NaT", "us"), created)


# ---- counts, of a table as a whole ---------------------------------------------------------------------------------


def order_lines(work: Work) -> int:
    repeated = int(np.isin(work.reasons, ("duplicate_key", "duplicate_key_conflict")).sum())
    return repeated if repeated >= REPEATED_AT_LEAST and repeated > REPEATED_SHARE * work.rows else 0


def mostly_set_aside(work: Work) -> int:
    """Without guests; a table that a fatal rule has stopped needs no second reason."""
    guests = int((work.reasons == "guest").sum())
    refused = work.rows - int(work.alive.sum()) - guests
    many = refused >= SET_ASIDE_AT_LEAST and refused > SET_ASIDE_SHARE * (work.rows - guests)
    return refused if many and not work.stopped else 0


def nothing_left(work: Work) -> int:
    return work.rows if work.rows and not work.alive.any() and not work.stopped else 0


def no_amount(work: Work) -> int:
    column = work.parsed.get(work.column_of("number"))
    return work.rows if column and work.rows and column.flag("missing").all() else 0


def nearly_integer(work: Work) -> int:
    if work.terms.known_user_id_type == "string":
        return 0
    column = work.column("user_id")
    odd = int(column.flag("not_integer").sum())
    return odd if 0 < odd <= 0.01 * (column.rows - int(column.flag("missing").sum())) else 0
