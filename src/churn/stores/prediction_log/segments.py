"""Segments as files: written by one process each, held by its lock, named after the moment they were opened."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path

from churn.errors import Unavailable

SEGMENT_BYTES = 64 * 2**20
SUFFIX = ".jsonl"
_NAME = re.compile(r"(\d{8})T\d{6}\.\d{6}-.*")


class Segments:
    """The segments of this process, one after the other. For one thread at a time."""

    def __init__(self, folder: Path, segment_bytes: int, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._now = now
        self._segment: _Segment | None = None

    def write(self, data: bytes) -> None:
        """Whole lines, on disk on return. Raises OSError; then they are taken back, and the next goes elsewhere."""
        try:
            self._current().append(data)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Finishes the segment; a later write opens a new one."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _current(self) -> _Segment:
        now = self._now().astimezone(UTC)
        segment = self._segment
        if segment is not None and (segment.size >= self._segment_bytes or segment.day != now.date()):
            self.close()
        if self._segment is None:
            self._segment = _Segment(self._folder, now)
        return self._segment


class _Segment:
    """One open segment. `size` counts the bytes that are known to be on disk."""

    def __init__(self, folder: Path, now: datetime) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.day = now.date()
        self.size = 0
        self._path = folder / f"{now:%Y%m%dT%H%M%S.%f}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        # Locked before it has its name: whoever finds it without a lock may take it for finished.
        unnamed = self._path.with_suffix(".new")
        self._handle = os.open(unnamed, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self._path)
            fsync_folder(folder)
        except OSError:
            unnamed.unlink(missing_ok=True)
            self.close()
            raise

    def append(self, data: bytes) -> None:
        written = os.write(self._handle, data)
        if written != len(data):  # the disk filled up in the middle of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(self._handle)
        if os.fstat(self._handle).st_nlink == 0:  # removed by hand: what we write there, nobody will read
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.size += written

    def close(self) -> None:
        """Cuts off what was not acknowledged, and leaves no empty file behind; both as far as the disk allows."""
        with suppress(OSError):
            os.ftruncate(self._handle, self.size)
        if self.size == 0:
            with suppress(OSError):
                self._path.unlink()
        os.close(self._handle)


def segments_of(folder: Path) -> list[Path]:
    """Every segment, finished or not, in the order of their opening."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def day_of(segment: Path) -> date | None:
    """The UTC day on which it was opened, None when the file is not named by us."""
    found = _NAME.fullmatch(segment.name)
    return datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC).date() if found else None


@contextmanager
def taken(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[bool]:
    """Whether the lock of a file or folder could be had at once; held until the block ends."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def is_open(segment: Path) -> bool:
    """Whether its writer still has it."""
    with taken(segment, fcntl.LOCK_SH) as free:
        return not free


def fsync_folder(folder: Path) -> None:
    """A new or changed name in it is on disk on return."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unavailable(error: OSError) -> Unavailable:
    """What the callers of the log are told."""
    return Unavailable(
        f"the prediction log cannot be used: {error.strerror or type(error).__name__}",
        hint="Look at free space and permissions of the predictions folder; nothing is answered meanwhile.",
        facts={"reason": "prediction_log"},
    )
