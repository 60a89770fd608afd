"""Promotion: each rule refuses alone, and whatever goes wrong while comparing moves no alias."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from churn.core.admission import admit
from churn.core.policy import Policy, parse_policy
from churn.core.promotion import Evidence, judge
from churn.core.scoring import ServedModel
from churn.core.training_set import Rows
from churn.core.value import Economics
from churn.domain.ledger import Kind
from churn.domain.ports import Snapshot
from churn.domain.predictions import UserId
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE
from churn.domain.verdicts import PromotionVerdict
from churn.domain.versions import (
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    TAG_DIGEST,
    TAG_FEATURE_SERVICE,
    TAG_LINEAGE,
    TAG_OVERRIDE,
    TAG_VERDICT,
    ModelVersion,
)
from churn.errors import BadInput, ChurnError, NotReady, Refused, Unavailable
from churn.jobs.promote import PromotionStores, judge_version, promote
from tests.exports import at, labelled_frame
from tests.memory import BuiltShop, MemoryLedger, MemoryRegistry
from tests.models import KEY
from tests.models import judged as sealed

Array = NDArray[np.float64]
POLICY_FILE = Path(__file__).parents[2] / "policy.yaml"


def policy_with(**changes: Any) -> Policy:
    """The committed policy, its replicates fewer, with other values under `part__key` names."""
    found = yaml.safe_load(POLICY_FILE.read_text())
    for name, value in {"intervals__replicates": 300, **changes}.items():
        *parts, key = name.split("__")
        target = found
        for part in parts:
            target = target[part]
        target[key] = value
    return parse_policy(yaml.safe_dump(found))


POLICY = policy_with()
# Whatever is not the rule in question is out of the way.
LENIENT = {
    "rows__minimum": 1,
    "rows__minimum_users_of_each_outcome": 1,
    "calibration__maximum_ece": 1.0,
    "calibration__maximum_in_the_large": 1.0,
    "champion__superior_in": [],
    "champion__log_loss": {"non_inferiority_margin": 99},
    "champion__pr_auc": {"non_inferiority_margin": 99},
    "champion__expected_value": {"non_inferiority_margin": 99},
    "slices__maximum_auc_shortfall": 1,
    "slices__maximum_calibration_gap": 1,
    "slices__maximum_log_loss_increase": 99,
}

# -- the judge -------------------------------------------------------------------------------------------------------

# 2,000 users with ten probabilities; of the 200 with probability p exactly 200 p churn. ROC-AUC .83, calibrated.
N = 2000
PROBABILITY: Array = np.tile((np.arange(10) + 0.5) / 10, N // 10)
# A step that is prime to 200 spreads those who churn evenly over the rows, so that any stretch of rows is calibrated.
Y = (np.repeat(np.arange(200) * 77 % 200, 10) + 0.5 < PROBABILITY * 200).astype(np.int64)
DULL: Array = 0.5 + 0.6 * (PROBABILITY - 0.5)  # the same order, said with less courage
WRONG: Array = np.where(Y == 1, 0.1, 0.9)


def rows_of_users(**columns: Any) -> Rows:
    """One row a user of 100 days' tenure with ten orders, active a day ago; `columns` overwrite features."""
    X = np.ones((N, len(FEATURE_NAMES)))
    for name, values in {"days_since_signup": 100, "total_orders": 10, **columns}.items():
        X[:, FEATURE_NAMES.index(name)] = values
    return Rows(X, Y, np.full(N, np.datetime64("2011-10-10", "us")), np.arange(N).astype(object))


MONEY = Economics(cost=1.0, margin=10.0)
BETTER = Evidence(rows_of_users(), PROBABILITY, champion=DULL, latency_ms=1.0, size_bytes=1000, money=MONEY)


def judged(evidence: Evidence, policy: Policy = POLICY) -> PromotionVerdict:
    return judge("8", "7" if evidence.champion is not None else None, evidence, policy)


def failed(verdict: PromotionVerdict) -> list[str]:
    return [reason.rule for reason in verdict.reasons if reason.passed is False]


def first_rows(evidence: Evidence, count: int) -> Evidence:
    """The first rows: with every ten the same probabilities."""
    mask = np.arange(N) < count
    champion = None if evidence.champion is None else evidence.champion[mask]
    return replace(
        evidence, rows=evidence.rows.where(mask), challenger=evidence.challenger[mask], champion=champion, labels={}
    )


def with_recency(values: Array) -> Evidence:
    return replace(BETTER, rows=rows_of_users(days_since_last_activity=values))


