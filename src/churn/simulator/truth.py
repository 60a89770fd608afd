"""The probabilities that a shop with known hazards makes true, in closed form up to sums over days.

`true_probability` conditions on the user's whole latent state: rate, loss and whether the user has left.
`attainable_probability` conditions on what anybody could know at the cutoff: the signup, the orders, sessions and
refunds that happened and had been written before it, and the hazards of the population, but not the user's own rate,
loss or tier. No model reaches a better expected log loss or Brier score from the raw tables without the mutable
user columns; averaged over equal histories it is the mean of the true probability.

Signup, number of visits and last visit suffice for it: given rate, loss and tier, the visits written by the cutoff are
a Poisson process with intensity rate * season * P(delay < age) until the user leaves, and what a visit consists of,
amounts, durations and refunds carry no news of the three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from churn.simulator.draws import DAY_US, Bools, People, Rows
from churn.simulator.hazards import Delay, Floats, Hazards, Ints, Population, Tier

CHUNK = 5_000
Users = TypeVar("Users", "People", "Past")


@dataclass(frozen=True)
class Window:
    """The days up to the cutoff and its horizon. `intensity` covers day 0 to the end of the horizon."""

    cutoff: int
    horizon: int
    intensity: Floats

    @property
    def ahead(self) -> Floats:
        """Intensity of each day in the horizon."""
        return self.intensity[self.cutoff : self.cutoff + self.horizon]

    def seen(self, delay: Delay) -> Floats:
        """Intensity of each day, before the cutoff thinned to what is written by the cutoff.

        Within one day the thinning is averaged: exact at every midnight, and between them good to 1e-4 in probability.
        """
        written = np.diff(delay.cumulated_chance(np.arange(self.cutoff + 1, dtype=np.float64)))[::-1]
        return np.concatenate((self.intensity[: self.cutoff] * written, self.ahead))


@dataclass(frozen=True)
class Past:
    """What is known of each user at a cutoff: signup and last visit (days since the start), and the number of visits.

    `last` is -inf for a user without a known visit.
    """

    signup: Floats
    last: Floats
    count: Ints

    def __len__(self) -> int:
        return len(self.signup)

    def __getitem__(self, rows: slice | Bools) -> Past:
        return Past(self.signup[rows], self.last[rows], self.count[rows])


def past_at(signup: Ints, visits: Rows, cutoff: int) -> Past:
    """The past of every user who had signed up before the cutoff, in the order of signup."""
    known = visits[(visits.at < cutoff * DAY_US) & (visits.ingested < cutoff * DAY_US)]
    users = int(np.searchsorted(signup, cutoff * DAY_US))
    last = np.full(users, -np.inf)
    last[known.owner] = known.at / DAY_US  # by time: the last one stays
    return Past(signup[:users] / DAY_US, last, np.bincount(known.owner, minlength=users))


def true_probability(people: People, window: Window) -> Floats:
    """P(no visit in the horizon | rate, loss, and whether the user has left by the cutoff)."""
    living = people.left_at >= window.cutoff * DAY_US
    silent = np.ones(len(people))
    silent[living] = _by_chunk(lambda rows: _silence(rows, window.ahead), people[living])
    return silent


def _silence(people: People, ahead: Floats) -> Floats:
    """Of users who have not left: no visit while they stay, day by day until they leave or the horizon ends."""
    hazard = people.loss[:, None] + people.rate[:, None] * ahead
    still = np.exp(-np.cumsum(hazard, axis=1))
    before = np.concatenate((np.ones((len(people), 1)), still[:, :-1]), axis=1)
    left_silently = people.loss[:, None] / hazard * (before - still)
    return np.asarray(left_silently.sum(axis=1) + still[:, -1])


def attainable_probability(hazards: Hazards, window: Window, past: Past) -> Floats:
    """P(no visit in the horizon | what is known at the cutoff). `past`: eligible users only."""
    nodes = np.concatenate(([0.0], np.cumsum(window.seen(hazards.delay))))
    return _by_chunk(lambda rows: _Posterior(hazards.population, window, nodes, rows).silence(), past)


def _by_chunk(of: Callable[[Users], Floats], rows: Users) -> Floats:
    """Users times days does not fit in memory at once."""
    parts: list[Floats] = [of(rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]
    return np.concatenate([np.empty(0), *parts])


@dataclass(frozen=True)
class _Posterior:
    """Pareto/NBD with a season, integrated over the moment of leaving, day by day.

    Given the moment of leaving u, integrating the gamma rate out leaves y(u)^-k with y(u) = 1 / scale + exposure seen
    from signup to u and k = shape + count. y is linear within a day, so its power integrates in closed form;
    the density of u is taken at the middle of each day (an error of some 1e-5 when lifetimes are months).
    All powers are relative to y at the last visit, to stay within the range of floats.
    """

    population: Population
    window: Window
    nodes: Floats
    past: Past

    def silence(self) -> Floats:
        terms = [self._of_tier(tier) for tier in self.population.tiers]
        log_weight = np.stack([weight for weight, _, _ in terms])
        weight = np.exp(log_weight - log_weight.max(axis=0))
        silent = sum(part * silent for part, (_, silent, _) in zip(weight, terms, strict=True))
        total = sum(part * total for part, (_, _, total) in zip(weight, terms, strict=True))
        return np.asarray(silent / total, dtype=np.float64)

    def _of_tier(self, tier: Tier) -> tuple[Floats, Floats, Floats]:
        """Log weight of the tier; and, relative to it, the chances of (past and silent horizon) and of (past)."""
        prior = 1 / self.population.rate_scale(tier.rate_factor)
        days = self.population.loss_days * tier.lifetime_factor
        seen_last = self._seen(self.past.last)
        first = prior + seen_last - self._seen(self.past.signup)
        power = self.population.rate_shape + self.past.count
        growth = np.maximum(self.nodes[self._days] - seen_last[:, None], 0.0) / first[:, None]
        unseen = np.exp((1 - power[:, None]) * np.log1p(growth))
        left = self._left(unseen, first / (power - 1), days)
        alive = [
            unseen[:, at] / (1 + growth[:, at]) * self._survival(self._days[at] - self.past.signup, days)
            for at in (self._now, -1)
        ]
        before = left[:, : self._now].sum(axis=1)
        weight = np.log(tier.share) + self.population.rate_shape * np.log(prior) - power * np.log(first)
        return weight, left.sum(axis=1) + alive[1], before + alive[0]

    def _left(self, unseen: Floats, factor: Floats, days: float) -> Floats:
        """Chance of leaving in each day after the last visit, without another visit seen before that."""
        edges = np.maximum(self._days, self.past.last[:, None])
        tenure = (edges[:, :-1] + edges[:, 1:]) / 2 - self.past.signup[:, None]
        density = self.population.loss_shape / (days + tenure) * self._survival(tenure, days)
        slopes = np.diff(self.nodes)[self._days[:-1]]
        return np.asarray((unseen[:, :-1] - unseen[:, 1:]) * factor[:, None] / slopes * density)

    def _survival(self, tenure: Floats, days: float) -> Floats:
        return np.asarray((1 + tenure / days) ** -self.population.loss_shape)

    def _seen(self, moment: Floats) -> Floats:
        return np.interp(moment, np.arange(len(self.nodes)), self.nodes)

    @property
    def _days(self) -> Ints:
        """Midnights from the earliest eligible visit to the end of the horizon."""
        start = max(self.window.cutoff - self.window.horizon, 0)
        return np.arange(start, self.window.cutoff + self.window.horizon + 1)

    @property
    def _now(self) -> int:
        return int(np.searchsorted(self._days, self.window.cutoff))
