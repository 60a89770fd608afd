"""The online store as the service reads it and materialize writes it. Knows neither Feast nor pandas.

Every read also fetches the sentinel, in the same round trip: a store that was emptied, or holds rows of other
definitions, is not ready, while one user whom it does not know is simply unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE, FEATURE_VIEW, JOIN_KEY, PROJECT, TIMESTAMP
from churn.errors import Refused, Unavailable
from churn.stores.online.breaker import Breaker
from churn.stores.online.packed import Floats, Moments, RowCodec, Unpacked, user_key
from churn.stores.online.redis_table import RedisTable
from churn.stores.online.sqlite_table import SqliteTable
from churn.stores.online.table import BUILD, SENTINEL, Sentinel, Table, not_ready, parse_sentinel, unavailable

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 10_000
CLOCK_SKEW = timedelta(minutes=5)
FEWEST = 0.1  # of the users of the generation before
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Progress = Callable[[int, int], None]


def open_table(home: Path, redis_address: str = "", view: str = FEATURE_VIEW) -> Table:
    """The rows of a feature view: in the Redis at that address, else in the deployment's SQLite file."""
    if redis_address:
        return RedisTable(redis_address, f"{PROJECT}:{view}")
    return SqliteTable(home / "feast" / "online.db", view)


@dataclass(frozen=True)
class Materialized:
    """`rows` of the cutoff, of which `late` were left out because a newer one was there; `removed` users left."""

    rows: int
    late: int
    removed: int


@dataclass
class OnlineStore:
    """Reads and writes the features of users. `now` is the machine's time."""

    table: Table
    codec: RowCodec = field(default_factory=lambda: RowCodec(FEATURE_VIEW, FEATURE_NAMES))
    breaker: Breaker = field(default_factory=Breaker)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _trusted: bytes | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """Latest features per user, in order, None for an unknown one; a damaged row has no value at all.

        Raises NotReady when the store is empty or of other definitions, Unavailable when it does not answer.
        """
        if not user_ids:
            return []
        rows = self.read_matrix(user_ids)
        known = (rows.known | rows.damaged).tolist()
        values = zip(user_ids, known, rows.moments.tolist(), rows.vectors.tolist(), strict=True)
        return [
            FeatureRow(user_id, EPOCH + timedelta(microseconds=moment), tuple(vector)) if there else None
            for user_id, there, moment, vector in values
        ]

    def read_matrix(self, user_ids: Sequence[UserId]) -> Unpacked:
        """The same as arrays."""
        sentinel, *rows = self._ask([SENTINEL, *map(user_key, user_ids)])
        self._check(sentinel)
        unpacked = self.codec.unpack(rows)
        if unpacked.other.any():
            raise not_ready("feature_store_schema", "the online store is being filled with other features")
        return unpacked

    def sentinel(self) -> Sentinel | None:
        """What the store holds by its own account, None when it is empty. Raises Unavailable."""
        return parse_sentinel(self.table.get([SENTINEL])[0])

    def online_users(self) -> int:
        """How many users the store holds. Raises Unavailable, NotReady when it is empty."""
        self._check(self.table.get([SENTINEL])[0])
        return self.table.count()

    def _ask(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not self.breaker.admits():
            raise unavailable("breaker_open", "it failed a moment ago", "Wait a second.")
        try:
            found = self.table.get(keys)
        except Unavailable:
            self.breaker.failed()
            raise
        self.breaker.succeeded()
        return found

    def _check(self, found: bytes | None) -> None:
        """Raises NotReady unless the sentinel is there and of these definitions. The same bytes are read once."""
        if found is not None and found == self._trusted:
            return
        sentinel = parse_sentinel(found)
        if sentinel is None:
            raise not_ready("feature_store_empty", "the feature store is empty")
        if (sentinel.feature_service, sentinel.schema_hash) != (FEATURE_SERVICE, self.codec.schema.hex()):
            raise not_ready(
                "feature_store_schema", f"the online store holds other features ({sentinel.feature_service})"
            )
        self._trusted = found

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, keys: Sequence[bytes], moments: Moments, vectors: Floats, *, replace: bool = False) -> int:
        """Rows by key with event times in µs, (n,), and features, (n, f); says how many were written.

        One that is older than what the store has is left out. Raises Refused on an event time in the future, which
        would shut out all that come after it; Unavailable.
        """
        latest = self.now() + CLOCK_SKEW
        if len(moments) and int(moments.max()) > micros(latest):
            found = EPOCH + timedelta(microseconds=int(moments.max()))
            raise Refused(
                f"features as of {found:%Y-%m-%d %H:%M}Z lie in the future",
                hint="Correct the rows, or this machine's clock.",
                facts={"reason": "future_event_time"},
            )
        rows = list(zip(keys, moments.tolist(), self.codec.pack(moments, vectors), strict=True))
        return self.table.put(rows, replace=replace)

    def erase(self, user_id: UserId) -> None:
        """Takes one user out. The next materialize brings back whoever still stands in the offline store."""
        self.table.remove([user_key(user_id)])

    def materialize(
        self, export: Path, cutoff: datetime, *, replace: bool = False, on_progress: Progress = lambda done, rows: None
    ) -> Materialized:
        """Make the store hold the rows of the exported Parquet file, and nobody else.

        Readers find every user who stays, all the time. Killed at any point, it can be run again. Raises Refused when
        the rows are none, a tenth of those before, or older than what is online, unless `replace`; Unavailable.
        """
        import pyarrow.parquet as pq

        self.table.create()
        with pq.ParquetFile(export) as file:
            total = file.metadata.num_rows
            before = self._before(replace=replace)
            _refuse_loss(total, cutoff, None if replace else before)
            kept: set[bytes] = set()
            written = 0
            for batch in file.iter_batches(CHUNK, columns=[JOIN_KEY, TIMESTAMP, *self.codec.features]):
                keys = _keys(batch.column(JOIN_KEY))
                written += self.write(keys, _moments(batch), _vectors(batch, self.codec.features), replace=replace)
                kept.update(keys)
                on_progress(len(kept), total)
        removed = self._remove_all_but(kept)
        self._put_sentinel(1 if before is None else before.generation + 1, len(kept), cutoff)
        return Materialized(total, total - written, removed)

    def _before(self, *, replace: bool) -> Sentinel | None:
        try:
            return self.sentinel()
        except Unavailable as error:
            if replace and error.facts["reason"] == "sentinel_damaged":
                return None
            raise

    def _remove_all_but(self, kept: set[bytes]) -> int:
        if self.table.count() == len(kept):  # all of them are there by now, so nobody else is
            return 0
        gone = [key for keys in self.table.stored_keys() for key in keys if key not in kept]
        for start in range(0, len(gone), CHUNK):
            self.table.remove(gone[start : start + CHUNK])
        return len(gone)

    def _put_sentinel(self, generation: int, rows: int, cutoff: datetime) -> None:
        sentinel = Sentinel(
            generation=generation,
            rows=rows,
            cutoff=cutoff,
            feature_service=FEATURE_SERVICE,
            schema_hash=self.codec.schema.hex(),
            written_at=self.now(),
        )
        self.table.put([(SENTINEL, micros(cutoff), sentinel.model_dump_json().encode())], replace=True)


def micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def _refuse_loss(rows: int, cutoff: datetime, before: Sentinel | None) -> None:
    hint = f"If that is meant: {BUILD} --replace-online"
    if rows == 0:
        raise Refused(f"there are no users at {cutoff:%Y-%m-%d}: the online store stays", facts={"reason": "no_rows"})
    if before is None:
        return
    facts = {"rows": rows, "rows_before": before.rows}
    if rows < FEWEST * before.rows:
        found = f"{rows:,} users at {cutoff:%Y-%m-%d} would replace {before.rows:,}"
        raise Refused(found, hint=hint, facts={"reason": "too_few_rows", **facts})
    if cutoff < before.cutoff:
        found = f"the online store is as of {before.cutoff:%Y-%m-%d}, later than {cutoff:%Y-%m-%d}"
        raise Refused(found, hint=hint, facts={"reason": "older_cutoff", **facts})


def _keys(ids: pa.Array) -> list[bytes]:
    return [user_key(user_id) for user_id in ids.to_pylist()]


def _moments(batch: pa.RecordBatch) -> Moments:
    moments: Moments = batch.column(TIMESTAMP).to_numpy(zero_copy_only=False).astype("datetime64[us]").astype(np.int64)
    return moments


def _vectors(batch: pa.RecordBatch, features: Sequence[str]) -> Floats:
    """(n, f) features by name; null becomes nan."""
    vectors = np.empty((batch.num_rows, len(features)))
    for column, name in enumerate(features):
        vectors[:, column] = batch.column(name).cast("float64").to_numpy(zero_copy_only=False)
    return vectors
