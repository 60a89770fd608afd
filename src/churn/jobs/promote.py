"""promote: challenger against champion under the written policy; the alias moves only on a passed verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pandas as pd

from churn.core.promotion import Evidence, Policy, judge, refusal
from churn.core.scoring import ServedModel
from churn.core.training_set import Rows, entities_of, rows_of
from churn.domain.ports import Labels, ModelRegistry, OfflineFeatures
from churn.domain.verdicts import PromotionVerdict
from churn.domain.versions import CHALLENGER, CHAMPION, TAG_LINEAGE, TAG_VERDICT, ModelVersion
from churn.domain.windows import cutoff_name, gap, parse_instant
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
    lineage = _lineage(challenger)
    model = _opened(stores, challenger, CHALLENGER)
    against = None if champion is None else _opened(stores, champion, CHAMPION)
    _same_question(lineage, model, against)
    rows = _test_rows(stores, lineage)
    return Evidence(
        y=rows.y,
        challenger=model.predict(rows.X),
        recency=rows.column("days_since_last_activity"),
        champion=None if against is None else against.predict(rows.X),
        champion_saw_rows=champion is not None and _trained_on(champion, lineage),
    )


def _lineage(version: ModelVersion) -> dict[str, Any]:
    lineage: dict[str, Any] = json.loads(version.tags.get(TAG_LINEAGE, "{}"))
    if "test_cutoffs" not in lineage:
        raise NotReady("the version carries no lineage, so its test rows are unknown", hint="churn train")
    return lineage


def _same_question(lineage: Mapping[str, Any], challenger: ServedModel, champion: ServedModel | None) -> None:
    """Raises Refused unless all mean the same horizon: 30-day and 60-day probabilities cannot be compared."""
    horizons = {lineage["horizon_days"], challenger.horizon_days}
    horizons |= set() if champion is None else {champion.horizon_days}
    if len(horizons) > 1:
        raise Refused(
            f"the versions answer for different horizons: {', '.join(map(str, sorted(horizons)))} days",
            hint="Train the challenger for the champion's horizon, or move the alias by hand if the change is meant.",
        )


def _trained_on(champion: ModelVersion, lineage: Mapping[str, Any]) -> bool:
    """Whether a training horizon of the champion reaches past the challenger's first test cutoff."""
    seen = json.loads(champion.tags.get(TAG_LINEAGE, "{}"))
    last = max((parse_instant(text) for text in seen.get("train_cutoffs", ())), default=None)
    first = min(parse_instant(text) for text in lineage["test_cutoffs"])
    return last is not None and gap(last, timedelta(days=seen["horizon_days"]), first) < timedelta(0)


def _opened(stores: PromotionStores, version: ModelVersion, role: str) -> ServedModel:
    try:
        return stores.load(version)
    except ChurnError as error:
        raise Refused(f"the {role}, version {version.version}, cannot be loaded: {error.message}") from error


def _test_rows(stores: PromotionStores, lineage: Mapping[str, Any]) -> Rows:
    """The challenger's own test rows, read anew from the feature store; raises Refused when they were rebuilt since."""
    cutoffs = [parse_instant(text) for text in lineage["test_cutoffs"]]
    labels: pd.DataFrame = stores.labels.read_labels(cutoffs, timedelta(days=lineage["horizon_days"]))
    built, tested_on = stores.labels.manifest()["cutoffs"], lineage.get("feature_sha256", {})
    for name in map(cutoff_name, cutoffs):
        if built[name]["sha256"] != tested_on.get(name):
            raise Refused(f"the features at {name} are not those the version was tested on", hint="churn train")
    return rows_of(stores.features.training_frame(entities_of(labels)))
