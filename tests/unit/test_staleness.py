"""Staleness: which ages are compared, what they lose, and how long a model is advised to stay."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from sklearn.metrics import log_loss

from churn.core.evaluation import clustered_error, metrics, row_log_loss
from churn.core.model import ForestParameters, fit, probabilities
from churn.core.staleness import Aged, advised, staleness
from churn.core.training_set import SplitRows, naive, split_rows
from churn.domain.windows import split_cutoffs
from tests.exports import HORIZON, at, labelled_rows

PARAMETERS = ForestParameters(n_estimators=8)
WEEK = timedelta(weeks=1)
TEST = at("2012-01-02")
NEWEST = TEST - HORIZON


def split_of(train: list[datetime], users: int = 120) -> SplitRows:
    cutoffs = sorted([*train, TEST])
    return split_rows(labelled_rows(cutoffs, users=users), split_cutoffs(cutoffs, HORIZON))


def weekly(count: int, *, older: int = 1) -> list[datetime]:
    """`count` weekly cutoffs up to the newest allowed one, and others well before them to grow a forest on."""
    return [NEWEST - week * WEEK for week in range(count)] + [NEWEST - (30 + week) * WEEK for week in range(older)]


def weeks_of(rows: SplitRows) -> list[float]:
    return [aged.weeks for aged in staleness(rows, PARAMETERS, HORIZON).ages]


# -- which ages ------------------------------------------------------------------------------------------------------


def test_each_model_loses_the_newest_training_cutoffs_and_nothing_else() -> None:
    rows = split_of(weekly(3))
    found = staleness(rows, PARAMETERS, HORIZON)
    assert [(aged.weeks, aged.newest_training_cutoff, aged.training_rows) for aged in found.ages] == [
        (0.0, "2011-11-03", 480),
        (1.0, "2011-10-27", 360),
        (2.0, "2011-10-20", 240),
    ]


def test_ages_are_at_most_five_evenly_spread_up_to_three_months() -> None:
    assert weeks_of(split_of(weekly(5))) == [0, 1, 2, 3, 4]
    assert weeks_of(split_of(weekly(20))) == [0, 3, 6, 10, 13]


def test_monthly_cutoffs_reach_three_months() -> None:
    months = [at(f"2011-{month:02}-01") for month in range(1, 12)]
    assert weeks_of(split_of(months)) == pytest.approx([0, 31 / 7, 61 / 7, 92 / 7])


def test_a_log_that_gets_too_short_to_calibrate_alike_ends_the_curve() -> None:
    # Without the newest two, one cutoff is left: users would be held out from its forest instead.
    rows = split_of([NEWEST, NEWEST - WEEK, NEWEST - 10 * WEEK])
    assert weeks_of(rows) == [0, 1]


@pytest.mark.parametrize("train", [[NEWEST], [NEWEST, NEWEST - 10 * WEEK], [NEWEST, NEWEST - 14 * WEEK]])
def test_where_there_is_nothing_to_compare_the_reason_is_told(train: list[datetime]) -> None:
    found = staleness(split_of(train), PARAMETERS, HORIZON)
    assert (found.ages, found.advised_weeks) == ((), None)
    assert found.reason.startswith(f"not measured: of {len(train)} training cutoffs only the newest")


# -- what they lose --------------------------------------------------------------------------------------------------


def test_each_age_is_judged_on_the_test_rows_by_a_model_of_at_most_a_hundred_trees() -> None:
    rows = split_of(weekly(2), users=60)
    many = replace(PARAMETERS, n_estimators=101)
    fresh, old = staleness(rows, many, HORIZON).ages
    few = replace(many, n_estimators=100)
    kept = rows.train.where(rows.train.cutoff < naive(NEWEST))
    for aged, part in ((fresh, rows.train), (old, kept)):
        wanted = metrics(rows.test.y, probabilities(fit(part, few, HORIZON).estimator, rows.test.X))
        assert (aged.auc_score, aged.log_loss, aged.brier) == (wanted["auc_score"], wanted["log_loss"], wanted["brier"])
    assert (fresh.log_loss_increase, fresh.standard_error) == (0.0, 0.0)
    assert old.log_loss_increase == pytest.approx(old.log_loss - fresh.log_loss)
    assert old.standard_error > 0


def test_a_world_that_turned_costs_the_old_model_and_the_curve_shows_it() -> None:
    """Thirty weeks ago those churned who stay now; a model of nine weeks and more grew on nothing else."""
    rows = split_of([NEWEST - week * WEEK for week in (0, 9, 10, 11, 12, 30)], users=200)
    turned = rows.train.cutoff == naive(NEWEST - 30 * WEEK)
    train = replace(rows.train, y=np.where(turned, 1 - rows.train.y, rows.train.y))
    free = replace(PARAMETERS, shape="free")  # a forest with directions of risk cannot learn a world that is turned
    found = staleness(replace(rows, train=train), free, HORIZON)
    assert [aged.weeks for aged in found.ages] == [0, 9, 10, 11, 12]
    assert all(aged.log_loss_increase > 0.1 for aged in found.ages[1:])
    assert all(aged.auc_score < 0.5 < found.ages[0].auc_score for aged in found.ages[1:])
    assert found.advised_weeks == 1


def test_the_log_loss_of_rows_averages_to_scikit_learns() -> None:
    y, probability = np.array([0, 1, 1]), np.array([0.2, 0.7, 0.0])
    assert row_log_loss(y, probability).mean() == pytest.approx(log_loss(y, np.clip(probability, 1e-6, 1)))


def test_rows_of_one_user_count_as_one_observation() -> None:
    values, users = np.array([1.0, 3.0, 2.0, 6.0]), np.array(["a", "b", "c", "d"], object)
    plain = values.std(ddof=1) / 2
    assert clustered_error(values, users) == pytest.approx(plain)
    # Each row four times, by the same user: no new knowledge.
    assert clustered_error(np.tile(values, 4), np.tile(users, 4)) == pytest.approx(plain)


# -- the advice ------------------------------------------------------------------------------------------------------


def curve(*points: tuple[float, float]) -> tuple[Aged, ...]:
    return tuple(Aged(weeks, "2011-11-03", 100, 0.8, 0.4, 0.1, increase, 0.001) for weeks, increase in points)


@pytest.mark.parametrize(
    ("points", "weeks", "told"),
    [
        ([(0, 0.0), (4, 0.001), (8, 0.009)], 6, "more than 0.005 from an age of 6.0 weeks on"),
        ([(0, 0.0), (4, 0.001), (13.1, 0.005)], 13, "no more than 0.005 up to 13.1 weeks, the oldest measured"),
        ([(0, 0.0), (4, -0.002), (8, 0.004)], 8, "(there by 0.0040, 95 % interval 0.0020 to 0.0060)"),
        # What lies behind the first crossing does not count.
        ([(0, 0.0), (4, 0.010), (8, 0.001)], 2, "an age of 2.0 weeks"),
        ([(0, 0.0), (4, 0.1)], 1, "an age of 0.2 weeks"),
        ([(0, 0.0), (0.5, 0.0)], 1, "up to 0.5 weeks"),
    ],
)
def test_the_advice_is_the_first_age_at_which_the_curve_crosses_the_limit(
    points: list[tuple[float, float]], weeks: int, told: str
) -> None:
    found, reason = advised(curve(*points))
    assert found == weeks
    assert told in reason


def test_the_table_is_json_and_names_its_terms() -> None:
    table = json.loads(json.dumps(staleness(split_of(weekly(2)), PARAMETERS, HORIZON).table(), allow_nan=False))
    assert (table["limit"], table["most_trees"], len(table["ages"])) == (0.005, 100, 2)
    assert set(table) == {"ages", "advised_weeks", "reason", "limit", "most_trees"}
