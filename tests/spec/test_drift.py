"""What a window of the prediction log comes to, as tables. Each case starts from a sound window of 1,000 users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from churn.core import psi
from churn.core.drift import Findings, LogWindow, Reference, judge
from churn.core.drift_rules import CLOCKS, RULES, DriftPolicy
from churn.domain.schema import FEATURE_NAMES
from tests.drift_rows import feature_rows, logged

CHAMPION = "3"
ROWS, COLUMNS, NUMBERS = "enough rows", "all columns are there", "columns are numbers"
NULLS, RANGE, STUCK = "nulls are as expected", "values are in range", "no column is stuck"
DEGRADED, UNITS, IMPORTANT = "answers are not degraded", "units are the same", "important features are stable"
POLICY = DriftPolicy()
REFERENCE = feature_rows(5000, seed=0)
SPREAD = REFERENCE.std()
Change = Callable[[pd.DataFrame], pd.DataFrame]


def judged(log: pd.DataFrame, *, reference: pd.DataFrame = REFERENCE, skipped: int = 0) -> Findings:
    return judge(LogWindow(log, skipped), Reference(reference, CHAMPION), POLICY)


def broken(findings: Findings) -> dict[str, str]:
    return {reason.rule: reason.found for reason in findings.verdict.reasons if reason.passed is False}


def setting(column: str, value: object) -> Change:
    return lambda log: log.assign(**{column: value})


def moving(column: str, spreads: float) -> Change:
    """Adds so many standard deviations of the reference."""
    return lambda log: log.assign(**{column: log[column] + spreads * SPREAD[column]})


def some(column: str, value: object, rows: int) -> Change:
    def change(log: pd.DataFrame) -> pd.DataFrame:
        values = log[column].copy()
        values.iloc[:rows] = value
        return log.assign(**{column: values})

    return change


def without(column: str) -> Change:
    return lambda log: log.drop(columns=column)


def first(rows: int) -> Change:
    return lambda log: log.head(rows)


def both(one: Change, other: Change) -> Change:
    return lambda log: other(one(log))


def in_cents(log: pd.DataFrame) -> pd.DataFrame:
    money = [name for name in FEATURE_NAMES if "spent" in name or "order_value" in name or "amount" in name]
    return log.assign(**{name: 100 * log[name] for name in money})


@dataclass(frozen=True)
class Case:
    what: str
    change: Change
    status: str
    rule: str = ""
    found: str = ""


CASES = (
    Case("nothing", lambda log: log, "ok"),
    # too little
    Case("no row at all", first(0), "insufficient", ROWS, "no prediction in the window"),
    Case("no row and no column", lambda _: pd.DataFrame(), "insufficient", ROWS, "no prediction"),
    Case("one row", first(1), "insufficient", ROWS, "users in the window: 1,"),
    Case("199 rows", first(199), "insufficient", ROWS, "window: 199,"),
    Case("200 rows", first(200), "ok"),
    Case("only another version", setting("model_version", "2"), "insufficient", ROWS, "window: 0,"),
    Case("1,000 answers for 50 users", setting("user_id", np.arange(1000) % 50), "insufficient", ROWS, "window: 50,"),
    Case("1,000 answers for vectors", setting("user_id", None), "ok"),
    # broken
    Case("a column lost", without("orders_30d"), "failed", COLUMNS, "orders_30d is missing in the log"),
    Case("the probability lost", without("churn_probability"), "failed", COLUMNS, "churn_probability"),
    Case("the status lost", without("status"), "failed", COLUMNS, "status is missing"),
    Case("a column gained", setting("age", 40.0), "failed", COLUMNS, "age is new in the log"),
    Case("a column of text", setting("orders_30d", "3"), "failed", NUMBERS, "orders_30d is object"),
    Case("a column of booleans", setting("orders_30d", True), "failed", NUMBERS, "orders_30d is bool"),
    Case("all null", setting("avg_order_value", np.nan), "failed", NULLS, "100.0% null, 3.6%"),
    Case("a third null", some("avg_order_value", np.nan, 333), "failed", NULLS, "3.6% in the reference"),
    Case("one null", some("orders_30d", np.nan, 1), "failed", NULLS, "0.1% null, which this column must"),
    Case("no probability", some("churn_probability", np.nan, 1), "failed", NULLS, "churn_probability"),
    Case("infinite", some("spent_30d", np.inf, 1), "failed", "no value is infinite", "spent_30d: 1 in the window"),
    Case("negative days", some("days_since_signup", -1.0, 2), "failed", RANGE, "outside [0, inf] in 0.2%"),
    Case("a share of 2", some("refund_share", 2.0, 1), "failed", RANGE, "refund_share: outside [0, 1]"),
    Case("a probability of 1.1", some("churn_probability", 1.1, 1), "failed", RANGE, "outside [0, 1]"),
    Case("a stuck feature", setting("orders_30d", 0.0), "failed", STUCK, "orders_30d: always 0; 32.3%"),
    Case("a stuck prediction", setting("churn_probability", 0.4), "failed", STUCK, "always 0.4; 0.0%"),
    Case("stale answers", some("status", "stale", 30), "failed", DEGRADED, "30 of 1,000 answers degraded"),
    Case("an unheard-of status", some("status", "on_fire", 30), "failed", DEGRADED, "30 of 1,000"),
    Case("all stale", setting("status", "stale"), "failed", DEGRADED, "1,000 of 1,000"),
    Case("unknown users", some("status", "not_found", 300), "failed", "users are known", "300 of 1,000"),
    # what may happen without anything being wrong
    Case("five stale answers", some("status", "stale", 5), "ok"),
    Case("half not eligible", some("status", "not_eligible", 500), "ok"),
    Case("bad vectors of callers", both(some("source", "vector", 300), some("status", "invalid_features", 300)), "ok"),
    Case("nullable integers", lambda log: log.assign(orders_30d=log["orders_30d"].astype("Int64")), "ok"),
    Case("older clocks", moving("days_since_signup", 1), "ok"),
    Case(
        "a clock in hours",
        lambda log: log.assign(days_since_signup=24 * log["days_since_signup"]),
        "drift",
        UNITS,
        "days_since_signup: typically",
    ),
    # drift
    Case(
        "an important feature",
        moving("days_since_last_activity", 0.5),
        "drift",
        IMPORTANT,
        "days_since_last_activity 1.00: together 1.00 (limit 0.5",
    ),
    Case(
        "a minor feature", moving("last_order_amount", 1), "warn", "every feature is stable", "last_order_amount: PSI"
    ),
    Case(
        "many minor features", both(moving("spent_30d", 1), moving("orders_30d", 1)), "drift", IMPORTANT, "orders_30d"
    ),
    Case(
        "the prediction",
        lambda log: log.assign(churn_probability=log["churn_probability"] ** 0.6),
        "drift",
        "the prediction is stable",
        "now 0.49",
    ),
    Case("money in cents", in_cents, "drift", UNITS, "(1e+02 times)"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_window_comes_to_a_verdict_with_its_reason(case: Case) -> None:
    findings = judged(case.change(logged(feature_rows(1000, seed=1))))

    assert findings.verdict.status == case.status
    assert case.found in broken(findings).get(case.rule, "")
    assert bool(broken(findings)) == (case.status != "ok")


@pytest.mark.parametrize(
    ("reference", "status", "rule"),
    [
        (REFERENCE.head(0), "insufficient", "enough rows"),
        (REFERENCE.head(199), "insufficient", "enough rows"),
        (REFERENCE.drop(columns="orders_30d"), "failed", "all columns are there"),
        (REFERENCE.drop(columns="churn_probability"), "failed", "all columns are there"),
        (REFERENCE.assign(orders_30d="3"), "failed", "columns are numbers"),
        (REFERENCE.assign(orders_30d=np.inf), "failed", "no value is infinite"),
        (pd.DataFrame(), "failed", "all columns are there"),
    ],
)
def test_a_broken_reference_is_told_too(reference: pd.DataFrame, status: str, rule: str) -> None:
    findings = judged(logged(feature_rows(1000, seed=1)), reference=reference)

    assert findings.verdict.status == status
    assert rule in broken(findings)


def test_nothing_is_compared_with_a_reference_that_is_not_the_one_stored() -> None:
    log = LogWindow(logged(feature_rows(1000, seed=1)))

    findings = judge(log, Reference(REFERENCE, CHAMPION, intact=False), POLICY)

    assert findings.verdict.status == "failed"
    assert list(broken(findings)) == ["the reference is intact"]
    assert findings.shifts == ()


def test_a_log_full_of_damaged_lines_is_broken_and_a_few_old_ones_are_not() -> None:
    log = logged(feature_rows(1000, seed=1))

    assert judged(log, skipped=20).verdict.status == "ok"
    assert broken(judged(log, skipped=200)) == {
        "the log can be read": "damaged lines in the log: 200, records in the window: 1,000"
    }
    assert judged(log.head(0), skipped=50).verdict.status == "failed"


def test_a_shop_without_sessions_is_no_broken_feed() -> None:
    names = [name for name in FEATURE_NAMES if name.startswith("sessions_")]
    quiet: dict[str, float] = {**dict.fromkeys([*names, "total_sessions"], 0.0), "avg_session_duration": float("nan")}

    findings = judged(logged(feature_rows(1000, seed=1)).assign(**quiet), reference=REFERENCE.assign(**quiet))

    assert findings.verdict.status == "ok"


def test_of_several_answers_for_one_user_the_newest_counts() -> None:
    log = logged(feature_rows(1000, seed=1))
    older = log.assign(churn_probability=0.99, predicted_at=log["predicted_at"] - pd.Timedelta(days=1))

    findings = judged(pd.concat([log, older], ignore_index=True))

    assert findings.verdict.status == "ok"
    assert findings.verdict.rows == 1000
    assert ("answers replaced by a newer one for the same user", "1,000") in told(findings)


def test_answers_by_other_versions_are_counted_and_not_compared() -> None:
    other = logged(feature_rows(300, seed=2), version="2").assign(churn_probability=0.99, user_id=-1)

    findings = judged(pd.concat([logged(feature_rows(1000, seed=1)), other], ignore_index=True))

    assert findings.verdict.status == "ok"
    assert findings.verdict.rows == 1000
    assert ("answers by other model versions", "2 300") in told(findings)


def told(findings: Findings) -> set[tuple[str, str]]:
    return {(reason.rule, reason.found) for reason in findings.verdict.reasons if reason.passed is None}


@pytest.mark.parametrize("rows", [200, 1000])
def test_windows_without_drift_do_not_alarm(rows: int) -> None:
    verdicts = [judged(logged(feature_rows(rows, seed=seed))).verdict for seed in range(1, 41)]

    assert {verdict.status.value for verdict in verdicts} == {"ok"}


def test_half_a_sigma_in_an_important_feature_is_found_in_every_window_of_1000() -> None:
    change = moving("days_since_last_activity", 0.5)

    statuses = {judged(change(logged(feature_rows(1000, seed=seed)))).verdict.status.value for seed in range(1, 21)}

    assert statuses == {"drift"}


def test_the_findings_name_every_compared_column_with_its_drift() -> None:
    findings = judged(moving("orders_90d", 1)(logged(feature_rows(1000, seed=1))))
    moved = next(shift for shift in findings.shifts if shift.name == "orders_90d")

    assert findings.shifts[0].name == "churn_probability"
    assert {shift.name for shift in findings.shifts} == {"churn_probability", *FEATURE_NAMES}
    assert findings.verdict.drift["orders_90d"] == moved.psi > 0.2
    assert moved.drifted
    assert moved.reference.median == 4.0
    assert list(findings.current) == [shift.name for shift in findings.shifts]


def test_every_rule_that_can_break_says_what_to_do() -> None:
    assert all(rule.advice and rule.broken for rule in RULES.values())


def test_clocks_are_features() -> None:
    assert set(FEATURE_NAMES) >= CLOCKS


# --- the measure itself


def test_psi_is_the_sum_over_bins_less_its_expected_noise() -> None:
    reference, current = np.array([5000, 5000]), np.array([7500, 2500])

    # (0.75 - 0.5) * ln(0.75 / 0.5) + (0.25 - 0.5) * ln(0.25 / 0.5) = 0.27465; one degree of freedom: noise 2 / 10,000
    assert psi.excess(reference, current) == pytest.approx(0.27465 - 0.0002, abs=1e-4)


def test_chance_is_what_no_drift_exceeds_as_rarely_as_asked_for() -> None:
    chance = np.random.default_rng(0)
    draws = [(chance.multinomial(2000, [0.1] * 10), chance.multinomial(500, [0.1] * 10)) for _ in range(4000)]

    alarms = np.mean([psi.excess(before, now) >= psi.chance(before, now, 0.05) for before, now in draws])

    assert alarms == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("reference", "values", "bins"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [0, 1, 5, 10, 11], [0, 1, 5, 10, 10]),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 5], [-1, 0, 5], [0, 1, 2]),  # a heavy lowest value has its own bin
        ([3, 3, 3], [2, 3, 4, np.nan], [0, 1, 2, 3]),  # below, at, above a constant; null
        ([np.nan, np.nan], [7, np.nan], [0, 1]),
    ],
)
def test_bins_are_deciles_with_one_for_null(reference: list[float], values: list[float], bins: list[int]) -> None:
    cuts = psi.edges(np.array(reference, dtype=float))

    assert psi.bin_of(np.array(values, dtype=float), cuts).tolist() == bins
