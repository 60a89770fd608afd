"""promote: challenger against champion under the written policy; the alias moves only on a passed verdict.

Whatever the verdict is, it is sealed, kept with the version and told to the ledger before the alias moves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn.core.admission import admit
from churn.core.policy import Policy
from churn.core.promotion import Evidence, judge, refusal
from churn.core.scoring import ServedModel
from churn.core.seal import Claim, seal
from churn.core.slices import TIER, labels_of
from churn.core.training_set import Rows, entities_of, rows_of
from churn.core.value import Economics
from churn.core.verdict_page import page
from churn.domain.ledger import Kind
from churn.domain.ports import LabelledUsers, Labels, Ledger, ModelRegistry, OfflineFeatures, Snapshot
from churn.domain.schema import FEATURE_SERVICE
from churn.domain.verdicts import PromotionVerdict
from churn.domain.versions import (
    CHALLENGER,
    CHAMPION,
    TAG_LINEAGE,
    TAG_OVERRIDE,
    TAG_SIGNATURE,
    TAG_VERDICT,
    ModelVersion,
)
from churn.domain.windows import cutoff_name, gap, parse_instant
from churn.errors import ChurnError, Mismatch, NotReady, Refused

Load = Callable[[ModelVersion], ServedModel]
TIMED_ROWS, UNTIMED_ROWS = 200, 20
VERDICT_JSON, VERDICT_PAGE = "verdict/verdict.json", "verdict/verdict.html"


@dataclass(frozen=True)
class PromotionStores:
    """What a promotion reads and writes. `load` fetches a version and opens it under all of its guards.

    `in_service` names the version that this deployment serves now, None when there is none; `key` signs verdicts;
    `money` is what contacts cost and bring.
    """

    raw: LabelledUsers
    registry: ModelRegistry
    labels: Labels
    features: OfflineFeatures
    load: Load
    ledger: Ledger
    in_service: Callable[[], str | None]
    key: str
    money: Economics


@dataclass(frozen=True)
class Promotion:
    """The verdict, and the versions before and after. `override`: a person's reason to promote it nevertheless."""

    verdict: PromotionVerdict
    challenger: ModelVersion
    champion_before: ModelVersion | None
    moved: bool = False
    override: str = ""

    @property
    def admitted(self) -> bool:
        """Whether the version may be served now."""
        return self.verdict.passed or bool(self.override)


def promote(stores: PromotionStores, policy: Policy, version: str | None, override: str = "") -> Promotion:
    """Judge `version` (see `judge_version`) and make it champion if it passes or is overridden."""
    judged = judge_version(stores, policy, version, override)
    if judged.admitted:
        stores.registry.set_alias(CHAMPION, judged.challenger.version)
    return replace(judged, moved=judged.admitted)


def judge_version(stores: PromotionStores, policy: Policy, version: str | None, override: str = "") -> Promotion:
    """Judge `version` (default: alias challenger), seal the verdict and keep it with the version; no alias moves.

    `override`, a person's reason, counts when the verdict fails and the policy allows it; raises Refused when it does
    not. Raises NotReady when there is no such version. A comparison that fails for whatever reason is a refusal.
    """
    if override and not policy.allow_override:
        raise Refused(
            "the promotion policy allows no override",
            hint="Set allow_override in the policy if the team has agreed on it, or promote without --override.",
        )
    challenger = stores.registry.get(version) if version else _challenger(stores.registry)
    champion = stores.registry.by_alias(CHAMPION)
    if champion is not None and not _is_admitted(champion, stores.key, policy):
        champion = _in_service(stores, champion, challenger)
    elif champion is not None and champion.version == challenger.version:
        return Promotion(_already(challenger), challenger, champion)
    verdict = _judged(stores, policy, challenger, champion)
    judged = Promotion(verdict, challenger, champion, override="" if verdict.passed else override)
    _keep(stores, policy, judged)
    return judged


def _is_admitted(version: ModelVersion, key: str, policy: Policy) -> bool:
    allowed = policy.allow_override
    terms = {"model_name": version.name, "feature_service": FEATURE_SERVICE}
    return admit(version, key, allow_override=allowed, **terms).admitted


def _in_service(stores: PromotionStores, by_hand: ModelVersion, challenger: ModelVersion) -> ModelVersion | None:
    """Whom to compare with when the alias was given by hand: what is in service in the meantime.

    Raises Refused when that is not known: else one click would spare the challenger the comparison, or give it a weak
    rival. None when the challenger itself is in service, as after a change of the signing key.
    """
    served = stores.in_service()
    if served is None:
        raise Refused(
            f"version {by_hand.version} was made champion by hand, and which version it must beat is not known here",
            hint="Move the alias back, or remove it if there never was a champion; then judge again.",
        )
    return None if served == challenger.version else stores.registry.get(served)


def _keep(stores: PromotionStores, policy: Policy, judged: Promotion) -> None:
    """The verdict beside the run that made the version, its seal as tags, and an entry in the ledger.

    Whichever fails, nothing is promoted. The seal covers the very text that is kept beside the run.
    """
    version, verdict_json = judged.challenger, json.dumps(judged.verdict.as_dict(), sort_keys=True, default=float)
    stores.registry.log_artifact(version.run_id, VERDICT_JSON, verdict_json)
    stores.registry.log_artifact(version.run_id, VERDICT_PAGE, page(judged.verdict))
    claim = _claim(policy, judged, verdict_json)
    sealed = seal(claim, stores.key)
    tags = {TAG_VERDICT: sealed.claim, TAG_SIGNATURE: sealed.signature}
    for name, value in {**tags, **({TAG_OVERRIDE: judged.override} if judged.override else {})}.items():
        stores.registry.tag(version.version, name, value)
    stores.ledger.note(Kind.VERDICT, _verdict_facts(judged, claim))


def _claim(policy: Policy, judged: Promotion, verdict_json: str) -> Claim:
    version = judged.challenger
    return Claim(
        model_name=version.name,
        version=version.version,
        digest=version.digest,
        feature_service=version.feature_service,
        passed=judged.verdict.passed,
        verdict_sha256=sha256(verdict_json.encode()).hexdigest(),
        policy_sha256=sha256(policy.model_dump_json().encode()).hexdigest(),
        decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
        override=judged.override,
    )


def _verdict_facts(judged: Promotion, claim: Claim) -> dict[str, Any]:
    failed = [f"{reason.rule}: {reason.found}" for reason in judged.verdict.reasons if reason.passed is False]
    named = claim.model_dump(include={"version", "digest", "passed", "policy_sha256", "verdict_sha256", "override"})
    return {**named, "against": judged.verdict.champion, "reasons": failed}


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
        money=stores.money,
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
