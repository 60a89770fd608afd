"""The side process: it brings the champion here, and no failure ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from churn.core.scoring import ServedModel
from churn.domain.artifacts import StagingStatus
from churn.domain.versions import MODEL_FILE, ModelVersion
from churn.errors import NotReady
from churn.jobs.stage import Staged, StageOutcome, refusals, run, stage_champion
from churn.stores.model_cache import ModelCache
from tests.models import FakeRegistry, artifact_files, calibrated_forest, model_cache, version_of


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache[ServedModel]:
    return model_cache(tmp_path)


def test_a_new_champion_is_staged_and_then_unchanged(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()
    version = registry.promote(seed=1, version="1")
    assert stage_champion(registry, cache) == StageOutcome(Staged.STAGED, version)
    assert stage_champion(registry, cache) == StageOutcome(Staged.UNCHANGED, version)
    pointer = cache.champion()
    assert pointer is not None and pointer.key == ("1", version.digest)


def test_without_a_champion_nothing_happens(cache: ModelCache[ServedModel]) -> None:
    assert stage_champion(FakeRegistry(), cache) == StageOutcome(Staged.NO_CHAMPION)
    assert cache.champion() is None


def test_a_lost_alias_leaves_the_champion(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()
    registry.promote(seed=1, version="1")
    stage_champion(registry, cache)
    registry.alias = None
    assert stage_champion(registry, cache).kind is Staged.NO_CHAMPION
    assert cache.champion() is not None


def test_a_registry_that_is_down_is_an_outcome(cache: ModelCache[ServedModel]) -> None:
    outcome = stage_champion(FakeRegistry(down=True), cache)
    assert (outcome.kind, outcome.reason) == (Staged.FAILED, "unavailable")


def test_a_version_deleted_during_the_look_is_an_outcome(cache: ModelCache[ServedModel]) -> None:
    class Vanishing(FakeRegistry):
        def fetch(self, version: ModelVersion, folder: Path) -> None:
            raise NotReady("the version is gone")

    registry = Vanishing()
    registry.promote(seed=1, version="1")
    assert stage_champion(registry, cache).kind is Staged.FAILED


def broken_registry() -> FakeRegistry:
    registry = FakeRegistry()
    good = registry.promote(seed=1, version="2")
    registry.alias = replace(good, tags=version_of(artifact_files(2)).tags)
    return registry


def test_a_refused_version_is_an_outcome_with_its_reason(cache: ModelCache[ServedModel]) -> None:
    outcome = stage_champion(broken_registry(), cache)
    assert (outcome.kind, outcome.reason) == (Staged.FAILED, "digest")


def test_a_refused_version_is_not_downloaded_at_every_look(cache: ModelCache[ServedModel]) -> None:
    registry, memory = broken_registry(), refusals()
    outcomes = [stage_champion(registry, cache, memory).kind for _ in range(5)]
    assert outcomes == [Staged.FAILED, *[Staged.WAITING] * 4]
    assert registry.fetches == 1


def test_a_corrected_alias_is_taken_up_while_a_refused_version_waits(cache: ModelCache[ServedModel]) -> None:
    registry, memory = broken_registry(), refusals()
    stage_champion(registry, cache, memory)
    registry.promote(seed=3, version="3")
    assert stage_champion(registry, cache, memory).kind is Staged.STAGED


@dataclass
class Looks:
    """Runs the loop for some looks; `between` is called before each, with its number from 1."""

    registry: FakeRegistry
    cache: ModelCache[ServedModel]
    between: Callable[[int], None]
    told: list[StageOutcome] = field(default_factory=list)
    statuses: list[StagingStatus] = field(default_factory=list)

    def run(self, looks: int) -> None:
        stop, count = threading.Event(), 0
        champion = self.registry.champion

        def counted() -> ModelVersion | None:
            nonlocal count
            status = self.cache.status()
            if status is not None:
                self.statuses.append(status)
            count += 1
            if count >= looks:
                stop.set()
            self.between(count)
            return champion()

        self.registry.champion = counted  # type: ignore[method-assign]
        run(self.registry, self.cache, 0.001, stop, self.told.append)
        status = self.cache.status()
        assert status is not None
        self.statuses.append(status)


def test_the_loop_follows_the_alias_and_keeps_its_status(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()

    def between(look: int) -> None:
        registry.down = look == 3
        if look in (2, 4):
            registry.promote(seed=look, version=str(look))

    looks = Looks(registry, cache, between)
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


def test_the_loop_outlives_a_bug_in_the_registrys_client(cache: ModelCache[ServedModel]) -> None:
    registry = FakeRegistry()

    def between(look: int) -> None:
        if look == 1:
            raise KeyError("a bug")
        registry.promote(seed=1, version="1")

    looks = Looks(registry, cache, between)
    looks.run(2)
    assert [(each.kind, each.reason) for each in looks.told] == [(Staged.FAILED, "unexpected"), (Staged.STAGED, "")]


def test_a_model_that_does_not_answer_its_golden_rows_never_becomes_champion(cache: ModelCache[ServedModel]) -> None:
    import skops.io

    registry = FakeRegistry()
    registry.promote(seed=1, version="1")
    stage_champion(registry, cache)
    registry.files["2"] = {**artifact_files(1), MODEL_FILE: skops.io.dumps(calibrated_forest(2))}
    registry.alias = version_of(registry.files["2"], "2")
    outcome = stage_champion(registry, cache)
    assert (outcome.kind, outcome.reason) == (Staged.FAILED, "golden")
    champion = cache.champion()
    assert champion is not None and champion.version == "1"
