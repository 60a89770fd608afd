"""Rows in one SQLite file under write-ahead logging, where a writer makes no reader wait.

Readers open the file read-only, one connection a thread, and look at each read whether it is still the same file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from churn.errors import Unavailable
from churn.stores.online.table import SENTINEL, Row, unavailable

READ_WAIT_MS = 150
WRITE_WAIT_MS = 10_000
MOST_KEYS = 10_000  # SQLite takes 32,766 parameters in one statement
_REASONS = {
    "SQLITE_BUSY": ("sqlite_locked", "the file is locked by another process"),
    "SQLITE_LOCKED": ("sqlite_locked", "the file is locked by another process"),
    "SQLITE_CORRUPT": ("sqlite_corrupt", "the file is damaged"),
    "SQLITE_NOTADB": ("sqlite_corrupt", "the file is no SQLite database"),
    "SQLITE_READONLY": ("sqlite_read_only", "the file cannot be written"),
    "SQLITE_IOERR": ("sqlite_io", "the file cannot be read"),
    "SQLITE_FULL": ("sqlite_full", "the disk is full"),
    "SQLITE_CANTOPEN": ("sqlite_cannot_open", "the file cannot be opened"),
}
_HINT = "Check that the file is readable and has space; if it is damaged, remove it and run churn build-features."
T = TypeVar("T")


@dataclass
class _Reader:
    connection: sqlite3.Connection
    file: tuple[int, int]


@dataclass
class SqliteTable:
    """A table of rows in the file at `path`."""

    path: Path
    name: str
    _local: threading.local = field(default_factory=threading.local)
    _writer: sqlite3.Connection | None = None
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def _table(self) -> str:
        return '"' + f"packed_{self.name}".replace('"', '""') + '"'

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), MOST_KEYS):
            part = keys[start : start + MOST_KEYS]
            marks = ",".join("?" * len(part))
            select = f"SELECT user_key, row FROM {self._table} WHERE user_key IN ({marks})"  # noqa: S608  (our name)
            found.update(self._read(lambda connection: connection.execute(select, part).fetchall()) or ())  # noqa: B023
        return [found.get(key) for key in keys]

    def count(self) -> int:
        select = f"SELECT count(*) FROM {self._table} WHERE user_key <> ?"  # noqa: S608  (our name)
        return self._read(lambda connection: int(connection.execute(select, (SENTINEL,)).fetchone()[0])) or 0

    def stored_keys(self) -> Iterator[Sequence[bytes]]:
        select = f"SELECT user_key FROM {self._table} WHERE user_key > ? ORDER BY user_key LIMIT ?"  # noqa: S608
        last = b""
        while True:
            asked = (last, MOST_KEYS)
            rows = self._read(lambda connection: connection.execute(select, asked).fetchall())  # noqa: B023
            if not rows:
                return
            last = rows[-1][0]
            yield [key for (key,) in rows if key != SENTINEL]

    def _read(self, ask: Callable[[sqlite3.Connection], T]) -> T | None:
        """What the file answers; None when it, or the table in it, does not exist."""
        try:
            with _named():
                reader = self._reader()
                return None if reader is None else ask(reader.connection)
        except Unavailable as error:
            self._close_reader()  # the next read opens what is there by then
            if error.facts["reason"] == "sqlite_no_table":
                return None
            raise

    def _reader(self) -> _Reader | None:
        """This thread's connection to the file that is at `path` now, None when there is none."""
        reader: _Reader | None = getattr(self._local, "reader", None)
        try:
            state = os.stat(self.path)  # noqa: PTH116  (on every read: half the time of Path.stat)
        except FileNotFoundError:
            self._close_reader()
            return None
        file = (state.st_dev, state.st_ino)
        if reader is None or reader.file != file:
            self._close_reader()
            connection = _opened(f"{self.path.absolute().as_uri()}?mode=ro", READ_WAIT_MS)
            reader = self._local.reader = _Reader(connection, file)
        return reader

    def _close_reader(self) -> None:
        reader: _Reader | None = getattr(self._local, "reader", None)
        if reader is not None:
            self._local.reader = None
            with suppress(sqlite3.Error):
                reader.connection.close()

    # -- writing -------------------------------------------------------------------------------------------------

    def create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as connection:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table}"
                " (user_key BLOB PRIMARY KEY, event_us INTEGER NOT NULL, row BLOB NOT NULL) WITHOUT ROWID"
            )

    def drop(self) -> None:
        if not self.path.exists():
            return
        with self._transaction() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {self._table}")

    def put(self, rows: Sequence[Row], *, replace: bool = False) -> int:
        upsert = (
            f"INSERT INTO {self._table} VALUES (?, ?, ?)"  # noqa: S608  (our name)
            " ON CONFLICT (user_key) DO UPDATE SET event_us = excluded.event_us, row = excluded.row"
            + ("" if replace else " WHERE excluded.event_us >= event_us")
        )
        # In the order of the tree: neighbours are written together.
        ordered = sorted(rows, key=lambda row: row[0])
        with self._transaction() as connection:
            return connection.executemany(upsert, ordered).rowcount

    def remove(self, keys: Sequence[bytes]) -> None:
        delete = f"DELETE FROM {self._table} WHERE user_key = ?"  # noqa: S608  (our name)
        with self._transaction() as connection:
            connection.executemany(delete, ((key,) for key in keys))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The writing connection inside a transaction, which is undone when it fails."""
        with self._writing, _named():
            if self._writer is None:
                self._writer = _opened_to_write(self.path)
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self._close_writer()  # which rolls back
                raise

    def _close_writer(self) -> None:
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.close()
            self._writer = None

    def close(self) -> None:
        """Closes the writer and this thread's reader."""
        self._close_reader()
        self._close_writer()


def _opened(address: str, wait_ms: int) -> sqlite3.Connection:
    return sqlite3.connect(address, uri=True, timeout=wait_ms / 1000, isolation_level=None, check_same_thread=False)


def _opened_to_write(path: Path) -> sqlite3.Connection:
    connection = _opened(f"{path.absolute().as_uri()}?mode=rwc", WRITE_WAIT_MS)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        # The file is whole after a power cut, but its last rows may be gone: the sentinel, written last, goes first.
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _named() -> Iterator[None]:
    """SQLite's faults as Unavailable with a reason."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason, found = _reason(error)
        raise unavailable(reason, found, _HINT) from error


def _reason(error: sqlite3.Error | OSError) -> tuple[str, str]:
    if "no such table" in str(error):
        return "sqlite_no_table", "the file holds no features"
    name = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    return _REASONS.get(name, ("sqlite_failed", f"{type(error).__name__} {name}".strip()))
