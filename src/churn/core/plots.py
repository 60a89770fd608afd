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

Array = NDArray[np.float64]
Outcomes = NDArray[np.int64]
SHIPPED = "shipped"
INK, MUTED, ACCENT = "#1f2933", "#9aa5b1", "#c2410c"


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


def importance(names: Sequence[str], mean: Array, deviation: Array) -> Figure:
    """Permutation importance with its standard deviation, most important on top."""
    order = np.argsort(mean)[-20:]
    figure = Figure(figsize=(8, 0.3 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([names[place] for place in order], mean[order], xerr=deviation[order], color=ACCENT, ecolor=MUTED)
    axes.axvline(0, color=INK, linewidth=0.8)
    _label(axes, "Loss of AUC when the column is shuffled", "", "Permutation importance (test rows)")
    return figure


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
