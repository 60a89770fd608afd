"""score: all eligible users at a cutoff -> a Parquet table. Same function and same numbers as the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from churn.core.reasons import explained
from churn.core.scoring import STATUSES, Judgement, ServedModel, judge
from churn.core.value import NO_PLAN, ContactPlan, contacted
from churn.domain.ports import OfflineFeatures
from churn.domain.predictions import RISK_BOUNDS, RISK_SEGMENTS, Status
from churn.domain.reasons import ReasonCode
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY
from churn.errors import NotReady

BATCH = 20_000
EXPLAINED_BATCH = 500  # reasons cost milliseconds a user: progress is shown every few seconds
TOP_REASONS = 3
LIFETIME_VALUE = FEATURE_NAMES.index("customer_lifetime_value")
_SEGMENTS = np.array(RISK_SEGMENTS, dtype=object)


@dataclass(frozen=True)
class Scored:
    """The table (one row per eligible user, highest value at risk first) and how many users were left out.

    `plan`: the model version's, by which the table says whom to contact.
    """

    table: pd.DataFrame
    cutoff: datetime
    not_scored: dict[str, int]
    plan: ContactPlan = NO_PLAN

    @property
    def contacts(self) -> int:
        return int(self.table["contact"].sum())

    @property
    def expected_value(self) -> float:
        """What the contacts are expected to bring together, their cost taken off."""
        return float(self.table.loc[self.table["contact"], "expected_contact_value"].sum())


def score_users(
    offline: OfflineFeatures,
    model: ServedModel,
    cutoff: datetime,
    progress: Callable[[int, int], None],
    *,
    explain: bool = False,
) -> Scored:
    """Score every eligible user at `cutoff`, with reasons if `explain`.

    Raises NotReady when nobody is eligible there, or when the model's answers cannot be explained.
    """
    if explain and model.explain is None:
        raise NotReady(f"version {model.version} is not made of forests", hint="Only forests are explained.")
    rows = offline.offline_batches(cutoff, EXPLAINED_BATCH if explain else BATCH)
    parts: list[pd.DataFrame] = []
    not_scored: Counter[str] = Counter()
    for frame in rows.frames:
        vectors = frame[list(model.features)].to_numpy(np.float64)
        judged = judge(model, vectors)
        found = _Found(frame[JOIN_KEY].to_numpy()[judged.ok], vectors[judged.ok], judged.probability[judged.ok])
        table = _table(found, model.version, cutoff)
        parts.append(table.assign(**_reason_columns(model, found)) if explain else table)
        not_scored.update(_left_out(judged))
        progress(sum(map(len, parts)) + not_scored.total(), rows.rows)
    # An empty part has no types, and would take them from the others: ids would become floats.
    filled = [part for part in parts if len(part)]
    if not filled:
        raise NotReady(f"nobody is eligible at {cutoff:%Y-%m-%d}", hint="Choose another --cutoff.")
    table = pd.concat(filled, ignore_index=True)
    ordered = table.sort_values(["expected_value_at_risk", JOIN_KEY], ascending=[False, True], ignore_index=True)
    return Scored(_with_contacts(ordered, model.contact), cutoff, dict(not_scored), model.contact)


@dataclass(frozen=True)
class _Found:
    """n users who have a probability: their ids, (n, f) vectors and n probabilities."""

    user_ids: NDArray[Any]
    vectors: NDArray[np.float64]
    probability: NDArray[np.float64]


def _left_out(judged: Judgement) -> dict[str, int]:
    """How many rows have each status other than OK."""
    counts = np.bincount(judged.status, minlength=len(STATUSES)).tolist()
    return {
        status.value: count for status, count in zip(STATUSES, counts, strict=True) if count and status is not Status.OK
    }


def _table(found: _Found, version: str, cutoff: datetime) -> pd.DataFrame:
    value = found.vectors[:, LIFETIME_VALUE]
    columns = {
        JOIN_KEY: found.user_ids,
        "churn_probability": found.probability,
        "risk_segment": _SEGMENTS[np.digitize(found.probability, RISK_BOUNDS)],
        "customer_lifetime_value": value,
        # A net refund is no value that could be lost.
        "expected_value_at_risk": found.probability * np.maximum(value, 0),
        "model_version": version,
        "cutoff": pd.Timestamp(cutoff),
    }
    return pd.DataFrame(columns)


def _with_contacts(table: pd.DataFrame, plan: ContactPlan) -> pd.DataFrame:
    """The table with whom to contact. At the edge of the budget the order of the table decides between equals."""
    probability, money = table["churn_probability"].to_numpy(), plan.economics
    expected, chosen = probability * money.margin - money.cost, contacted(probability, plan.threshold, money)
    return table.assign(contact=chosen, expected_contact_value=expected)


def _reason_columns(model: ServedModel, found: _Found) -> dict[str, Any]:
    """The texts of the weightiest reasons, then numbers: `base_margin` and one contribution per code add up to the
    log-odds of the probability."""
    told = explained(model.explain, model.features, found.vectors, found.probability) if model.explain else []
    texts = {f"reason_{place + 1}": [each.reasons[place].text for each in told] for place in range(TOP_REASONS)}
    by_code = [{reason.code: reason.contribution for reason in each.reasons} for each in told]
    contributions = {
        f"contribution_{code}": np.array([each[code] for each in by_code], dtype=np.float64) for code in ReasonCode
    }
    base = np.array([each.base_margin for each in told], dtype=np.float64)
    return {**texts, "base_margin": base, **contributions}
