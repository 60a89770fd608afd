"""A shop with known truth: `simulate` draws its raw tables, `Shop.truth` tells the probabilities behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from churn.domain.ports import UserIdType
from churn.domain.windows import DAY, as_utc, matured
from churn.errors import BadInput
from churn.simulator.draws import (
    DAY_US,
    People,
    Rows,
    concatenate,
    draw_first_rows,
    draw_further_sessions,
    draw_people,
    draw_visits,
    stream,
)
from churn.simulator.hazards import Exposure, Floats, Hazards
from churn.simulator.money import Money, Orders, both_by_time, draw_orders, draw_refunds
from churn.simulator.tables import (
    Calendar,
    final_state,
    integer_ids,
    orders_table,
    sessions_table,
    string_ids,
    users_table,
)
from churn.simulator.truth import Window, attainable_probability, past_at, true_probability


@dataclass(frozen=True)
class ShopConfig:
    """What to simulate. Equal configs give bit-equal shops; a larger shop does not extend a smaller one."""

    users: int = 5000
    days: int = 730
    seed: int = 42
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    user_id_type: UserIdType = "integer"
    hazards: Hazards = field(default_factory=Hazards)
    money: Money = field(default_factory=Money)

    def __post_init__(self) -> None:
        if self.users < 1 or self.days < 1 or self.seed < 0:
            raise BadInput(
                f"no shop has {self.users} users over {self.days} days with seed {self.seed}",
                hint="Give at least 1 user and 1 day, and a seed of 0 or more.",
            )
        if as_utc(self.start) != as_utc(self.start).replace(hour=0, minute=0, second=0, microsecond=0):
            raise BadInput(
                f"the shop starts at {self.start.isoformat()}, not at a midnight in UTC", hint="Give a date."
            )

    @property
    def end(self) -> datetime:
        """The end of the log, exclusive."""
        return as_utc(self.start) + self.days * DAY

    @property
    def calendar(self) -> Calendar:
        return Calendar(as_utc(self.start), self.days)

    def intensity(self, days: int) -> Floats:
        return self.hazards.season.intensity(as_utc(self.start).date(), days)


@dataclass(frozen=True)
class Shop:
    """The raw tables of the shop, and what lies behind them."""

    config: ShopConfig
    users: pa.Table
    orders: pa.Table
    user_sessions: pa.Table
    people: People
    visits: Rows

    def truth(self, cutoffs: Sequence[datetime], horizon: timedelta) -> pa.Table:
        """One row per cutoff and user who had signed up before it; cutoffs are midnights in UTC, horizons whole days.

        Columns: user_id, cutoff (naive UTC), horizon_days, eligible, matured, true_probability (given the latent
        state; 1 for a user who has left) and attainable_probability (given what could be known at the cutoff; null
        when not eligible). Both are of what happens: in the last days of the log some of it is not written yet.
        Raises BadInput.
        """
        if not cutoffs or horizon < DAY or horizon % DAY:
            raise BadInput(
                f"the truth cannot be told for {len(cutoffs)} cutoffs and a horizon of {horizon}",
                hint="Give at least one cutoff, and a horizon of one or more whole days.",
            )
        return pa.concat_tables([self._truth_at(as_utc(cutoff), horizon) for cutoff in cutoffs])

    def _truth_at(self, cutoff: datetime, horizon: timedelta) -> pa.Table:
        window = self._window(cutoff, horizon)
        past = past_at(self.people.signup, self.visits, window.cutoff)
        eligible = past.last >= window.cutoff - window.horizon
        attainable = np.full(len(past), np.nan)
        attainable[eligible] = attainable_probability(self.config.hazards, window, past[eligible])
        rows = len(past)
        return pa.table(
            {
                "user_id": self.users["user_id"].slice(0, rows),
                "cutoff": self.config.calendar.instants(np.full(rows, window.cutoff * DAY_US)),
                "horizon_days": np.full(rows, window.horizon, dtype=np.int32),
                "eligible": eligible,
                "matured": np.full(rows, matured(cutoff, horizon, self.config.end)),
                "true_probability": true_probability(self.people[:rows], window),
                "attainable_probability": pa.array(attainable, mask=~eligible),
            }
        )

    def _window(self, cutoff: datetime, horizon: timedelta) -> Window:
        since = cutoff - as_utc(self.config.start)
        if since % DAY or not DAY <= since <= self.config.days * DAY:
            raise BadInput(
                f"cutoff {cutoff.isoformat()} is not a midnight (UTC) within the log",
                hint=f"Choose one after {self.config.start:%Y-%m-%d}, up to {self.config.end:%Y-%m-%d}.",
            )
        return Window(since // DAY, horizon // DAY, self.config.intensity((since + horizon) // DAY))


def simulate(config: ShopConfig) -> Shop:
    """Draw a shop: who signs up, what they do until they leave, and what of it is written by the end of the log."""
    hazards, calendar, seed = config.hazards, config.calendar, config.seed
    people = draw_people(hazards.population, config.days, config.users, stream(seed, "people"))
    visits = draw_visits(people, Exposure(config.intensity(config.days)), hazards.delay, stream(seed, "visits"))
    orders, sessions = draw_first_rows(people, visits, stream(seed, "first rows"))
    further = draw_further_sessions(hazards.population, visits, stream(seed, "further sessions"))
    sessions = concatenate(sessions, further)
    sessions = sessions[sessions.written_by(calendar.length_us)]
    final = final_state(people, sessions, calendar.length_us, stream(seed, "final state"))
    ids = _ids(config)
    return Shop(
        config=config,
        users=users_table(ids, people.signup, final, hazards.population.tiers, calendar),
        orders=orders_table(ids, _orders(config, orders), calendar),
        user_sessions=sessions_table(ids, sessions, calendar, stream(seed, "durations")),
        people=people,
        visits=visits,
    )


def _ids(config: ShopConfig) -> pa.Array:
    if config.user_id_type == "integer":
        return integer_ids(config.users)
    return string_ids(config.users, stream(config.seed, "ids"))


def _orders(config: ShopConfig, rows: Rows) -> Orders:
    orders = draw_orders(config.money, rows, config.users, stream(config.seed, "amounts"))
    refunds = draw_refunds(config.money, config.hazards.delay, orders, stream(config.seed, "refunds"))
    return both_by_time(orders, refunds, config.calendar.length_us)