def test_a_challenger_that_is_better_beyond_doubt_passes_every_rule() -> None:
    verdict = judged(BETTER)
    assert verdict.passed
    assert [(reason.rule, reason.passed) for reason in verdict.reasons] == [
        ("at least 200 test rows", True),
        ("at least 50 users of each outcome", True),
        ("ROC-AUC beats recency alone by more than 0", True),
        ("expected calibration error at most 0.1", True),
        ("mean probability within 0.1 of the churn rate", True),
        ("log loss at most 0.005 above the champion's", True),
        ("PR-AUC at most 0.02 below the champion's", True),
        ("expected value at most 0.05 below the champion's", True),
        ("better than the champion in log loss", True),
        ("no slice's ROC-AUC more than 0.2 below that of all", True),
        ("no slice's mean probability further than 0.15 from its churn rate", True),
        ("no slice's log loss more than 0.02 above the champion's", True),
        ("one row is scored within 20 ms (median)", True),
        ("served files of at most 200,000,000 bytes", True),
    ]
    assert (verdict.challenger, verdict.champion) == ("8", "7")


NEWEST = np.where(np.arange(N) < 400, 10.0, 100.0)  # days since sign-up: the first 400 are new
NOT_FOR_THE_NEWEST = np.where(NEWEST < 30, 1 - PROBABILITY, PROBABILITY)
TOO_HIGH_FOR_THE_NEWEST = np.where(NEWEST < 30, 0.7 + 0.3 * PROBABILITY, PROBABILITY)

ALONE: dict[str, tuple[Evidence, dict[str, Any], str]] = {
    "rows": (first_rows(BETTER, 1990), {"rows__minimum": 1991}, "at least 1991 test rows"),
    "outcomes": (BETTER, {"rows__minimum_users_of_each_outcome": 1001}, "at least 1001 users of each outcome"),
    "recency": (with_recency(Y + 0.0), {}, "ROC-AUC beats recency alone by more than 0"),
    "ece": (
        replace(BETTER, challenger=DULL),
        {"calibration__maximum_ece": 0.08},
        "expected calibration error at most 0.08",
    ),
    "in the large": (
        replace(BETTER, challenger=np.minimum(PROBABILITY + 0.04, 1)),
        {"calibration__maximum_in_the_large": 0.03},
        "mean probability within 0.03 of the churn rate",
    ),
    "log loss": (
        replace(BETTER, challenger=DULL, champion=PROBABILITY),
        {"champion__log_loss": {"non_inferiority_margin": 0.005}},
        "log loss at most 0.005 above the champion's",
    ),
    "ranking": (
        replace(BETTER, challenger=np.round(PROBABILITY, 0), champion=PROBABILITY),
        {"champion__pr_auc": {"non_inferiority_margin": 0.02}},
        "PR-AUC at most 0.02 below the champion's",
    ),
    "value": (
        replace(BETTER, challenger=PROBABILITY / 12),  # the same order, but hardly anybody is worth a contact
        {"champion__expected_value": {"non_inferiority_margin": 0.05}},
        "expected value at most 0.05 below the champion's",
    ),
    "superiority": (
        replace(BETTER, champion=PROBABILITY + 0.001),
        {"champion__superior_in": ["log_loss", "pr_auc"]},
        "better than the champion in log loss or PR-AUC",
    ),
    "a slice is ranked badly": (
        replace(BETTER, rows=rows_of_users(days_since_signup=NEWEST), challenger=NOT_FOR_THE_NEWEST),
        {"slices__maximum_auc_shortfall": 0.2},
        "no slice's ROC-AUC more than 0.2 below that of all",
    ),
    "a slice is told too much": (
        replace(BETTER, rows=rows_of_users(days_since_signup=NEWEST), challenger=TOO_HIGH_FOR_THE_NEWEST),
        {"slices__maximum_calibration_gap": 0.1},
        "no slice's mean probability further than 0.1 from its churn rate",
    ),
    "a slice gets worse": (
        replace(
            BETTER,
            rows=rows_of_users(days_since_signup=NEWEST),
            challenger=np.where(NEWEST < 30, 0.5, PROBABILITY),
            champion=np.where(NEWEST < 30, PROBABILITY, DULL),
        ),
        {"slices__maximum_log_loss_increase": 0.02},
        "no slice's log loss more than 0.02 above the champion's",
    ),
    "latency": (
        replace(BETTER, latency_ms=20.01),
        {},
        "one row is scored within 20 ms (median)",
    ),
    "size": (replace(BETTER, size_bytes=200_000_001), {}, "served files of at most 200,000,000 bytes"),
    "size unknown": (replace(BETTER, size_bytes=0), {}, "served files of at most 200,000,000 bytes"),
}


@pytest.mark.parametrize(("evidence", "limit", "rule"), ALONE.values(), ids=ALONE)
def test_each_rule_refuses_alone(evidence: Evidence, limit: dict[str, Any], rule: str) -> None:
    verdict = judged(evidence, policy_with(**{**LENIENT, **limit}))
    assert failed(verdict) == [rule]
    assert not verdict.passed
    if limit:
        assert judged(evidence, policy_with(**LENIENT)).passed


def test_a_limit_holds_at_the_limit() -> None:
    at_the_limit = policy_with(
        rows__minimum=N,
        rows__minimum_users_of_each_outcome=1000,
        serving__maximum_latency_ms=1.0,
        serving__maximum_size_bytes=1000,
    )
    assert judged(BETTER, at_the_limit).passed


