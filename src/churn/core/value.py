"""What contacting users is worth: whom to contact, given what a contact costs, what it brings, and a budget.

A contact costs `cost`, and brings `margin` on average when the user would otherwise have gone silent, nothing when not.
So contacting a user with probability p is worth p * margin - cost, and pays from p = cost / margin on, if probabilities
are what they say; the threshold that is used is chosen on validation rows all the same (Elkan 2001, "The Foundations of
Cost-Sensitive Learning"; Verbeke et al. 2012 for the profit curve).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Outcomes = NDArray[np.int64]
Mask = NDArray[np.bool_]

# A threshold that no probability reaches.
NOBODY = 2.0
# Probabilities this close are one: the fast path equals scikit-learn's within no less, so no threshold may part them.
SAME = 1e-9
# Sums of money this close, as a share of all money moved, are one: they differ by rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Economics:
    """Money, in one currency: a contact costs `cost` and brings `margin` if the user would have gone silent.

    `budget` bounds what is spent on contacts at one cutoff; None: no bound.
    """

    cost: float
    margin: float
    budget: float | None = None

    @property
    def most_contacts(self) -> int | None:
        """How many users can be contacted at one cutoff, None when there is no bound."""
        # Rounded first: as floats, 100 / 0.1 is 1000 but 100 // 0.1 is 999.
        return None if self.budget is None or self.cost == 0 else int(round(self.budget / self.cost, 6))

    @property
    def break_even(self) -> float:
        """The probability from which a contact pays, at most NOBODY."""
        return NOBODY if self.margin == 0 else min(self.cost / self.margin, NOBODY)

    def for_share(self, share: float) -> Economics:
        """The same for a share of the users: the budget is for all of them."""
        return self if self.budget is None else replace(self, budget=self.budget * share)


@dataclass(frozen=True)
class ContactPlan:
    """Whom a model version says to contact: the threshold, the money it was chosen for, and what it brought.

    Values are per user, contacted or not, on the validation rows and on the test rows.
    """

    economics: Economics
    threshold: float
    value_per_user_validation: float
    value_per_user_test: float


NO_PLAN = ContactPlan(Economics(cost=0.0, margin=0.0), NOBODY, 0.0, 0.0)


@dataclass(frozen=True)
class Judged:
    """n rows whose outcome is known: outcomes, probabilities and the cutoff of each, all (n,)."""

    y: Outcomes
    probability: Array
    cutoff: NDArray[np.datetime64]


@dataclass(frozen=True)
class ValueCurve:
    """What every threshold comes to, from NOBODY down to everybody, (k,): share contacted and value per user."""

    threshold: Array
    share: Array
    value: Array


def contacted(probability: Array, threshold: float, economics: Economics) -> Mask:
    """Whom to contact among the n users of one cutoff: those from `threshold` on, highest first, within the budget.

    Ties at the edge of the budget are taken in the order of the rows.
    """
    chosen: Mask = probability >= threshold
    most = economics.most_contacts
    if most is None or int(chosen.sum()) <= most:
        return chosen
    first = np.argsort(-probability, kind="stable")[:most]
    within = np.zeros(len(probability), dtype=bool)
    within[first] = True
    return within


def value_per_row(y: Outcomes, chosen: Mask, economics: Economics) -> Array:
    """What each row brought, (n,): margin * outcome - cost where contacted, else 0."""
    return np.where(chosen, economics.margin * y - economics.cost, 0.0)


def contacted_by_cutoff(rows: Judged, threshold: float, economics: Economics) -> Mask:
    """Whom to contact, (n,), the budget being spent at every cutoff anew."""
    chosen = np.zeros(len(rows.y), dtype=bool)
    for moment in np.unique(rows.cutoff):
        at = np.flatnonzero(rows.cutoff == moment)
        chosen[at] = contacted(rows.probability[at], threshold, economics)
    return chosen


def value_curve(rows: Judged, economics: Economics) -> ValueCurve:
    """The value of every threshold that matters, in O(n log n).

    A row adds the same to every threshold that reaches it: its value if it stands within the budget of its cutoff, else
    nothing. So the value of a threshold is a running sum. Thresholds stand halfway between neighbouring probabilities,
    where no rounding error can push a user over one.
    """
    within = contacted_by_cutoff(rows, 0.0, economics)
    order = np.argsort(-rows.probability, kind="stable")
    falling = rows.probability[order]
    last = np.flatnonzero(-np.diff(falling, append=-np.inf) > SAME)
    gained = np.cumsum(value_per_row(rows.y, within, economics)[order])[last]
    reached = np.cumsum(within[order])[last]
    below = (falling[last[:-1]] + falling[last[:-1] + 1]) / 2
    return ValueCurve(
        threshold=np.concatenate([[NOBODY], below, [0.0]]),
        share=np.concatenate([[0.0], reached]) / len(rows.y),
        value=np.concatenate([[0.0], gained]) / len(rows.y),
    )


def best_threshold(rows: Judged, economics: Economics) -> float:
    """The threshold of the highest value on `rows`; of several, the one nearest to the break-even cost / margin.

    The break-even is what the threshold should be if probabilities are what they say, so it is taken unless these
    outcomes speak against it. Below the edge of a budget, for one, all thresholds bring the same.
    """
    curve, even = value_curve(rows, economics), economics.break_even
    thresholds = np.append(curve.threshold, even)
    values = np.append(curve.value, value_per_user(rows, even, economics))
    moved = float(np.abs(value_per_row(rows.y, np.ones(len(rows.y), dtype=bool), economics)).mean())
    best = thresholds[values >= values.max() - ROUNDING * moved]
    return float(best[np.argmin(np.abs(best - even))])


def value_per_user(rows: Judged, threshold: float, economics: Economics) -> float:
    """What contacting from `threshold` on brought, per user, contacted or not."""
    chosen = contacted_by_cutoff(rows, threshold, economics)
    return float(value_per_row(rows.y, chosen, economics).mean())
