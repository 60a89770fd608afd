"""The prediction log: one segment per process, one line of JSON per answered item, on disk before the answer leaves.

A line ends with a checksum of what stands before it, so that a torn or damaged line is told from a record:

    {"schema_version": 1, ..., "crc": "1b2a..."}

Segments are only ever appended to. What cannot be written completely is taken back, and the request is refused.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from zlib import crc32

from churn.domain.records import PredictionRecord
from churn.domain.schema import FEATURE_NAMES
from churn.errors import Unavailable

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
SEGMENT_BYTES = 64 * 2**20
_CRC = b', "crc": "'
_TAIL = len(_CRC) + len('12345678"}')

TEXT_COLUMNS = ("request_id", "source", "status", "model_version", "model_digest", "feature_service")
TIME_COLUMNS = ("predicted_at", "features_as_of")
NUMBER_COLUMNS = ("churn_probability", "latency_ms", *FEATURE_NAMES)


class PredictionLog:
    """Appends records durably. Safe for several threads; several processes may share the folder."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._lock = Lock()
        self._segment: _Segment | None = None

    def append(self, records: Sequence[PredictionRecord]) -> None:
        """Writes all records with one write, and returns once the disk has them; raises Unavailable."""
        data = b"".join(map(encode, records))
        with self._lock:
            try:
                self._current().append(data)
            except OSError as error:
                self._abandon()
                raise _unavailable(error) from error

    def read(self, since: datetime, until: datetime) -> tuple[pd.DataFrame, int]:
        """See read_predictions."""
        return read_predictions(self._folder, since, until)

    def close(self) -> None:
        """Closes the segment; a later append opens a new one."""
        with self._lock:
            self._abandon()

    def _current(self) -> _Segment:
        if self._segment is not None and self._segment.size >= self._segment_bytes:
            self._abandon()
        if self._segment is None:
            self._segment = _Segment(self._folder)
        return self._segment

    def _abandon(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()


class _Segment:
    """One file of this process. `size` counts the bytes that are known to be on disk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._path = folder / name
        self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self.size = 0
        try:
            _fsync_folder(folder)
        except OSError:
            self.close()
            raise

    def append(self, data: bytes) -> None:
        written = os.write(self._handle, data)
        if written != len(data):  # the disk filled up in the middle of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(self._handle)
        self.size += written

    def close(self) -> None:
        """Cuts off what was not acknowledged, and leaves no empty file behind; both as far as the disk allows."""
        with suppress(OSError):
            os.ftruncate(self._handle, self.size)
        os.close(self._handle)
        if self.size == 0:
            with suppress(OSError):
                self._path.unlink()


def encode(record: PredictionRecord) -> bytes:
    """The record's line, newline included."""
    vector = record.vector
    fields = {
        "schema_version": SCHEMA_VERSION,
        "request_id": record.request_id,
        "predicted_at": record.predicted_at.astimezone(UTC).isoformat(),
        "source": record.source,
        "user_id": record.user_id,
        "status": record.status,
        "churn_probability": record.churn_probability,
        "model_version": record.model_version,
        "model_digest": record.model_digest,
        "feature_service": record.feature_service,
        "features_as_of": record.features_as_of.astimezone(UTC).isoformat() if record.features_as_of else None,
        "latency_ms": record.latency_ms,
        "features": None if vector is None else dict(zip(record.features, map(_number, vector), strict=True)),
    }
    body = json.dumps(fields, allow_nan=False).encode()[:-1]
    return b'%b%b%08x"}\n' % (body, _CRC, crc32(body))


def decode(line: bytes) -> dict[str, Any] | None:
    """The fields of a line without its newline, None when it is no whole record of a known schema."""
    body = line[:-_TAIL]
    if line[-_TAIL:] != b'%b%08x"}' % (_CRC, crc32(body)):
        return None
    try:
        fields: dict[str, Any] = json.loads(body + b"}")
    except ValueError:
        return None
    return fields if fields.get("schema_version") == SCHEMA_VERSION else None


def read_predictions(folder: Path, since: datetime, until: datetime) -> tuple[pd.DataFrame, int]:
    """Records predicted in [since, until), in the order of `predicted_at`, and how many lines had to be skipped.

    Columns: TEXT_COLUMNS, `user_id` (objects: int or str as asked for, None for vectors), TIME_COLUMNS (UTC), and
    NUMBER_COLUMNS as float64 (nan = null; probability nan unless the status is ok). Lines that are torn, damaged or
    of an unknown schema are skipped and counted. Raises Unavailable.
    """
    records: list[dict[str, Any]] = []
    skipped = 0
    for line in _lines(folder):
        fields = decode(line)
        if fields is None:
            skipped += 1
        elif since <= datetime.fromisoformat(fields["predicted_at"]) < until:
            records.append(fields)
    return _frame(records).sort_values("predicted_at", kind="stable", ignore_index=True), skipped


def _lines(folder: Path) -> Iterator[bytes]:
    """Every non-empty line; a last one without its newline is still being written, or torn."""
    for path in sorted(folder.glob("*.jsonl")):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # a retention job was faster
            continue
        except OSError as error:
            raise _unavailable(error) from error
        *whole, tail = data.split(b"\n")
        yield from filter(None, whole)
        if tail:
            yield b""


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # the service appends and never reads: it need not pay for pandas

    columns = {name: pd.Series([row[name] for row in rows], dtype=object) for name in (*TEXT_COLUMNS, "user_id")}
    for name in TIME_COLUMNS:
        columns[name] = pd.to_datetime(pd.Series([row[name] for row in rows], dtype=object), utc=True, format="ISO8601")
    for name in NUMBER_COLUMNS:
        columns[name] = pd.Series([_float(_cell(row, name)) for row in rows], dtype="float64")
    return pd.DataFrame(columns)


def _cell(row: dict[str, Any], name: str) -> Any:
    return row[name] if name in row else (row["features"] or {}).get(name)


def _number(value: float) -> float | str | None:
    """JSON knows neither nan (our null) nor infinity, which an invalid vector may hold."""
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else repr(value)


def _float(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unavailable(error: OSError) -> Unavailable:
    return Unavailable(
        f"the prediction log cannot be used: {error.strerror or type(error).__name__}",
        hint="Look at free space and permissions of the predictions folder; nothing is answered meanwhile.",
        facts={"reason": "prediction_log"},
    )
