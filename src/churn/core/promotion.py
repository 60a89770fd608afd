"""The judge of promotions: evidence and a written policy in, a verdict with reasons out. Missing evidence fails.

A difference counts with its interval, never as a point: what the policy allows must hold at the worse end of it. So a
figure that cannot be computed (nan) breaks every limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from churn.core.bootstrap import Answers, Interval, Resampling, differences, intervals, resampled
from churn.core.evaluation import metrics, reliability_groups
from churn.core.policy import COMPARED, Figure, Policy
from churn.core.slices import Enough, Judged, Labels, Slice, slice_figures
from churn.core.training_set import Rows
from churn.core.value import Economics, contacted, value_per_row
from churn.domain.verdicts import PromotionVerdict, Reason

Array = NDArray[np.float64]
RECENCY = "days_since_last_activity"
BETTER: dict[Figure, int] = {"log_loss": -1, "pr_auc": 1, "expected_value": 1}  # the sign of a better difference
NAMES: dict[Figure, str] = {"log_loss": "log loss", "pr_auc": "PR-AUC", "expected_value": "expected value"}


@dataclass(frozen=True)
class Evidence:
    """What both versions say of the same n test rows. `champion` None: there is none to compare with.

    `labels` cut slices. `latency_ms` is the median of scoring one row, `size_bytes` that of the served files.
    """

    rows: Rows
    challenger: Array
    champion: Array | None
    latency_ms: float
    size_bytes: int
    money: Economics
    labels: Mapping[str, Labels] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """Every figure that the rules look at. `apart` is the challenger less the champion, empty without one."""

    figures: dict[str, float]
    champion: dict[str, float] | None
    recency_auc: float
    users: dict[str, int]
    interval: dict[str, Interval]
    champion_interval: dict[str, Interval]
    apart: dict[str, Interval]
    slices: tuple[Slice, ...]


def judge(challenger: str, champion: str | None, evidence: Evidence, policy: Policy) -> PromotionVerdict:
    """Every rule of the policy, judged on the same rows."""
    if len(np.unique(evidence.rows.y)) < 2:
        return refusal(challenger, champion, "test rows", "all test rows have the same outcome")
    found = findings(evidence, policy)
    reasons = (
        *_enough_rows(found, policy),
        *_alone(found, policy),
        *_against(found, policy),
        *_of_slices(found, policy),
        *_served(evidence, policy),
    )
    return PromotionVerdict(challenger, champion, reasons, _facts(evidence, found, policy))


def refusal(challenger: str, champion: str | None, rule: str, found: str) -> PromotionVerdict:
    """A verdict that fails because the comparison itself could not be made."""
    return PromotionVerdict(challenger, champion, (Reason(rule, False, found),))


# -- what is looked at -----------------------------------------------------------------------------------------------


def findings(evidence: Evidence, policy: Policy) -> Findings:
    """All figures of the evidence, differences and slices with their intervals."""
    rows, champion = evidence.rows, evidence.champion
    ours, theirs = _drawn(evidence, policy)
    confidence = policy.intervals.confidence
    return Findings(
        figures=metrics(rows.y, evidence.challenger),
        champion=None if champion is None else metrics(rows.y, champion),
        recency_auc=float(roc_auc_score(rows.y, rows.column(RECENCY))),
        users={
            "users": len(np.unique(rows.user_id.astype(str))),
            "users_churned": len(np.unique(rows.user_id[rows.y == 1].astype(str))),
            "users_stayed": len(np.unique(rows.user_id[rows.y == 0].astype(str))),
        },
        interval=intervals(ours, confidence),
        champion_interval={} if theirs is None else intervals(theirs, confidence),
        apart={} if theirs is None else differences(ours, theirs, confidence),
        slices=_slices(evidence, policy),
    )


def _drawn(evidence: Evidence, policy: Policy) -> tuple[dict[str, Array], dict[str, Array] | None]:
    given = {"challenger": evidence.challenger, "champion": evidence.champion}
    answers = {name: _answers(evidence.rows, each, evidence.money) for name, each in given.items() if each is not None}
    drawn = resampled(evidence.rows.y, evidence.rows.user_id, answers, _resampling(policy))
    return drawn["challenger"], drawn.get("champion")


def _answers(rows: Rows, probability: Array, money: Economics) -> Answers:
    """Probabilities, and what contacting from the break-even point cost / margin on brings at each cutoff."""
    chosen = np.zeros(len(rows), dtype=bool)
    for cutoff in np.unique(rows.cutoff):
        at = rows.cutoff == cutoff
        chosen[at] = contacted(probability[at], money.break_even, money)
    return Answers(probability, value_per_row(rows.y, chosen, money))


def _slices(evidence: Evidence, policy: Policy) -> tuple[Slice, ...]:
    enough = Enough(policy.slices.minimum_rows, policy.slices.minimum_of_each_outcome)
    judged = Judged(evidence.challenger, evidence.champion)
    return slice_figures(evidence.rows, judged, evidence.labels, enough=enough, resampling=_resampling(policy))


def _resampling(policy: Policy) -> Resampling:
    return Resampling(policy.intervals.replicates, policy.intervals.confidence, policy.intervals.seed)


# -- the rules -------------------------------------------------------------------------------------------------------


def _enough_rows(found: Findings, policy: Policy) -> list[Reason]:
    rows, users = int(found.figures["n"]), found.users
    fewest = min(users["users_churned"], users["users_stayed"])
    limits = policy.rows
    return [
        Reason(f"at least {limits.minimum} test rows", rows >= limits.minimum, f"{rows:,} rows"),
        Reason(
            f"at least {limits.minimum_users_of_each_outcome} users of each outcome",
            fewest >= limits.minimum_users_of_each_outcome,
            f"{users['users_churned']:,} churned, {users['users_stayed']:,} stayed",
        ),
    ]


def _alone(found: Findings, policy: Policy) -> list[Reason]:
    ours, recency, limits = found.figures, found.recency_auc, policy.calibration
    ahead, off = policy.recency.minimum_auc_ahead, ours["calibration_in_the_large"]
    return [
        Reason(
            f"ROC-AUC beats recency alone by more than {ahead:g}",
            ours["auc_score"] - recency > ahead,
            f"{ours['auc_score']:.4f} against {recency:.4f}",
        ),
        Reason(
            f"expected calibration error at most {limits.maximum_ece:g}",
            ours["ece"] <= limits.maximum_ece,
            f"{ours['ece']:.4f}",
        ),
        Reason(
            f"mean probability within {limits.maximum_in_the_large:g} of the churn rate",
            abs(off) <= limits.maximum_in_the_large,
            f"{off:+.4f}",
        ),
    ]


def _against(found: Findings, policy: Policy) -> list[Reason]:
    if found.champion is None:
        return [Reason("no worse than the champion", None, "there is no champion yet")]
    kept = [_non_inferior(figure, found.apart[figure], policy) for figure in COMPARED]
    wanted = policy.champion.superior_in
    return [*kept, _superior(wanted, found.apart)] if wanted else kept


def _non_inferior(figure: Figure, apart: Interval, policy: Policy) -> Reason:
    margin = policy.champion.margin(figure)
    where = "above" if BETTER[figure] < 0 else "below"
    return Reason(
        f"{NAMES[figure]} at most {margin:g} {where} the champion's",
        _worse_end(figure, apart) >= -margin,
        _said(apart),
    )


def _superior(wanted: Iterable[Figure], apart: Mapping[str, Interval]) -> Reason:
    names = " or ".join(NAMES[figure] for figure in wanted)
    better = [figure for figure in wanted if _worse_end(figure, apart[figure]) > 0]
    found = "; ".join(f"{NAMES[figure]} {_said(apart[figure])}" for figure in wanted)
    return Reason(f"better than the champion in {names}", bool(better), found)


def _worse_end(figure: Figure, apart: Interval) -> float:
    """How much better the challenger is at least; nan where that is unknown, which is no better than anything."""
    return apart.low if BETTER[figure] > 0 else -apart.high


def _said(interval: Interval) -> str:
    return f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _of_slices(found: Findings, policy: Policy) -> list[Reason]:
    judged = [each for each in found.slices if not each.too_small]
    if not judged:
        return [Reason("no part of the users is served badly", None, "every slice is too small to be judged")]
    limits, whole = policy.slices, found.figures["auc_score"]
    short = {each.name: whole - each.figures["auc_score"].high for each in judged}
    off = {each.name: _distance(each.figures["calibration_in_the_large"]) for each in judged}
    risen = {each.name: each.against["log_loss"].low for each in judged if each.against}
    rules = [
        (f"no slice's ROC-AUC more than {limits.maximum_auc_shortfall:g} below that of all", short),
        (f"no slice's mean probability further than {limits.maximum_calibration_gap:g} from its churn rate", off),
        (f"no slice's log loss more than {limits.maximum_log_loss_increase:g} above the champion's", risen),
    ]
    bounds = (limits.maximum_auc_shortfall, limits.maximum_calibration_gap, limits.maximum_log_loss_increase)
    reasons = [_worst(rule, least, bound) for (rule, least), bound in zip(rules, bounds, strict=True) if least]
    return [*reasons, *_left_out(found.slices)]


def _distance(interval: Interval) -> float:
    """How far an interval is from zero at least."""
    return max(interval.low, -interval.high, 0.0) if np.isfinite(interval.low) else np.nan


def _worst(rule: str, least: Mapping[str, float], bound: float) -> Reason:
    """`least`: by how much each slice is off at least, given its interval."""
    broken = {name: value for name, value in least.items() if not value <= bound}
    name = max(least, key=lambda each: (not least[each] <= bound, least[each]))
    if not broken:
        nearest = f"; the nearest is {name}, by at least {least[name]:.4f}" if least[name] > 0 else ""
        return Reason(rule, True, f"none of {len(least)} slices{nearest}")
    told = ", ".join(f"{each} by at least {value:.4f}" for each, value in broken.items())
    return Reason(rule, False, told)


def _left_out(slices: Iterable[Slice]) -> list[Reason]:
    small = [f"{each.name} ({each.n})" for each in slices if each.too_small]
    return [Reason("slices too small to be judged", None, ", ".join(small))] if small else []


def _served(evidence: Evidence, policy: Policy) -> list[Reason]:
    limits = policy.serving
    return [
        Reason(
            f"one row is scored within {limits.maximum_latency_ms:g} ms (median)",
            evidence.latency_ms <= limits.maximum_latency_ms,
            f"{evidence.latency_ms:.2f} ms",
        ),
        Reason(
            f"served files of at most {limits.maximum_size_bytes:,} bytes",
            0 < evidence.size_bytes <= limits.maximum_size_bytes,
            f"{evidence.size_bytes:,} bytes",
        ),
    ]


# -- what the verdict carries ----------------------------------------------------------------------------------------


def _facts(evidence: Evidence, found: Findings, policy: Policy) -> dict[str, Any]:
    """Everything that a reader may ask of a verdict, fit for JSON: what has no value is None."""
    rows, champion = evidence.rows, evidence.champion
    cutoffs = [str(each) for each in np.unique(np.datetime_as_string(rows.cutoff, unit="D"))]
    facts = {
        "rows": {"n": len(rows), **found.users, "cutoffs": cutoffs},
        "challenger": _told(rows, evidence.challenger, found.figures, found.interval),
        "champion": None
        if champion is None or found.champion is None
        else _told(rows, champion, found.champion, found.champion_interval),
        "recency": {"auc_score": found.recency_auc},
        "differences": {name: asdict(each) for name, each in found.apart.items()},
        "slices": [each.as_dict() for each in found.slices],
        "latency_ms": evidence.latency_ms,
        "size_bytes": evidence.size_bytes,
        "money": asdict(evidence.money),
        "policy": policy.as_dict(),
    }
    plain: dict[str, Any] = _plain(facts)
    return plain


def _told(
    rows: Rows, probability: Array, figures: Mapping[str, float], interval: Mapping[str, Interval]
) -> dict[str, Any]:
    groups = reliability_groups(rows.y, probability)
    return {
        "figures": figures,
        "intervals": {name: asdict(each) for name, each in interval.items()},
        "reliability": {name: part.tolist() for name, part in asdict(groups).items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
