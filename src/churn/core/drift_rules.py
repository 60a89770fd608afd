"""What monitoring asks of a window: the limits, and for each rule what breaking it means and what to do then."""

from __future__ import annotations

from dataclasses import dataclass

from churn.domain.verdicts import DriftStatus

PREDICTION = "churn_probability"

# These only grow for a user who stays: their drift tells the age of the log. Their rates (order_frequency, spent_365d
# and so on) are judged, so nothing is lost but the calendar.
CLOCKS = frozenset(
    {
        "days_since_signup",
        "total_orders",
        "total_spent",
        "total_sessions",
        "customer_lifetime_value",
        "active_days",
        "max_gap_days",
    }
)


@dataclass(frozen=True)
class DriftPolicy:
    """The limits. Shares are of 1; a share of rows is exceeded only beyond three standard errors of its limit."""

    min_rows: int = 200
    psi: float = 0.1  # what is left of the PSI once its noise is taken out
    alpha: float = 0.01  # chance that a window without drift shows any, over all columns together
    weight: float = 0.5  # drifted features, in units of the most important one
    null_rise: float = 0.2
    degraded: float = 0.005
    not_found: float = 0.2
    skipped: float = 0.05
    constant_by_chance: float = 1e-6
    rescaled: float = 5.0  # a typical size that many times larger or smaller


@dataclass(frozen=True)
class Rule:
    """What a broken rule makes of the verdict, how it reads once broken, and what to do about it."""

    status: DriftStatus
    broken: str
    advice: str


REFERENCE_INTACT = "the reference is intact"
LOG_READABLE = "the log can be read"
COLUMNS_THERE = "all columns are there"
COLUMNS_NUMBERS = "columns are numbers"
NOT_DEGRADED = "answers are not degraded"
USERS_KNOWN = "users are known"
FINITE = "no value is infinite"
IN_RANGE = "values are in range"
NULLS = "nulls are as expected"
NOT_STUCK = "no column is stuck"
REPORT_DRAWN = "the pictures could be drawn"
ENOUGH_ROWS = "enough rows"
SAME_UNITS = "units are the same"
PREDICTION_STABLE = "the prediction is stable"
IMPORTANT_STABLE = "important features are stable"
ALL_STABLE = "every feature is stable"

_IS_IT_REAL = (
    "See below what has moved, and ask whether the change is real. If it is, run `churn train` on recent data, then "
    "`churn promote`."
)
_FAILED: dict[str, tuple[str, str]] = {
    REFERENCE_INTACT: (
        "The reference has changed",
        "The rows kept with the champion are not those it was registered with. Restore the artifact, or train and "
        "promote again.",
    ),
    LOG_READABLE: (
        "The log is damaged",
        "Look at the damaged lines of the prediction log, and at the disk that holds it.",
    ),
    COLUMNS_THERE: (
        "Columns are missing or new",
        "The log and the champion do not have the same features. Check that service, feature store and champion use "
        "the same feature service.",
    ),
    COLUMNS_NUMBERS: (
        "Columns are no numbers",
        "A column has changed its type. Find what writes it, and undo the change.",
    ),
    NOT_DEGRADED: (
        "Answers are degraded",
        "Too many users get no probability because their features are stale or invalid. Run `churn build-features`, "
        "then `churn verify`.",
    ),
    USERS_KNOWN: (
        "Users are unknown",
        "Callers ask for users whom the online store does not hold. Was it emptied? Are the ids the same?",
    ),
    FINITE: ("Values are infinite", "A feature overflows or divides by zero. Fix it where it is computed."),
    IN_RANGE: (
        "Values are impossible",
        "Values lie outside what the schema allows. Find the feed that writes them before trusting any answer.",
    ),
    NULLS: (
        "Values have gone missing",
        "A column has lost its values. Look for the raw table or column that no longer arrives.",
    ),
    NOT_STUCK: (
        "A column is stuck",
        "A column says the same for everybody, and did not before. Look for a feed that has stopped.",
    ),
    REPORT_DRAWN: (
        "The pictures could not be drawn",
        "Evidently stopped. The tables here are complete and can be used; report the error.",
    ),
}
_DRIFT: dict[str, tuple[str, str]] = {
    SAME_UNITS: (
        "Units have changed",
        "Typical values are many times larger or smaller. Look for a change of unit before anything else.",
    ),
    PREDICTION_STABLE: ("The prediction has moved", _IS_IT_REAL),
    IMPORTANT_STABLE: ("Important features have moved", _IS_IT_REAL),
}
RULES: dict[str, Rule] = {
    **{rule: Rule(DriftStatus.FAILED, *words) for rule, words in _FAILED.items()},
    ENOUGH_ROWS: Rule(
        DriftStatus.INSUFFICIENT,
        "Too few rows",
        "Watch a longer window, or come back when more users were scored.",
    ),
    **{rule: Rule(DriftStatus.DRIFT, *words) for rule, words in _DRIFT.items()},
    ALL_STABLE: Rule(DriftStatus.WARN, "Features have moved", "Nothing to do yet. Look at the next window."),
}
WORST_FIRST = (DriftStatus.FAILED, DriftStatus.INSUFFICIENT, DriftStatus.DRIFT, DriftStatus.WARN)
