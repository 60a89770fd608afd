"""The feature store: the only importer of Feast, offline and online.

Traps of Feast that this file closes (each has a test in tests/stores/test_feature_store.py):
the response order of features is a set's order; `ttl` is not applied online; an unknown user reads as PRESENT in
Redis, so only an event time of 0 tells; the output of a join is not in input order; SQLite stores local epochs;
materialize only adds and replaces, so a user who left the offline store would stay online.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sqlite3
import struct
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any, Literal

os.environ["TZ"] = "UTC"  # Feast's SQLite store keeps naive local epochs: written and read under UTC only
time.tzset()

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
from feast.errors import FeastExtrasDependencyImportError, FeastModuleImportError, FeatureServiceNotFoundException
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

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
REDIS_OPTIONS = "socket_timeout=0.2,socket_connect_timeout=0.2,retry=null"  # the defaults hang for over 100 s
STORE_FAULTS = (sqlite3.Error, OSError)
REGISTRY_LOOKS = 4
KEY_VERSION = 3  # entity_key_serialization_version of feature_store.yaml
KEY_PREFIX = serialize_entity_key_prefix([JOIN_KEY], KEY_VERSION)
REDIS_BATCH = 1000  # keys a round trip: well inside the socket's 0.2 s


@dataclass(frozen=True)
class FeatureStoreConfig:
    """Where one deployment's feature store lives. `redis_address` is host:port[,option=value…]."""

    repo: Path
    home: Path
    user_id_type: UserIdType
    ttl: timedelta
    online_store: Literal["sqlite", "redis"] = "sqlite"
    redis_address: str = ""
    memory_limit_gb: float = 4.0


@dataclass
class Features:
    """Feast of one deployment; opened lazily, one per process. Reads are serialised by a lock (one connection)."""

    config: FeatureStoreConfig
    _store: FeatureStore | None = None
    _service: FeatureService | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # -- definitions -------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Register the definitions of feature_repo/ and set the online file to write-ahead logging."""
        self._feast_folder.mkdir(parents=True, exist_ok=True)
        with _store_faults("apply the feature definitions"):
            self._open().apply(_definitions(self.config))
        if self.config.online_store == "sqlite":
            with self._sqlite() as connection:
                connection.execute("PRAGMA journal_mode=WAL")
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

    # -- offline to online -------------------------------------------------------------------------------------

    def materialize(self, cutoff: datetime) -> None:
        """Make the online store hold the exported rows of `cutoff`, and nobody else.

        First Feast's materialize over that instant, then the removal of users without a row: readers find every
        user of the cutoff all the time. Raises NotReady when the cutoff was not exported, Unavailable.
        """
        export = self._export(cutoff)
        with _store_faults("materialize"), self._bounded_memory(), redirect_stdout(StringIO()):
            self._open().materialize(cutoff - timedelta(seconds=1), cutoff + timedelta(seconds=1), [FEATURE_VIEW])
        with _store_faults("remove users who left"):
            users = pd.read_parquet(export, columns=[JOIN_KEY])[JOIN_KEY].tolist()
            gone = self._online_keys() - _entity_keys(users, self.config.user_id_type)
            self._remove(gone)

    def online_users(self) -> int:
        """How many users the online store holds. Raises Unavailable, NotReady when nothing was ever applied."""
        with self._lock, _store_faults("count users"):
            self._feature_service()
            return len(self._online_keys())

    def _online_keys(self) -> set[bytes]:
        """Entity keys of all users online."""
        if self.config.online_store == "redis":
            return _redis_keys(self._redis(), self._project)
        with self._sqlite() as connection:
            found = connection.execute(f'SELECT DISTINCT entity_key FROM "{self._table}"')  # noqa: S608  (a constant)
            return {key for (key,) in found}

    def _remove(self, keys: set[bytes]) -> None:
        """Take these users out of the online store."""
        if self.config.online_store == "redis":
            _unlink(self._redis(), [key + self._project for key in keys])
            return
        with self._sqlite() as connection:  # one transaction; under write-ahead logging no reader waits for it
            delete = f'DELETE FROM "{self._table}" WHERE entity_key = ?'  # noqa: S608  (a constant)
            connection.executemany(delete, ((key,) for key in keys))

    @contextmanager
    def _sqlite(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own to the online file: a transaction, closed at the end."""
        with closing(sqlite3.connect(self._feast_folder / "online.db", timeout=30)) as connection, connection:
            yield connection

    def _redis(self) -> Any:
        """Feast's own client, with the address and the time limits of the configuration."""
        store = self._open()
        provider: Any = store._get_provider()
        return provider.online_store._get_client(store.config.online_store)

    @property
    def _project(self) -> bytes:
        return self._open().project.encode()

    @property
    def _table(self) -> str:
        return f"{self._open().project}_{FEATURE_VIEW}"

    # -- online ------------------------------------------------------------------------------------------------

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """Latest features per user, in order, None where the store does not know the user.

        Raises Unavailable when the store does not answer, NotReady when nothing was ever applied.
        """
        if not user_ids:
            return []
        with self._lock, _store_faults("read features"):
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


def _entity_keys(users: Iterable[UserId], user_id_type: UserIdType) -> set[bytes]:
    """The users' keys as Feast writes them."""
    kind = {"integer": "int64_val", "string": "string_val"}[user_id_type]
    values: Iterable[dict[str, Any]] = ({kind: user} for user in users)
    keys = (EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(**value)]) for value in values)
    return {serialize_entity_key(key, entity_key_serialization_version=KEY_VERSION) for key in keys}