def test_a_lead_that_chance_may_have_made_is_no_superiority() -> None:
    few = first_rows(replace(BETTER, champion=0.5 + 0.97 * (PROBABILITY - 0.5)), 200)
    verdict = judged(few)
    assert verdict.facts["differences"]["log_loss"]["estimate"] < 0
    assert failed(verdict) == ["better than the champion in log loss"]


def test_a_lead_that_chance_may_have_made_suffices_where_non_inferiority_is_asked() -> None:
    few = first_rows(replace(BETTER, champion=0.5 + 0.97 * (PROBABILITY - 0.5)), 200)
    assert judged(few, policy_with(champion__superior_in=[])).passed


def test_the_same_model_again_is_not_inferior_and_not_superior() -> None:
    same = replace(BETTER, champion=PROBABILITY)
    assert failed(judged(same)) == ["better than the champion in log loss"]
    assert judged(same, policy_with(champion__superior_in=[])).passed


def test_the_same_rows_four_times_over_are_no_more_evidence() -> None:
    few = first_rows(replace(BETTER, champion=0.5 + 0.97 * (PROBABILITY - 0.5)), 200)
    assert few.champion is not None
    times = np.tile(np.arange(200), 4)
    rows = Rows(few.rows.X[times], few.rows.y[times], few.rows.cutoff[times], few.rows.user_id[times])
    copied = replace(few, rows=rows, challenger=few.challenger[times], champion=few.champion[times])
    once, four = (judged(each).facts["differences"]["log_loss"] for each in (few, copied))
    assert four["high"] == pytest.approx(once["high"])


def test_a_challenger_that_only_ties_with_recency_is_refused() -> None:
    assert failed(judged(with_recency(PROBABILITY))) == ["ROC-AUC beats recency alone by more than 0"]


def test_the_lead_over_recency_must_exceed_what_the_policy_asks() -> None:
    assert failed(judged(BETTER, policy_with(recency__minimum_auc_ahead=0.4))) == [
        "ROC-AUC beats recency alone by more than 0.4"
    ]


def test_without_a_champion_that_is_told_and_everything_else_is_judged() -> None:
    verdict = judged(replace(BETTER, champion=None))
    assert verdict.passed
    told = [reason for reason in verdict.reasons if reason.passed is None]
    assert [(reason.rule, reason.found) for reason in told] == [
        ("no worse than the champion", "there is no champion yet")
    ]
    assert len(verdict.reasons) == 10
    assert (
        failed(judged(replace(BETTER, champion=None, challenger=WRONG)))[0]
        == "ROC-AUC beats recency alone by more than 0"
    )


@pytest.mark.parametrize("outcome", [0, 1])
def test_test_rows_of_one_outcome_decide_nothing(outcome: int) -> None:
    verdict = judged(replace(BETTER, rows=replace(BETTER.rows, y=np.full(N, outcome))))
    assert not verdict.passed
    assert [reason.found for reason in verdict.reasons] == ["all test rows have the same outcome"]


def test_the_reasons_tell_what_was_found() -> None:
    found = {reason.rule: reason.found for reason in judged(BETTER).reasons}
    assert found["at least 200 test rows"] == "2,000 rows"
    assert found["at least 50 users of each outcome"] == "1,000 churned, 1,000 stayed"
    assert found["ROC-AUC beats recency alone by more than 0"] == "0.8300 against 0.5000"
    assert found["expected calibration error at most 0.1"] == "0.0000"
    assert found["PR-AUC at most 0.02 below the champion's"] == "+0.0000 [+0.0000, +0.0000]"
    assert found["one row is scored within 20 ms (median)"] == "1.00 ms"


def test_slices_that_are_too_small_are_told() -> None:
    few = np.where(np.arange(N) < 20, 10.0, 100.0)
    verdict = judged(replace(BETTER, rows=rows_of_users(days_since_signup=few)))
    assert verdict.passed
    told = {reason.rule: reason.found for reason in verdict.reasons if reason.passed is None}
    assert told == {"slices too small to be judged": "tenure.under_90_days (20), newest_users (20)"}


def test_without_any_slice_that_is_large_enough_that_is_told() -> None:
    verdict = judged(BETTER, policy_with(slices__minimum_rows=N + 1))
    told = {reason.rule: reason.found for reason in verdict.reasons if reason.passed is None}
    assert told == {"no part of the users is served badly": "every slice is too small to be judged"}


def test_users_of_a_label_are_a_slice() -> None:
    tiers = np.where(np.arange(N) < 400, "pro", "free").astype(object)
    wrong_for_pros = replace(BETTER, challenger=NOT_FOR_THE_NEWEST, labels={"subscription_tier": tiers})
    found = {reason.rule: reason.found for reason in judged(wrong_for_pros).reasons}
    assert "subscription_tier.pro" in found["no slice's ROC-AUC more than 0.2 below that of all"]


