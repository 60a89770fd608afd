"""What contacting users is worth: whom to contact, given what a contact costs, what it brings, and a budget.

A contact costs `cost`, and brings `margin` on average when the user would otherwise have gone silent, nothing when not.
So contacting a user with probability p is worth p * margin - cost, and pays from p = cost / margin on, if probabilities
are what they say; the threshold that is used is chosen on validation rows all the same (Elkan 2001, "The Foundations of
Cost-Sensitive Learning"; Verbeke et al. 2012 for the profit curve).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Outcomes = NDArray[np.int64]
Mask = NDArray[np.bool_]


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
        return None if self.budget is None or self.cost == 0 else int(self.budget // self.cost)


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
