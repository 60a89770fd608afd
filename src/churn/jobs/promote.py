"""promote: challenger against champion under the written policy; the alias moves only on a passed verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pandas as pd

from churn.core.promotion import Evidence, Policy, judge, refusal
from churn.core.scoring import ServedModel
from churn.core.training_set import Rows, rows_of
from churn.domain.ports import Labels, ModelRegistry, OfflineFeatures
from churn.domain.schema import JOIN_KEY, TIMESTAMP
from churn.domain.verdicts import PromotionVerdict
from churn.domain.versions import CHALLENGER, CHAMPION, TAG_LINEAGE, TAG_VERDICT, ModelVersion
from churn.domain.windows import parse_instant
from churn.errors import ChurnError, NotReady, Refused

Load = Callable[[ModelVersion], ServedModel]


@dataclass(frozen=True)
class PromotionStores:
    """What a promotion reads and writes. `load` fetches a version and opens it under all of its guards."""

    registry: ModelRegistry
    labels: Labels
    features: OfflineFeatures
    load: Load


@dataclass(frozen=True)
class Promotion:
    """The verdict, and the versions before and after."""

    verdict: PromotionVerdict
    challenger: ModelVersion
    champion_before: ModelVersion | None
    moved: bool


def promote(stores: PromotionStores, policy: Policy, version: str | None) -> Promotion:
    """Judge `version` (default: alias challenger) and make it champion if it passes.

    Raises NotReady when there is no such version. A comparison that fails for whatever reason is a refusal.
    """
    challenger = stores.registry.get(version) if version else _challenger(stores.registry)
    champion = stores.registry.by_alias(CHAMPION)
    if champion is not None and champion.version == challenger.version:
        return Promotion(_already(challenger), challenger, champion, moved=False)
    verdict = _judged(stores, policy, challenger, champion)
    stores.registry.tag(challenger.version, TAG_VERDICT, json.dumps(verdict.as_dict(), default=float))
    if verdict.passed:
        stores.registry.set_alias(CHAMPION, challenger.version)
    return Promotion(verdict, challenger, champion, moved=verdict.passed)


def _challenger(registry: ModelRegistry) -> ModelVersion:
    found = registry.by_alias(CHALLENGER)
    if found is None:
        raise NotReady("no version carries the alias challenger", hint="churn train")
    return found


def _already(version: ModelVersion) -> PromotionVerdict:
    return refusal(version.version, version.version, "another version than the champion", "it is the champion already")


def _judged(
    stores: PromotionStores, policy: Policy, challenger: ModelVersion, champion: ModelVersion | None
) -> PromotionVerdict:
    against = None if champion is None else champion.version
    # Promise 5: nothing is promoted on error. Whatever goes wrong while comparing is a refusal that names it, so
    # this is the one place where every exception is caught.
    try:
        return judge(challenger.version, against, _evidence(stores, challenger, champion), policy)
    except ChurnError as error:
        return refusal(challenger.version, against, "the comparison can be made", error.message)
    except Exception as error:
        return refusal(challenger.version, against, "the comparison can be made", f"{type(error).__name__}: {error}")


def _evidence(stores: PromotionStores, challenger: ModelVersion, champion: ModelVersion | None) -> Evidence:
    model = _opened(stores, challenger, CHALLENGER)
    rows = _test_rows(stores, challenger)
    return Evidence(
        y=rows.y,
        challenger=model.predict(rows.X),
        recency=rows.column("days_since_last_activity"),
        champion=None if champion is None else _opened(stores, champion, CHAMPION).predict(rows.X),
    )


def _opened(stores: PromotionStores, version: ModelVersion, role: str) -> ServedModel:
    try:
        return stores.load(version)
    except ChurnError as error:
        raise Refused(f"the {role}, version {version.version}, cannot be loaded: {error.message}") from error


def _test_rows(stores: PromotionStores, challenger: ModelVersion) -> Rows:
    """The challenger's own test rows, read anew from the feature store."""
    lineage = json.loads(challenger.tags.get(TAG_LINEAGE, "{}"))
    if "test_cutoffs" not in lineage:
        raise NotReady("the version carries no lineage, so its test rows are unknown", hint="churn train")
    cutoffs = [parse_instant(text) for text in lineage["test_cutoffs"]]
    labels: pd.DataFrame = stores.labels.read_labels(cutoffs, timedelta(days=lineage["horizon_days"]))
    eligible = labels[labels["eligible"]].rename(columns={"cutoff": TIMESTAMP})[[JOIN_KEY, TIMESTAMP, "churned"]]
    return rows_of(stores.features.training_frame(eligible.reset_index(drop=True)))
