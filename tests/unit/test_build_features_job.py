"""build-features: which cutoffs are built, and which one comes online."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from churn.domain.ports import BuildReport, Snapshot
from churn.errors import BadInput, NotReady, Refused
from churn.jobs.build_features import BuildStores, Built, Progress, build_features
from tests.exports import HORIZON, at

MARCH, APRIL, MAY = at("2011-03-01"), at("2011-04-01"), at("2011-05-01")
SNAPSHOT = Snapshot("snapshot-1", Path("raw"), "string", at("2010-12-01"), at("2011-05-30"), at("2011-05-31"))


@dataclass
class Lakes:
    """Raw tables, warehouse and online store in one: keeps what was done, in order."""

    exported: list[datetime] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failing: str = ""
    held: bool = False

    def current(self) -> Snapshot:
        return SNAPSHOT

    def build(
        self, snapshot: Snapshot, cutoffs: Sequence[datetime], horizon: timedelta, *, on_progress: Progress
    ) -> BuildReport:
        self._do(f"build {', '.join(f'{each:%m-%d}' for each in cutoffs)}")
        self.exported = sorted({*self.exported, *cutoffs})
        on_progress(len(cutoffs), len(cutoffs))
        return BuildReport(tuple(cutoffs), dict.fromkeys(cutoffs, 1), (), 0.0, 0)

    def cutoffs(self, snapshot_id: str) -> list[datetime]:
        assert snapshot_id == SNAPSHOT.snapshot_id
        return self.exported

    @contextmanager
    def only_builder(self) -> Iterator[None]:
        self.held = True
        yield
        self.held = False

    def apply(self) -> None:
        self._do("apply")

    def materialize(self, cutoff: datetime, *, replace: bool = False) -> None:
        assert self.held, "another build might come between"
        self._do(f"materialize {cutoff:%m-%d}" + (" whatever is there" if replace else ""))

    def online(self, snapshot: Snapshot) -> Lakes:
        self._do(f"open for {snapshot.user_id_type} ids")
        return self

    def _do(self, what: str) -> None:
        if self.failing and what.startswith(self.failing):
            raise Refused(what)
        self.done.append(what)


def built(lakes: Lakes, wanted: Callable[[Snapshot], Sequence[datetime]]) -> Built:
    return build_features(BuildStores(lakes, lakes, lakes.online), wanted, HORIZON, lambda done, total: None)


def test_the_wanted_cutoffs_are_built_in_order_each_once_and_the_newest_comes_online() -> None:
    lakes = Lakes()
    result = built(lakes, lambda snapshot: [APRIL, MARCH, MAY, MARCH])
    assert lakes.done == ["build 03-01, 04-01, 05-01", "open for string ids", "apply", "materialize 05-01"]
    assert result.online_as_of == MAY


def test_building_an_older_cutoff_leaves_the_newest_exported_one_online() -> None:
    lakes = Lakes(exported=[MAY])
    assert built(lakes, lambda snapshot: [MARCH]).online_as_of == MAY
    assert lakes.done[-1] == "materialize 05-01"


def test_what_is_online_is_replaced_only_when_asked_for() -> None:
    lakes = Lakes()
    stores = BuildStores(lakes, lakes, lakes.online)
    build_features(stores, lambda snapshot: [MAY], HORIZON, lambda done, total: None, replace_online=True)
    assert lakes.done[-1] == "materialize 05-01 whatever is there"


def test_the_cutoffs_may_depend_on_the_snapshot() -> None:
    lakes = Lakes()
    assert built(lakes, lambda snapshot: [snapshot.log_end]).online_as_of == at("2011-05-31")


def test_no_cutoff_is_refused_and_nothing_is_done() -> None:
    lakes = Lakes()
    with pytest.raises(BadInput, match="no cutoff to build"):
        built(lakes, lambda snapshot: [])
    assert lakes.done == []


@pytest.mark.parametrize("step", ["build", "apply"])
def test_after_a_failed_step_nothing_comes_online(step: str) -> None:
    lakes = Lakes(failing=step)
    with pytest.raises(Refused):
        built(lakes, lambda snapshot: [MARCH])
    assert not any(done.startswith("materialize") for done in lakes.done)


def test_without_a_snapshot_nothing_is_built() -> None:
    class Empty(Lakes):
        def current(self) -> Snapshot:
            raise NotReady("no raw tables were ingested yet")

    lakes = Empty()
    with pytest.raises(NotReady):
        built(lakes, lambda snapshot: [MARCH])
    assert lakes.done == []
