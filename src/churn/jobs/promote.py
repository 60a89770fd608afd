"""promote: challenger against champion under the written policy; the alias moves only on a passed verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn.core.policy import Policy
from churn.core.promotion import Evidence, judge, refusal
from churn.core.scoring import ServedModel
from churn.core.slices import TIER, labels_of
from churn.core.training_set import Rows, entities_of, rows_of
from churn.core.verdict_page import page
from churn.domain.ports import LabelledUsers, Labels, ModelRegistry, OfflineFeatures, Snapshot
from churn.domain.verdicts import PromotionVerdict
from churn.domain.versions import CHALLENGER, CHAMPION, TAG_LINEAGE, TAG_VERDICT, ModelVersion
from churn.domain.windows import cutoff_name, gap, parse_instant
from churn.errors import ChurnError, Mismatch, NotReady, Refused

Load = Callable[[ModelVersion], ServedModel]
TIMED_ROWS, UNTIMED_ROWS = 200, 20
VERDICT_JSON, VERDICT_PAGE = "verdict/verdict.json", "verdict/verdict.html"


@dataclass(frozen=True)
class PromotionStores:
    """What a promotion reads and writes. `load` fetches a version and opens it under all of its guards."""

    raw: LabelledUsers
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
    _keep(stores.registry, challenger, verdict)
    stores.registry.tag(challenger.version, TAG_VERDICT, json.dumps(verdict.as_dict(), default=float))
    if verdict.passed:
        stores.registry.set_alias(CHAMPION, challenger.version)
    return Promotion(verdict, challenger, champion, moved=verdict.passed)


def _challenger(registry: ModelRegistry) -> ModelVersion:
    found = registry.by_alias(CHALLENGER)
    if found is None:
        raise NotReady("no version carries the alias challenger", hint="churn train")
    return found


def _keep(registry: ModelRegistry, challenger: ModelVersion, verdict: PromotionVerdict) -> None:
    """The verdict beside the challenger's run, before any alias moves: no promotion without its reasons."""
    registry.log_artifact(challenger.run_id, VERDICT_JSON, json.dumps(verdict.as_dict(), indent=1))
    registry.log_artifact(challenger.run_id, VERDICT_PAGE, page(verdict))


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
    past = _training(challenger, CHALLENGER)
    model = _opened(stores, challenger, CHALLENGER)
    against = None if champion is None else _opened(stores, champion, CHAMPION)
    _same_question(past, model, against)
    snapshot = stores.raw.current()
    seen = [past] if champion is None else [past, _training(champion, CHAMPION)]
    rows = _unseen_rows(stores, snapshot, seen)
    return Evidence(
        rows=rows,
        challenger=model.predict(rows.X),
        champion=None if against is None else against.predict(rows.X),
        latency_ms=_latency_ms(model, rows.X),
        size_bytes=model.size_bytes,
        labels={TIER: labels_of(rows.user_id, stores.raw.user_labels(snapshot, TIER))},
    )


@dataclass(frozen=True)
class _Training:
    """What a version was trained on, as its lineage tells it."""

    version: str
    last_cutoff: datetime
    horizon: timedelta
    lineage: Mapping[str, Any]


def _training(version: ModelVersion, role: str) -> _Training:
    lineage = json.loads(version.tags.get(TAG_LINEAGE, "{}"))
    if not lineage.get("train_cutoffs"):
        raise NotReady(
            f"the {role}, version {version.version}, carries no lineage, so what it was trained on is unknown",
            hint="churn train",
        )
    last = max(map(parse_instant, lineage["train_cutoffs"]))
    return _Training(version.version, last, timedelta(days=lineage["horizon_days"]), lineage)


def _same_question(past: _Training, challenger: ServedModel, champion: ServedModel | None) -> None:
    """Raises Refused unless all mean the same horizon: 30-day and 60-day probabilities cannot be compared."""
    horizons = {past.horizon.days, challenger.horizon_days}
    horizons |= set() if champion is None else {champion.horizon_days}
    if len(horizons) > 1:
        raise Refused(
            f"the versions answer for different horizons: {', '.join(map(str, sorted(horizons)))} days",
            hint="Train the challenger for the champion's horizon, or move the alias by hand if the change is meant.",
        )


def _opened(stores: PromotionStores, version: ModelVersion, role: str) -> ServedModel:
    try:
        return stores.load(version)
    except ChurnError as error:
        raise Refused(f"the {role}, version {version.version}, cannot be loaded: {error.message}") from error


def _unseen_rows(stores: PromotionStores, snapshot: Snapshot, seen: Sequence[_Training]) -> Rows:
    """Eligible rows of the snapshot's labelled cutoffs at which no training horizon of `seen` was still open.

    `seen` begins with the challenger. Raises Refused when there are none, or their features are not what it learned.
    """
    horizon = seen[0].horizon
    labelled = stores.labels.labelled_cutoffs(horizon, snapshot.snapshot_id)
    unseen = [cutoff for cutoff in labelled if all(_unseen(cutoff, past) for past in seen)]
    if not unseen:
        raise Refused(
            _nothing_unseen(labelled, seen), hint="Build features at a newer cutoff once its horizon is over."
        )
    _same_features(stores.labels.manifest()["cutoffs"], unseen, seen[0])
    frame = stores.features.training_frame(entities_of(stores.labels.read_labels(unseen, horizon)))
    if frame["days_since_signup"].isna().any():
        raise Mismatch("labelled rows have no features at their cutoff", hint="churn build-features builds both anew.")
    return rows_of(frame)


def _unseen(cutoff: datetime, past: _Training) -> bool:
    return gap(past.last_cutoff, past.horizon, cutoff) >= timedelta(0)


def _nothing_unseen(labelled: Sequence[datetime], seen: Sequence[_Training]) -> str:
    newest = f"{max(labelled):%Y-%m-%d}" if labelled else "none"
    until = ", ".join(f"version {past.version} until {past.last_cutoff + past.horizon:%Y-%m-%d}" for past in seen)
    return f"no matured cutoff lies after what was trained on ({until}); the newest one is {newest}"


def _same_features(built: Mapping[str, Any], cutoffs: Sequence[datetime], past: _Training) -> None:
    """Raises Refused when features mean something else than the challenger learned, or are not those it was tested on.

    A newer snapshot may well know the past better; the same snapshot and models give the same features.
    """
    tested_on, lineage = past.lineage["feature_sha256"], past.lineage
    for name in map(cutoff_name, cutoffs):
        entry = built[name]
        if entry["dbt_hash"] != lineage["dbt_sha256"]:
            raise Refused(
                f"the features at {name} were built by other dbt models than the version's", hint="churn train"
            )
        same_snapshot = entry["snapshot_id"] == lineage["snapshot_id"]
        if same_snapshot and entry["sha256"] != tested_on.get(name, entry["sha256"]):
            raise Refused(f"the features at {name} are not those the version was tested on", hint="churn train")


def _latency_ms(model: ServedModel, X: NDArray[np.float64]) -> float:
    """The median of scoring one row, in milliseconds; the first calls warm up and do not count.

    Not a high percentile: that would judge what else the machine is doing.
    """
    taken = []
    for place in range(UNTIMED_ROWS + TIMED_ROWS):
        row = X[[place % len(X)]]
        started = time.perf_counter()
        model.predict(row)
        taken.append(1000 * (time.perf_counter() - started))
    return float(np.median(taken[UNTIMED_ROWS:]))
