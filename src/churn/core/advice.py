"""What follows from a trained model for those who use it: whom to contact, and when to train again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn.core import plots
from churn.core.model import probabilities
from churn.core.staleness import Staleness, staleness
from churn.core.training import Evaluated, validation_rows
from churn.core.training_set import Rows, SplitRows
from churn.core.value import (
    ContactPlan,
    Economics,
    Judged,
    best_threshold,
    contacted_by_cutoff,
    value_curve,
    value_per_user,
)


@dataclass(frozen=True)
class Applied:
    """A threshold applied to rows whose outcome is known: the share of users contacted, and the value per user."""

    rows: Judged
    share: float
    value: float


@dataclass(frozen=True)
class Contact:
    """The plan, and what it comes to on the rows that it was chosen on and on the test rows."""

    plan: ContactPlan
    validation: Applied
    test: Applied


@dataclass(frozen=True)
class Advice:
    """Both answers of one training, in the forms in which a run keeps them."""

    contact: Contact
    staleness: Staleness

    def metrics(self) -> dict[str, float]:
        """By MLflow name. Contacting everybody is told without regard to a budget."""
        plan, test = self.contact.plan, self.contact.test
        unbounded = replace(plan.economics, budget=None)
        values = {
            "value.threshold": plan.threshold,
            "value.per_user_validation": plan.value_per_user_validation,
            "value.per_user_test": plan.value_per_user_test,
            "value.break_even_per_user": value_per_user(test.rows, plan.economics.break_even, plan.economics),
            "value.contact_all_per_user": value_per_user(test.rows, 0.0, unbounded),
            "value.contact_nobody": 0.0,
            "value.share_contacted": test.share,
        }
        weeks = self.staleness.advised_weeks
        return values if weeks is None else {**values, "staleness.advised_weeks": float(weeks)}

    def tables(self) -> dict[str, Any]:
        return {"contact": asdict(self.contact.plan), "staleness": self.staleness.table()}

    def figures(self) -> dict[str, Any]:
        """The pictures by file name; without a curve over ages there is none of it."""
        drawn = {"profit": _profit(self.contact)}
        return {**drawn, "staleness": plots.staleness(self.staleness)} if self.staleness.ages else drawn


def advise(rows: SplitRows, result: Evaluated, *, horizon: timedelta, economics: Economics) -> Advice:
    """Choose whom to contact on rows that neither grew the forest nor test it, and age the model."""
    kept, share = validation_rows(rows.train, horizon)
    validation = _judged(kept, probabilities(result.fitted.estimator, kept.X))
    contact = plan_contacts(validation, _judged(rows.test, result.probability), economics, kept=share)
    return Advice(contact, staleness(rows, result.fitted.parameters, horizon))


def plan_contacts(validation: Judged, test: Judged, economics: Economics, *, kept: float) -> Contact:
    """The threshold that brings most on `validation`, and what it brings there and on `test`.

    `kept`: the share of the users that `validation` holds; so much of the budget is theirs.
    """
    theirs = economics.for_share(kept)
    threshold = best_threshold(validation, theirs)
    chosen, tested = _applied(validation, threshold, theirs), _applied(test, threshold, economics)
    return Contact(ContactPlan(economics, threshold, chosen.value, tested.value), chosen, tested)


def _applied(rows: Judged, threshold: float, economics: Economics) -> Applied:
    share = float(contacted_by_cutoff(rows, threshold, economics).mean())
    return Applied(rows, share, value_per_user(rows, threshold, economics))


def _judged(rows: Rows, probability: NDArray[np.float64]) -> Judged:
    return Judged(rows.y, probability, rows.cutoff)


def _profit(contact: Contact) -> Any:
    unbounded = replace(contact.plan.economics, budget=None)
    sets = {"test": contact.test, "validation": contact.validation}
    curves = {name: value_curve(applied.rows, unbounded) for name, applied in sets.items()}
    return plots.profit(curves, contact.plan, {name: (each.share, each.value) for name, each in sets.items()})
