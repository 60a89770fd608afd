"""What orders are worth, and which are refunded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from churn.simulator.draws import Rows, concatenate, to_us
from churn.simulator.hazards import Delay, Floats


@dataclass(frozen=True)
class Money:
    """Amounts are lognormal around the user's own level, independent of rate, loss and tier, and so carry no news of
    them: the attainable probability counts on it (truth.py). For the same reason a refund comes `refund_days` after
    the order was written: it never tells of an order that is not known yet.
    """

    typical: float = 30.0
    between_users: float = 0.5
    within_user: float = 0.6
    refund_share: float = 0.06
    full_refund_share: float = 0.7
    refund_days: tuple[float, float] = (0.25, 14.0)


@dataclass(frozen=True)
class Orders:
    """Rows of the orders table, and what each is worth."""

    rows: Rows
    amount: Floats


def draw_orders(money: Money, rows: Rows, users: int, rng: np.random.Generator) -> Orders:
    """Amounts of orders, at least 1.00."""
    level = np.log(money.typical) + rng.normal(0, money.between_users, users)
    amount = np.exp(rng.normal(level[rows.owner], money.within_user))
    return Orders(rows, np.maximum(np.round(amount, 2), 1.0))


def draw_refunds(money: Money, delay: Delay, orders: Orders, rng: np.random.Generator) -> Orders:
    """Refunds of some orders, in full or in part, as negative amounts."""
    of = np.flatnonzero(rng.random(len(orders.rows)) < money.refund_share)
    at = orders.rows.ingested[of] + to_us(rng.uniform(*money.refund_days, len(of)))
    in_full = rng.random(len(of)) < money.full_refund_share
    part = np.where(in_full, 1.0, rng.uniform(0.2, 0.9, len(of)))
    rows = Rows(orders.rows.owner[of], at, at + to_us(delay.draw(rng, len(of))))
    return Orders(rows, -np.round(orders.amount[of] * part, 2))


def both_by_time(orders: Orders, refunds: Orders, end: int) -> Orders:
    """Orders and refunds together, without what is written at or after `end`."""
    rows = concatenate(orders.rows, refunds.rows)
    by_time = rows.written_by(end)
    return Orders(rows[by_time], np.concatenate((orders.amount, refunds.amount))[by_time])
