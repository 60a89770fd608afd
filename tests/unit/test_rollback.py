"""Rollback: the service first, then whoever answers; what did not follow is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from churn.domain.ledger import Kind
from churn.errors import NotReady, Unavailable
from churn.jobs.rollback import RollbackParts, RolledBack, roll_back
from churn.stores.model_cache import ModelCache
from tests.memory import MemoryLedger
from tests.models import FakeRegistry, model_cache


def cache_with(tmp_path: Path, *versions: int) -> ModelCache[object]:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    for version in versions:
        cache.stage(registry.promote(version, str(version)), registry.fetch)
    return cache  # type: ignore[return-value]


def rolled_back(cache: ModelCache[object], ledger: MemoryLedger, aliases: list[str]) -> RolledBack:
    parts = RollbackParts(cache, ledger, aliases.append, lambda left, now: None)
    return roll_back(parts, why="it flags everybody", by="ada")


def test_the_version_before_serves_the_ledger_knows_and_the_alias_follows(tmp_path: Path) -> None:
    cache, ledger, aliases = cache_with(tmp_path, 1, 2), MemoryLedger(), list[str]()
    done = rolled_back(cache, ledger, aliases)
    assert (done.left.version, done.now.version, done.troubles) == ("2", "1", ())
    assert (cache.champion(), aliases) == (done.now, ["1"])
    assert ledger.told(Kind.ROLLBACK) == [{"version": "1", "left": "2", "why": "it flags everybody", "by": "ada"}]


@pytest.mark.fault("L9")
def test_a_registry_and_a_ledger_that_are_gone_hinder_nothing_and_are_told(tmp_path: Path) -> None:
    told = []

    def gone(version: str) -> None:
        assert told == [("2", "1")], "the operator need not wait for the registry"
        raise Unavailable("MLflow does not answer")

    cache = cache_with(tmp_path, 1, 2)
    parts = RollbackParts(
        cache, MemoryLedger(down=True), gone, lambda left, now: told.append((left.version, now.version))
    )
    done = roll_back(parts, why="", by="")
    champion = cache.champion()
    assert champion is not None and champion.version == "1"
    assert done.troubles == (
        "the ledger does not know of it: the ledger cannot be used",
        "the alias champion could not be moved, so other hosts still serve version 2"
        " (here it stays out until the alias has pointed elsewhere): MLflow does not answer",
    )


@pytest.mark.parametrize(
    ("versions", "found"),
    [((), "no version was in service before"), ((1,), "no version was in service before")],
)
def test_where_there_was_nothing_before_nothing_is_touched(
    tmp_path: Path, versions: tuple[int, ...], found: str
) -> None:
    cache, ledger, aliases = cache_with(tmp_path, *versions), MemoryLedger(), list[str]()
    before = cache.champion()
    with pytest.raises(NotReady, match=found):
        rolled_back(cache, ledger, aliases)
    assert (cache.champion(), ledger.entries, aliases) == (before, [], [])


def test_a_second_rollback_does_not_bring_back_what_the_first_took_away(tmp_path: Path) -> None:
    cache, ledger, aliases = cache_with(tmp_path, 1, 2), MemoryLedger(), list[str]()
    rolled_back(cache, ledger, aliases)
    with pytest.raises(NotReady, match="version 2 was rolled back already"):
        rolled_back(cache, ledger, aliases)
    assert aliases == ["1"]
