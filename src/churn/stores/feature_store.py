"""The feature store: Feast for the definitions and the offline join; the online rows are our own (stores/online).

Traps of Feast that this file closes (each has a test in tests/stores/test_feature_store.py):
the response order of features is a set's order; `ttl` is not applied online; only an event time of 0 tells an
unknown user; the output of a join is not in input order.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

# Importing Feast switches prometheus_client to files shared by processes, for a server that we do not run: so the
# client is imported first, in the mode that this process asked for, and the environment put back.
_PROMETHEUS = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")
_asked_for = {name: os.environ.get(name) for name in _PROMETHEUS}
import prometheus_client  # noqa: F401  (for its effect: see above)
from feast import Entity, FeatureService, FeatureStore, FeatureView, FileSource, RepoConfig
from feast.errors import FeatureServiceNotFoundException

for _name, _value in _asked_for.items():
    if _value is None:
        os.environ.pop(_name, None)

from churn.domain.ports import Batches, UserIdType
from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE, FEATURE_VIEW, JOIN_KEY, TIMESTAMP
from churn.domain.windows import cutoff_name
from churn.errors import Mismatch, NotReady, Unavailable

logging.getLogger("feast.repo_config").setLevel(logging.ERROR)  # warns of a flag that does work: see feature_store.yaml
_EXPORTED = [JOIN_KEY, TIMESTAMP, *FEATURE_NAMES]
ROW_ID = "entity_row_id_of_churn"
REGISTRY_LOOKS = 4


@dataclass(frozen=True)
class FeatureStoreConfig:
    """Where one deployment's feature store lives. `redis_address` is host:port[,option=value…], or empty: SQLite."""

    repo: Path
    home: Path
    user_id_type: UserIdType
    ttl: timedelta
    redis_address: str = ""
    memory_limit_gb: float = 4.0


class OnlineRows(Protocol):
    """The online store; it lives in stores/online, which does without Feast."""

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]: ...
    def online_users(self) -> int: ...
    def materialize(self, export: Path, cutoff: datetime, *, replace: bool = False) -> object: ...


