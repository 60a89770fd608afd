"""The shapes of the lakes that jobs read and write. Stores implement them; jobs know nothing else of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from churn.domain.access import ApiKey
from churn.domain.artifacts import Pointer, StagingStatus
from churn.domain.ledger import History, Kind
from churn.domain.predictions import FeatureRow, UserId
from churn.domain.records import LogState, PredictionRecord
from churn.domain.versions import ModelVersion, TrainingRecord
from churn.domain.windows import cutoff_name

if TYPE_CHECKING:
    import pandas as pd

UserIdType = Literal["integer", "string"]


@dataclass(frozen=True)
class Snapshot:
    """A dated, fingerprinted, never changed copy of the raw tables."""

    snapshot_id: str
    folder: Path
    user_id_type: UserIdType
    first_event: datetime
    last_event: datetime
    log_end: datetime
    manifest: dict[str, Any] = field(default_factory=dict)


class RawTables(Protocol):
    def current(self) -> Snapshot:
        """The newest snapshot; raises NotReady when none was ingested."""


class LabelledUsers(RawTables, Protocol):
    """Raw tables that can also say what kind of user each is, for reports by kind; never for features."""

    def user_labels(self, snapshot: Snapshot, column: str) -> dict[UserId, str]:
        """Each user's value of a column of `users`, as the snapshot has it; users without one are left out."""


class OnlineFeatures(Protocol):
    """Reads of the online store. Results keep the order and the duplicates of `user_ids`; None = unknown user."""

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """Raises Unavailable when the store does not answer."""


# -- staging and the prediction log -------------------------------------------------------------------------------


class ChampionSource(Protocol):
    """The registry, as far as staging needs it."""

    def champion(self) -> ModelVersion | None:
        """The version behind the alias, None when there is none. Raises Unavailable."""

    def fetch(self, version: ModelVersion, folder: Path) -> None:
        """Downloads the version's artifact files into `folder`. Raises Unavailable."""


class StagedModels(Protocol):
    """The local cache of verified versions, as far as staging needs it."""

    def stage(self, version: ModelVersion, fetch: Callable[[ModelVersion, Path], None]) -> Pointer:
        """The version in the cache, and the champion pointer on it, unless it is held. Raises Refused, Unavailable."""

    def champion(self) -> Pointer | None:
        """Where the champion pointer points now."""

    def record_status(self, status: StagingStatus) -> None:
        """Keeps how staging goes, for the service to tell. Raises Unavailable."""

    def woken(self) -> int:
        """Another number each time that somebody wants a look at the registry now. Raises Unavailable."""


class RollbackCache(Protocol):
    """The local cache, as far as a rollback needs it."""

    def roll_back(self) -> tuple[Pointer, Pointer]:
        """The champion pointer on its previous version: (left, now in service).

        Raises NotReady, Refused, Unavailable.
        """


class Ledger(Protocol):
    """The append-only record of verdicts, aliases seen, take-ups and rollbacks."""

    def note(self, kind: Kind, facts: Mapping[str, Any]) -> None:
        """One more entry, on disk on return. Raises Unavailable."""

    def read(self) -> History:
        """Every entry, oldest first. Raises Unavailable."""


class PredictionSink(Protocol):
    """Where the service puts its prediction records."""

    def append(self, records: Sequence[PredictionRecord]) -> None:
        """All records are on disk on return, or within a second if the log is buffered; else raises Unavailable."""

    def state(self) -> LogState:
        """How the log fares."""

    def close(self) -> None:
        """Brings what waits to the disk; raises Unavailable."""


# -- training and promotion ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batches:
    """So many rows, in frames that are read one after the other."""

    rows: int
    frames: Iterator[pd.DataFrame]


class OfflineFeatures(Protocol):
    """The offline feature store."""

    def training_frame(self, entities: pd.DataFrame) -> pd.DataFrame:
        """`entities` (n rows with user id and event timestamp) joined with their features, in the same order."""

    def offline_rows(self, cutoff: datetime) -> pd.DataFrame:
        """All users' features at one exported cutoff, ordered by user; raises NotReady when it was not built."""

    def offline_batches(self, cutoff: datetime, size: int) -> Batches:
        """The same rows, at most `size` at a time; the last frame may be smaller, and others too."""


