"""The drift verdict: a window of the prediction log against the champion's reference.

Invariants come first: a window that is broken or too small gets a verdict of its own, never "no drift". Then
distributions are compared by effect size (`churn.core.psi`). A prediction that has moved is drift; features that have
moved are drift when together they matter enough to the champion, otherwise a warning. How much a feature matters is
read from the reference: the share of the variance of the champion's probability that goes with it.

Rows are users: of several answers for one user in the window the newest counts, so that a caller who asks a thousand
times is neither a thousand users nor a drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from churn.core import drift_rules as rules
from churn.core import psi
from churn.core.drift_columns import ALWAYS, IF_ENOUGH, Check, Column, Values, column, is_number
from churn.core.drift_rules import CLOCKS, PREDICTION, RULES, WORST_FIRST, DriftPolicy
from churn.domain.predictions import Status
from churn.domain.schema import FEATURE_NAMES
from churn.domain.verdicts import DriftStatus, DriftVerdict, Reason

COMPARED = (PREDICTION, *FEATURE_NAMES)
LOG_COLUMNS = ("predicted_at", "user_id", "status", PREDICTION, "model_version")
# Numbers that a record may hold beside the features; any other number is a feature the champion does not know.
LOG_NUMBERS = ("request_id", "horizon_days", "latency_ms", *LOG_COLUMNS)
# What an answer may be without anything being wrong on our side.
_SOUND = (Status.OK, Status.NOT_FOUND, Status.NOT_ELIGIBLE)
_NAMES_TOLD = 6


@dataclass(frozen=True)
class LogWindow:
    """Prediction records: LOG_COLUMNS and one float column a feature (nan = null), and the log's damaged lines."""

    records: pd.DataFrame
    skipped: int = 0


@dataclass(frozen=True)
class Reference:
    """The champion's training-time rows: a column a feature, and PREDICTION. `intact`: the digest is as stored."""

    rows: pd.DataFrame
    model_version: str
    intact: bool = True


@dataclass(frozen=True)
class Side:
    """One column on one side: its median (None when it has no number), share of nulls, and shares of rows by bin."""

    median: float | None
    nulls: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Shift:
    """How far one column has moved. `psi` is net of noise; `weight` is 1 for the most important feature."""

    name: str
    psi: float
    limit: float
    weight: float
    reference: Side
    current: Side

    @property
    def clock(self) -> bool:
        return self.name in CLOCKS

    @property
    def drifted(self) -> bool:
        return self.psi >= self.limit

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "clock": self.clock, "drifted": self.drifted}


@dataclass(frozen=True)
class Findings:
    """The verdict, what it rests on, and the rows that were compared: (n, c) and (m, c), the same columns.

    Prediction first, then features by how far they moved, then clocks; columns that could not be compared are absent.
    """

    verdict: DriftVerdict
    shifts: tuple[Shift, ...] = ()
    current: pd.DataFrame = field(default_factory=pd.DataFrame)
    reference: pd.DataFrame = field(default_factory=pd.DataFrame)

    def as_dict(self) -> dict[str, Any]:
        return {**self.verdict.as_dict(), "columns": [shift.as_dict() for shift in self.shifts]}


def judge(log: LogWindow, reference: Reference, policy: DriftPolicy) -> Findings:
    """The findings for one window. Broken input raises nothing: it is what the verdict tells."""
    if not reference.intact:
        found = f"the file kept with version {reference.model_version} is not the one that was stored"
        return Findings(_verdict([Reason(rules.REFERENCE_INTACT, False, found)]))
    readable = _readable(log, policy)
    if log.records.empty:
        return Findings(_verdict([readable, Reason(rules.ENOUGH_ROWS, False, "no prediction in the window")]))
    lost = [f"{name} is missing in the log" for name in LOG_COLUMNS if name not in log.records]
    if lost:
        return Findings(_verdict([readable, _listing(rules.COLUMNS_THERE, lost)]))
    return _compare(_answers(log.records, reference.model_version), reference.rows, policy, readable)


def not_drawn(findings: Findings, error: str) -> Findings:
    """The same findings, failed: what should show them to people could not be made."""
    reason = Reason(rules.REPORT_DRAWN, False, error)
    verdict = replace(findings.verdict, status=DriftStatus.FAILED, reasons=(reason, *findings.verdict.reasons))
    return replace(findings, verdict=verdict)


@dataclass(frozen=True)
class _Answers:
    """The champion's answers in the window without their features, those to compare with them, and what is told."""

    all: pd.DataFrame
    compared: pd.DataFrame
    told: tuple[Reason, ...]


