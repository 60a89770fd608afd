"""Value: whom to contact, what it brings, and the threshold that brings most, beside a plain twin."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn.core.value import (
    NOBODY,
    Economics,
    Judged,
    best_threshold,
    contacted,
    value_curve,
    value_per_row,
    value_per_user,
)

TENFOLD = Economics(cost=1.0, margin=10.0)
FIRST, SECOND = np.datetime64("2011-01-01", "us"), np.datetime64("2011-02-01", "us")


def judged(*rows: tuple[float, int], cutoffs: list[np.datetime64] | None = None) -> Judged:
    """Rows of (probability, outcome), all of one cutoff unless given."""
    probability, y = zip(*rows, strict=True)
    moments = cutoffs or [FIRST] * len(rows)
    return Judged(np.array(y, np.int64), np.array(probability), np.array(moments))


# -- money -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "budget", "contacts"),
    [
        (1.0, None, None),
        (0.0, 5.0, None),
        (2.0, 5.0, 2),
        (2.0, 1.9, 0),
        (1.0, 0.0, 0),
        (0.1, 100.0, 1000),  # as floats 100 // 0.1 is 999
        (0.1, 0.3, 3),  # and 0.3 / 0.1 is 2.9999999999999996
    ],
)
def test_a_budget_is_so_many_contacts(cost: float, budget: float | None, contacts: int | None) -> None:
    assert Economics(cost, 10.0, budget).most_contacts == contacts


@pytest.mark.parametrize(
    ("cost", "margin", "probability"), [(1.0, 10.0, 0.1), (0.0, 10.0, 0.0), (30.0, 10.0, NOBODY), (1.0, 0.0, NOBODY)]
)
def test_a_contact_pays_from_cost_over_margin_on(cost: float, margin: float, probability: float) -> None:
    assert Economics(cost, margin).break_even == probability


def test_a_third_of_the_users_has_a_third_of_the_budget() -> None:
    assert Economics(1.0, 10.0, 90.0).for_share(1 / 3).budget == pytest.approx(30.0)
    assert TENFOLD.for_share(1 / 3) == TENFOLD


# -- the threshold, by hand ------------------------------------------------------------------------------------------


def test_the_curve_says_what_every_threshold_comes_to() -> None:
    curve = value_curve(judged((0.9, 1), (0.5, 0), (0.5, 1), (0.2, 0)), TENFOLD)
    assert curve.threshold == pytest.approx([NOBODY, 0.7, 0.35, 0.0])
    assert curve.share.tolist() == [0.0, 0.25, 0.75, 1.0]
    assert curve.value.tolist() == [0.0, 9 / 4, 17 / 4, 16 / 4]


def test_probabilities_that_differ_by_rounding_are_not_parted() -> None:
    curve = value_curve(judged((0.5, 1), (0.5 - 1e-12, 0), (0.2, 0)), TENFOLD)
    assert curve.share == pytest.approx([0.0, 2 / 3, 1.0])


def test_the_break_even_is_kept_unless_the_outcomes_speak_against_it() -> None:
    assert best_threshold(judged((0.9, 1), (0.5, 1), (0.05, 0)), TENFOLD) == 0.1
    # Those at 0.3 never churned: contacting them lost money, so the threshold stands between 0.3 and 0.5.
    assert best_threshold(judged((0.9, 1), (0.5, 1), (0.3, 0), (0.3, 0), (0.05, 0)), TENFOLD) == 0.4
    # Those at 0.06 churned: below the break-even it pays on as well.
    assert best_threshold(judged((0.9, 1), (0.06, 1), (0.02, 0)), TENFOLD) == pytest.approx(0.04)


def test_a_group_that_breaks_even_moves_no_threshold() -> None:
    # One of ten churns: the contacts at 0.3 cost what they bring, so with or without them is the same.
    even = [(0.3, 1)] + [(0.3, 0)] * 9
    assert best_threshold(judged((0.9, 1), *even, (0.05, 0)), TENFOLD) == 0.1
    assert best_threshold(judged((0.9, 1), *even, (0.05, 0)), Economics(0.1, 1.0)) == 0.1


def test_where_no_contact_pays_nobody_is_contacted() -> None:
    assert best_threshold(judged((0.9, 0), (0.5, 0)), TENFOLD) == NOBODY
    assert best_threshold(judged((0.9, 1), (0.5, 1)), Economics(30.0, 10.0)) == NOBODY
    assert best_threshold(judged((1.0, 1), (0.5, 1)), Economics(1.0, 0.0)) == NOBODY


def test_a_contact_that_costs_nothing_reaches_everybody() -> None:
    assert best_threshold(judged((0.9, 1), (0.0, 0)), Economics(0.0, 10.0)) == 0.0


def test_the_budget_is_spent_at_every_cutoff_anew_and_on_the_highest_probabilities() -> None:
    rows = judged((0.9, 1), (0.8, 0), (0.7, 1), (0.6, 1), cutoffs=[FIRST, FIRST, FIRST, SECOND])
    one_each = replace(TENFOLD, budget=1.0)
    assert value_per_user(rows, 0.0, one_each) == (9 + 9) / 4
    assert value_per_user(rows, 0.65, one_each) == 9 / 4
    assert value_curve(rows, one_each).value.tolist() == [0.0, 9 / 4, 9 / 4, 9 / 4, 18 / 4]


def test_below_the_edge_of_the_budget_the_threshold_is_the_break_even() -> None:
    rows = judged((0.9, 1), (0.8, 1), (0.7, 1), (0.02, 0))
    assert best_threshold(rows, replace(TENFOLD, budget=2.0)) == 0.1


# -- the threshold, against the twin ---------------------------------------------------------------------------------


def plain_value(rows: Judged, threshold: float, economics: Economics) -> float:
    """The twin: cutoff by cutoff, user by user."""
    total = 0.0
    for moment in set(rows.cutoff.tolist()):
        here = rows.cutoff == np.datetime64(moment, "us")
        chosen = contacted(rows.probability[here], threshold, economics)
        total += sum(value_per_row(rows.y[here], chosen, economics).tolist())
    return total / len(rows.y)


rows_strategy = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 1), st.sampled_from([FIRST, SECOND])), min_size=1, max_size=30
).map(lambda rows: judged(*((place / 20, y) for place, y, _ in rows), cutoffs=[moment for _, _, moment in rows]))
economics_strategy = st.builds(
    Economics,
    cost=st.sampled_from([0.0, 0.1, 1.0, 3.0, 20.0]),
    margin=st.sampled_from([0.0, 1.0, 10.0]),
    budget=st.sampled_from([None, 0.0, 0.3, 2.0, 7.0]),
)


@given(rows=rows_strategy, economics=economics_strategy)
def test_the_curve_agrees_with_the_twin(rows: Judged, economics: Economics) -> None:
    curve = value_curve(rows, economics)
    twin = [plain_value(rows, threshold, economics) for threshold in curve.threshold]
    assert curve.value == pytest.approx(twin, abs=1e-9)
    # Every distinct probability is reached by one more threshold.
    assert len(curve.threshold) == len(set(rows.probability.tolist())) + 1


@given(rows=rows_strategy, economics=economics_strategy)
def test_no_threshold_brings_more_than_the_best_and_none_as_good_lies_nearer_to_the_break_even(
    rows: Judged, economics: Economics
) -> None:
    best = best_threshold(rows, economics)
    distinct = sorted({*rows.probability.tolist()})
    between = [(low + high) / 2 for low, high in pairwise(distinct)]
    candidates = [NOBODY, 0.0, economics.break_even, *distinct, *between]
    values = {threshold: plain_value(rows, threshold, economics) for threshold in candidates}
    reached = plain_value(rows, best, economics)
    assert reached == pytest.approx(max(values.values()), abs=1e-9)
    as_good = [each for each in (NOBODY, 0.0, economics.break_even, *between) if values[each] >= reached - 1e-9]
    nearest = min(abs(each - economics.break_even) for each in as_good)
    assert abs(best - economics.break_even) == pytest.approx(nearest, abs=1e-12)