class Labels(Protocol):
    """Labels of matured cutoffs, and what the exported features came from."""

    def labelled_cutoffs(self, horizon: timedelta, snapshot_id: str) -> list[datetime]:
        """Cutoffs built from that snapshot, with labels for this horizon, oldest first."""

    def read_labels(self, cutoffs: Sequence[datetime], horizon: timedelta) -> pd.DataFrame:
        """(user_id, cutoff, eligible, churned) of these cutoffs."""

    def manifest(self) -> dict[str, Any]:
        """Per exported cutoff: snapshot id, rows, sha256, dbt hash."""


class ModelRegistry(Protocol):
    """Runs, versions and aliases."""

    def record(self, training: TrainingRecord) -> ModelVersion:
        """Log the run, register the version, set the alias challenger."""

    def by_alias(self, alias: str) -> ModelVersion | None:
        """The version an alias points at; None when there is none. Raises Unavailable."""

    def get(self, version: str) -> ModelVersion:
        """One version; raises NotReady when it does not exist."""

    def set_alias(self, alias: str, version: str) -> None:
        """Point the alias at the version."""

    def tag(self, version: str, key: str, value: str) -> None:
        """Set one tag of a version."""

    def log_artifact(self, run_id: str, name: str, content: str) -> None:
        """Keep a text under `name` beside the run that made a version. Raises Unavailable."""

    def fetch(self, version: ModelVersion, folder: Path) -> None:
        """Copy the version's served files into `folder`."""


# -- monitoring ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """`[since, until)` of the prediction log, in UTC. Its name is the name of its report."""

    since: datetime
    until: datetime

    @property
    def name(self) -> str:
        return f"{cutoff_name(self.since)}--{cutoff_name(self.until)}"


@dataclass(frozen=True)
class Pictures:
    """What Evidently drew: a whole HTML document and its own JSON, or neither. `error` says what it stumbled over."""

    html: str = ""
    json: str = ""
    left_out: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class ReportPaths:
    html: Path
    json: Path


class PredictionReader(Protocol):
    """The prediction log, as far as monitoring needs it."""

    def read(self, since: datetime, until: datetime) -> tuple[pd.DataFrame, int]:
        """Records with since <= predicted_at < until, one float column a feature; and how many lines were damaged."""


class ReferenceSource(Protocol):
    """The registry, as far as monitoring needs it."""

    def champion_reference(self) -> tuple[pd.DataFrame, str, bool]:
        """The champion's reference rows, its version, and whether their digest is as stored.

        Raises NotReady when there is no champion, Unavailable when the registry does not answer.
        """


class DriftReports(Protocol):
    """Where drift reports are drawn and kept."""

    def draw(self, current: pd.DataFrame, reference: pd.DataFrame) -> Pictures:
        """Pictures of two sets of rows with the same float columns. Never raises: what went wrong is in the answer."""

    def write(self, window: Window, page: str, document: Mapping[str, Any], pictures: Pictures) -> ReportPaths:
        """Puts the report of `window` in place, whole, replacing an older one. Raises Unavailable."""


# -- access ----------------------------------------------------------------------------------------------------


class ApiKeys(Protocol):
    """Where the keys are known that open the service."""

    def read(self) -> Sequence[ApiKey]:
        """Every key, revoked ones too. Raises BadInput, Unavailable."""


# -- the simulator ---------------------------------------------------------------------------------------------


class ShopFiles(Protocol):
    """Where a simulated shop is kept."""

    def write(self, tables: Mapping[str, Any]) -> None:
        """Puts every table (pyarrow, by name) in place, replacing an older simulated shop. Raises BadInput."""


# -- the warehouse ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildReport:
    """What one build of features and labels came to. `rows` counts users per cutoff; `labelled` has labels."""

    cutoffs: tuple[datetime, ...]
    rows: dict[datetime, int]
    labelled: tuple[datetime, ...]
    seconds: float
    tests_passed: int


# -- ingest ---------------------------------------------------------------------------------------------------------


# A source table whose file was not UTF-8 carries its encoding under this key of its schema metadata.
ENCODING_NOTE = b"churn.encoding"


class RawTablesWriter(RawTables, Protocol):
    """The writing side of the raw tables; tables are Arrow tables."""

    def read_source(self, path: Path) -> Any:
        """A file of the user's as an Arrow table. Raises BadInput, naming the file."""

    def write(self, tables: Mapping[str, Any], quarantine: Mapping[str, Any], manifest: Mapping[str, Any]) -> Snapshot:
        """A new current snapshot, or the one that has this very content. Raises Unavailable."""
