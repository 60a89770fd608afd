"""Slices and fairness: which rows belong where, what is too small to be judged, and gaps worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from churn.core.bootstrap import Resampling
from churn.core.evaluation import metrics
from churn.core.plots import slices as plot_slices
from churn.core.slices import Enough, Judged, Slice, fairness, labels_of, masks, slice_figures, slice_report
from churn.core.training_set import Rows
from churn.domain.schema import FEATURE_NAMES

N = 400
QUICK = Resampling(replicates=50)
ENOUGH = Enough(rows=50, of_each_outcome=10)


def rows_with(**columns: object) -> Rows:
    """N valid rows of one user each, whose probability is `P` below; `columns` overwrite features."""
    X = np.ones((N, len(FEATURE_NAMES)))
    for name, values in columns.items():
        X[:, FEATURE_NAMES.index(name)] = values
    stamps = np.full(N, np.datetime64("2011-10-10", "us"))
    return Rows(X, Y, stamps, np.arange(N).astype(object))


P = np.tile((np.arange(10) + 0.5) / 10, N // 10)
Y = (np.repeat(np.arange(40), 10) + 0.5 < P * 40).astype(np.int64)  # of the 40 rows with probability p, 40 p churn
HALVES = np.repeat(["free", "pro"], N // 2).astype(object)


def test_a_band_holds_its_lower_edge() -> None:
    rows = rows_with(days_since_signup=np.resize([29.9, 30, 89.9, 90, 364.9, 365], N), total_orders=2)
    cut = {name: sorted(set(rows.column("days_since_signup")[mask])) for name, mask in masks(rows, {}).items()}
    assert cut == {
        "tenure.under_90_days": [29.9, 30, 89.9],
        "tenure.90_to_365_days": [90, 364.9],
        "tenure.from_365_days": [365],
        "newest_users": [29.9],
        "orders.2_to_4": [29.9, 30, 89.9, 90, 364.9, 365],
    }


def test_users_are_cut_by_their_orders() -> None:
    rows = rows_with(total_orders=np.resize([0, 1, 2, 4, 5, 80], N), days_since_signup=400)
    cut = {name: sorted(set(rows.column("total_orders")[mask])) for name, mask in masks(rows, {}).items()}
    del cut["tenure.from_365_days"]
    assert cut == {"orders.none": [0], "orders.one": [1], "orders.2_to_4": [2, 4], "orders.from_5": [5, 80]}


def test_rows_with_nulls_in_more_than_a_tenth_of_the_features_are_null_heavy() -> None:
    rows = rows_with()
    rows.X[0, :3], rows.X[1, :4] = np.nan, np.nan  # of 35
    assert np.flatnonzero(masks(rows, {})["null_heavy"]).tolist() == [1]


def test_labels_cut_slices_with_names_that_a_metric_may_have() -> None:
    labels = np.where(np.arange(N) < 100, "très chère / B", "basic").astype(object)
    cut = masks(rows_with(), {"subscription_tier": labels})
    assert cut["subscription_tier.tr_s_ch_re_B"].sum() == 100
    assert cut["subscription_tier.basic"].sum() == 300


def test_a_column_with_one_label_cuts_nothing() -> None:
    names = masks(rows_with(), {"subscription_tier": np.full(N, "unknown", dtype=object)})
    assert not [name for name in names if name.startswith("subscription_tier")]


def test_users_without_a_label_are_unknown_and_rare_labels_are_one() -> None:
    users = list(range(110))
    known = {user: f"label {min(user // 10, 8)}" for user in range(100)} | {98: "rare", 99: "rarest"}
    found = labels_of(users, known)
    names, counts = np.unique(found.astype(str), return_counts=True)
    # Eight are kept: the most frequent, here label 8 (18 users), then those of ten in the order of their names.
    assert dict(zip(names, counts, strict=True)) == {
        **{f"label {place}": 10 for place in range(7)},
        "label 8": 18,
        "other": 22,
    }


def test_a_slice_has_the_figures_of_its_rows_with_intervals_around_them() -> None:
    rows = rows_with(days_since_signup=np.repeat([10.0, 500.0], N // 2))
    found = {each.name: each for each in slice_figures(rows, Judged(P), {}, enough=ENOUGH, resampling=QUICK)}
    newest, expected = found["newest_users"], metrics(Y[: N // 2], P[: N // 2])
    assert (newest.n, newest.churn_rate) == (200, pytest.approx(expected["base_rate"]))
    assert list(newest.figures) == ["auc_score", "brier", "log_loss", "calibration_in_the_large"]
    for name, figure in newest.figures.items():
        assert figure.estimate == pytest.approx(expected[name])
        assert figure.low < figure.estimate < figure.high
    assert newest.against == {}


def test_a_slice_sets_a_model_against_another_on_the_same_rows() -> None:
    worse = 0.5 + 0.2 * (P - 0.5)
    (whole, *_) = slice_figures(rows_with(), Judged(P, worse), {}, enough=ENOUGH, resampling=QUICK)
    assert whole.against["log_loss"].high < 0
    assert whole.against["auc_score"].estimate == pytest.approx(0)


@pytest.mark.parametrize(
    ("enough", "small"),
    [(Enough(200, 1), False), (Enough(201, 1), True), (Enough(1, 100), False), (Enough(1, 101), True)],
    ids=["rows suffice", "a row is missing", "outcomes suffice", "an outcome is missing"],
)
def test_a_slice_that_is_too_small_is_told_and_has_no_figures(enough: Enough, small: bool) -> None:
    both = np.where(np.arange(N) % 2 == 0, "even", "odd").astype(object)
    rows = replace(rows_with(), y=np.resize([0, 0, 1, 1], N))
    found = {
        each.name: each
        for each in slice_figures(rows, Judged(P), {"half": both}, enough=enough, resampling=QUICK)
        if each.name.startswith("half")
    }
    assert {each.too_small for each in found.values()} == {small}
    assert {each.n for each in found.values()} == {200}


# -- fairness --------------------------------------------------------------------------------------------------------


def test_the_gaps_between_groups_are_those_worked_out_by_hand() -> None:
    # free: probabilities .6 and .8, of which each half churned; pro: .2 and .8, likewise.
    probability = np.concatenate([np.repeat([0.6, 0.8], 100), np.repeat([0.2, 0.8], 100)])
    rows = replace(rows_with(), y=np.resize([0, 1], N))
    found = fairness(
        rows,
        probability,
        "subscription_tier",
        labels=HALVES,
        threshold=0.6,
        enough=Enough(rows=200, of_each_outcome=100),
    )
    assert found.groups["free"] == pytest.approx(
        {"n": 200, "selection_rate": 1.0, "true_positive_rate": 1.0, "calibration_in_the_large": 0.2}
    )
    assert found.groups["pro"] == pytest.approx(
        {"n": 200, "selection_rate": 0.5, "true_positive_rate": 0.5, "calibration_in_the_large": 0.0}
    )
    assert found.gaps == pytest.approx(
        {"selection_rate": 0.5, "true_positive_rate": 0.5, "calibration_in_the_large": 0.2}
    )


def test_groups_that_are_too_small_are_set_beside_nobody() -> None:
    few = np.where(np.arange(N) < 99, "few", "many").astype(object)
    found = fairness(rows_with(), P, "subscription_tier", labels=few, threshold=0.5, enough=Enough())
    assert list(found.groups) == ["many"]
    assert found.gaps == {}


def test_the_report_of_a_run_is_json_and_metrics() -> None:
    report = slice_report(
        rows_with(), P, {"subscription_tier": HALVES}, fairness_column="subscription_tier", threshold=0.7
    )
    told = json.loads(json.dumps(report.table()))
    assert told["fairness"]["column"] == "subscription_tier"
    values = report.metric_values()
    assert values["slice.subscription_tier.pro.auc_score"] == pytest.approx(metrics(Y[200:], P[200:])["auc_score"])
    assert values["fairness.selection_rate_gap"] == pytest.approx(0)
    assert slice_report(rows_with(), P, {}, fairness_column="", threshold=0.7).fairness is None


def test_the_picture_shows_every_slice_that_was_judged() -> None:
    parts = slice_figures(rows_with(), Judged(P), {"tier": HALVES}, enough=Enough(250, 1), resampling=QUICK)
    figure = plot_slices(parts)
    figure.canvas.draw()
    judged = [f"{part.name}  (n = {part.n:,})" for part in parts if not part.too_small]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == judged[::-1]
    assert {part.name for part in parts if part.too_small} == {"tier.free", "tier.pro"}


def test_a_picture_without_any_judged_slice_can_still_be_drawn() -> None:
    plot_slices([Slice("newest_users", 3, 0.5)]).canvas.draw()
