"""The quantitative analyses of a model card: quality beside baselines, calibration, slices, value, staleness."""

from __future__ import annotations

from collections.abc import Sequence

from churn.core.bootstrap import Interval
from churn.core.card_facts import CardFacts
from churn.core.card_words import NOT_MEASURED, around, in_words, interval, plain, side_of, signed, size, stands
from churn.core.plots import SHIPPED
from churn.core.sections import Part, Picture, Section, Table
from churn.core.slices import Fairness, Slice
from churn.core.value import NOBODY

# Figure, its name, and the sign of a better one.
COMPARED = (("auc_score", "ROC-AUC", 1), ("pr_auc", "PR-AUC", 1), ("log_loss", "log loss", -1), ("brier", "Brier", -1))
QUALITY = (*((key, name) for key, name, _ in COMPARED), ("ece", "calibration error"), ("lift_10", "lift at 10 %"))
AS_FAR = "as far as the intervals of the differences can tell"
BY_CUTOFF = (
    ("auc_score", "ROC-AUC"),
    ("brier", "Brier"),
    ("brier_reliability", "= reliability"),
    ("brier_resolution", "- resolution"),
    ("brier_uncertainty", "+ uncertainty"),
    ("ece", "calibration error"),
    ("calibration_in_the_large", "in the large"),
    ("calibration_slope", "slope"),
    ("calibration_intercept", "intercept"),
)


def analyses(facts: CardFacts) -> tuple[Section, ...]:
    """A section each."""
    parts = {
        "quality beside baselines": _quality(facts),
        "calibration": _calibration(facts),
        "slices": _slices(facts.slices.slices),
        "fairness": _fairness(facts.slices.fairness),
        "reasons": (
            Picture(
                "reason_codes",
                "What moves predictions, by family of features, and one test row, whose user is not named",
            ),
        ),
        "value of contacts": _value(facts),
        "cost of staleness": _staleness(facts),
    }
    return tuple(Section(f"Quantitative analyses: {name}", told) for name, told in parts.items())


def _quality(facts: CardFacts) -> tuple[Part, ...]:
    lost = losses(facts)
    told = f"The model is behind {'; '.join(lost)}." if lost else f"The model is behind no baseline, {AS_FAR}."
    figures = tuple(
        (_who(name), *(plain(found[key]) for key, _ in QUALITY)) for name, found in facts.comparison.items()
    )
    apart = tuple(
        (name, *(stands(interval(less[key]), sign) for key, _, sign in COMPARED))
        for name, less in facts.intervals["less"].items()
    )
    intervals = tuple((name, around(shipped(facts, key))) for key, name, _ in COMPARED)
    return (
        told,
        Table(("On the test rows", *(name for _, name in QUALITY)), figures),
        "The model's own figures with their intervals:",
        Table((), intervals),
        "The model against each baseline:",
        Table(("Baseline", *(name for _, name, _ in COMPARED)), apart),
        Picture("lift", "Churners found by share of users contacted, beside the baselines"),
    )


def _who(name: str) -> str:
    return "this model" if name == SHIPPED else name


def _calibration(facts: CardFacts) -> tuple[Part, ...]:
    lines = {**facts.by_cutoff, **({"all": facts.comparison[SHIPPED]} if len(facts.by_cutoff) > 1 else {})}
    rows = tuple((day, *(plain(found[key]) for key, _ in BY_CUTOFF)) for day, found in lines.items())
    return (
        in_the_large(facts),
        Table(("Test cutoff", *(name for _, name in BY_CUTOFF)), rows),
        Picture("reliability", "Churn rate by predicted probability on the test rows, and how probabilities spread"),
    )


def in_the_large(facts: CardFacts) -> str:
    """Whether the mean probability is the churn rate, as far as the interval can tell."""
    apart = shipped(facts, "calibration_in_the_large")
    if side_of(apart) is None:
        return f"Mean probability against churn rate: {NOT_MEASURED}."
    if side_of(apart) == 0:
        return f"Mean probability and churn rate are not told apart: {signed(apart)}."
    return f"The mean probability lies {'above' if side_of(apart) == 1 else 'below'} the churn rate by {size(apart)}."


