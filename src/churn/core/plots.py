"""Pictures of a model's quality. Each function returns a matplotlib Figure; nobody touches pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from churn.core.slices import Slice
from churn.core.staleness import LIMIT, Staleness
from churn.core.value import NOBODY, ContactPlan, ValueCurve
from churn.domain.reasons import Explanation, ReasonCode

Array = NDArray[np.float64]
Outcomes = NDArray[np.int64]
SHIPPED = "shipped"
INK, MUTED, ACCENT = "#1f2933", "#9aa5b1", "#c2410c"
CURVE_STYLES: tuple[dict[str, Any], ...] = ({"color": ACCENT, "linewidth": 2.2}, {"color": INK, "linewidth": 1.1})


def roc_and_pr(y: Outcomes, probabilities: Mapping[str, Array]) -> Figure:
    """ROC and precision-recall of every model on the same rows, the shipped one in colour."""
    figure, (left, right) = _two_panels()
    for name, probability in probabilities.items():
        false_positive, true_positive, _ = roc_curve(y, probability)
        precision, recall, _ = precision_recall_curve(y, probability)
        left.plot(false_positive, true_positive, label=name, **_style(name))
        right.plot(recall, precision, label=name, **_style(name))
    left.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
    right.axhline(float(y.mean()), color=MUTED, linestyle=":", label="churn rate")
    _label(left, "False positive rate", "True positive rate", "ROC")
    _label(right, "Recall", "Precision", "Precision and recall")
    right.legend(frameon=False, fontsize=8)
    return figure


def reliability(y: Outcomes, probability: Array, by_cutoff: Mapping[str, tuple[Outcomes, Array]]) -> Figure:
    """Observed churn rate against predicted probability, over all test rows and per test cutoff."""
    figure, (left, right) = _two_panels()
    left.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
    if len(by_cutoff) > 1:
        for day, (outcome, predicted) in by_cutoff.items():
            left.plot(*_bins(outcome, predicted), color=MUTED, marker=".", linewidth=1, label=day)
    left.plot(*_bins(y, probability), color=ACCENT, marker="o", label="all test rows")
    left.legend(frameon=False, fontsize=8)
    _label(left, "Predicted probability", "Observed churn rate", "Reliability (deciles)")
    right.hist(probability, bins=40, range=(0, 1), color=ACCENT)
    _label(right, "Predicted probability", "Users", "Predictions")
    return figure


def lift(y: Outcomes, probabilities: Mapping[str, Array]) -> Figure:
    """Share of all churners found among the users with the highest probabilities."""
    figure, (left, right) = _two_panels()
    share = np.arange(1, len(y) + 1) / len(y)
    for name, probability in probabilities.items():
        found = np.cumsum(y[np.argsort(-probability, kind="stable")])
        left.plot(share, found / y.sum(), label=name, **_style(name))
        right.plot(share, found / np.arange(1, len(y) + 1) / y.mean(), label=name, **_style(name))
    left.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
    right.axhline(1, color=MUTED, linestyle=":")
    right.set_xlim(0.01, 1)
    left.legend(frameon=False, fontsize=8)
    _label(left, "Share of users contacted", "Share of churners found", "Gain")
    _label(right, "Share of users contacted", "Lift", "Lift")
    return figure


def profit(curves: Mapping[str, ValueCurve], plan: ContactPlan, chosen: Mapping[str, tuple[float, float]]) -> Figure:
    """Value per user by share contacted and by threshold, for each set of rows; two sets, the first in colour.

    The curves know no budget; `chosen` holds, by set, the share contacted and the value at the plan's threshold and
    within its budget.
    """
    figure, (left, right) = _two_panels()
    for (name, curve), style in zip(curves.items(), CURVE_STYLES, strict=True):
        left.plot(curve.share, curve.value, label=name, **style)
        left.plot(*chosen[name], marker="o", markersize=8, linestyle="", color=style["color"])
        inside = curve.threshold < NOBODY
        right.plot(curve.threshold[inside], curve.value[inside], label=name, **style)
    _draw_rivals(left, next(iter(curves.values())))
    right.axvline(plan.economics.break_even, color=MUTED, linestyle=":", label="break-even, cost / margin")
    right.axvline(plan.threshold, color=INK, linestyle="--", linewidth=1, label="chosen threshold")
    right.set_xlim(0, 1)
    left.legend(frameon=False, fontsize=8)
    right.legend(fontsize=8, loc="lower left", framealpha=0.9, edgecolor="none")  # lines pass below it
    _label(left, "Share of users contacted", "Value per user", "Profit (dots: as chosen, within the budget)")
    _label(right, "Threshold", "Value per user", "Profit by threshold, without a budget")
    return figure


def _draw_rivals(axes: Axes, curve: ValueCurve) -> None:
    """What contacting everybody, nobody, or users at random would bring on the same rows."""
    everybody = float(curve.value[-1])
    axes.axhline(everybody, color=MUTED, linestyle="--", linewidth=1, label="everybody (test)")
    axes.plot([0, 1], [0, everybody], color=MUTED, linestyle=":", label="at random (test)")
    axes.axhline(0, color=MUTED, linewidth=0.8)


def staleness(found: Staleness) -> Figure:
    """Loss by the model's age against a fresh one, with 95 % intervals by user, and ROC-AUC by age."""
    figure, (left, right) = _two_panels()
    weeks = [aged.weeks for aged in found.ages]
    increase = [aged.log_loss_increase for aged in found.ages]
    error = [1.96 * aged.standard_error for aged in found.ages]
    left.errorbar(weeks, increase, yerr=error, color=ACCENT, ecolor=MUTED, marker="o", capsize=3)
    left.axhline(0, color=MUTED, linewidth=0.8)
    left.axhline(LIMIT, color=INK, linestyle="--", linewidth=1, label=f"limit, {LIMIT:g}")
    left.axvline(found.advised_weeks or 0, color=MUTED, linestyle=":", label="advised retraining interval")
    left.legend(frameon=False, fontsize=8)
    ranking = np.array([aged.auc_score for aged in found.ages])
    right.plot(weeks, ranking, color=ACCENT, marker="o")
    # Never zoomed in so far that noise in the third digit looks like a trend.
    reach = max(0.02, 1.2 * float(np.abs(ranking - ranking[0]).max()))
    right.set_ylim(ranking[0] - reach, ranking[0] + reach)
    _label(left, "Age of the model in weeks", "Log loss above a fresh model's", "Cost of staleness (95 % by user)")
    _label(right, "Age of the model in weeks", "ROC-AUC", "Ranking by age (newest test rows)")
    return figure


