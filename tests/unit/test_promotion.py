"""Promotion: each rule refuses alone, and whatever goes wrong while comparing moves no alias."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from churn.core.admission import admit
from churn.core.promotion import Evidence, Policy, judge, parse_policy
from churn.core.scoring import ServedModel
from churn.domain.ledger import Kind
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
POLICY = Policy(
    minimum_test_rows=200,
    minimum_auc_over_recency=0.0,
    maximum_auc_loss=0.005,
    maximum_log_loss_increase=0.005,
    maximum_ece=0.15,
    allow_override=False,
)

# -- the judge -------------------------------------------------------------------------------------------------------

# 400 users with ten probabilities; of the 40 with probability p exactly 40 p churn. ROC-AUC .83, calibrated.
LEVELS = np.arange(10) / 10 + 0.05
PROBABILITY: Array = np.repeat(LEVELS, 40)
Y = (np.tile(np.arange(40), 10) + 0.5 < PROBABILITY * 40).astype(np.int64)
NOTHING: Array = np.zeros(400)
GOOD = Evidence(y=Y, challenger=PROBABILITY, recency=NOTHING, champion=PROBABILITY)


def judged(evidence: Evidence, policy: Policy = POLICY) -> PromotionVerdict:
    return judge("8", "7" if evidence.champion is not None else None, evidence, policy)


def failed(verdict: PromotionVerdict) -> list[str]:
    return [reason.rule for reason in verdict.reasons if reason.passed is False]


def test_a_challenger_that_is_no_worse_in_anything_passes_every_rule() -> None:
    verdict = judged(GOOD)
    assert verdict.passed
    assert [(reason.rule, reason.passed) for reason in verdict.reasons] == [
        ("at least 200 test rows", True),
        ("ROC-AUC beats recency alone by more than 0", True),
        ("expected calibration error at most 0.15", True),
        ("loses at most 0.005 ROC-AUC to the champion", True),
        ("log loss at most 0.005 above the champion's", True),
    ]
    assert (verdict.challenger, verdict.champion) == ("8", "7")


def first_rows(evidence: Evidence, count: int) -> Evidence:
    """`count` rows, spread evenly."""
    chosen = np.linspace(0, len(evidence.y) - 1, count).astype(int)
    champion = None if evidence.champion is None else evidence.champion[chosen]
    return Evidence(evidence.y[chosen], evidence.challenger[chosen], evidence.recency[chosen], champion)


@pytest.mark.parametrize(
    ("evidence", "rule"),
    [
        (first_rows(GOOD, 199), "at least 200 test rows"),
        (replace(GOOD, recency=Y + 0.0), "ROC-AUC beats recency alone by more than 0"),
        # The same order, so the same AUC, but far too low; the champion is just as bad.
        (
            replace(GOOD, challenger=PROBABILITY / 3, champion=PROBABILITY / 3),
            "expected calibration error at most 0.15",
        ),
        # The champion ranks perfectly, though its probabilities say little.
        (replace(GOOD, champion=np.where(Y == 1, 0.51, 0.49)), "loses at most 0.005 ROC-AUC to the champion"),
        # The challenger ranks as the champion does, but says less.
        (replace(GOOD, challenger=0.5 + 0.7 * (PROBABILITY - 0.5)), "log loss at most 0.005 above the champion's"),
    ],
    ids=["rows", "recency", "calibration", "ranking", "log loss"],
)
def test_each_rule_refuses_alone(evidence: Evidence, rule: str) -> None:
    verdict = judged(evidence)
    assert failed(verdict) == [rule]
    assert not verdict.passed


def test_exactly_two_hundred_rows_suffice() -> None:
    assert judged(first_rows(GOOD, 200)).passed


def test_a_challenger_that_only_ties_with_recency_is_refused() -> None:
    assert failed(judged(replace(GOOD, recency=PROBABILITY))) == ["ROC-AUC beats recency alone by more than 0"]


def test_the_lead_over_recency_must_exceed_what_the_policy_asks() -> None:
    wants_more = POLICY.model_copy(update={"minimum_auc_over_recency": 0.4})
    assert failed(judged(GOOD, wants_more)) == ["ROC-AUC beats recency alone by more than 0.4"]


def test_without_a_champion_that_is_told_and_not_judged() -> None:
    verdict = judged(replace(GOOD, champion=None))
    assert verdict.passed
    told = verdict.reasons[-1]
    assert (told.rule, told.passed, told.found) == ("no worse than the champion", None, "there is no champion yet")


@pytest.mark.parametrize("outcome", [0, 1])
def test_test_rows_of_one_outcome_decide_nothing(outcome: int) -> None:
    verdict = judged(replace(GOOD, y=np.full(400, outcome)))
    assert not verdict.passed
    assert [reason.found for reason in verdict.reasons] == ["all test rows have the same outcome"]


def test_the_reasons_tell_what_was_found() -> None:
    found = {reason.rule: reason.found for reason in judged(GOOD).reasons}
    assert found["at least 200 test rows"] == "400 rows"
    assert found["ROC-AUC beats recency alone by more than 0"] == "0.8300 against 0.5000"
    assert found["expected calibration error at most 0.15"] == "0.0000"


def test_a_verdict_without_any_judged_rule_does_not_pass() -> None:
    assert not PromotionVerdict("8", None, ()).passed


# -- the policy ------------------------------------------------------------------------------------------------------


def test_the_policy_in_the_repository_is_the_one_these_tests_judge_by(repository: Path) -> None:
    assert parse_policy((repository / "policy.yaml").read_text()) == POLICY


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("minimum_test_rows: 200\nmaximum_auc_lost: 0.1", "maximum_auc_lost"),  # an unknown key
        ("minimum_test_rows: 200", "maximum_ece"),  # a missing one
        ("maximum_ece: 2", "maximum_ece"),
        ("minimum_test_rows: many", "minimum_test_rows"),
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
SHOP = BuiltShop(labelled_frame([CUTOFF], users=400))
LINEAGE_FACTS = {
    "test_cutoffs": [CUTOFF.isoformat()],
    "train_cutoffs": ["2011-06-01T00:00:00+00:00"],
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


def registry_with(*, champion: bool) -> MemoryRegistry:
    registry = MemoryRegistry()
    if champion:
        registry.add("7", TRAINED, CHAMPION)
    registry.add("8", TRAINED, CHALLENGER)
    return registry


def stores(
    registry: MemoryRegistry, models: dict[str, Predict | Exception], in_service: str | None = None
) -> PromotionStores:
    def load(version: ModelVersion) -> ServedModel:
        model = models[version.version]
        if isinstance(model, Exception):
            raise model
        return ServedModel(version.version, "", "churn_v1", FEATURE_NAMES, 60, model)

    return PromotionStores(
        registry=registry,
        labels=SHOP,
        features=SHOP,
        load=load,
        ledger=MemoryLedger(),
        in_service=lambda: in_service,
        key=KEY,
    )


def beats(vectors: Array) -> Array:
    """An oracle: knows the labels of the shop's rows by their recency."""
    churned = dict(zip(SHOP.frame["days_since_last_activity"], SHOP.frame["churned"], strict=True))
    return np.array([0.9 if churned[idle] else 0.1 for idle in vectors[:, RECENCY]])


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