def _answers(log: pd.DataFrame, champion: str) -> _Answers:
    records = log.reset_index(drop=True)
    # The wide features are copied once, for the rows to compare.
    facts = records[[name for name in (*LOG_COLUMNS, "source") if name in records]]
    versions = facts["model_version"].astype(str)
    own = facts[versions == champion]
    answered = own[own["status"].astype(str) == Status.OK].sort_values("predicted_at", kind="stable")
    repeated = answered["user_id"].notna() & answered.duplicated("user_id", keep="last")
    told = (
        Reason("answers by status", None, _counted(own["status"])),
        Reason("answers replaced by a newer one for the same user", None, f"{int(repeated.sum()):,}"),
        Reason("answers by other model versions", None, _counted(versions[versions != champion])),
    )
    return _Answers(own, records.loc[answered.index[~repeated]], told)


def _compare(answers: _Answers, reference: pd.DataFrame, policy: DriftPolicy, readable: Reason) -> Findings:
    current = answers.compared
    usable = [name for name in COMPARED if is_number(current, name) and is_number(reference, name)]
    columns = [column(name, current, reference) for name in usable]
    rows = _enough(len(current), len(reference), policy)
    reasons = [readable, *_shares(answers.all, policy), *_schema(current, reference), rows]
    reasons += [_each(rule, check, columns, policy) for rule, check in ALWAYS.items()]
    shifts: tuple[Shift, ...] = ()
    if rows.passed:
        shifts = _shifts(columns, policy)
        reasons += [_each(rule, check, columns, policy) for rule, check in IF_ENOUGH.items()]
        reasons += _stable(shifts, policy)
    verdict = replace(
        _verdict([*reasons, *answers.told]),
        drift={shift.name: shift.psi for shift in shifts},
        rows=len(current),
        reference_rows=len(reference),
    )
    ordered = [shift.name for shift in shifts] or usable
    return Findings(verdict, shifts, current[ordered], reference[ordered])


def _verdict(reasons: Sequence[Reason]) -> DriftVerdict:
    broken = {RULES[reason.rule].status for reason in reasons if reason.passed is False}
    return DriftVerdict(next((worst for worst in WORST_FIRST if worst in broken), DriftStatus.OK), tuple(reasons))


# --- the window as a whole


def _readable(log: LogWindow, policy: DriftPolicy) -> Reason:
    # A damaged line has no time: the reader counts those of the whole log, so the limit is wide.
    total = len(log.records) + log.skipped
    found = f"damaged lines in the log: {log.skipped:,}, records in the window: {len(log.records):,}"
    return Reason(rules.LOG_READABLE, not _too_many(log.skipped, total, policy.skipped), found)


def _shares(answers: pd.DataFrame, policy: DriftPolicy) -> list[Reason]:
    # A vector that a caller sent is the caller's own: only answers by user id tell of our stores.
    by_id = answers[answers["source"] != "vector"] if "source" in answers else answers
    statuses = by_id["status"].astype(str)
    cases = (
        (rules.NOT_DEGRADED, "degraded", ~statuses.isin(_SOUND), policy.degraded),
        (rules.USERS_KNOWN, "for unknown users", statuses == Status.NOT_FOUND, policy.not_found),
    )
    return [_share(rule, what, policy.min_rows, (hits, limit)) for rule, what, hits, limit in cases]


def _share(rule: str, what: str, least: int, case: tuple[pd.Series[bool], float]) -> Reason:
    hits, limit = case
    count, total = int(hits.sum()), len(hits)
    found = f"{count:,} of {total:,} answers {what} (limit {limit:.1%})"
    return Reason(rule, total < least or not _too_many(count, total, limit), found)


def _too_many(count: int, total: int, limit: float) -> bool:
    """Whether the share lies beyond the limit by more than chance gives: three standard errors."""
    return count > total * limit + 3 * math.sqrt(total * limit * (1 - limit))


def _schema(current: pd.DataFrame, reference: pd.DataFrame) -> list[Reason]:
    sides = (("the log", current), ("the reference", reference))
    missing = [f"{name} is missing in {side}" for side, rows in sides for name in COMPARED if name not in rows]
    strangers = set(map(str, current.columns)) - {*LOG_NUMBERS, *COMPARED}
    new = [f"{name} is new in the log" for name in sorted(strangers) if is_number(current, name)]
    no_numbers = [
        f"{name} is {rows[name].dtype} in {side}"
        for side, rows in sides
        for name in COMPARED
        if name in rows and not is_number(rows, name)
    ]
    return [_listing(rules.COLUMNS_THERE, missing + new), _listing(rules.COLUMNS_NUMBERS, no_numbers)]


