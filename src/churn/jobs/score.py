"""score: all eligible users at a cutoff -> a Parquet table. Same function and same numbers as the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from churn.core.reasons import explanations
from churn.core.scoring import ServedModel, score
from churn.core.value import NO_PLAN, ContactPlan, contacted
from churn.domain.ports import OfflineFeatures
from churn.domain.predictions import FeatureRow, Prediction, Status, risk_segment
from churn.domain.reasons import ReasonCode
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY
from churn.errors import NotReady

BATCH = 20_000
EXPLAINED_BATCH = 500  # reasons cost milliseconds a user: progress is shown every few seconds
TOP_REASONS = 3
LIFETIME_VALUE = FEATURE_NAMES.index("customer_lifetime_value")


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
    rows = offline.offline_rows(cutoff)
    parts: list[pd.DataFrame] = []
    not_scored: Counter[str] = Counter()
    for answers in _answers(rows, model, cutoff, EXPLAINED_BATCH if explain else BATCH):
        found = [each for each in answers if each.status is Status.OK]
        table = _table(found, model.version, cutoff)
        parts.append(table.assign(**_reason_columns(model, found)) if explain else table)
        not_scored.update(each.status.value for each in answers if each.status is not Status.OK)
        progress(sum(map(len, parts)) + not_scored.total(), len(rows))
    # An empty part has no types, and would take them from the others: ids would become floats.
    filled = [part for part in parts if len(part)]
    if not filled:
        raise NotReady(f"nobody is eligible at {cutoff:%Y-%m-%d}", hint="Choose another --cutoff.")
    table = pd.concat(filled, ignore_index=True)
    ordered = table.sort_values(["expected_value_at_risk", JOIN_KEY], ascending=[False, True], ignore_index=True)
    return Scored(_with_contacts(ordered, model.contact), cutoff, dict(not_scored), model.contact)


def _answers(rows: pd.DataFrame, model: ServedModel, cutoff: datetime, size: int) -> Iterator[list[Prediction]]:
    for start in range(0, len(rows), size):
        part = rows.iloc[start : start + size]
        vectors = part[list(model.features)].to_numpy(np.float64).tolist()
        ids = part[JOIN_KEY].tolist()
        found = [FeatureRow(user_id, cutoff, tuple(vector)) for user_id, vector in zip(ids, vectors, strict=True)]
        yield score(model, ids, found, now=cutoff, max_age=timedelta(days=1))


def _table(answers: list[Prediction], version: str, cutoff: datetime) -> pd.DataFrame:
    probability = np.array([each.probability for each in answers], dtype=np.float64)
    value = np.array([each.vector[LIFETIME_VALUE] for each in answers if each.vector], dtype=np.float64)
    columns = {
        JOIN_KEY: [each.user_id for each in answers],
        "churn_probability": probability,
        "risk_segment": [risk_segment(each) for each in probability],
        "customer_lifetime_value": value,
        # A net refund is no value that could be lost.
        "expected_value_at_risk": probability * np.maximum(value, 0),
        "model_version": version,
        "cutoff": pd.Timestamp(cutoff),
    }
    return pd.DataFrame(columns)


def _with_contacts(table: pd.DataFrame, plan: ContactPlan) -> pd.DataFrame:
    """The table with whom to contact. At the edge of the budget the order of the table decides between equals."""
    probability, money = table["churn_probability"].to_numpy(), plan.economics
    expected, chosen = probability * money.margin - money.cost, contacted(probability, plan.threshold, money)
    return table.assign(contact=chosen, expected_contact_value=expected)


def _reason_columns(model: ServedModel, answers: list[Prediction]) -> dict[str, Any]:
    """The texts of the weightiest reasons, then numbers: `base_margin` and one contribution per code add up to the
    log-odds of the probability."""
    told = [each for each in explanations(model, answers) if each is not None]
    texts = {f"reason_{place + 1}": [each.reasons[place].text for each in told] for place in range(TOP_REASONS)}
    by_code = [{reason.code: reason.contribution for reason in each.reasons} for each in told]
    contributions = {
        f"contribution_{code}": np.array([each[code] for each in by_code], dtype=np.float64) for code in ReasonCode
    }
    base = np.array([each.base_margin for each in told], dtype=np.float64)
    return {**texts, "base_margin": base, **contributions}
