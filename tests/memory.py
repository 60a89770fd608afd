"""Hand-written stand-ins for the stores, for tests of jobs. The suites of the real stores run over these too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from churn.core.admission import Admission
from churn.domain.ledger import Entry, History, Kind
from churn.domain.ports import Batches, ChampionSource, StagedModels
from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY, TIMESTAMP
from churn.domain.versions import MODEL_NAME, ModelVersion
from churn.errors import NotReady, Unavailable
from churn.jobs.stage import Following
from tests.exports import CUTOFF_NAME, HORIZON

SNAPSHOT_ID = "snapshot-1"


@dataclass
class BuiltShop:
    """A build of the snapshot `snapshot-1` in memory: features, labels and their manifest; the newest cutoff is online.

    `frame` as from `labelled_frame`. Users in `idle` are not eligible; `online` replaces rows of the online store,
    `by_feast` those that Feast reads there.
    """

    frame: pd.DataFrame
    idle: frozenset[UserId] = frozenset()
    horizon: timedelta = HORIZON
    online: dict[UserId, FeatureRow | None] = field(default_factory=dict)
    by_feast: dict[UserId, FeatureRow | None] = field(default_factory=dict)

    def cutoffs(self, snapshot_id: str = SNAPSHOT_ID) -> list[datetime]:
        stamps = sorted(self.frame[TIMESTAMP].unique()) if snapshot_id == SNAPSHOT_ID else []
        return [moment.to_pydatetime().replace(tzinfo=UTC) for moment in stamps]

    def labelled_cutoffs(self, horizon: timedelta, snapshot_id: str = SNAPSHOT_ID) -> list[datetime]:
        return self.cutoffs(snapshot_id) if horizon == self.horizon else []

    def manifest(self) -> dict[str, Any]:
        labels = {"horizon_days": self.horizon.days, "rows": len(self.frame), "sha256": "e" * 64}
        entry = {"snapshot_id": SNAPSHOT_ID, "sha256": "f" * 64, "dbt_hash": "d" * 64, "labels": labels}
        return {"cutoffs": {f"{cutoff:{CUTOFF_NAME}}": entry for cutoff in self.cutoffs()}}

    def read_labels(self, cutoffs: Sequence[datetime], horizon: timedelta) -> pd.DataFrame:
        if missing := [moment for moment in cutoffs if moment not in self.labelled_cutoffs(horizon)]:
            raise NotReady(f"no labels at {missing[0]:%Y-%m-%d}")
        rows = self.frame[self.frame[TIMESTAMP].isin([moment.replace(tzinfo=None) for moment in cutoffs])]
        eligible = ~rows[JOIN_KEY].isin(self.idle)
        return rows[[JOIN_KEY, "churned"]].assign(cutoff=rows[TIMESTAMP], eligible=eligible)

    def training_frame(self, entities: pd.DataFrame) -> pd.DataFrame:
        features = self.frame[[JOIN_KEY, TIMESTAMP, *FEATURE_NAMES]]
        return entities.merge(features, on=[JOIN_KEY, TIMESTAMP], how="left")

    def offline_rows(self, cutoff: datetime) -> pd.DataFrame:
        rows = self.frame[self.frame[TIMESTAMP] == cutoff.replace(tzinfo=None)]
        if rows.empty:
            raise NotReady(f"no features at {cutoff:%Y-%m-%d}", hint="churn build-features --cutoff …")
        return rows[[JOIN_KEY, TIMESTAMP, *FEATURE_NAMES]].sort_values(JOIN_KEY, ignore_index=True)

    def offline_batches(self, cutoff: datetime, size: int) -> Batches:
        rows = self.offline_rows(cutoff)
        return Batches(len(rows), (rows[start : start + size] for start in range(0, len(rows), size)))

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        newest = self.cutoffs()[-1]
        rows = self.offline_rows(newest).set_index(JOIN_KEY)[list(FEATURE_NAMES)]
        known = {user: FeatureRow(user, newest, tuple(map(float, vector))) for user, *vector in rows.itertuples()}
        return [{**known, **self.online}.get(user) for user in user_ids]

    def read_by_feast(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        return [self.by_feast.get(row.user_id, row) if row else None for row in self.read(user_ids)]

    def online_users(self) -> int:
        ids = {*self.offline_rows(self.cutoffs()[-1])[JOIN_KEY], *self.online}
        return sum(self.online.get(user, ...) is not None for user in ids)


@dataclass
class MemoryLedger:
    """Entries in memory, one second apart. `down` makes it take none."""

    entries: list[Entry] = field(default_factory=list)
    down: bool = False

    def note(self, kind: Kind, facts: Mapping[str, Any]) -> None:
        if self.down:
            raise Unavailable("the ledger cannot be used")
        number = len(self.entries) + 1
        at = datetime(2026, 11, 20, tzinfo=UTC) + timedelta(seconds=number)
        self.entries.append(Entry(number, at, kind, dict(facts)))

    def read(self) -> History:
        if self.down:
            raise Unavailable("the ledger cannot be used")
        return History(tuple(self.entries))

    def told(self, kind: Kind) -> list[Mapping[str, Any]]:
        """The facts of all entries of a kind."""
        return [entry.facts for entry in self.entries if entry.kind is kind]


@dataclass
class MemoryRegistry:
    """Versions and aliases in memory."""

    versions: dict[str, ModelVersion] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    files: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(
        self, version: str, tags: Mapping[str, str], alias: str = "", files: Mapping[str, bytes] | None = None
    ) -> None:
        """Registers a version, as training would."""
        self.versions[version] = ModelVersion(MODEL_NAME, version, f"run-{version}", f"models:/m-{version}", dict(tags))
        self.files[version] = files or {}
        if alias:
            self.aliases[alias] = version

    def by_alias(self, alias: str) -> ModelVersion | None:
        return self.get(self.aliases[alias]) if alias in self.aliases else None

    def get(self, version: str) -> ModelVersion:
        if version not in self.versions:
            raise NotReady(f"the registry does not know version {version} of {MODEL_NAME}")
        names = tuple(sorted(alias for alias, target in self.aliases.items() if target == version))
        return replace(self.versions[version], aliases=names)

    def set_alias(self, alias: str, version: str) -> None:
        self.aliases[alias] = self.get(version).version

    def tag(self, version: str, key: str, value: str) -> None:
        self.get(version).tags[key] = value

    def log_artifact(self, run_id: str, name: str, content: str) -> None:
        self.artifacts[run_id, name] = content

    def fetch(self, version: ModelVersion, folder: Path) -> None:
        for name, data in self.files[version.version].items():
            (folder / name).write_bytes(data)


def anybody(version: ModelVersion) -> Admission:
    """Admits every version: for tests of what comes after."""
    return Admission(True, "ok", "these tests are about staging")


def following(source: ChampionSource, cache: StagedModels) -> Following:
    """Staging without verdicts and with a ledger of its own."""
    return Following(source, cache, anybody, MemoryLedger())