def importance(names: Sequence[str], mean: Array, deviation: Array) -> Figure:
    """Permutation importance with its standard deviation, most important on top."""
    order = np.argsort(mean)[-20:]
    figure = Figure(figsize=(8, 0.3 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([names[place] for place in order], mean[order], xerr=deviation[order], color=ACCENT, ecolor=MUTED)
    axes.axvline(0, color=INK, linewidth=0.8)
    _label(axes, "Loss of AUC when the column is shuffled", "", "Permutation importance (test rows)")
    return figure


def reason_codes(explanations: Sequence[Explanation]) -> Figure:
    """Mean absolute contribution of every code over some predictions, and all reasons of the highest among them.

    On the right each bar starts where the one above ends, from the base margin to the log-odds of the probability.
    """
    figure, (left, right) = _two_panels()
    sizes = {code: np.mean([_contribution(each, code) for each in explanations]) for code in ReasonCode}
    ordered = sorted(sizes, key=lambda code: sizes[code])
    left.barh([code.value for code in ordered], [float(sizes[code]) for code in ordered], color=ACCENT)
    _label(left, "Mean |contribution| to the log-odds", "", f"Reasons of {len(explanations):,} predictions")
    _waterfall(right, max(explanations, key=lambda each: each.margin))
    return figure


def _contribution(explanation: Explanation, code: ReasonCode) -> float:
    return next(abs(reason.contribution) for reason in explanation.reasons if reason.code is code)


def _waterfall(axes: Axes, one: Explanation) -> None:
    steps = np.array([reason.contribution for reason in one.reasons])
    starts = one.base_margin + np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    axes.barh(range(len(steps)), steps, left=starts, color=np.where(steps > 0, ACCENT, MUTED).tolist())
    axes.set_yticks(range(len(steps)), [reason.text for reason in one.reasons], fontsize=8)
    axes.axvline(one.base_margin, color=MUTED, linestyle=":", label=f"base {one.base_margin:+.2f}")
    axes.axvline(one.margin, color=INK, linewidth=1, label=f"this prediction {one.margin:+.2f}")
    axes.invert_yaxis()
    axes.use_sticky_edges = False
    axes.margins(x=0.05)
    axes.legend(frameon=False, fontsize=8)
    _label(axes, "Log-odds of going silent", "", "The highest of them")


def slices(parts: Sequence[Slice]) -> Figure:
    """ROC-AUC and calibration in the large of every slice that is large enough, with 95 % intervals by user."""
    judged = [part for part in parts if not part.too_small][::-1]
    figure = Figure(figsize=(11, 0.32 * len(judged) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = [f"{part.name}  (n = {part.n:,})" for part in judged]
    for axes, key in ((left, "auc_score"), (right, "calibration_in_the_large")):
        found = [part.figures[key] for part in judged]
        middle = np.array([each.estimate for each in found])
        reach = [[each.estimate - each.low for each in found], [each.high - each.estimate for each in found]]
        axes.errorbar(middle, names, xerr=np.maximum(reach, 0), fmt="o", color=ACCENT, ecolor=MUTED, capsize=2)
    right.axvline(0, color=INK, linewidth=0.8)
    _label(left, "ROC-AUC", "", "Slices of the test rows")
    _label(right, "Mean probability less churn rate", "", "Calibration in the large")
    return figure


def _two_panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def _style(name: str) -> dict[str, Any]:
    return {"color": ACCENT, "linewidth": 2.4, "zorder": 5} if name == SHIPPED else {"linewidth": 1.1, "alpha": 0.8}


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)


def _bins(y: Outcomes, probability: Array) -> tuple[list[float], list[float]]:
    groups = [group for group in np.array_split(np.argsort(probability, kind="stable"), 10) if len(group)]
    return [float(probability[group].mean()) for group in groups], [float(y[group].mean()) for group in groups]