def _enough(rows: int, reference_rows: int, policy: DriftPolicy) -> Reason:
    found = f"users in the window: {rows:,}, rows in the reference: {reference_rows:,}, needed: {policy.min_rows:,}"
    return Reason(rules.ENOUGH_ROWS, min(rows, reference_rows) >= policy.min_rows, found)


def _each(rule: str, check: Check, columns: Sequence[Column], policy: DriftPolicy) -> Reason:
    found = ((column.name, check(column, policy)) for column in columns)
    return _listing(rule, [f"{name}: {wrong}" for name, wrong in found if wrong])


# --- distributions


def _shifts(columns: Sequence[Column], policy: DriftPolicy) -> tuple[Shift, ...]:
    weights = _weights(columns)
    alpha = policy.alpha / max(1, len(columns))
    shifts = (_shift(column, weights.get(column.name, 0.0), policy.psi, alpha) for column in columns)
    return tuple(sorted(shifts, key=lambda shift: (shift.name != PREDICTION, shift.clock, -shift.psi)))


def _shift(column: Column, weight: float, least: float, alpha: float) -> Shift:
    cuts = psi.edges(column.reference)
    before, now = psi.counts(column.reference, cuts), psi.counts(column.current, cuts)
    limit = max(least, psi.chance(before, now, alpha))
    sides = _side(column.reference, before), _side(column.current, now)
    return Shift(column.name, psi.excess(before, now), limit, weight, *sides)


def _side(values: Values, counts: psi.Counts) -> Side:
    known = values[np.isfinite(values)]
    median = float(np.median(known)) if known.size else None
    return Side(median, float(np.isnan(values).mean()), tuple((counts / counts.sum()).tolist()))


def _weights(columns: Sequence[Column]) -> dict[str, float]:
    """How much each feature matters, in units of the most important one that is no clock; all alike without signal."""
    outcome = next((column.reference for column in columns if column.name == PREDICTION), np.empty(0))
    known = np.isfinite(outcome)
    features = [column for column in columns if column.name != PREDICTION] if known.any() else []
    explained = {column.name: psi.variance_explained(column.reference[known], outcome[known]) for column in features}
    most = max((share for name, share in explained.items() if name not in CLOCKS), default=0.0)
    return {name: share / most if most else 1.0 for name, share in explained.items()}


def _stable(shifts: Sequence[Shift], policy: DriftPolicy) -> list[Reason]:
    prediction = [shift for shift in shifts if shift.name == PREDICTION]
    moved = [shift for shift in shifts if shift.drifted]
    features = [shift for shift in moved if not shift.clock and shift.name != PREDICTION]
    clocks = [shift for shift in moved if shift.clock]
    together = sum(shift.weight for shift in features)
    return [
        *(Reason(rules.PREDICTION_STABLE, not shift.drifted, _medians(shift) + _told(shift)) for shift in prediction),
        Reason(rules.IMPORTANT_STABLE, together < policy.weight, _importance(features, together, policy)),
        _listing(rules.ALL_STABLE, [f"{shift.name}: {_told(shift)}" for shift in features]),
        Reason("features that only grow with time, not judged", None, _moved(clocks)),
    ]


def _importance(moved: Sequence[Shift], together: float, policy: DriftPolicy) -> str:
    if not moved:
        return "no feature has moved"
    heaviest = sorted(moved, key=lambda shift: -shift.weight)
    each = _first([f"{shift.name} {shift.weight:.2f}" for shift in heaviest], ", ")
    return f"{each}: together {together:.2f} (limit {policy.weight:g}; the most important feature is 1)"


def _medians(shift: Shift) -> str:
    was, now = shift.reference.median, shift.current.median
    return f"median {was:.2f}, now {now:.2f}; " if was is not None and now is not None else ""


def _told(shift: Shift) -> str:
    return f"PSI {shift.psi:.2f} (limit {shift.limit:.2f})"


# --- wording


def _listing(rule: str, wrong: Sequence[str]) -> Reason:
    return Reason(rule, not wrong, _first(wrong, "; ") or "as expected")


def _moved(clocks: Sequence[Shift]) -> str:
    return _first([shift.name for shift in clocks], ", ") or "none has moved"


def _first(items: Sequence[str], separator: str) -> str:
    more = [f"{len(items) - _NAMES_TOLD} more"] if len(items) > _NAMES_TOLD else []
    return separator.join([*items[:_NAMES_TOLD], *more])


def _counted(values: pd.Series[Any]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in values.astype(str).value_counts().items()) or "none"
