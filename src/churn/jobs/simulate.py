"""simulate: a shop drawn from known hazards -> its raw tables, and the truth beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from churn.domain.ports import ShopFiles
from churn.domain.windows import as_utc, cutoffs_between
from churn.simulator.shop import Shop, ShopConfig, simulate


@dataclass(frozen=True)
class SimulationReport:
    """What was drawn. `refunds` are among the `orders`; times are in UTC, None when nothing happened.

    `eligible` and `expected_churn_rate` are of the newest matured cutoff, None when there is none.
    """

    users: int
    orders: int
    refunds: int
    user_sessions: int
    truth_rows: int
    cutoffs: tuple[datetime, ...]
    first_event: datetime | None
    last_event: datetime | None
    graded_cutoff: datetime | None
    eligible: int | None
    expected_churn_rate: float | None


def simulate_shop(
    config: ShopConfig, files: ShopFiles, *, horizon: timedelta, cutoffs: Sequence[datetime] | None = None
) -> SimulationReport:
    """Draw the shop, tell its truth at `cutoffs` (default_cutoffs when None) and write both; raises BadInput."""
    moments = tuple(default_cutoffs(config, horizon) if cutoffs is None else sorted(set(map(as_utc, cutoffs))))
    shop = simulate(config)
    truth = shop.truth(moments, horizon)
    files.write({"users": shop.users, "orders": shop.orders, "user_sessions": shop.user_sessions, "truth": truth})
    return _report(shop, truth, moments)


def default_cutoffs(config: ShopConfig, horizon: timedelta) -> list[datetime]:
    """Each month of the log, the newest matured cutoff, and the end of the log; the oldest first."""
    start = as_utc(config.start)
    moments = {*cutoffs_between(start, config.end, "month"), config.end - horizon}
    return sorted(moment for moment in moments if moment > start)


def _report(shop: Shop, truth: pa.Table, cutoffs: tuple[datetime, ...]) -> SimulationReport:
    events = [*_bounds(shop.orders["order_date"]), *_bounds(shop.user_sessions["session_start"])]
    graded = _graded(truth)
    return SimulationReport(
        users=shop.users.num_rows,
        orders=shop.orders.num_rows,
        refunds=pc.sum(pc.less(shop.orders["order_amount"], 0)).as_py() or 0,
        user_sessions=shop.user_sessions.num_rows,
        truth_rows=truth.num_rows,
        cutoffs=cutoffs,
        first_event=min(events, default=None),
        last_event=max(events, default=None),
        graded_cutoff=as_utc(graded["cutoff"][0].as_py()) if graded.num_rows else None,
        eligible=graded.num_rows or None,
        expected_churn_rate=pc.mean(graded["attainable_probability"]).as_py(),
    )


def _bounds(times: pa.ChunkedArray) -> list[datetime]:
    bounds = pc.min_max(times).as_py()
    return [as_utc(moment) for moment in bounds.values() if moment is not None]


def _graded(truth: pa.Table) -> pa.Table:
    """The eligible users of the newest matured cutoff."""
    usable = truth.filter(pc.and_(truth["matured"], truth["eligible"]))
    return usable.filter(pc.equal(usable["cutoff"], pc.max(usable["cutoff"])))
