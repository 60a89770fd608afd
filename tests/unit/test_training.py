"""Training, from rows to a judged model: its figures, its pictures and what it leaves for serving."""

from __future__ import annotations

import json

import numpy as np
import pytest

from churn.core.evaluation import metrics
from churn.core.model import ForestParameters, probabilities
from churn.core.training import (
    Evaluated,
    dataset_frame,
    figures,
    golden_vectors,
    metric_values,
    reference_frame,
    train,
)
from churn.core.training_set import SplitRows, split_rows
from churn.domain.schema import FEATURE_NAMES
from churn.domain.windows import split_cutoffs
from tests.exports import HORIZON, at, labelled_rows

CUTOFFS = [at("2011-01-01"), at("2011-03-15"), at("2011-06-01"), at("2011-06-20")]
RIVALS = ["recency", "logistic_seed", "logistic_rich", "hist_gradient_boosting", "bg_nbd"]
FIGURES = ["auc_score", "pr_auc", "base_rate", "log_loss", "brier", "brier_base", "ece", "lift_10", "n"]


@pytest.fixture(scope="module")
def rows() -> SplitRows:
    return split_rows(labelled_rows(CUTOFFS, users=150), split_cutoffs(CUTOFFS, HORIZON, test_cutoffs=2))


@pytest.fixture(scope="module")
def result(rows: SplitRows) -> Evaluated:
    return train(rows, ForestParameters(n_estimators=8), HORIZON)


def test_the_model_is_judged_on_the_test_rows_beside_every_baseline(rows: SplitRows, result: Evaluated) -> None:
    assert list(result.comparison) == ["shipped", *RIVALS]
    answer = probabilities(result.fitted.estimator, rows.test.X)
    assert result.comparison["shipped"] == metrics(rows.test.y, answer)
    assert {row["n"] for row in result.comparison.values()} == {300.0}


def test_the_figures_are_told_per_test_cutoff_too(rows: SplitRows, result: Evaluated) -> None:
    assert list(result.by_cutoff) == ["2011-06-01", "2011-06-20"]
    later = rows.test.at([CUTOFFS[3]])
    assert result.by_cutoff["2011-06-20"] == metrics(later.y, probabilities(result.fitted.estimator, later.X))


def test_the_metrics_have_the_seeds_names_and_those_of_cutoffs_and_baselines(
    rows: SplitRows, result: Evaluated
) -> None:
    values = metric_values(result, rows)
    assert {"auc_score", "train_size", "test_size", *FIGURES} <= set(values)
    assert (values["train_size"], values["test_size"]) == (300.0, 300.0)
    # One training horizon ends by the calibration cutoff: 150 rows grow the forest, 150 calibrate it.
    assert (values["forest_rows"], values["calibration_rows"]) == (150.0, 150.0)
    for name in RIVALS:
        assert all(values[f"baseline.{name}.{key}"] == result.comparison[name][key] for key in FIGURES)
    for day in ("2011-06-01", "2011-06-20"):
        assert all(values[f"cutoff.{day}.{key}"] == result.by_cutoff[day][key] for key in FIGURES)
    assert all(isinstance(value, float) for value in values.values())


def test_the_same_rows_train_the_same_model(rows: SplitRows, result: Evaluated) -> None:
    again = train(rows, ForestParameters(n_estimators=8), HORIZON)
    assert again.probability.tobytes() == result.probability.tobytes()
    assert again.comparison == result.comparison


def test_the_column_that_makes_the_labels_is_the_most_important_one(result: Evaluated) -> None:
    mean, deviation = result.importance
    assert mean.shape == deviation.shape == (len(FEATURE_NAMES),)
    assert FEATURE_NAMES[int(np.argmax(mean))] == "days_since_last_activity"


def test_every_promised_picture_is_drawn_and_can_be_written(rows: SplitRows, result: Evaluated) -> None:
    drawn = figures(result, rows.test)
    assert set(drawn) == {"roc_pr", "reliability", "lift", "permutation_importance", "reason_codes"}
    for figure in drawn.values():
        figure.canvas.draw()
        assert all(axes.get_title(loc="left") for axes in figure.axes)


def test_a_picture_of_ranking_shows_every_model(rows: SplitRows, result: Evaluated) -> None:
    roc, _ = figures(result, rows.test)["roc_pr"].axes
    labels = {line.get_label() for line in roc.lines}
    assert {"shipped", *RIVALS} <= labels


def test_golden_rows_are_spread_over_the_test_rows(rows: SplitRows) -> None:
    golden = golden_vectors(rows.test)
    assert golden.shape == (32, len(FEATURE_NAMES))
    assert np.array_equal(golden[0], rows.test.X[0], equal_nan=True)
    assert np.array_equal(golden[-1], rows.test.X[-1], equal_nan=True)


def test_a_test_set_smaller_than_the_golden_rows_gives_all_of_them(rows: SplitRows) -> None:
    few = rows.test.where(np.arange(len(rows.test)) < 5)
    assert np.array_equal(golden_vectors(few), few.X, equal_nan=True)


def test_the_reference_holds_the_test_rows_and_what_the_model_says_of_them(rows: SplitRows, result: Evaluated) -> None:
    frame = reference_frame(rows, result.fitted)
    assert list(frame.columns) == [*FEATURE_NAMES, "churn_probability"]
    assert np.array_equal(frame[list(FEATURE_NAMES)].to_numpy(), rows.test.X, equal_nan=True)
    assert frame["churn_probability"].tolist() == result.probability.tolist()


def test_a_dataset_of_a_run_names_no_user(rows: SplitRows) -> None:
    frame = dataset_frame(rows.train)
    assert list(frame.columns) == [*FEATURE_NAMES, "cutoff", "churned"]
    assert len(frame) == 300


def test_the_figures_can_be_written_as_json(result: Evaluated) -> None:
    assert json.loads(json.dumps(result.comparison)).keys() == result.comparison.keys()
