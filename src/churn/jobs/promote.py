"""promote: challenger against champion under the written policy; the alias moves only on a passed verdict.

Whatever the verdict is, it is sealed, kept with the version and told to the ledger before the alias moves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pandas as pd

from churn.core.admission import admit
from churn.core.promotion import Evidence, Policy, judge, refusal
from churn.core.scoring import ServedModel
from churn.core.seal import Claim, seal
from churn.core.training_set import Rows, entities_of, rows_of
from churn.domain.ledger import Kind
from churn.domain.ports import Labels, Ledger, ModelRegistry, OfflineFeatures
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
from churn.errors import ChurnError, NotReady, Refused

Load = Callable[[ModelVersion], ServedModel]


@dataclass(frozen=True)
class PromotionStores:
    """What a promotion reads and writes. `load` fetches a version and opens it under all of its guards.

    `in_service` names the version that this deployment serves now, None when there is none; `key` signs verdicts.
    """

    registry: ModelRegistry
    labels: Labels
    features: OfflineFeatures
    load: Load
    ledger: Ledger
    in_service: Callable[[], str | None]
    key: str


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
    if champion is not None and champion.version == challenger.version:
        if _is_admitted(challenger, stores.key, policy):
            return Promotion(_already(challenger), challenger, champion)
        champion = _in_service(stores, challenger)
    verdict = _judged(stores, policy, challenger, champion)
    judged = Promotion(verdict, challenger, champion, override="" if verdict.passed else override)
    _keep(stores, policy, judged)
    return judged


def _is_admitted(version: ModelVersion, key: str, policy: Policy) -> bool:
    allowed = policy.allow_override
    terms = {"model_name": version.name, "feature_service": FEATURE_SERVICE}
    return admit(version, key, allow_override=allowed, **terms).admitted


def _in_service(stores: PromotionStores, challenger: ModelVersion) -> ModelVersion | None:
    """Whom to compare with when a hand gave the challenger the alias already: what is in service in the meantime.

    Raises Refused when that is not known: else one click would spare the challenger the comparison. None when the
    challenger itself is in service, as after a change of the signing key.
    """
    served = stores.in_service()
    if served is None:
        raise Refused(
            f"version {challenger.version} was made champion by hand, and which version it must beat is not known here",
            hint="Move the alias back, or remove it if there never was a champion; then judge again.",
        )
    return None if served == challenger.version else stores.registry.get(served)


def _keep(stores: PromotionStores, policy: Policy, judged: Promotion) -> None:
    """The sealed verdict as tags of the version, and an entry in the ledger. Whichever fails, nothing is promoted."""
    version, verdict_json = judged.challenger, json.dumps(judged.verdict.as_dict(), sort_keys=True, default=float)
    claim = Claim(
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
    sealed = seal(claim, stores.key)
    tags = {TAG_VERDICT: sealed.claim, TAG_SIGNATURE: sealed.signature}
    for name, value in {**tags, **({TAG_OVERRIDE: judged.override} if judged.override else {})}.items():
        stores.registry.tag(version.version, name, value)
    stores.ledger.note(Kind.VERDICT, _verdict_facts(judged, claim))


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
