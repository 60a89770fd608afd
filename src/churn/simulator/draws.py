"""Drawing users and what they do from the hazards. Moments are int64 microseconds since the shop's start."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from churn.simulator.hazards import Delay, Exposure, Floats, Ints, Population

DAY_US = 86_400_000_000
Bools = npt.NDArray[np.bool_]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers of one purpose. A new purpose leaves the numbers of the others as they were."""
    return np.random.default_rng((seed, zlib.crc32(purpose.encode())))


def to_us(days: Floats) -> Ints:
    return np.floor(days * DAY_US).astype(np.int64)


@dataclass(frozen=True)
class People:
    """The latent state of each user. Rate and loss are per day; `left_at` may lie after the end of the log."""

    signup: Ints
    tier: Ints
    rate: Floats
    loss: Floats
    left_at: Ints
    order_share: Floats

    def __len__(self) -> int:
        return len(self.signup)

    def __getitem__(self, rows: slice | Bools) -> People:
        return People(
            self.signup[rows],
            self.tier[rows],
            self.rate[rows],
            self.loss[rows],
            self.left_at[rows],
            self.order_share[rows],
        )


@dataclass(frozen=True)
class Rows:
    """Visits, or rows of a table, by time. `owner` is the index of the user, `ingested` when it was written."""

    owner: Ints
    at: Ints
    ingested: Ints

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, rows: Bools | Ints) -> Rows:
        return Rows(self.owner[rows], self.at[rows], self.ingested[rows])

    def written_by(self, end: int) -> Ints:
        """Positions of what is written before `end`, ordered by time."""
        written = np.flatnonzero(self.ingested < end)
        return written[np.argsort(self.at[written], kind="stable")]


def concatenate(first: Rows, second: Rows) -> Rows:
    """One after the other, not by time."""
    return Rows(
        np.concatenate((first.owner, second.owner)),
        np.concatenate((first.at, second.at)),
        np.concatenate((first.ingested, second.ingested)),
    )


def draw_people(population: Population, days: int, users: int, rng: np.random.Generator) -> People:
    """Users in the order of their signup, which is uniform over the log."""
    signup = np.sort(rng.random(users)) * days
    tier = rng.choice(len(population.tiers), users, p=[tier.share for tier in population.tiers])
    rates, lifetimes = population.factors()
    rate = rng.standard_gamma(population.rate_shape, users) * population.rate_scale(rates[tier])
    loss = rng.standard_gamma(population.loss_shape, users) / (population.loss_days * lifetimes[tier])
    lifetime = rng.standard_exponential(users) / loss
    # Beyond the log nothing is told apart, and the longest lifetimes would not fit 64 bits.
    left_at = np.minimum(signup + lifetime, 1e6)
    return People(to_us(signup), tier, rate, loss, to_us(left_at), rng.beta(*population.order_share, users))


def draw_visits(people: People, exposure: Exposure, delay: Delay, rng: np.random.Generator) -> Rows:
    """Visits from signup until the user leaves: a Poisson process in exposure. Kept is what is written in time."""
    days = len(exposure.intensity)
    begin = exposure.until(people.signup / DAY_US)
    span = exposure.until(np.minimum(people.left_at / DAY_US, days)) - begin
    owner = np.repeat(np.arange(len(people)), rng.poisson(people.rate * span))
    at = to_us(exposure.when(begin[owner] + rng.random(len(owner)) * span[owner]))
    at = np.maximum(at, people.signup[owner])  # rounding may have put it a microsecond before
    visits = Rows(owner, at, at + to_us(delay.draw(rng, len(owner))))
    return visits[visits.written_by(days * DAY_US)]


def draw_first_rows(people: People, visits: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """The row that each visit begins with: orders, and sessions."""
    is_order = rng.random(len(visits)) < people.order_share[visits.owner]
    return visits[is_order], visits[~is_order]


def draw_further_sessions(population: Population, visits: Rows, rng: np.random.Generator) -> Rows:
    """More sessions later on the UTC day of a visit, written with the visit's own delay.

    So a visit is known, and lies in a window between two midnights, exactly when its first row does.
    """
    of = np.repeat(np.arange(len(visits)), rng.poisson(population.further_sessions, len(visits)))
    rest = DAY_US - visits.at[of] % DAY_US
    later = (rng.random(len(of)) * rest).astype(np.int64)
    return Rows(visits.owner[of], visits.at[of] + later, visits.ingested[of] + later)