def test_the_expected_value_is_that_of_contacting_from_the_break_even_point_within_the_budget() -> None:
    # From .1 on nine of ten groups are contacted: 100 p of 200 churn in each.
    facts = judged(BETTER).facts["challenger"]["intervals"]["expected_value"]
    churners = sum(200 * level for level in PROBABILITY[1:10])
    assert facts["estimate"] == pytest.approx((10 * churners - 1800) / N)
    # Money for 200 contacts: those with probability .95.
    bounded = judged(replace(BETTER, money=replace(MONEY, budget=200.0))).facts["challenger"]["intervals"][
        "expected_value"
    ]
    assert bounded["estimate"] == pytest.approx((10 * 190 - 200) / N)


def test_the_verdict_carries_every_figure_and_is_json() -> None:
    told = json.loads(json.dumps(judged(BETTER).as_dict(), allow_nan=False))["facts"]
    assert told["rows"] == {
        "n": N,
        "users": N,
        "users_churned": 1000,
        "users_stayed": 1000,
        "cutoffs": ["2011-10-10"],
    }
    assert told["challenger"]["figures"]["auc_score"] == pytest.approx(0.83)
    assert set(told["differences"]) >= {"log_loss", "pr_auc", "expected_value"}
    assert set(told["differences"]["log_loss"]) == {"estimate", "low", "high"}
    assert told["champion"]["reliability"]["observed"] == pytest.approx(sorted(set(PROBABILITY)))
    assert told["policy"] == POLICY.as_dict()
    assert {each["name"] for each in told["slices"]} == {"tenure.90_to_365_days", "orders.from_5"}


def test_a_verdict_without_any_judged_rule_does_not_pass() -> None:
    assert not PromotionVerdict("8", None, ()).passed


# -- the policy ------------------------------------------------------------------------------------------------------


def test_the_committed_policy_can_be_used_and_asks_for_superiority_in_log_loss() -> None:
    policy = parse_policy(POLICY_FILE.read_text())
    assert policy.champion.superior_in == ("log_loss",)
    assert policy.allow_override is False


def test_every_key_of_the_policy_is_described() -> None:
    for part in (Policy, *(each.annotation for each in Policy.model_fields.values() if each.annotation is not bool)):
        for name, each in part.model_fields.items():  # type: ignore[union-attr]  # models all
            assert each.description or hasattr(each.annotation, "model_fields"), name