@dataclass
class Features:
    """The feature store of one deployment. Feast is opened lazily, one per process."""

    config: FeatureStoreConfig
    online: OnlineRows
    _store: FeatureStore | None = None
    _service: FeatureService | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # -- definitions -------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Register the definitions of feature_repo/, and make the online table where it is not yet."""
        self._feast_folder.mkdir(parents=True, exist_ok=True)
        with _registry_faults("apply the feature definitions"):
            self._open().apply(_definitions(self.config))
        self._service = None

    def _open(self) -> FeatureStore:
        if self._store is None:
            self._store = FeatureStore(config=_repo_config(self.config))
        return self._store

    @property
    def _feast_folder(self) -> Path:
        return self.config.home / "feast"

    # -- offline -----------------------------------------------------------------------------------------------

    def training_frame(self, entities: pd.DataFrame) -> pd.DataFrame:
        """Features as of each row's TIMESTAMP by Feast's point-in-time join.

        `entities`: (n, …) with JOIN_KEY, TIMESTAMP (naive UTC) and any further columns, which are kept.
        Returns n rows in the order of `entities`. Raises Mismatch when Feast returns another number of rows.
        """
        asked = entities.assign(**{ROW_ID: np.arange(len(entities))})
        with self._bounded_memory():
            job = self._open().get_historical_features(
                entity_df=asked, features=[f"{FEATURE_VIEW}:{name}" for name in FEATURE_NAMES]
            )
            vectors = _in_order(job.to_arrow(), len(entities))
        frame = pd.DataFrame(vectors, columns=list(FEATURE_NAMES), copy=False)
        for place, name in enumerate(entities.columns):  # concat would copy all features once more
            frame.insert(place, name, entities[name].array)
        return frame

    @contextmanager
    def _bounded_memory(self) -> Iterator[None]:
        """Feast joins in ibis' default DuckDB connection, which is unbounded unless told otherwise."""
        backend = ibis.duckdb.connect()
        spill = self.config.home / "tmp"
        spill.mkdir(parents=True, exist_ok=True)
        backend.raw_sql(f"SET memory_limit='{self.config.memory_limit_gb}GB'")
        backend.raw_sql(f"SET temp_directory='{str(spill).replace(chr(39), chr(39) * 2)}'")
        backend.raw_sql("SET preserve_insertion_order=false")
        ibis.set_backend(backend)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)  # ibis 12 on DuckDB 2
                yield
        finally:
            backend.disconnect()

    def offline_rows(self, cutoff: datetime) -> pd.DataFrame:
        """The exported rows of one cutoff: JOIN_KEY, TIMESTAMP and the features, ordered by user."""
        return pd.read_parquet(self._export(cutoff), columns=_EXPORTED)

    def offline_batches(self, cutoff: datetime, size: int) -> Batches:
        """The same rows, at most `size` at a time: memory does not grow with their number."""
        # Buffering ahead would read the whole file.
        file = pq.ParquetFile(self._export(cutoff), pre_buffer=False)
        batches = file.iter_batches(size, columns=_EXPORTED)
        return Batches(file.metadata.num_rows, (batch.to_pandas() for batch in batches))

    def _export(self, cutoff: datetime) -> Path:
        path = self.config.home / "offline" / "user_analytics" / f"{cutoff_name(cutoff)}.parquet"
        if not path.is_file():
            raise NotReady(f"no features at {cutoff:%Y-%m-%d}", hint="churn build-features --cutoff …")
        return path

    # -- online ------------------------------------------------------------------------------------------------

    def materialize(self, cutoff: datetime, *, replace: bool = False) -> None:
        """Make the online store hold the exported rows of `cutoff`, and nobody else; `replace`, whatever it held.

        Raises NotReady when the cutoff was not exported, Refused as OnlineStore.materialize does, Unavailable.
        """
        self.online.materialize(self._export(cutoff), cutoff, replace=replace)

    def online_users(self) -> int:
        """How many users the online store holds. Raises Unavailable, NotReady when it is empty."""
        return self.online.online_users()

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """Latest features per user, in order, None for an unknown one, as the service reads them.

        Raises Unavailable when the store does not answer, NotReady when it is empty.
        """
        return self.online.read(user_ids)

    def read_by_feast(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """The same by Feast's get_online_features, which others may use beside the service."""
        if not user_ids:
            return []
        with self._lock, _registry_faults("read features"):
            response = self._open().get_online_features(
                features=self._feature_service(), entity_rows={JOIN_KEY: list(user_ids)}
            )
        columns = response.to_dict(include_event_timestamps=True)
        stamps = columns[f"{FEATURE_NAMES[0]}__ts"]
        vectors = np.array([columns[name] for name in FEATURE_NAMES], dtype=np.float64).T
        return [_feature_row(*row) for row in zip(user_ids, stamps, vectors, strict=True)]

    def _feature_service(self) -> FeatureService:
        if self._service is None:
            self._service = _known_service(self._open())
        return self._service


def _in_order(joined: pa.Table, rows: int) -> NDArray[np.float64]:
    """The features of Feast's answer, (rows, f), by name and in the order asked; raises Mismatch if a row is lost.

    Columns are put in their places one by one: sorting a frame of a million rows takes longer than the join.
    """
    places = joined[ROW_ID].to_numpy()
    if len(places) != rows or not (np.bincount(places, minlength=rows) == 1).all():
        raise Mismatch(f"Feast returned {len(places)} rows for {rows}", hint="Run `churn verify`.")
    vectors = np.empty((rows, len(FEATURE_NAMES)), order="F")
    for column, name in enumerate(FEATURE_NAMES):
        vectors[places, column] = joined[name].to_numpy()
    return vectors


def _feature_row(user_id: UserId, stamp: int, vector: NDArray[np.float64]) -> FeatureRow | None:
    return None if stamp == 0 else FeatureRow(user_id, datetime.fromtimestamp(stamp, UTC), tuple(vector.tolist()))


def _known_service(store: FeatureStore) -> FeatureService:
    """The feature service; looked for a few times, because Feast rewrites its registry file in place."""
    for _ in range(REGISTRY_LOOKS):
        try:
            return store.get_feature_service(FEATURE_SERVICE)
        except FeatureServiceNotFoundException:
            time.sleep(0.1)
            store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast leaves it without types
    raise NotReady("the feature store is empty", hint="churn build-features")


def _repo_config(config: FeatureStoreConfig) -> RepoConfig:
    """feature_repo/feature_store.yaml with this deployment's folder, and Redis where the setting says so."""
    text = _project_file(config, "feature_store.yaml").read_text()
    raw: dict[str, Any] = yaml.safe_load(text.replace("${FEAST_CHURN_HOME}", str(config.home)))
    raw["online_store"]["redis_address"] = config.redis_address
    raw["materialization_config"] = raw.pop("materialization")
    return RepoConfig(**raw, repo_path=config.repo)


def _project_file(config: FeatureStoreConfig, name: str) -> Path:
    """A file of feature_repo/; raises NotReady when it is not there."""
    path = config.repo / name
    if not path.is_file():
        raise NotReady(f"{path} does not exist", hint="Set CHURN_PROJECT_DIR to the project's folder.")
    return path


def _definitions(config: FeatureStoreConfig) -> list[Any]:
    """The Feast objects that feature_repo/features.py defines for this deployment."""
    os.environ["FEAST_CHURN_HOME"] = str(config.home)
    os.environ["FEAST_CHURN_USER_ID_TYPE"] = config.user_id_type
    os.environ["FEAST_CHURN_TTL_DAYS"] = str(config.ttl.days)
    path = _project_file(config, "features.py")
    spec = importlib.util.spec_from_file_location("churn_feature_definitions", path)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kinds = (Entity, FeatureView, FeatureService, FileSource)
    return [value for value in vars(module).values() if isinstance(value, kinds)]


@contextmanager
def _registry_faults(what: str) -> Iterator[None]:
    """A registry that cannot be read or written becomes Unavailable; anything else is a bug and passes."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith("google.protobuf"):
            raise Unavailable(
                f"the feature store did not {what}: {type(error).__name__}",
                hint="Check that feast/registry.db in the deployment's folder is writable and has space.",
            ) from error
        raise