def test_a_champion_that_was_trained_on_the_test_rows_is_told() -> None:
    registry = registry_with(champion=True)
    late = json.dumps({**LINEAGE_FACTS, "train_cutoffs": ["2011-09-01T00:00:00+00:00"]})
    registry.add("7", {TAG_LINEAGE: late}, CHAMPION)
    done = promote(stores(registry, {"8": beats, "7": follows_recency}), POLICY, None)
    assert done.moved
    told = done.verdict.reasons[-1]
    assert (told.rule, told.passed) == ("the champion never saw the test rows", None)


def test_a_version_that_does_not_exist_is_not_ready() -> None:
    with pytest.raises(NotReady, match="version 99"):
        promote(stores(registry_with(champion=True), {}), POLICY, "99")


def test_without_a_challenger_there_is_nothing_to_promote() -> None:
    with pytest.raises(NotReady, match="no version carries the alias challenger"):
        promote(stores(MemoryRegistry(), {}), POLICY, None)


def test_a_champion_with_a_passed_verdict_is_not_promoted_again() -> None:
    registry = registry_with(champion=True)
    registry.versions["7"] = sealed(registry.versions["7"])
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

LENIENT = POLICY.model_copy(update={"allow_override": True})
WORSE: dict[str, Predict | Exception] = {"8": guesses, "7": follows_recency}


def test_a_policy_without_overrides_refuses_one_before_anything_is_judged() -> None:
    registry = registry_with(champion=True)
    with pytest.raises(Refused, match="the promotion policy allows no override"):
        promote(stores(registry, WORSE), POLICY, None, "I want it")
    assert set(registry.versions["8"].tags) == set(TRAINED)


def test_an_override_promotes_a_failed_version_and_is_sealed_and_recorded_in_the_persons_words() -> None:
    registry = registry_with(champion=True)
    given = stores(registry, WORSE)
    done = promote(given, LENIENT, None, "the old one loses money")
    assert (done.moved, done.verdict.passed, registry.aliases[CHAMPION]) == (True, False, "8")
    assert registry.versions["8"].tags[TAG_OVERRIDE] == "the old one loses money"
    assert json.loads(registry.versions["8"].tags[TAG_VERDICT])["override"] == "the old one loses money"
    assert given.ledger.read().entries[0].facts["override"] == "the old one loses money"
    assert admission(registry.get("8"), allow_override=True) == "overridden"
    assert admission(registry.get("8")) == "verdict_failed"


def test_a_version_that_passes_needs_no_override_and_gets_none() -> None:
    registry = registry_with(champion=True)
    done = promote(stores(registry, {"8": beats, "7": follows_recency}), LENIENT, None, "in case it fails")
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
        ("{}", "the version carries no lineage, so its test rows are unknown"),
        ('{"test_cutoffs": ["2001-01-01T00:00:00+00:00"], "horizon_days": 60}', "no labels at 2001-01-01"),
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

    registry = Failing()
    registry.add("8", {TAG_LINEAGE: LINEAGE}, CHALLENGER)
    with pytest.raises(ChurnError, match="does not answer"):
        promote(stores(registry, {"8": beats}), POLICY, None)
    assert registry.aliases == {CHALLENGER: "8"}


def test_only_eligible_users_are_judged() -> None:
    registry = registry_with(champion=False)
    shop = replace(SHOP, idle=frozenset(range(1, 101)))
    done = promote(replace(stores(registry, {"8": beats}), labels=shop), POLICY, None)
    assert done.verdict.reasons[0].found == "300 rows"
