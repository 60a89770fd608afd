"""The side process: it brings the champion here, and no failure ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from churn.core.admission import Admission, admit
from churn.core.scoring import ServedModel
from churn.domain.artifacts import Refusal, StagingStatus
from churn.domain.ledger import Kind
from churn.domain.schema import FEATURE_SERVICE
from churn.domain.versions import MODEL_FILE, MODEL_NAME, TAG_OVERRIDE, ModelVersion
from churn.errors import NotReady
from churn.jobs.stage import Following, Staged, StageOutcome, refusals, run, stage_champion
from churn.stores.model_cache import ModelCache
from tests.memory import MemoryLedger, following
from tests.models import KEY, FakeRegistry, artifact_files, calibrated_forest, judged, model_cache, version_of


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache[ServedModel]:
    return model_cache(tmp_path)


def test_a_new_champion_is_staged_and_then_unchanged(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()
    version = registry.promote(seed=1, version="1")
    assert stage_champion(following(registry, cache)) == StageOutcome(Staged.STAGED, version)
    assert stage_champion(following(registry, cache)) == StageOutcome(Staged.UNCHANGED, version)
    pointer = cache.champion()
    assert pointer is not None and pointer.key == ("1", version.digest)


def test_without_a_champion_nothing_happens(cache: ModelCache[ServedModel]) -> None:
    assert stage_champion(following(FakeRegistry(), cache)) == StageOutcome(Staged.NO_CHAMPION)
    assert cache.champion() is None


@pytest.mark.fault("L4")
def test_a_lost_alias_leaves_the_champion(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()
    registry.promote(seed=1, version="1")
    stage_champion(following(registry, cache))
    registry.alias = None
    assert stage_champion(following(registry, cache)).kind is Staged.NO_CHAMPION
    assert cache.champion() is not None


@pytest.mark.fault("L5")
def test_a_registry_that_is_down_is_an_outcome(cache: ModelCache[ServedModel]) -> None:
    outcome = stage_champion(following(FakeRegistry(down=True), cache))
    assert (outcome.kind, outcome.reason) == (Staged.FAILED, "unavailable")


@pytest.mark.fault("L4")
def test_a_version_deleted_during_the_look_is_an_outcome(cache: ModelCache[ServedModel]) -> None:
    class Vanishing(FakeRegistry):
        def fetch(self, version: ModelVersion, folder: Path) -> None:
            raise NotReady("the version is gone")

    registry = Vanishing()
    registry.promote(seed=1, version="1")
    assert stage_champion(following(registry, cache)).kind is Staged.FAILED


def broken_registry() -> FakeRegistry:
    registry = FakeRegistry()
    good = registry.promote(seed=1, version="2")
    registry.alias = replace(good, tags=version_of(artifact_files(2)).tags)
    return registry


def test_a_refused_version_is_an_outcome_with_its_reason(cache: ModelCache[ServedModel]) -> None:
    outcome = stage_champion(following(broken_registry(), cache))
    assert (outcome.kind, outcome.reason) == (Staged.FAILED, "digest")


@pytest.mark.fault("L1")
def test_a_refused_version_is_not_downloaded_at_every_look(cache: ModelCache[ServedModel]) -> None:
    registry, memory = broken_registry(), refusals()
    outcomes = [stage_champion(following(registry, cache), memory).kind for _ in range(5)]
    assert outcomes == [Staged.FAILED, *[Staged.WAITING] * 4]
    assert registry.fetches == 1


@pytest.mark.fault("M1")
def test_a_corrected_alias_is_taken_up_while_a_refused_version_waits(cache: ModelCache[ServedModel]) -> None:
    registry, memory = broken_registry(), refusals()
    stage_champion(following(registry, cache), memory)
    registry.promote(seed=3, version="3")
    assert stage_champion(following(registry, cache), memory).kind is Staged.STAGED


@dataclass
class Looks:
    """Runs the loop for some looks; `between` is called before each, with its number from 1."""

    parts: Following
    between: Callable[[int], None]
    told: list[StageOutcome] = field(default_factory=list)
    statuses: list[StagingStatus] = field(default_factory=list)

    def run(self, looks: int) -> None:
        stop, count = threading.Event(), 0
        registry, cache = self.parts.source, self.parts.cache
        assert isinstance(registry, FakeRegistry) and isinstance(cache, ModelCache)
        champion = registry.champion

        def counted() -> ModelVersion | None:
            nonlocal count
            status = cache.status()
            if status is not None:
                self.statuses.append(status)
            count += 1
            if count >= looks:
                stop.set()
            self.between(count)
            return champion()

        registry.champion = counted  # type: ignore[method-assign]
        try:
            run(self.parts, 0.001, stop, self.told.append)
        finally:
            registry.champion = champion  # type: ignore[method-assign]
        status = cache.status()
        assert status is not None
        self.statuses.append(status)


@pytest.mark.fault("L5")
def test_the_loop_follows_the_alias_and_keeps_its_status(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()

    def between(look: int) -> None:
        registry.down = look == 3
        if look in (2, 4):
            registry.promote(seed=look, version=str(look))

    looks = Looks(following(registry, cache), between)
    looks.run(5)
    assert [each.kind for each in looks.told] == [
        Staged.NO_CHAMPION,
        Staged.STAGED,
        Staged.FAILED,
        Staged.STAGED,
    ]
    found = [(s.champion_version, s.failing, s.failures, s.last_failure_reason) for s in looks.statuses]
    assert found == [
        (None, False, 0, None),
        ("2", False, 0, None),
        ("2", True, 1, "unavailable"),
        ("4", False, 1, "unavailable"),
        ("4", False, 1, "unavailable"),
    ]
    last = looks.statuses[-1]
    assert last.last_success_at == last.last_look_at


@pytest.mark.fault("L5")
def test_the_loop_outlives_a_bug_in_the_registrys_client(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()

    def between(look: int) -> None:
        if look == 1:
            raise KeyError("a bug")
        registry.promote(seed=1, version="1")

    looks = Looks(following(registry, cache), between)
    looks.run(2)
    assert [(each.kind, each.reason) for each in looks.told] == [(Staged.FAILED, "unexpected"), (Staged.STAGED, "")]


@pytest.mark.fault("L3")
def test_a_model_that_does_not_answer_its_golden_rows_never_becomes_champion(cache: ModelCache[ServedModel]) -> None:
    import skops.io

    registry = FakeRegistry()
    registry.promote(seed=1, version="1")
    stage_champion(following(registry, cache))
    registry.files["2"] = {**artifact_files(1), MODEL_FILE: skops.io.dumps(calibrated_forest(2))}
    registry.alias = version_of(registry.files["2"], "2")
    outcome = stage_champion(following(registry, cache))
    assert (outcome.kind, outcome.reason) == (Staged.FAILED, "golden")
    champion = cache.champion()
    assert champion is not None and champion.version == "1"


# -- who may be staged -----------------------------------------------------------------------------------------------


@dataclass
class Shop:
    """A registry whose versions carry verdicts, and a side process that asks for them."""

    registry: FakeRegistry
    cache: ModelCache[ServedModel]
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    allow_override: bool = False

    @property
    def parts(self) -> Following:
        def admits(version: ModelVersion) -> Admission:
            return admit(
                version,
                KEY,
                model_name=MODEL_NAME,
                feature_service=FEATURE_SERVICE,
                allow_override=self.allow_override,
            )

        return Following(self.registry, self.cache, admits, self.ledger)

    def set_alias(self, seed: int, version: str) -> ModelVersion:
        """One click in the UI: a registered version, whatever its verdict."""
        self.registry.alias = judged(self.registry.promote(seed, version), passed=False)
        return self.registry.alias

    def judge(self) -> None:
        assert self.registry.alias is not None
        self.registry.alias = judged(self.registry.alias)

    def look(self, times: int = 1, between: Callable[[int], None] = lambda look: None) -> StagingStatus:
        looks = Looks(self.parts, between)
        looks.run(times)
        return looks.statuses[-1]

    def serves(self) -> str | None:
        champion = self.cache.champion()
        return champion.version if champion else None


@pytest.fixture
def shop(cache: ModelCache[ServedModel]) -> Shop:
    """Version 1 is judged, and staged."""
    made = Shop(FakeRegistry(), cache)
    made.set_alias(1, "1")
    made.judge()
    made.look()
    assert made.serves() == "1"
    return made


@pytest.mark.fault("M3")
def test_a_version_without_a_passed_verdict_is_not_even_downloaded_and_the_status_says_why(shop: Shop) -> None:
    shop.set_alias(2, "2")
    status = shop.look()
    assert (shop.serves(), shop.registry.fetches) == ("1", 1)
    assert (status.champion_version, status.failing, status.last_failure_reason) == ("2", True, "verdict_failed")
    assert status.refused == Refusal("2", "verdict_failed", "its verdict is a refusal")


def test_a_verdict_that_is_added_later_lets_the_version_in_at_the_next_look(shop: Shop) -> None:
    shop.set_alias(2, "2")
    shop.look(2)
    shop.judge()
    status = shop.look()
    assert (shop.serves(), status.refused, status.failing) == ("2", None, False)


@pytest.mark.fault("L5")
def test_an_outage_after_a_refusal_does_not_make_it_forgotten(shop: Shop) -> None:
    shop.set_alias(2, "2")

    def between(look: int) -> None:
        shop.registry.down = look == 2

    status = shop.look(2, between)
    assert (status.last_failure_reason, status.refused) == (
        "unavailable",
        Refusal("2", "verdict_failed", "its verdict is a refusal"),
    )


def test_an_artifact_that_a_guard_refuses_is_told_like_a_missing_verdict(shop: Shop) -> None:
    good = shop.registry.promote(seed=2, version="2")
    shop.registry.alias = judged(replace(good, tags=version_of(artifact_files(3)).tags))
    status = shop.look(3)
    assert status.refused is not None and (status.refused.version, status.refused.reason) == ("2", "digest")
    assert shop.ledger.told(Kind.REFUSED) == [{"version": "2", "reason": "digest", "found": status.refused.found}]


def test_a_persons_override_is_staged_only_where_the_policy_allows_it_and_recorded_in_their_words(shop: Shop) -> None:
    version = shop.set_alias(2, "2")
    shop.registry.alias = replace(version, tags={**version.tags, TAG_OVERRIDE: "the old one loses money"})
    assert shop.look().refused == Refusal(
        "2", "verdict_failed", "its verdict is a refusal, and the policy allows no override"
    )
    shop.allow_override = True
    shop.look(3)
    assert shop.serves() == "2"
    assert shop.ledger.told(Kind.OVERRIDE) == [{"version": "2", "why": "the old one loses money"}]


# -- what the ledger hears -------------------------------------------------------------------------------------------


def told(ledger: MemoryLedger) -> list[tuple[str, str | None]]:
    return [(entry.kind.value, entry.facts["version"]) for entry in ledger.entries]


@pytest.mark.fault("M5")
def test_the_ledger_hears_each_alias_move_and_each_refusal_once_also_after_a_restart(shop: Shop) -> None:
    shop.set_alias(2, "2")
    shop.look(3)
    shop.look(3)  # another process: it reads what the one before it told
    assert told(shop.ledger) == [("alias_seen", "1"), ("alias_seen", "2"), ("refused", "2")]


def test_a_version_refused_again_after_another_one_is_told_again(shop: Shop) -> None:
    first = shop.registry.alias
    second = shop.set_alias(2, "2")

    def between(look: int) -> None:
        shop.registry.alias = first if look == 2 else second

    shop.look(3, between)
    assert told(shop.ledger)[1:] == [
        ("alias_seen", "2"),
        ("refused", "2"),
        ("alias_seen", "1"),
        ("alias_seen", "2"),
        (
            "refused",
            "2",
        ),
    ]


def test_another_reason_for_the_same_version_is_told_too(shop: Shop) -> None:
    version = shop.set_alias(2, "2")

    def between(look: int) -> None:
        shop.registry.alias = version if look == 1 else replace(version, tags={**version.tags, "churn.verdict": "x"})

    shop.look(4, between)
    assert [facts["reason"] for facts in shop.ledger.told(Kind.REFUSED)] == ["verdict_failed", "verdict_unreadable"]


def test_a_lost_alias_is_told_and_a_registry_that_is_down_is_not(shop: Shop) -> None:
    def between(look: int) -> None:
        shop.registry.down = look == 2
        shop.registry.alias = None

    shop.look(3, between)
    assert told(shop.ledger) == [("alias_seen", "1"), ("alias_seen", None)]


def test_a_ledger_that_takes_nothing_hinders_no_staging_and_hears_it_later(shop: Shop) -> None:
    shop.set_alias(2, "2")
    shop.judge()

    def between(look: int) -> None:
        shop.ledger.down = look < 3

    shop.look(3, between)
    assert shop.serves() == "2"
    assert told(shop.ledger) == [("alias_seen", "1"), ("alias_seen", "2")]


# -- a version that was rolled back from -----------------------------------------------------------------------------


@pytest.mark.fault("L9")
def test_a_version_that_was_rolled_back_from_stays_out_until_the_alias_has_pointed_elsewhere(shop: Shop) -> None:
    first = shop.registry.alias
    shop.set_alias(2, "2")
    shop.judge()
    second = shop.registry.alias
    shop.look()
    shop.cache.roll_back()
    status = shop.look(3)
    assert (shop.serves(), status.held_version, status.failing) == ("1", "2", False)
    shop.registry.alias = first
    assert shop.look().held_version is None
    shop.registry.alias = second
    shop.look()
    assert shop.serves() == "2"