def without(name: str) -> str:
    found = yaml.safe_load(POLICY_FILE.read_text())
    del found["calibration"][name]
    return yaml.safe_dump(found)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (POLICY_FILE.read_text() + "maximum_auc_lost: 0.1", "maximum_auc_lost"),  # an unknown key
        (POLICY_FILE.read_text().replace("minimum_auc_ahead:", "ahead: 1\n  minimum_auc_ahead:"), "recency.ahead"),
        (without("maximum_ece"), "calibration.maximum_ece"),
        (POLICY_FILE.read_text().replace("maximum_ece: 0.1", "maximum_ece: 2"), "calibration.maximum_ece"),
        (POLICY_FILE.read_text().replace("minimum: 200", "minimum: many"), "rows.minimum"),
        (POLICY_FILE.read_text().replace("[log_loss]", "[accuracy]"), "champion.superior_in"),
        ("- a list", "promotion policy cannot be used"),
        ("", "promotion policy cannot be used"),
        ("a: [", "promotion policy cannot be used"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_by_the_name_of_its_key(text: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        parse_policy(text)


# -- the job ---------------------------------------------------------------------------------------------------------

CUTOFF = at("2011-10-10")
SEEN = at("2011-06-01")
SHOP = BuiltShop(labelled_frame([SEEN, CUTOFF], users=400))
LINEAGE_FACTS = {
    "snapshot_id": "snapshot-1",
    "dbt_sha256": "d" * 64,
    "test_cutoffs": [CUTOFF.isoformat()],
    "train_cutoffs": [SEEN.isoformat()],
    "horizon_days": 60,
    "feature_sha256": {"2011-10-10T000000Z": "f" * 64},  # what BuiltShop's manifest says
}
LINEAGE = json.dumps(LINEAGE_FACTS)
TRAINED = {TAG_LINEAGE: LINEAGE, TAG_DIGEST: "d" * 64, TAG_FEATURE_SERVICE: FEATURE_SERVICE}
RECENCY = FEATURE_NAMES.index("days_since_last_activity")
Predict = Callable[[Array], Array]


def follows_recency(vectors: Array) -> Array:
    """Steeper than linear: close to how the labels were drawn."""
    return 1 / (1 + np.exp((30 - vectors[:, RECENCY]) / 8))


def guesses(vectors: Array) -> Array:
    return 0.5 + 0.01 * np.sin(vectors[:, 0] * 100)


def add_champion(registry: MemoryRegistry, tags: dict[str, str]) -> None:
    """Version 7 with these tags and a passed verdict."""
    registry.add("7", {TAG_DIGEST: "d" * 64, **tags}, CHAMPION)
    registry.versions["7"] = sealed(registry.versions["7"])


def registry_with(*, champion: bool) -> MemoryRegistry:
    registry = MemoryRegistry()
    if champion:
        add_champion(registry, TRAINED)
    registry.add("8", TRAINED, CHALLENGER)
    return registry


def stores(
    registry: MemoryRegistry, models: dict[str, Predict | Exception], in_service: str | None = None
) -> PromotionStores:
    def load(version: ModelVersion) -> ServedModel:
        model = models[version.version]
        if isinstance(model, Exception):
            raise model
        return ServedModel(version.version, "", "churn_v1", FEATURE_NAMES, 60, model, size_bytes=1000)

    return PromotionStores(
        raw=OneSnapshot(),
        registry=registry,
        labels=SHOP,
        features=SHOP,
        load=load,
        ledger=MemoryLedger(),
        in_service=lambda: in_service,
        key=KEY,
        money=MONEY,
    )


@dataclass(frozen=True)
class OneSnapshot:
    """Raw tables with one snapshot; every third user has the tier pro."""

    snapshot_id: str = "snapshot-1"

    def current(self) -> Snapshot:
        return Snapshot(self.snapshot_id, Path("raw"), "integer", SEEN, CUTOFF, at("2011-12-10"))

    def user_labels(self, snapshot: Snapshot, column: str) -> dict[UserId, str]:
        assert (snapshot.snapshot_id, column) == (self.snapshot_id, "subscription_tier")
        return dict.fromkeys(range(1, 401, 3), "pro")


def beats(vectors: Array) -> Array:
    """An oracle: knows the labels of the shop's rows by their recency."""
    churned = dict(zip(SHOP.frame["days_since_last_activity"], SHOP.frame["churned"], strict=True))
    return np.array([0.95 if churned[idle] else 0.05 for idle in vectors[:, RECENCY]])


def test_the_first_good_challenger_becomes_champion() -> None:
    registry = registry_with(champion=False)
    done = promote(stores(registry, {"8": beats}), POLICY, None)
    assert done.moved
    assert done.champion_before is None
    assert registry.aliases == {CHALLENGER: "8", CHAMPION: "8"}


def test_a_better_challenger_takes_the_alias_from_the_champion() -> None:
    registry = registry_with(champion=True)
    done = promote(stores(registry, {"8": beats, "7": follows_recency}), POLICY, None)
    assert done.moved
    assert done.champion_before is not None
    assert (done.challenger.version, done.champion_before.version) == ("8", "7")
    assert registry.aliases[CHAMPION] == "8"


@pytest.mark.parametrize(("model", "reason"), [(beats, "ok"), (guesses, "verdict_failed")])
def test_the_sealed_verdict_stays_with_the_version_whatever_it_is(model: Predict, reason: str) -> None:
    registry = registry_with(champion=True)
    promote(stores(registry, {"8": model, "7": follows_recency}), POLICY, None)
    assert admission(registry.get("8")) == reason


def test_a_verdict_is_told_to_the_ledger_with_what_failed() -> None:
    given = stores(registry_with(champion=True), {"8": guesses, "7": follows_recency})
    done = promote(given, POLICY, None)
    (told,) = given.ledger.read().entries
    assert (told.kind, told.facts["version"], told.facts["against"], told.facts["passed"]) == (
        Kind.VERDICT,
        "8",
        "7",
        False,
    )
    assert told.facts["reasons"] == [
        f"{each.rule}: {each.found}" for each in done.verdict.reasons if each.passed is False
    ]


def admission(version: ModelVersion, *, allow_override: bool = False) -> str:
    """The word that the side process would say of the version."""
    found = admit(version, KEY, model_name=MODEL_NAME, feature_service=FEATURE_SERVICE, allow_override=allow_override)
    return found.reason


def test_a_worse_challenger_leaves_the_alias_where_it_is() -> None:
    registry = registry_with(champion=True)
    done = promote(stores(registry, {"8": guesses, "7": follows_recency}), POLICY, None)
    assert not done.moved
    assert registry.aliases == {CHAMPION: "7", CHALLENGER: "8"}


def test_a_version_can_be_named_instead_of_the_challenger() -> None:
    registry = registry_with(champion=True)
    registry.add("5", {TAG_LINEAGE: LINEAGE})
    done = promote(stores(registry, {"5": beats, "7": follows_recency}), POLICY, "5")
    assert done.challenger.version == "5"
    assert registry.aliases == {CHAMPION: "5", CHALLENGER: "8"}


def test_versions_that_answer_for_different_horizons_are_not_compared() -> None:
    registry = registry_with(champion=True)
    given = stores(registry, {"8": beats, "7": follows_recency})

    def load(version: ModelVersion) -> ServedModel:
        return replace(given.load(version), horizon_days=30 if version.version == "8" else 60)

    done = promote(replace(given, load=load), POLICY, None)
    assert not done.moved
    assert [reason.found for reason in done.verdict.reasons] == [
        "the versions answer for different horizons: 30, 60 days"
    ]


def test_test_features_that_were_rebuilt_since_the_training_decide_nothing() -> None:
    registry = registry_with(champion=False)
    other = json.dumps({**LINEAGE_FACTS, "feature_sha256": {"2011-10-10T000000Z": "0" * 64}})
    registry.add("9", {TAG_LINEAGE: other})
    done = promote(stores(registry, {"9": beats}), POLICY, "9")
    assert not done.moved
    assert "are not those the version was tested on" in done.verdict.reasons[0].found


def trained_at(*cutoffs: str, **changes: Any) -> dict[str, str]:
    """The tags of a version that was trained at these cutoffs."""
    train = [at(cutoff).isoformat() for cutoff in cutoffs]
    return {TAG_LINEAGE: json.dumps({**LINEAGE_FACTS, "train_cutoffs": train, **changes})}


LATER = at("2011-12-01")
TWO_LATER = replace(SHOP, frame=labelled_frame([SEEN, CUTOFF, LATER], users=400))


def test_both_are_judged_at_the_cutoffs_that_neither_was_trained_on() -> None:
    registry = registry_with(champion=True)
    add_champion(registry, trained_at("2011-09-01"))  # its horizon was open until 2011-10-31
    shop = TWO_LATER
    churned = dict(zip(shop.frame["days_since_last_activity"], shop.frame["churned"], strict=True))

    def oracle(vectors: Array) -> Array:
        return np.array([0.95 if churned[idle] else 0.05 for idle in vectors[:, RECENCY]])

    given = replace(stores(registry, {"8": oracle, "7": follows_recency}), labels=shop, features=shop)
    done = promote(given, POLICY, None)
    assert done.moved
    assert done.verdict.facts["rows"]["cutoffs"] == ["2011-12-01"]


def test_a_cutoff_on_the_day_the_training_ended_may_judge() -> None:
    registry = registry_with(champion=True)
    add_champion(registry, trained_at("2011-08-11"))  # 60 days before 2011-10-10
    assert promote(stores(registry, {"8": beats, "7": follows_recency}), POLICY, None).moved


def test_where_no_cutoff_lies_after_both_trainings_nothing_is_promoted() -> None:
    registry = registry_with(champion=True)
    add_champion(registry, trained_at("2011-08-12"))
    done = promote(stores(registry, {"8": beats, "7": follows_recency}), POLICY, None)
    assert not done.moved
    assert [reason.found for reason in done.verdict.reasons] == [
        "no matured cutoff lies after what was trained on (version 8 until 2011-07-31, version 7 until 2011-10-11);"
        " the newest one is 2011-10-10"
    ]


def test_labels_of_an_older_snapshot_judge_nothing() -> None:
    registry = registry_with(champion=False)
    done = promote(replace(stores(registry, {"8": beats}), raw=OneSnapshot("snapshot-2")), POLICY, None)
    assert not done.moved
    assert done.verdict.reasons[0].found.endswith("the newest one is none")


def test_a_newer_snapshot_may_know_the_past_better() -> None:
    registry = registry_with(champion=False)
    other = {"feature_sha256": {"2011-10-10T000000Z": "0" * 64}, "snapshot_id": "snapshot-0"}
    registry.add("9", trained_at("2011-06-01", **other))
    assert promote(stores(registry, {"9": beats}), POLICY, "9").moved


def test_features_of_other_dbt_models_judge_nothing() -> None:
    registry = registry_with(champion=False)
    registry.add("9", trained_at("2011-06-01", dbt_sha256="0" * 64))
    done = promote(stores(registry, {"9": beats}), POLICY, "9")
    assert not done.moved
    assert "were built by other dbt models than the version's" in done.verdict.reasons[0].found


def test_labelled_rows_without_features_decide_nothing() -> None:
    class Forgetful(BuiltShop):
        def training_frame(self, entities: Any) -> Any:
            return super().training_frame(entities).assign(days_since_signup=np.nan)

    done = promote(
        replace(stores(registry_with(champion=False), {"8": beats}), features=Forgetful(SHOP.frame)), POLICY, None
    )
    assert [reason.found for reason in done.verdict.reasons] == ["labelled rows have no features at their cutoff"]


def test_a_champion_without_lineage_is_not_compared_with() -> None:
    registry = registry_with(champion=True)
    add_champion(registry, {})
    done = promote(stores(registry, {"8": beats, "7": follows_recency}), POLICY, None)
    assert not done.moved
    assert done.verdict.reasons[0].found == (
        "the champion, version 7, carries no lineage, so what it was trained on is unknown"
    )


def test_a_slow_or_large_challenger_is_measured_and_refused() -> None:
    def slow(vectors: Array) -> Array:
        time.sleep(0.002)
        return beats(vectors)

    registry = registry_with(champion=False)
    bounds = policy_with(serving__maximum_latency_ms=1.9, serving__maximum_size_bytes=999)
    done = promote(stores(registry, {"8": slow}), bounds, None)
    assert failed(done.verdict) == [
        "one row is scored within 1.9 ms (median)",
        "served files of at most 999 bytes",
    ]


def test_the_tier_cuts_slices() -> None:
    done = promote(stores(registry_with(champion=False), {"8": beats}), POLICY, None)
    names = {each["name"]: each["n"] for each in done.verdict.facts["slices"]}
    assert (names["subscription_tier.pro"], names["subscription_tier.unknown"]) == (134, 266)


def test_the_verdict_is_kept_beside_the_run_before_the_alias_moves() -> None:
    seen: list[dict[str, str]] = []

    class Watching(MemoryRegistry):
        def log_artifact(self, run_id: str, name: str, content: str) -> None:
            seen.append(dict(self.aliases))
            super().log_artifact(run_id, name, content)

    registry = Watching()
    registry.add("8", {TAG_LINEAGE: LINEAGE}, CHALLENGER)
    done = promote(stores(registry, {"8": beats}), POLICY, None)
    assert done.moved
    assert seen == [{CHALLENGER: "8"}] * 2
    assert json.loads(registry.artifacts["run-8", "verdict/verdict.json"])["passed"] is True
    assert registry.artifacts["run-8", "verdict/verdict.html"].startswith("<!DOCTYPE html>")


def test_a_version_that_does_not_exist_is_not_ready() -> None:
    with pytest.raises(NotReady, match="version 99"):
        promote(stores(registry_with(champion=True), {}), POLICY, "99")


def test_without_a_challenger_there_is_nothing_to_promote() -> None:
    with pytest.raises(NotReady, match="no version carries the alias challenger"):
        promote(stores(MemoryRegistry(), {}), POLICY, None)


def test_a_champion_with_a_passed_verdict_is_not_promoted_again() -> None:
    registry = registry_with(champion=True)
    before = dict(registry.versions["7"].tags)
    done = promote(stores(registry, {}), POLICY, "7")
    assert not done.moved
    assert [reason.found for reason in done.verdict.reasons] == ["it is the champion already"]
    assert registry.versions["7"].tags == before


# -- an alias that a hand moved ----------------------------------------------------------------------------------------


def set_by_hand(version: str) -> MemoryRegistry:
    registry = registry_with(champion=True)
    registry.set_alias(CHAMPION, version)
    return registry


def test_a_version_set_by_hand_must_beat_the_one_in_service_when_it_is_judged_afterwards() -> None:
    for model, passed in ((beats, True), (guesses, False)):
        registry = set_by_hand("8")
        done = judge_version(stores(registry, {"8": model, "7": follows_recency}, in_service="7"), POLICY, "8")
        assert (done.verdict.passed, done.verdict.champion) == (passed, "7")
        assert admission(registry.get("8")) == ("ok" if passed else "verdict_failed")


def test_where_nobody_knows_what_is_in_service_one_click_does_not_spare_the_comparison() -> None:
    registry = set_by_hand("8")
    with pytest.raises(Refused, match="which version it must beat is not known here"):
        promote(stores(registry, {"8": beats}), POLICY, "8")
    assert TAG_VERDICT not in registry.versions["8"].tags


def test_a_weak_version_set_by_hand_is_no_rival_for_another_to_beat() -> None:
    registry = registry_with(champion=True)
    registry.add("5", TRAINED, CHAMPION)
    models: dict[str, Predict | Exception] = {"5": guesses, "8": follows_recency, "7": beats}
    done = promote(stores(registry, models, in_service="7"), POLICY, "8")
    assert (done.moved, done.verdict.champion) == (False, "7")


def test_the_version_in_service_can_be_judged_anew_as_after_a_change_of_the_key() -> None:
    registry = registry_with(champion=True)
    registry.versions["7"] = sealed(registry.versions["7"], key="the key before, which is not the same")
    done = promote(stores(registry, {"7": beats}, in_service="7"), POLICY, "7")
    assert (done.moved, done.verdict.champion) == (True, None)
    assert admission(registry.get("7")) == "ok"


def test_judging_alone_moves_no_alias() -> None:
    registry = registry_with(champion=True)
    done = judge_version(stores(registry, {"8": beats, "7": follows_recency}), POLICY, None)
    assert (done.admitted, done.moved) == (True, False)
    assert registry.aliases == {CHAMPION: "7", CHALLENGER: "8"}
    assert admission(registry.get("8")) == "ok"


# -- an override -------------------------------------------------------------------------------------------------------

OVERRIDABLE = POLICY.model_copy(update={"allow_override": True})
WORSE: dict[str, Predict | Exception] = {"8": guesses, "7": follows_recency}


def test_a_policy_without_overrides_refuses_one_before_anything_is_judged() -> None:
    registry = registry_with(champion=True)
    with pytest.raises(Refused, match="the promotion policy allows no override"):
        promote(stores(registry, WORSE), POLICY, None, "I want it")
    assert set(registry.versions["8"].tags) == set(TRAINED)


def test_an_override_promotes_a_failed_version_and_is_sealed_and_recorded_in_the_persons_words() -> None:
    registry = registry_with(champion=True)
    given = stores(registry, WORSE)
    done = promote(given, OVERRIDABLE, None, "the old one loses money")
    assert (done.moved, done.verdict.passed, registry.aliases[CHAMPION]) == (True, False, "8")
    assert registry.versions["8"].tags[TAG_OVERRIDE] == "the old one loses money"
    assert json.loads(registry.versions["8"].tags[TAG_VERDICT])["override"] == "the old one loses money"
    assert given.ledger.read().entries[0].facts["override"] == "the old one loses money"
    assert admission(registry.get("8"), allow_override=True) == "overridden"
    assert admission(registry.get("8")) == "verdict_failed"


def test_a_version_that_passes_needs_no_override_and_gets_none() -> None:
    registry = registry_with(champion=True)
    done = promote(stores(registry, {"8": beats, "7": follows_recency}), OVERRIDABLE, None, "in case it fails")
    assert (done.moved, done.override) == (True, "")
    assert TAG_OVERRIDE not in registry.versions["8"].tags


def test_where_the_ledger_takes_no_entry_nothing_is_promoted() -> None:
    registry = registry_with(champion=False)
    with pytest.raises(Unavailable, match="the ledger cannot be used"):
        promote(replace(stores(registry, {"8": beats}), ledger=MemoryLedger(down=True)), POLICY, None)
    assert registry.aliases == {CHALLENGER: "8"}


@pytest.mark.parametrize(
    ("models", "found"),
    [
        (
            {"8": beats, "7": Refused("its files are not those that were registered")},
            "the champion, version 7, cannot be loaded: its files are not those that were registered",
        ),
        (
            {"8": Unavailable("MLflow does not answer"), "7": follows_recency},
            "the challenger, version 8, cannot be loaded: MLflow does not answer",
        ),
        ({"8": KeyError("model.skops"), "7": follows_recency}, "KeyError: 'model.skops'"),
        ({"8": MemoryError("no room"), "7": follows_recency}, "MemoryError: no room"),
        ({"8": lambda vectors: vectors[:, 0] / 0.0 * np.nan, "7": follows_recency}, "ValueError: "),
    ],
    ids=["champion refused", "registry gone", "a bug", "no memory", "not a number"],
)
@pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")
def test_a_comparison_that_fails_is_a_refusal_that_says_why_and_moves_nothing(
    models: dict[str, Predict | Exception], found: str
) -> None:
    registry = registry_with(champion=True)
    done = promote(stores(registry, models), POLICY, None)
    assert not done.moved
    (reason,) = done.verdict.reasons
    assert (reason.rule, reason.passed) == ("the comparison can be made", False)
    assert reason.found.startswith(found)
    assert done.verdict.champion == "7"
    assert registry.aliases == {CHAMPION: "7", CHALLENGER: "8"}


@pytest.mark.parametrize(
    ("lineage", "found"),
    [
        ("{}", "the challenger, version 8, carries no lineage, so what it was trained on is unknown"),
        ('{"train_cutoffs": ["2011-06-01T00:00:00+00:00"]}', "KeyError: 'horizon_days'"),
        ("no json", "JSONDecodeError: "),
    ],
)
def test_a_version_whose_test_rows_cannot_be_found_is_refused(lineage: str, found: str) -> None:
    registry = MemoryRegistry()
    registry.add("8", {TAG_LINEAGE: lineage}, CHALLENGER)
    done = promote(stores(registry, {"8": beats}), POLICY, None)
    assert done.verdict.reasons[0].found.startswith(found)
    assert registry.aliases == {CHALLENGER: "8"}


def test_where_the_verdict_cannot_be_kept_nothing_is_promoted() -> None:
    class Failing(MemoryRegistry):
        def tag(self, version: str, key: str, value: str) -> None:
            raise Unavailable("MLflow does not answer")

    class NoRoom(MemoryRegistry):
        def log_artifact(self, run_id: str, name: str, content: str) -> None:
            raise Unavailable("the artifact store does not answer")

    for registry in (Failing(), NoRoom()):
        registry.add("8", {TAG_LINEAGE: LINEAGE}, CHALLENGER)
        with pytest.raises(ChurnError, match="does not answer"):
            promote(stores(registry, {"8": beats}), POLICY, None)
        assert registry.aliases == {CHALLENGER: "8"}


def test_only_eligible_users_are_judged() -> None:
    registry = registry_with(champion=False)
    shop = replace(SHOP, idle=frozenset(range(1, 101)))
    done = promote(replace(stores(registry, {"8": beats}), labels=shop), POLICY, None)
    assert done.verdict.reasons[0].found == "300 rows"
