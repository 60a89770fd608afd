"""Each leak, planted, is caught by its name; honest rows raise none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from churn.core.alarms import Log, after_test, before_fit
from churn.core.training_set import Rows, SplitRows, split_rows
from churn.domain.schema import FEATURE_NAMES
from churn.domain.windows import Split
from churn.errors import Refused
from tests.exports import HORIZON, at, labelled_rows

TRAIN, TEST = at("2011-03-01"), at("2011-05-01")
END = TEST + HORIZON
LOG = Log(END, HORIZON)


@pytest.fixture(scope="module")
def rows() -> SplitRows:
    return split_rows(labelled_rows([TRAIN, TEST], users=300), Split(train=(TRAIN,), test=(TEST,)))


def alarms(rows: SplitRows, features: tuple[str, ...] = FEATURE_NAMES, log: Log = LOG) -> list[str]:
    with pytest.raises(Refused) as caught:
        before_fit(rows, features, HORIZON, log)
    names: list[str] = caught.value.facts["alarms"]
    assert all(name in caught.value.message for name in names)
    return names


def with_column(rows: Rows, name: str, values: np.ndarray) -> Rows:
    X = rows.X.copy()
    X[:, FEATURE_NAMES.index(name)] = values
    return replace(rows, X=X)


def test_honest_rows_raise_no_alarm(rows: SplitRows) -> None:
    before_fit(rows, FEATURE_NAMES, HORIZON, LOG)
    after_test(rows.test, np.linspace(0, 1, len(rows.test)))


def test_a_feature_that_is_the_label_in_disguise_is_caught(rows: SplitRows) -> None:
    planted = replace(rows, train=with_column(rows.train, "avg_session_duration", rows.train.y * 5.0))
    assert alarms(planted) == ["single_feature_auc"]


def test_a_feature_that_is_the_label_turned_round_or_shown_by_its_nulls_is_caught(rows: SplitRows) -> None:
    turned = with_column(rows.test, "refund_share", 1.0 - rows.test.y)
    by_nulls = with_column(rows.test, "refund_share", np.where(rows.test.y == 1, np.nan, 0.5))
    assert alarms(replace(rows, test=turned)) == ["single_feature_auc"]
    assert alarms(replace(rows, test=by_nulls)) == ["single_feature_auc"]


def test_a_result_too_good_to_be_true_is_caught(rows: SplitRows) -> None:
    with pytest.raises(Refused, match="test_auc"):
        after_test(rows.test, rows.test.y.astype(float))


@pytest.mark.parametrize("name", ["days_since_signup", "days_since_last_order", "days_since_last_activity"])
def test_an_event_at_the_cutoff_among_the_features_is_caught(rows: SplitRows, name: str) -> None:
    values = rows.train.column(name).copy()
    values[0] = 0.0
    assert alarms(replace(rows, train=with_column(rows.train, name, values))) == ["event_at_or_after_cutoff"]


@pytest.mark.parametrize("name", ["last_login_at", "updated_at", "subscription_tier"])
def test_a_mutable_column_without_history_is_caught(rows: SplitRows, name: str) -> None:
    assert alarms(rows, features=(*FEATURE_NAMES, name)) == ["mutable_column"]


def test_a_label_whose_window_has_not_matured_is_caught(rows: SplitRows) -> None:
    assert alarms(rows, log=Log(END, 2 * HORIZON)) == ["label_not_matured"]


def test_a_cutoff_after_the_end_of_the_log_less_the_horizon_is_caught(rows: SplitRows) -> None:
    assert alarms(rows, log=Log(END - HORIZON / 2, HORIZON / 4)) == ["cutoff_too_late"]
