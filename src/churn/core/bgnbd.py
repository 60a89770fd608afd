"""BG/NBD, the buy-till-you-die baseline, in closed form.

Fader, Hardie & Lee (2005), "Counting Your Customers the Easy Way: An Alternative to the Pareto/NBD Model".
A user buys at rate lambda ~ Gamma(r, alpha) and after each purchase drops out with probability p ~ Beta(a, b).
Written here because the packages that fitted it are no longer maintained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, gammaln

from churn.errors import NotReady

Array = NDArray[np.float64]
WEEK = 7.0
FIT_ROWS = 50_000
PENALTY = 1e-3


@dataclass(frozen=True)
class History:
    """Per user: repeat purchase days `x`, day of the last one `t_x` and age `T`, both in days since the first."""

    x: Array
    t_x: Array
    T: Array


@dataclass(frozen=True)
class BGNBD:
    """A fitted model; rates are per week."""

    r: float
    alpha: float
    a: float
    b: float

    def p_alive(self, history: History) -> Array:
        """P(not dropped out | history), (n,)."""
        x, t_x, age = history.x, history.t_x / WEEK, history.T / WEEK
        repeat = np.maximum(x, 1)
        log_odds = (
            np.log(self.a)
            - np.log(self.b + repeat - 1)
            + (self.r + x) * (np.log(self.alpha + age) - np.log(self.alpha + t_x))
        )
        return np.where(x > 0, 1 / (1 + np.exp(np.clip(log_odds, -500, 500))), 1.0)

    def p_silent(self, history: History, horizon_days: float) -> Array:
        """P(no purchase in the next `horizon_days` | history), (n,): dropped out, or alive and quiet."""
        age = history.T / WEEK
        quiet = ((self.alpha + age) / (self.alpha + age + horizon_days / WEEK)) ** (self.r + history.x)
        alive = self.p_alive(history)
        return np.asarray(1 - alive + alive * quiet, dtype=np.float64)


def fit(history: History) -> BGNBD:
    """Maximum likelihood over log parameters, with a slight ridge as in the reference implementation.

    At most FIT_ROWS evenly spaced users are used. Raises NotReady when nobody came back or the optimiser fails.
    """
    if not (history.x > 0).any():
        raise _not_fitted()
    step = max(1, len(history.x) // FIT_ROWS)
    thin = History(history.x[::step], history.t_x[::step] / WEEK, history.T[::step] / WEEK)
    starts = ([0.0, 1.0, 0.0, 1.0], [-0.5, 2.0, -0.5, 0.5])
    fits = [minimize(_loss, start, args=(thin,), method="L-BFGS-B", bounds=[(-8.0, 8.0)] * 4) for start in starts]
    best = min(fits, key=lambda found: float(found.fun))
    if not np.isfinite(best.fun):
        raise _not_fitted()
    r, alpha, a, b = np.exp(best.x)
    return BGNBD(float(r), float(alpha), float(a), float(b))


def _not_fitted() -> NotReady:
    return NotReady("BG/NBD could not be fitted", hint="The log needs users with repeat purchases.")


def _loss(log_parameters: Array, history: History) -> float:
    r, alpha, a, b = np.exp(log_parameters)
    x, t_x, age = history.x, history.t_x, history.T
    shared = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
    alive = betaln(a, b + x) - betaln(a, b) - (r + x) * np.log(alpha + age)
    dropped = betaln(a + 1, b + np.maximum(x, 1) - 1) - betaln(a, b) - (r + x) * np.log(alpha + t_x)
    likelihood = shared + np.logaddexp(alive, np.where(x > 0, dropped, -np.inf))
    return float(-likelihood.mean() + PENALTY * np.square(np.exp(log_parameters)).sum() / len(x))
