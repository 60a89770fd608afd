"""The raw tables of a simulated shop, as a real shop would hand them over.

Ids of orders and sessions count up with event time. `last_login_at`, `updated_at` and `subscription_tier` are the final
values at the end of the log, as in any users table: they tell who has left, and must never be used for a past cutoff.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from churn.simulator.draws import DAY_US, People, Rows, to_us
from churn.simulator.hazards import Ints, Tier
from churn.simulator.money import Orders

NEVER = -1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Calendar:
    """Where the shop's microseconds lie in real time."""

    start: datetime
    days: int

    @property
    def length_us(self) -> int:
        return self.days * DAY_US

    def instants(self, moments: Ints) -> pa.Array:
        """Naive UTC timestamps; NEVER becomes null."""
        start_us = (self.start - EPOCH) // timedelta(microseconds=1)
        return pa.array(moments + start_us, mask=moments == NEVER).cast(pa.timestamp("us"))


def integer_ids(users: int) -> pa.Array:
    return pa.array(np.arange(1, users + 1))


def string_ids(users: int, rng: np.random.Generator) -> pa.Array:
    """Random UUIDs (version 4)."""
    raw = rng.bytes(16 * users)
    return pa.array([str(uuid.UUID(bytes=raw[at : at + 16], version=4)) for at in range(0, len(raw), 16)], pa.string())


@dataclass(frozen=True)
class FinalState:
    """The mutable columns of the users table, as of the end of the log. A tier beyond the highest means the highest."""

    updated: Ints
    last_login: Ints
    tier: Ints


def final_state(people: People, sessions: Rows, length_us: int, rng: np.random.Generator) -> FinalState:
    """Most who left are back in the first tier within a month; some who stayed have moved up."""
    users = len(people)
    downgraded = (people.left_at < length_us) & (rng.random(users) < 0.6)
    upgraded = (people.left_at >= length_us) & (rng.random(users) < 0.2)
    tier = np.where(downgraded, 0, people.tier + upgraded)
    downgrade = people.left_at + to_us(rng.random(users) * 30)
    last_login = np.full(users, NEVER)
    last_login[sessions.owner] = sessions.at  # by time: the last one stays
    updated = np.where(downgraded, downgrade, np.maximum(people.signup, last_login))
    return FinalState(np.minimum(updated, length_us - 1), last_login, tier)


def users_table(
    ids: pa.Array, signup: Ints, final: FinalState, tiers: tuple[Tier, ...], calendar: Calendar
) -> pa.Table:
    """One row per user, in the order of signup."""
    tier = np.minimum(final.tier, len(tiers) - 1)
    return pa.table(
        {
            "user_id": ids,
            "email": pc.binary_join_element_wise("user-", ids.cast(pa.string()), "@example.invalid", ""),
            "created_at": calendar.instants(signup),
            "updated_at": calendar.instants(final.updated),
            "last_login_at": calendar.instants(final.last_login),
            "subscription_tier": pa.array([tier.name for tier in tiers]).take(pa.array(tier)),
        }
    )


def orders_table(ids: pa.Array, orders: Orders, calendar: Calendar) -> pa.Table:
    """One row per order or refund, by time."""
    return pa.table(
        {
            "order_id": _counted(len(orders.rows)),
            "user_id": ids.take(pa.array(orders.rows.owner)),
            "order_amount": orders.amount,
            "order_date": calendar.instants(orders.rows.at),
            "ingested_at": calendar.instants(orders.rows.ingested),
        }
    )


def sessions_table(ids: pa.Array, sessions: Rows, calendar: Calendar, rng: np.random.Generator) -> pa.Table:
    """One row per session, by time; about eight minutes each."""
    return pa.table(
        {
            "session_id": _counted(len(sessions)),
            "user_id": ids.take(pa.array(sessions.owner)),
            "session_start": calendar.instants(sessions.at),
            "session_duration_minutes": np.round(rng.lognormal(1.8, 0.8, len(sessions)), 1),
            "ingested_at": calendar.instants(sessions.ingested),
        }
    )


def _counted(rows: int) -> pa.Array:
    return pa.array(np.arange(1, rows + 1)).cast(pa.string())
