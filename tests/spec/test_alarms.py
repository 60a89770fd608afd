"""Each leak, planted, is caught by its name; honest rows raise none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from churn.core.alarms import Log, Mutable, after_test, before_fit
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


NOTHING_MUTABLE: Mutable = {}


def alarms(rows: SplitRows, log: Log = LOG, mutable: Mutable = NOTHING_MUTABLE) -> list[str]:
    with pytest.raises(Refused) as caught:
        before_fit(rows, HORIZON, log, mutable)
    names: list[str] = caught.value.facts["alarms"]
    assert all(name in caught.value.message for name in names)
    return names


def with_column(rows: Rows, name: str, values: np.ndarray) -> Rows:
    X = rows.X.copy()
    X[:, FEATURE_NAMES.index(name)] = values
    return replace(rows, X=X)


def test_honest_rows_raise_no_alarm(rows: SplitRows) -> None:
    users = range(1, 301)
    honest = {
        "last_login_at": {user: f"2011-{user % 12 + 1:02}-{user % 28 + 1:02} 10:00:00" for user in users},
        "subscription_tier": {user: "pro" if user % 3 else "free" for user in users},
    }
    before_fit(rows, HORIZON, LOG, honest)
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


@pytest.mark.parametrize("column", ["last_login_at", "updated_at"])
@pytest.mark.parametrize("form", ["days before the cutoff", "seconds", "logarithm"])
def test_a_feature_made_of_a_mutable_time_is_caught_whatever_it_is_called(
    rows: SplitRows, column: str, form: str
) -> None:
    since = np.random.default_rng(3).uniform(1, 200, 300)
    times = {user: str(np.datetime64("2011-05-01T00:00:00") - int(86400 * since[user - 1])) for user in range(1, 301)}
    planted = {"days before the cutoff": since, "seconds": -86400 * since, "logarithm": np.log(since)}[form]
    test = with_column(rows.test, "avg_session_duration", planted[rows.test.user_id.astype(int) - 1])
    assert alarms(replace(rows, test=test), mutable={column: times}) == ["mutable_column"]
    assert alarms(replace(rows, train=test), mutable={column: times}) == ["mutable_column"]


def test_a_feature_that_is_a_code_of_the_tier_is_caught(rows: SplitRows) -> None:
    tiers = {user: ("free", "pro", "gold")[user % 3] for user in range(1, 301)}
    codes = rows.train.user_id.astype(int) % 3 * 2.5
    planted = replace(rows, train=with_column(rows.train, "refund_share", codes))
    assert alarms(planted, mutable={"subscription_tier": tiers}) == ["mutable_column"]


def test_a_feature_that_never_varies_and_users_without_the_column_raise_no_alarm(rows: SplitRows) -> None:
    still = replace(rows, train=with_column(rows.train, "refund_share", np.full(len(rows.train), 0.5)))
    few = {"last_login_at": {1: "2011-04-01"}, "subscription_tier": {1: "free", 2: "pro"}}
    before_fit(still, HORIZON, LOG, few)


def test_a_label_whose_window_has_not_matured_is_caught(rows: SplitRows) -> None:
    assert alarms(rows, log=Log(END, 2 * HORIZON)) == ["label_not_matured"]


def test_a_cutoff_after_the_end_of_the_log_less_the_horizon_is_caught(rows: SplitRows) -> None:
    assert alarms(rows, log=Log(END - HORIZON / 2, HORIZON / 4)) == ["cutoff_too_late"]
