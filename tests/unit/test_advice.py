"""What follows from a model: contacts chosen on validation rows and told on test rows, and a curve over ages."""

from __future__ import annotations

import numpy as np
import pytest

from churn.core.advice import Advice, advise, plan_contacts
from churn.core.model import ForestParameters, divide, probabilities
from churn.core.training import train, validation_rows
from churn.core.training_set import SplitRows, split_rows
from churn.core.value import Economics, Judged, best_threshold, value_per_user
from churn.domain.windows import split_cutoffs
from tests.exports import HORIZON, at, labelled_rows

CUTOFFS = [at(day) for day in ("2011-01-01", "2011-02-01", "2011-04-02", "2011-05-03", "2011-07-05")]
PARAMETERS = ForestParameters(n_estimators=8)
TENFOLD = Economics(cost=1.0, margin=10.0)
MONTH = np.datetime64("2011-01-01", "us")


@pytest.fixture(scope="module")
def rows() -> SplitRows:
    return split_rows(labelled_rows(CUTOFFS, users=150), split_cutoffs(CUTOFFS, HORIZON))


@pytest.fixture(scope="module")
def advice(rows: SplitRows) -> Advice:
    return advise(rows, train(rows, PARAMETERS, HORIZON), horizon=HORIZON, economics=TENFOLD)


def test_the_threshold_is_chosen_on_rows_that_neither_grew_the_forest_nor_test_it(rows: SplitRows) -> None:
    kept, share = validation_rows(rows.train, HORIZON)
    assert {str(day)[:10] for day in kept.cutoff} == {"2011-05-03"}
    assert share == 1.0
    result = train(rows, PARAMETERS, HORIZON)
    told = advise(rows, result, horizon=HORIZON, economics=TENFOLD).contact
    answer = probabilities(result.fitted.estimator, kept.X)
    assert told.plan.threshold == best_threshold(Judged(kept.y, answer, kept.cutoff), TENFOLD)
    assert np.array_equal(told.validation.rows.probability, answer)
    assert np.array_equal(told.test.rows.y, rows.test.y)


def test_held_out_users_are_their_share_of_all() -> None:
    short = labelled_rows([at("2011-01-01"), at("2011-02-01")], users=300)
    kept, share = validation_rows(short, HORIZON)
    assert len(kept) == int(divide(short, HORIZON).calibration.sum())
    assert share == len(kept) / 600


def test_validation_users_spend_their_share_of_the_budget_and_test_users_all_of_it() -> None:
    half = Judged(np.array([1, 1, 1, 0]), np.array([0.9, 0.8, 0.7, 0.02]), np.full(4, MONTH))
    told = plan_contacts(half, half, Economics(1.0, 10.0, budget=2.0), kept=0.5)
    assert (told.validation.share, told.validation.value) == (0.25, 9 / 4)
    assert (told.test.share, told.test.value) == (0.5, 18 / 4)
    assert (told.plan.value_per_user_validation, told.plan.value_per_user_test) == (9 / 4, 18 / 4)


def test_the_metrics_say_what_was_chosen_and_what_the_alternatives_bring(rows: SplitRows, advice: Advice) -> None:
    values = advice.metrics()
    plan = advice.contact.plan
    assert values == {
        "value.threshold": plan.threshold,
        "value.per_user_validation": plan.value_per_user_validation,
        "value.per_user_test": plan.value_per_user_test,
        "value.contact_all_per_user": pytest.approx(10 * rows.test.y.mean() - 1),
        "value.break_even_per_user": value_per_user(advice.contact.test.rows, 0.1, TENFOLD),
        "value.contact_nobody": 0.0,
        "value.share_contacted": advice.contact.test.share,
        "staleness.advised_weeks": float(advice.staleness.advised_weeks or 0),
    }


def test_the_pictures_show_both_sets_the_rivals_and_the_ages(advice: Advice) -> None:
    drawn = advice.figures()
    assert set(drawn) == {"profit", "staleness"}
    for figure in drawn.values():
        figure.canvas.draw()
    labels = {line.get_label() for axes in drawn["profit"].axes for line in axes.lines}
    assert {"test", "validation", "everybody (test)", "at random (test)", "chosen threshold"} <= labels
    ages, *_ = drawn["staleness"].axes[1].lines
    assert ages.get_xdata().tolist() == pytest.approx([0.0, 31 / 7])


def test_a_log_too_short_for_ages_has_no_picture_of_them() -> None:
    days = [at("2011-01-01"), at("2011-03-15"), at("2011-06-01")]
    short = split_rows(labelled_rows(days, users=150), split_cutoffs(days, HORIZON))
    told = advise(short, train(short, PARAMETERS, HORIZON), horizon=HORIZON, economics=TENFOLD)
    assert set(told.figures()) == {"profit"}
    assert "staleness.advised_weeks" not in told.metrics()
