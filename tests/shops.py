"""Small shops for tests: written as the snapshot that the ingest would leave, and drawn at random by Hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from churn.domain.ports import Snapshot, UserIdType
from churn.domain.windows import DAY, log_end
from tests.twin import Order, Session, Shop, User, UserId

ID_TYPES = {"integer": pa.int64(), "string": pa.string()}
MOMENT = pa.timestamp("us")
MONEY = pa.decimal128(18, 4)
TICK = timedelta(microseconds=1)
Drawn = TypeVar("Drawn")


def day(text: str) -> datetime:
    """`2024-03-01` or `2024-03-01 13:45` as an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def write_snapshot(
    shop: Shop, folder: Path, user_id_type: UserIdType = "integer", end: datetime | None = None
) -> Snapshot:
    """The shop as three Parquet files; the log ends at `end`, by default after the last event."""
    id_type = ID_TYPES[user_id_type]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "users.parquet", _users(shop.users), _schema(user_id=id_type, **USERS))
    _write(folder / "orders.parquet", _orders(shop.orders), _schema(order_id=pa.string(), user_id=id_type, **ORDERS))
    _write(
        folder / "user_sessions.parquet",
        _sessions(shop.sessions),
        _schema(session_id=pa.string(), user_id=id_type, **SESSIONS),
    )
    moments = [event.at for event in (*shop.orders, *shop.sessions)]
    first, last = (min(moments), max(moments)) if moments else (day("2024-01-01"), day("2024-01-01"))
    return Snapshot(folder.name, folder, user_id_type, first, last, end or log_end(last))


USERS = {
    "email": pa.string(),
    "created_at": MOMENT,
    "updated_at": MOMENT,
    "last_login_at": MOMENT,
    "subscription_tier": pa.string(),
}
ORDERS = {"order_amount": MONEY, "order_date": MOMENT, "ingested_at": MOMENT}
SESSIONS = {"session_start": MOMENT, "session_duration_minutes": MONEY, "ingested_at": MOMENT}


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _users(users: Sequence[User]) -> list[dict[str, Any]]:
    return [{"user_id": user.user_id, "created_at": _naive(user.created_at)} for user in users]


def _orders(orders: Sequence[Order]) -> list[dict[str, Any]]:
    return [
        {
            "order_id": order.order_id,
            "user_id": order.user_id,
            "order_amount": order.amount,
            "order_date": _naive(order.at),
            "ingested_at": _naive(order.ingested_at),
        }
        for order in orders
    ]


def _sessions(sessions: Sequence[Session]) -> list[dict[str, Any]]:
    return [
        {
            "session_id": session.session_id,
            "user_id": session.user_id,
            "session_start": _naive(session.at),
            "session_duration_minutes": session.minutes,
            "ingested_at": _naive(session.ingested_at),
        }
        for session in sessions
    ]


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=None)


# -- histories drawn by Hypothesis -----------------------------------------------------------------------------


def moments(cutoffs: Sequence[datetime], horizon: timedelta) -> st.SearchStrategy[datetime]:
    """Mostly instants on, just before and just after an edge of some window; the rest anywhere near."""
    lengths = [timedelta(0), *(days * DAY for days in (7, 30, 90, 180, 365)), -horizon, 60 * DAY]
    edges = sorted({cutoff - length for cutoff in cutoffs for length in lengths})
    at_edge = st.builds(lambda edge, tick: edge + tick * TICK, st.sampled_from(edges), st.integers(-1, 1))
    near = st.builds(
        lambda edge, minutes: edge + timedelta(minutes=minutes),
        st.sampled_from(edges),
        st.integers(-40 * 24 * 60, 40 * 24 * 60),
    )
    return at_edge | near


def histories(cutoffs: Sequence[datetime], horizon: timedelta, most: int = 8) -> st.SearchStrategy[Shop]:
    """One user, number 0, with up to `most` orders and sessions each."""
    moment = moments(cutoffs, horizon)
    money = (
        st.none() | st.decimals(Decimal("-50"), Decimal("400"), places=2) | st.sampled_from([Decimal(0), Decimal(700)])
    )
    minutes = st.none() | st.decimals(Decimal(0), Decimal(90), places=4)
    # An event may be written late, or carry a clock that ran ahead; mostly nobody knows when it was written.
    written = st.none() | st.builds(
        lambda at, minutes: at + timedelta(minutes=minutes), moment, st.integers(0, 30 * 24 * 60)
    )
    order = st.builds(Order, st.just(""), st.just(0), moment, money, written)
    session = st.builds(Session, st.just(""), st.just(0), moment, minutes, written)
    return st.builds(
        Shop,
        st.builds(lambda at: [User(0, at)], moment),
        st.lists(order, max_size=most),
        st.lists(session, max_size=most),
    )


def drawn(strategy: st.SearchStrategy[Drawn], count: int) -> list[Drawn]:
    """`count` examples of a strategy, so that one dbt build can answer for all of them."""
    examples: list[Drawn] = []

    @settings(max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(example: Drawn) -> None:
        examples.append(example)

    collect()
    return examples


def with_ids(history: Shop, user_id: UserId) -> Shop:
    """The same history under another user's id, with event ids of its own."""
    return Shop(
        [replace(user, user_id=user_id) for user in history.users],
        [replace(order, order_id=f"o{user_id}-{i}", user_id=user_id) for i, order in enumerate(history.orders)],
        [replace(visit, session_id=f"s{user_id}-{i}", user_id=user_id) for i, visit in enumerate(history.sessions)],
    )


def town(histories: Sequence[Shop]) -> Shop:
    """One shop of several."""
    return Shop(
        list(chain.from_iterable(shop.users for shop in histories)),
        list(chain.from_iterable(shop.orders for shop in histories)),
        list(chain.from_iterable(shop.sessions for shop in histories)),
    )
