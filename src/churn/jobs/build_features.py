"""build-features: raw tables -> features and labels as of cutoffs (dbt) -> offline store -> online store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from churn.domain.ports import BuildReport, RawTables, Snapshot
from churn.errors import BadInput

Progress = Callable[[int, int], None]


class Builder(Protocol):
    """The warehouse."""

    def build(
        self, snapshot: Snapshot, cutoffs: Sequence[datetime], horizon: timedelta, *, on_progress: Progress
    ) -> BuildReport:
        """Build, test and export the cutoffs."""

    def cutoffs(self, snapshot_id: str) -> list[datetime]:
        """Cutoffs built from that snapshot, oldest first."""

    def only_builder(self) -> AbstractContextManager[None]:
        """Hold every other build off; raises Unavailable while another holds it."""


class OnlineWriter(Protocol):
    """The writing side of the feature store."""

    def apply(self) -> None: ...
    def materialize(self, cutoff: datetime, *, replace: bool = False) -> None: ...


@dataclass(frozen=True)
class Built:
    """What one build came to. `online_as_of` is the cutoff that the online store now serves."""

    report: BuildReport
    online_as_of: datetime


@dataclass(frozen=True)
class BuildStores:
    """What a build reads and writes. `online` opens the feature store for a snapshot's type of user ids."""

    raw: RawTables
    warehouse: Builder
    online: Callable[[Snapshot], OnlineWriter]


def build_features(
    stores: BuildStores,
    wanted: Callable[[Snapshot], Sequence[datetime]],
    horizon: timedelta,
    on_progress: Progress,
    *,
    replace_online: bool = False,
) -> Built:
    """Build the wanted cutoffs of the current snapshot and bring the newest exported one online.

    With `replace_online` also when it is older than what is online, or has far fewer users; else Refused is raised.
    """
    snapshot = stores.raw.current()
    cutoffs = sorted(set(wanted(snapshot)))
    if not cutoffs:
        raise BadInput("no cutoff to build", hint="Give --cutoff, or --from and --to.")
    # Held until the newest cutoff is online: of two builds the later must not be overwritten by the earlier.
    with stores.warehouse.only_builder():
        report = stores.warehouse.build(snapshot, cutoffs, horizon, on_progress=on_progress)
        store = stores.online(snapshot)
        store.apply()
        newest = max(stores.warehouse.cutoffs(snapshot.snapshot_id))
        store.materialize(newest, replace=replace_online)
    return Built(report, newest)
