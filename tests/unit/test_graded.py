"""Graded trials: outcomes come from the truth, models are worse by what is stated, the page says what was missed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import logit

from benchmarks.graded import MEASUREMENTS, write
from benchmarks.graded_figures import Figure, Goal
from benchmarks.graded_model import Answers, model_figures
from benchmarks.graded_shops import KnownRows, KnownShop, expected_auc, expected_log_loss, known
from benchmarks.graded_verdicts import (
    BETTER,
    EQUAL,
    FIT_ON,
    WORSE,
    Judged,
    draw_trial,
    judged,
    promotion_figures,
    worsened,
)
from churn.core.training_set import Rows
from churn.domain.schema import FEATURE_NAMES

Array = NDArray[np.float64]
PROBABILITY = np.tile([0.1, 0.3, 0.5, 0.7, 0.9], 400)


def known_rows(cutoff: str, users: int = 2000) -> KnownRows:
    """A row a user; its first feature and recency tell the probability."""
    X = np.tile((np.log1p(PROBABILITY[:users]) * 10)[:, None], len(FEATURE_NAMES))
    names = np.full(users, np.datetime64(cutoff, "us"))
    rows = Rows(X, np.zeros(users, dtype=np.int64), names, np.arange(users).astype(object))
    return KnownRows(rows, PROBABILITY[:users])


def both(first: KnownRows, second: KnownRows) -> KnownRows:
    one, other = first.rows, second.rows
    rows = Rows(
        np.concatenate([one.X, other.X]),
        np.concatenate([one.y, other.y]),
        np.concatenate([one.cutoff, other.cutoff]),
        np.concatenate([one.user_id, other.user_id]),
    )
    return KnownRows(rows, np.concatenate([first.attainable, second.attainable]))


TRAINED = both(known_rows(f"{FIT_ON[0]:%Y-%m-%d}"), known_rows(f"{FIT_ON[1]:%Y-%m-%d}"))
SHOP = KnownShop(1, both(TRAINED, known_rows("2025-02-01")), known_rows("2025-10-01"))

# -- shops


def test_outcomes_are_drawn_with_the_attainable_probability_and_the_same_for_a_seed() -> None:
    first = known_rows("2025-10-01").with_new_outcomes(np.random.default_rng(3))
    again = known_rows("2025-10-01").with_new_outcomes(np.random.default_rng(3))
    assert (first.rows.y == again.rows.y).all()
    rates = [first.rows.y[each == PROBABILITY].mean() for each in (0.1, 0.5, 0.9)]
    assert rates == pytest.approx([0.1, 0.5, 0.9], abs=0.07)  # four standard errors of 400 are .1


def test_each_row_finds_the_truth_of_its_own_user_and_cutoff() -> None:
    rows = both(known_rows("2025-10-01", 2), known_rows("2025-11-01", 1)).rows
    truth = [(1, "2025-11-01", 0.9), (1, "2025-10-01", 0.2), (0, "2025-11-01", 0.8), (0, "2025-10-01", 0.4)]
    assert known(rows, _frame(truth)).attainable.tolist() == [0.4, 0.2, 0.8]


def test_a_row_that_the_truth_does_not_hold_eligible_stops_the_measurement() -> None:
    rows = known_rows("2025-10-01", 2).rows
    with pytest.raises(AssertionError, match="not eligible in the truth"):
        known(rows, _frame([(0, "2025-10-01", 0.4), (1, "2025-10-01", np.nan)]))


def _frame(truth: list[tuple[int, str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(truth, columns=["user_id", "cutoff", "attainable_probability"])
    return frame.assign(cutoff=frame["cutoff"].astype("datetime64[us]"))


def test_expected_figures_are_means_over_all_outcomes() -> None:
    attainable, probability = np.array([0.2, 0.8]), np.array([0.25, 0.5])
    loss = -(0.2 * np.log(0.25) + 0.8 * np.log(0.75) + 0.8 * np.log(0.5) + 0.2 * np.log(0.5)) / 2
    assert expected_log_loss(attainable, probability) == pytest.approx(loss)
    # Pairs of a churner and a stayer by weight: right .8 * .8, wrong .2 * .2, with itself (half) .2 * .8 twice.
    assert expected_auc(attainable, probability) == pytest.approx((0.64 + 0.16) / (0.64 + 0.04 + 0.32))


# -- trials


def test_a_trial_is_the_same_for_a_seed_and_takes_the_same_users_to_train_and_test() -> None:
    first, again, other = draw_trial(SHOP, 500, 4), draw_trial(SHOP, 500, 4), draw_trial(SHOP, 500, 5)
    assert (first.train.rows.y == again.train.rows.y).all()
    assert (first.test.rows.y == again.test.rows.y).all()
    assert set(first.test.rows.user_id) == set(first.train.rows.user_id) != set(other.test.rows.user_id)
    assert 400 < len(first.test) < 600
    assert len(np.unique(first.train.rows.cutoff)) == 2  # and not the third one, whose horizon overlaps


def test_noise_makes_a_model_worse_by_exactly_the_stated_gap() -> None:
    rng = np.random.default_rng(0)
    first, second = (worsened(PROBABILITY, PROBABILITY, 0.01, rng) for _ in range(2))
    losses = [expected_log_loss(PROBABILITY, each) for each in (PROBABILITY, first, second)]
    assert losses[1] - losses[0] == pytest.approx(0.01, abs=1e-8)
    assert losses[2] - losses[0] == pytest.approx(0.01, abs=1e-8)
    assert np.corrcoef(logit(first) - logit(PROBABILITY), logit(second) - logit(PROBABILITY))[0, 1] < 0.1


def test_the_committed_policy_judges_each_pair_in_both_roles() -> None:
    found = judged(draw_trial(SHOP, 1200, 0))
    assert [each.role for each in found] == [BETTER, WORSE] * 3 + [EQUAL]
    assert [each.gain > 0 for each in found[:6]] == [True, False] * 3
    assert [round(each.gain, 6) for each in found[:4]] == [0.01, -0.01, 0.003, -0.003]
    assert found[6].gain == pytest.approx(0, abs=1e-8)
    assert not any(each.promoted for each in found if each.role == WORSE)


def test_the_share_of_promotions_is_told_per_kind_and_role_with_its_goal() -> None:
    gains = [(BETTER, True, 0.01), (WORSE, False, -0.01), (BETTER, True, 0.03), (WORSE, True, -0.03)]
    found = [Judged("noise worth 0.01", role, promoted, gain, 100) for role, promoted, gain in gains]
    better, worse = promotion_figures(found)
    assert (better.name, better.value, better.reached) == ("promoted: truly better, noise worth 0.01", 1.0, True)
    assert (worse.name, worse.value, worse.reached) == ("promoted: truly worse, noise worth 0.01", 0.5, False)
    assert worse.note.endswith("true gain in log loss -0.0200 (-0.0300 to -0.0100)")
    assert worse.note.startswith("1 of 2, 95 % interval 0.013 to 0.987;")


def test_the_smaller_gap_and_equal_models_are_told_without_a_goal() -> None:
    told = [Judged("noise worth 0.003", BETTER, True, 0.003, 9), Judged("noise worth 0.01", EQUAL, False, 0.0, 9)]
    assert [each.goal for each in promotion_figures(told)] == [None, None]
    graded = promotion_figures([Judged("noise worth 0.003", WORSE, False, -0.003, 9)])
    assert [str(each.goal) for each in graded] == ["at most 0.01"]


# -- the model


def test_only_the_shipped_model_is_held_to_goals() -> None:
    shop = replace(SHOP, test=SHOP.test.with_new_outcomes(np.random.default_rng(0)))
    found = list(model_figures(Answers(shop, {"shipped": 1 - PROBABILITY, "other": PROBABILITY}, "free")))
    assert [each.name for each in found] == [
        "AUC below the attainable: shipped (shape free), shop 1",
        "ECE: shipped (shape free), shop 1",
        "AUC below the attainable: other, shop 1",
        "ECE: other, shop 1",
    ]
    assert [each.reached for each in found] == [False, False, None, None]
    assert found[2].value == 0


# -- the page


def test_the_files_have_one_form_and_the_page_names_what_was_missed(tmp_path: Path) -> None:
    figures = [
        Figure("first", 0.95, Goal("at least", 0.9), trials=50, seed=0, n=8000, note="48 of 50"),
        Figure("second", 0.03, Goal("at most", 0.02), trials=1, seed=7, n=20_000),
        Figure("third", 0.5, None, trials=1, seed=7, n=20_000),
    ]
    write(tmp_path, [(MEASUREMENTS[0], figures)], "2 shops.")
    found = json.loads((tmp_path / "build/graded.json").read_text())
    assert found[0] == {
        "name": "first",
        "value": 0.95,
        "goal": "at least 0.9",
        "reached": True,
        "trials": 50,
        "seed": 0,
        "n": 8000,
        "note": "48 of 50",
    }
    assert [(each["goal"], each["reached"]) for each in found[1:]] == [("at most 0.02", False), (None, None)]
    page = (tmp_path / "docs/graded.md").read_text()
    assert "Of 2 goals 1 are reached.\n- missed: second is 0.0300, the goal at most 0.02\n" in page
    assert "| second | 0.0300 | at most 0.02 | **no** | 1 | 20,000 |  |" in page