def _redis_keys(client: Any, project: bytes) -> set[bytes]:
    """Entity keys of the project's users in a Redis that others may use too."""
    found = client.scan_iter(match=_literal(KEY_PREFIX) + b"*" + _literal(project), count=REDIS_BATCH)
    return {key[: -len(project)] for key in found if _is_of_project(key, project)}


def _literal(text: bytes) -> bytes:
    """`text` as a Redis pattern that matches nothing else."""
    return b"".join(b"\\" + bytes([sign]) if sign in b"*?[]^-\\" else bytes([sign]) for sign in text)


def _is_of_project(key: bytes, project: bytes) -> bool:
    """Whether `key` is one user's key and then exactly the project: `mychurn` ends with `churn` too."""
    start = len(KEY_PREFIX) + 8  # behind the type and the length of the value, four bytes each
    if not key.startswith(KEY_PREFIX) or len(key) < start:
        return False
    (length,) = struct.unpack_from("<I", key, start - 4)
    return key[start + length :] == project


def _unlink(client: Any, keys: Sequence[bytes]) -> None:
    for start in range(0, len(keys), REDIS_BATCH):
        client.unlink(*keys[start : start + REDIS_BATCH])


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
    if config.online_store == "redis":
        # Without skip_dedup Redis ignores a corrected row of the same cutoff, so that a rebuild would change nothing.
        address = f"{config.redis_address},{REDIS_OPTIONS}"
        raw["online_store"] = {"type": "redis", "connection_string": address, "skip_dedup": True}
    raw["materialization_config"] = raw.pop("materialization")
    try:
        return RepoConfig(**raw, repo_path=config.repo)
    except (FeastExtrasDependencyImportError, FeastModuleImportError) as error:  # both come, by how redis is missing
        raise NotReady(
            "Redis is chosen as online store, but the package redis is not installed",
            hint="uv sync --frozen --inexact --extra redis (or: pip install redis)",
        ) from error


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
def _store_faults(what: str) -> Iterator[None]:
    """A store that does not answer becomes Unavailable; anything else is a bug and passes."""
    try:
        yield
    except Exception as error:
        if isinstance(error, STORE_FAULTS) or type(error).__module__.startswith(("redis.", "google.protobuf")):
            raise Unavailable(
                f"the feature store did not {what}: {type(error).__name__}",
                hint="Check that the online store runs, is writable and has space.",
            ) from error
        raise