def _slices(slices: Sequence[Slice]) -> tuple[Part, ...]:
    judged = [each for each in slices if not each.too_small]
    small = ", ".join(f"{in_words(each.name)} ({each.n:,} rows)" for each in slices if each.too_small)
    rest = (f"Too small to be judged: {small}.",) if small else ()
    if not judged:
        return (f"Figures of slices: {NOT_MEASURED}, as none is large enough.", *rest)
    table = Table(
        ("Slice", "Rows", "Churn rate", "ROC-AUC", "Brier", "Mean probability less churn rate"),
        tuple(map(_slice_row, judged)),
    )
    return (table, *rest, Picture("slices", "Ranking and calibration of each slice, with intervals by user"))


def _slice_row(told: Slice) -> tuple[str, ...]:
    found = told.figures
    figures = around(found["auc_score"]), around(found["brier"]), signed(found["calibration_in_the_large"])
    return in_words(told.name), f"{told.n:,}", f"{told.churn_rate:.1%}", *figures


def _fairness(told: Fairness | None) -> tuple[Part, ...]:
    if told is None:
        return (f"Gaps between groups of users: {NOT_MEASURED}, as no column is named for it.",)
    if len(told.groups) < 2:
        return (f"Gaps between groups by {told.column}: {NOT_MEASURED}, as fewer than two are large enough.",)
    names = tuple(told.gaps)
    groups = tuple(
        (label, f"{found['n']:,.0f}", *(plain(found[name]) for name in names)) for label, found in told.groups.items()
    )
    gaps = ("largest gap", "", *(plain(told.gaps[name]) for name in names))
    return (
        f"By {told.column}, users with a probability of {told.threshold:g} or more being selected. These figures cannot"
        " all be equal where churn rates differ, so they are told, not judged.",
        Table(("Group", "Rows", *(name.replace("_", " ") for name in names)), (*groups, gaps)),
    )


def _value(facts: CardFacts) -> tuple[Part, ...]:
    plan, money = facts.plan, facts.plan.economics
    whom = "nobody" if plan.threshold >= NOBODY else f"users with a probability of {plan.threshold:.3f} or more"
    budget = "no bound" if money.budget is None else f"{money.budget:g} at each cutoff"
    return (
        "Cost, margin and budget are settings, not measurements; a contact is taken to bring the margin whenever the"
        " user would have gone silent.",
        Table(
            (),
            (
                ("Cost of a contact, margin", f"{money.cost:g}, {money.margin:g}"),
                ("Budget", budget),
                ("Contact", whom),
                ("Share of test users contacted", f"{facts.contacted:.1%}"),
                ("Value per user, validation rows", plain(plan.value_per_user_validation)),
                ("Value per user, test rows", plain(plan.value_per_user_test)),
            ),
        ),
        Picture("profit", "Value per user by share contacted and by threshold"),
    )


def _staleness(facts: CardFacts) -> tuple[Part, ...]:
    found = facts.staleness
    if not found.ages:
        return (retrain(facts),)
    rows = tuple(
        (
            f"{aged.weeks:.1f}",
            aged.newest_training_cutoff,
            f"{aged.training_rows:,}",
            plain(aged.auc_score),
            f"{aged.log_loss_increase:+.4f}",
            plain(aged.standard_error),
        )
        for aged in found.ages
    )
    head = (
        "Age in weeks",
        "Newest training cutoff",
        "Rows",
        "ROC-AUC",
        "Log loss above a fresh model's",
        "Standard error",
    )
    return (retrain(facts), Table(head, rows), Picture("staleness", "What a model loses by its age"))


def retrain(facts: CardFacts) -> str:
    """The advised retraining interval and its reason, or why there is none."""
    found = facts.staleness
    if found.advised_weeks is None:
        return f"Retraining interval: {found.reason}."
    weeks = "week" if found.advised_weeks == 1 else f"{found.advised_weeks} weeks"
    return f"Train again every {weeks}: {found.reason}."


def losses(facts: CardFacts) -> tuple[str, ...]:
    """Each baseline and figure that the model is behind on, with the interval: `recency on ROC-AUC by 0.01 [...]`."""
    return tuple(
        f"{name} on {figure} by {size(interval(less[key]))}"
        for name, less in facts.intervals["less"].items()
        for key, figure, sign in COMPARED
        if side_of(interval(less[key])) == -sign
    )


def shipped(facts: CardFacts, key: str) -> Interval:
    """A figure of the model itself."""
    return interval(facts.intervals[SHIPPED][key])
