"""Compacted days: one Parquet file for each UTC day on which segments were opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from churn.errors import Unavailable
from churn.stores.prediction_log.segments import fsync_folder
from churn.stores.prediction_log.tables import Part

_SUFFIX = ".parquet"
_ROWS_IN_GROUP = 100_000
_NOTES = b"churn.prediction_log"


class Day:
    """An open day: which segments it holds, and its rows. A context manager; reads what it was when it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: BinaryIO = path.open("rb")
        try:
            self._file = pq.ParquetFile(self._handle)
            notes: dict[str, Any] = json.loads(self._file.schema_arrow.metadata[_NOTES])
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            self._handle.close()
            raise _unreadable(path) from error
        self.segments: tuple[str, ...] = tuple(notes["segments"])
        self.damaged: int = notes["damaged"]

    def __enter__(self) -> Day:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def read(self, since: datetime | None = None, until: datetime | None = None) -> Part:
        """Rows with since <= predicted_at < until, all by default; groups of rows outside are not read.

        Damaged lines have no time: they count with the day when any of its rows, or none at all, lie in the window.
        """
        window = None if since is None else [("predicted_at", ">=", since), ("predicted_at", "<", until)]
        try:
            rows = pq.read_table(self._handle, filters=window).replace_schema_metadata(None)
        except pa.ArrowInvalid as error:
            raise _unreadable(self._path) from error
        counts = len(rows) > 0 or self._file.metadata.num_rows == 0
        return Part(rows, self.damaged if counts else 0)


def path_of(folder: Path, day: date) -> Path:
    """Where a day is, once it was compacted."""
    return folder / f"{day.isoformat()}{_SUFFIX}"


def days_of(folder: Path) -> Iterator[Day]:
    """Every compacted day, oldest first; raises OSError, Unavailable."""
    return (Day(path) for path in sorted(folder.glob(f"*{_SUFFIX}")))


def write_day(path: Path, rows: pa.Table, segments: Sequence[str], damaged: int) -> None:
    """Puts the day in place, whole and on disk, or leaves it as it was; raises OSError."""
    unnamed = path.with_suffix(".new")
    notes = json.dumps({"segments": sorted(segments), "damaged": damaged}).encode()
    try:
        with os.fdopen(os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            pq.write_table(
                rows.replace_schema_metadata({_NOTES: notes}), file, compression="zstd", row_group_size=_ROWS_IN_GROUP
            )
            file.flush()
            os.fsync(file.fileno())
        unnamed.rename(path)
        fsync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            unnamed.unlink()
        raise


def _unreadable(path: Path) -> Unavailable:
    return Unavailable(
        f"the prediction log cannot be read: {path} is damaged",
        hint="Put it back from a backup, or move it away: its predictions are then missing from every report.",
        facts={"reason": "prediction_log"},
    )
