"""The training set: rows in a fixed order, by role, and refused when there is nothing to learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from churn.core.training_set import Rows, naive, rows_of, split_rows
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY, TIMESTAMP
from churn.domain.windows import Split
from churn.errors import NotReady
from tests.exports import at, feature_frame, labelled_frame, labelled_rows

EARLY, LATE = at("2011-06-01"), at("2011-08-01")


def test_rows_are_ordered_by_cutoff_and_user_whatever_the_order_of_the_frame() -> None:
    frame = labelled_frame([EARLY, LATE], users=60)
    shuffled = frame.sample(frac=1, random_state=3, ignore_index=True)
    rows, again = rows_of(frame), rows_of(shuffled)
    assert rows.user_id[:3].tolist() == [1, 2, 3]
    assert [str(day)[:10] for day in np.unique(rows.cutoff)] == ["2011-06-01", "2011-08-01"]
    assert (rows.cutoff[:60] == naive(EARLY)).all()
    assert np.array_equal(rows.X, again.X, equal_nan=True)
    assert rows.y.tolist() == again.y.tolist()
    assert rows.user_id.tolist() == again.user_id.tolist()


def test_columns_are_taken_by_name_in_the_order_of_the_list_of_features() -> None:
    frame = labelled_frame([EARLY], users=60)
    turned = frame[[JOIN_KEY, "churned", *reversed(FEATURE_NAMES), TIMESTAMP]]
    assert np.array_equal(rows_of(turned).X, frame[list(FEATURE_NAMES)].to_numpy(), equal_nan=True)
    assert np.array_equal(rows_of(turned).column("total_spent"), frame["total_spent"].to_numpy())


def test_null_is_nan_and_labels_are_zero_and_one() -> None:
    frame = labelled_frame([EARLY], users=60)
    rows = rows_of(frame.assign(mean_gap_days=None, churned=[index % 3 == 0 for index in range(60)]))
    assert np.isnan(rows.column("mean_gap_days")).all()
    assert rows.X.dtype == np.float64
    assert rows.y[:4].tolist() == [1, 0, 0, 1]


def test_aware_and_naive_cutoffs_are_the_same_instants() -> None:
    frame = labelled_frame([EARLY], users=60)
    aware = frame.assign(**{TIMESTAMP: pd.to_datetime(frame[TIMESTAMP]).dt.tz_localize("UTC")})
    london = frame.assign(**{TIMESTAMP: aware[TIMESTAMP].dt.tz_convert("Europe/London")})
    for other in (aware, london):
        assert rows_of(other).cutoff.tolist() == rows_of(frame).cutoff.tolist()


def test_string_ids_stay_strings() -> None:
    frame = feature_frame(["b", "a", "ü"], EARLY).assign(churned=[True, False, True])
    assert rows_of(frame).user_id.tolist() == ["a", "b", "ü"]


def test_a_split_takes_the_rows_of_its_cutoffs_and_leaves_the_dropped_ones_out() -> None:
    middle = at("2011-07-01")
    rows = labelled_rows([EARLY, middle, LATE], users=60)
    parts = split_rows(rows, Split(train=(EARLY,), test=(LATE,), dropped=(middle,)))
    assert (len(parts.train), len(parts.test)) == (60, 60)
    assert set(parts.train.cutoff) == {naive(EARLY)}
    assert set(parts.test.cutoff) == {naive(LATE)}


def of_one_class(rows: Rows, outcome: int) -> Rows:
    return Rows(rows.X, np.full(len(rows), outcome), rows.cutoff, rows.user_id)


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [(1, "in the training set every user churned"), (0, "in the training set every user stayed")],
)
def test_a_side_with_one_outcome_is_refused(outcome: int, sentence: str) -> None:
    rows = of_one_class(labelled_rows([EARLY, LATE], users=60), outcome)
    with pytest.raises(NotReady, match=sentence):
        split_rows(rows, Split(train=(EARLY,), test=(LATE,)))


def test_fewer_than_fifty_rows_on_a_side_are_refused_with_their_number() -> None:
    train, test = labelled_frame([EARLY], users=50), labelled_frame([LATE], users=49)
    rows = rows_of(pd.concat([train, test], ignore_index=True))
    with pytest.raises(NotReady, match="the test set has 49 eligible rows, fewer than 50"):
        split_rows(rows, Split(train=(EARLY,), test=(LATE,)))


def test_no_rows_at_all_are_refused_too() -> None:
    rows = labelled_rows([LATE], users=60)
    with pytest.raises(NotReady, match="the training set has 0 eligible rows"):
        split_rows(rows, Split(train=(EARLY,), test=(LATE,)))
