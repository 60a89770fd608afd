"""The known hazards of a simulated shop: pure formulas that both the drawing and the truth are made of.

Time is counted in days since the shop's start, a midnight in UTC. The season is constant within a day, so the
cumulated exposure is linear between two midnights and every integral below has a closed form.

Each part is a value of its own: a later drift or treatment replaces one part, and drawing and truth follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Season:
    """How much busier than usual the whole shop is on a day: weekday factor times a yearly wave."""

    weekday: tuple[float, ...] = (0.92, 0.90, 0.93, 0.97, 1.07, 1.16, 1.05)
    yearly: float = 0.25
    peak_day_of_year: int = 340

    def intensity(self, start: date, days: int) -> Floats:
        """Factor of each of the first `days` days, Monday's factor first in `weekday`; always positive."""
        first = np.datetime64(start, "D")
        dates = first + np.arange(days)
        of_year = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64) + 1
        wave = 1 + self.yearly * np.cos(2 * np.pi * (of_year - self.peak_day_of_year) / 365.25)
        weekdays = (start.weekday() + np.arange(days)) % 7
        return np.asarray(np.asarray(self.weekday)[weekdays] * wave, dtype=np.float64)


@dataclass(frozen=True)
class Exposure:
    """Cumulated intensity: what a user with rate 1 a day is expected to do between two moments."""

    intensity: Floats

    @property
    def nodes(self) -> Floats:
        """Exposure at each midnight, from 0; one more than there are days."""
        return np.concatenate(([0.0], np.cumsum(self.intensity)))

    def until(self, moment: Floats) -> Floats:
        """Exposure from the start to each moment (days)."""
        nodes = self.nodes
        return np.interp(moment, np.arange(len(nodes)), nodes)

    def when(self, exposure: Floats) -> Floats:
        """The moment (days) at which the exposure is reached: the inverse of `until`."""
        nodes = self.nodes
        return np.interp(exposure, nodes, np.arange(len(nodes)))


@dataclass(frozen=True)
class LogUniform:
    """A duration in days whose logarithm is uniform between two bounds."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator, size: int) -> Floats:
        return self.low * (self.high / self.low) ** rng.random(size)

    def cumulated_chance(self, age: Floats) -> Floats:
        """Integral from 0 to `age` of P(duration < w) dw."""
        inside = np.clip(age, self.low, self.high)
        rising = inside * np.log(inside / self.low) - (inside - self.low)
        return np.asarray(rising / np.log(self.high / self.low) + np.maximum(age - self.high, 0.0))


@dataclass(frozen=True)
class Delay:
    """From an event to its row being written: minutes for most, hours to days for the late ones."""

    late_share: float = 0.10
    prompt: LogUniform = LogUniform(1 / 86_400, 15 / 1_440)
    late: LogUniform = LogUniform(1 / 24, 10.0)

    def draw(self, rng: np.random.Generator, size: int) -> Floats:
        is_late = rng.random(size) < self.late_share
        return np.where(is_late, self.late.draw(rng, size), self.prompt.draw(rng, size))

    def cumulated_chance(self, age: Floats) -> Floats:
        """Integral from 0 to `age` of P(delay < w) dw: days' worth of events already written."""
        late, prompt = self.late.cumulated_chance(age), self.prompt.cumulated_chance(age)
        return self.late_share * late + (1 - self.late_share) * prompt


@dataclass(frozen=True)
class Tier:
    """A kind of user at signup: its share of the signups and what it does to rate and lifetime."""

    name: str
    share: float
    rate_factor: float
    lifetime_factor: float


TIERS = (Tier("free", 0.6, 0.8, 0.8), Tier("basic", 0.3, 1.1, 1.2), Tier("premium", 0.1, 1.7, 1.9))


@dataclass(frozen=True)
class Population:
    """How users differ. Given the tier, rate and loss are independent gammas, as in the Pareto/NBD model.

    Rate (visits a day at season 1): gamma(rate_shape), mean rate_mean * rate_factor.
    Loss (hazard a day of leaving for good): gamma(loss_shape), scale 1 / (loss_days * lifetime_factor); so the
    lifetime of a user taken at random from a tier is Lomax: P(lifetime > t) = (1 + t / loss_days')^-loss_shape.
    A visit begins with an order (share: beta) or a session, and has a Poisson number of further sessions on the same
    day; both are independent of all else.
    """

    tiers: tuple[Tier, ...] = TIERS
    rate_shape: float = 1.0
    rate_mean: float = 0.11
    loss_shape: float = 1.5
    loss_days: float = 150.0
    order_share: tuple[float, float] = (2.0, 5.0)
    further_sessions: float = 1.3

    def rate_scale(self, rate_factor: Floats | float) -> Floats:
        return np.asarray(self.rate_mean * rate_factor / self.rate_shape)

    def factors(self) -> tuple[Floats, Floats]:
        """Rate and lifetime factors, one per tier."""
        rates = np.array([tier.rate_factor for tier in self.tiers])
        return rates, np.array([tier.lifetime_factor for tier in self.tiers])


@dataclass(frozen=True)
class Hazards:
    """Everything that drives a shop."""

    population: Population = field(default_factory=Population)
    season: Season = field(default_factory=Season)
    delay: Delay = field(default_factory=Delay)
