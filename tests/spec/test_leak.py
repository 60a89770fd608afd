"""Promise 1: a feature knows nothing of what happened, or was written, at or after its cutoff.

Said as a property: two histories that agree on what was known at a cutoff have the same features there, whatever
else they hold. So adding, changing or removing any later event changes no feature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from churn.core.contract import check
from churn.core.contract_work import Terms
from churn.domain.schema import RAW_COLUMNS
from churn.domain.windows import DAY, in_horizon, known
from churn.stores.warehouse import Warehouse
from tests.shops import TICK, day, drawn, histories, town, with_ids, write_snapshot
from tests.twin import Order, Session, Shop, User, features_as_of, labels

HORIZON = 30 * DAY
CUTOFF = day("2024-03-01")
CUTOFFS = (CUTOFF, day("2024-03-20 13:45:30"))
LOG_END = day("2024-06-01")


@dataclass(frozen=True)
class Fork:
    """Two histories that agree on what was known at the cutoff."""

    cutoff: datetime
    one: Shop
    other: Shop


def known_part(history: Shop, cutoff: datetime) -> Shop:
    return Shop(
        [user for user in history.users if user.created_at < cutoff],
        [order for order in history.orders if known(order.at, order.ingested_at, cutoff)],
        [session for session in history.sessions if known(session.at, session.ingested_at, cutoff)],
    )


def unknown_part(cutoff: datetime) -> st.SearchStrategy[Shop]:
    """A user who signs up, orders and comes back at or after the cutoff, or whose past was written then."""
    later = st.sampled_from([timedelta(0), TICK, HORIZON, HORIZON - TICK]) | st.timedeltas(timedelta(0), 80 * DAY)
    after = st.builds(lambda wait: cutoff + wait, later)
    before = st.builds(lambda wait: cutoff - wait, later)
    times = st.tuples(after, st.none() | after) | st.tuples(before, after)
    money = st.none() | st.sampled_from([Decimal(900), Decimal(-900), Decimal(0)])
    order = st.builds(lambda when, amount: Order("", 0, when[0], amount, when[1]), times, money)
    session = st.builds(lambda when: Session("", 0, when[0], Decimal(60), when[1]), times)
    user = st.builds(lambda at: [User(0, at)], after)
    return st.builds(Shop, user, st.lists(order, max_size=4), st.lists(session, max_size=4))


def joined(past: Shop, future: Shop) -> Shop:
    """One history; the user signed up in the past if there is such a user, else in the future."""
    users = past.users or future.users
    return Shop(users, [*past.orders, *future.orders], [*past.sessions, *future.sessions])


@st.composite
def forks(draw: st.DrawFn) -> Fork:
    cutoff = draw(st.sampled_from(CUTOFFS))
    past = known_part(draw(histories(CUTOFFS, HORIZON, most=4)), cutoff)
    one, other = (joined(past, draw(unknown_part(cutoff))) for _ in range(2))
    return Fork(cutoff, with_ids(one, 0), with_ids(other, 0))


@given(forks())
def test_the_twin_knows_nothing_of_what_comes_after(fork: Fork) -> None:
    assert features_as_of(fork.one, fork.cutoff) == features_as_of(fork.other, fork.cutoff)


@given(histories(CUTOFFS, HORIZON, most=4), histories(CUTOFFS, HORIZON, most=4))
def test_whether_a_user_churned_depends_on_the_horizon_alone(one: Shop, other: Shop) -> None:
    inside, outside = split_by_horizon(one)[0], split_by_horizon(other)[1]
    user = [User(0, CUTOFF - DAY)]
    mixed = Shop(user, [*inside.orders, *outside.orders], [*inside.sessions, *outside.sessions])
    churned = labels(Shop(user, one.orders, one.sessions), CUTOFF, HORIZON)[0].churned
    assert labels(mixed, CUTOFF, HORIZON)[0].churned == churned


def split_by_horizon(shop: Shop) -> tuple[Shop, Shop]:
    """The events inside the horizon, and the others."""
    inside, outside = (
        Shop(
            (),
            [order for order in shop.orders if in_horizon(order.at, CUTOFF, HORIZON) == wanted],
            [session for session in shop.sessions if in_horizon(session.at, CUTOFF, HORIZON) == wanted],
        )
        for wanted in (True, False)
    )
    return inside, outside


def rows_at(home: Path, cutoff: datetime) -> dict[int, list[Any]]:
    rows = pd.read_parquet(home / "offline" / "user_analytics" / f"{cutoff:%Y-%m-%dT%H%M%SZ}.parquet")
    table = rows.astype(object).where(rows.notna(), None)
    return {user_id: values for user_id, *values in table.itertuples(index=False)}


@st.composite
def repeats(draw: st.DrawFn) -> tuple[list[Order], Order]:
    """Orders of few keys, at, before and after the cutoff; and one more of a key among them, known only from then."""
    waits = st.sampled_from([timedelta(0), TICK, DAY]) | st.timedeltas(timedelta(0), 20 * DAY)
    times = st.builds(lambda wait, sign: CUTOFF + sign * wait, waits, st.sampled_from([1, -1]))
    order = st.builds(
        Order,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([1, 2]),
        times,
        st.sampled_from([Decimal(-5), Decimal(50), Decimal(100)]),
        st.none() | times,
    )
    orders = draw(st.lists(order, min_size=1, max_size=6))
    added = replace(draw(order), order_id=draw(st.sampled_from([one.order_id for one in orders])))
    if known(added.at, added.ingested_at, CUTOFF):
        added = replace(added, ingested_at=CUTOFF + draw(waits))
    return orders, added


def ingested_as_of(orders: list[Order]) -> dict[str, list[dict[str, Any]]]:
    """What the ingest lets a cutoff know: users who signed up before it, and orders known before it."""
    columns = {
        "order_id": pa.array([order.order_id for order in orders]),
        "user_id": pa.array([order.user_id for order in orders]),
        "order_amount": pa.array([order.amount for order in orders]),
        "order_date": pa.array([order.at for order in orders], pa.timestamp("us", "UTC")),
        "ingested_at": pa.array([order.ingested_at for order in orders], pa.timestamp("us", "UTC")),
    }
    tables = check({"orders": pa.table(columns)}, {}, Terms(LOG_END)).tables
    cutoff = CUTOFF.replace(tzinfo=None)
    return {
        "users": [row for row in tables["users"].to_pylist() if row["created_at"] < cutoff],
        "orders": [row for row in tables["orders"].to_pylist() if known(row["order_date"], row["ingested_at"], cutoff)],
    }


@given(repeats())
def test_a_row_of_a_known_key_written_later_changes_nothing_that_was_known(case: tuple[list[Order], Order]) -> None:
    orders, added = case
    assert ingested_as_of([*orders, added]) == ingested_as_of([added, *orders]) == ingested_as_of(orders)


def test_dbt_knows_nothing_of_what_comes_after(repository: Path, tmp_path: Path) -> None:
    """User 2n lives the one history of a fork, user 2n + 1 the other; one build holds them all."""
    examples = drawn(forks(), 100)
    lives = [life for fork in examples for life in (fork.one, fork.other)]
    shop = town([with_ids(life, number) for number, life in enumerate(lives)])
    warehouse = Warehouse(repository / "warehouse", tmp_path, memory_limit_gb=1)
    warehouse.build(write_snapshot(shop, tmp_path / "snapshot", end=LOG_END), CUTOFFS, HORIZON)

    rows = {cutoff: rows_at(tmp_path, cutoff) for cutoff in CUTOFFS}
    for number, fork in enumerate(examples):
        at_cutoff = rows[fork.cutoff]
        assert at_cutoff.get(2 * number) == at_cutoff.get(2 * number + 1), fork
    assert sum(2 * number in rows[fork.cutoff] for number, fork in enumerate(examples)) > 50  # not vacuously


def test_a_later_snapshot_gives_the_same_bytes_at_an_old_cutoff(repository: Path, tmp_path: Path) -> None:
    """The whole road at once: events added, corrected under their old id and moved after the cutoff, and every
    mutable column of the users filled in, leave the exported file of the cutoff as it was."""
    lives = town([with_ids(life, number) for number, life in enumerate(drawn(histories(CUTOFFS, HORIZON), 60))])
    past = replace(known_part(lives, CUTOFF), users=lives.users)
    newcomers = [User(1000 + n, CUTOFF + n * DAY) for n in range(3)]
    corrections = [
        replace(order, amount=Decimal(999), at=order.at + DAY, ingested_at=CUTOFF + 40 * DAY) for order in past.orders
    ]
    orders = [Order(f"new-{user.user_id}", user.user_id, user.created_at) for user in newcomers]
    later = Shop([*past.users, *newcomers], [*past.orders, *corrections, *orders], past.sessions)
    one = write_snapshot(past, tmp_path / "one", end=LOG_END)
    other = write_snapshot(later, tmp_path / "other", end=LOG_END)
    fill_in_the_mutable_columns(other.folder / "users.parquet")

    digests = []
    for snapshot in (one, other):
        warehouse = Warehouse(repository / "warehouse", tmp_path / f"home-{snapshot.snapshot_id}", memory_limit_gb=1)
        warehouse.build(snapshot, [CUTOFF], HORIZON)
        digests.append(warehouse.manifest()["cutoffs"]["2024-03-01T000000Z"]["sha256"])
    assert digests[0] == digests[1]


def fill_in_the_mutable_columns(path: Path) -> None:
    users = pq.read_table(path)
    for name in RAW_COLUMNS["users"]:
        if name not in ("user_id", "created_at"):
            column = users.schema.get_field_index(name)
            is_time = pa.types.is_timestamp(users.schema.field(name).type)
            value = pa.scalar(
                day("2024-05-01").replace(tzinfo=None) if is_time else "gold", users.schema.field(name).type
            )
            users = users.set_column(column, users.schema.field(name), pa.repeat(value, len(users)))
    pq.write_table(users, path)
