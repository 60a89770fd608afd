"""The ledger: one file of JSON lines that is only ever appended to, each line carrying the sha256 of the one before.

    {"sequence": 12, "at": "...", "kind": "took_up", "facts": {...}, "previous": "5f3a..."}

An edited or removed line breaks the chain at the line after it. A crash can cut the last line short: the next entry
seals that off, as a line of its own that the chain goes over. Several processes may append.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from churn.domain.ledger import Entry, History, Kind
from churn.errors import Unavailable

LOCK_SECONDS = 2.0
FIRST = "0" * 64


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence: int
    at: AwareDatetime
    kind: Kind
    facts: dict[str, Any]
    previous: str


class Ledger:
    """Appends entries durably, and reads them back with a check of the chain."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now

    def note(self, kind: Kind, facts: Mapping[str, Any]) -> None:
        """One more entry, on disk on return; `facts` hold plain JSON. Raises Unavailable, then nothing was added."""
        try:
            with self._locked() as handle:
                _append(handle, lambda data: self._next(data, kind, facts))
        except OSError as error:
            raise _unavailable(error) from error

    def read(self) -> History:
        """Every entry, oldest first; an empty history when there is no ledger yet. Raises Unavailable."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return History()
        except OSError as error:
            raise _unavailable(error) from error
        return _history(_lines(data))

    def _next(self, data: bytes, kind: Kind, facts: Mapping[str, Any]) -> bytes:
        lines = _lines(data)
        sequence = 1 + next((line.sequence for line in map(_parsed, reversed(lines)) if line is not None), 0)
        previous = _hash(lines[-1]) if lines else FIRST
        fields = {"sequence": sequence, "at": self._now().isoformat(), "kind": kind, "facts": dict(facts)}
        text = json.dumps({**fields, "previous": previous}, allow_nan=False)
        seal_off = b"" if not data or data.endswith(b"\n") else b"\n"
        return seal_off + text.encode() + b"\n"

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _lock(handle)
            yield handle
        finally:
            os.close(handle)


def _lock(handle: int) -> None:
    """The file for us alone. Not waited for without end: a process that hangs with it must not hang all others."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _append(handle: int, line_after: Callable[[bytes], bytes]) -> None:
    size = os.fstat(handle).st_size
    line = line_after(os.pread(handle, size, 0))
    try:
        if os.write(handle, line) != len(line):  # the disk filled up in the middle of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise


def _lines(data: bytes) -> list[bytes]:
    """Every line without its end, a last unended one too."""
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _parsed(line: bytes) -> _Line | None:
    try:
        return _Line.model_validate_json(line)
    except ValidationError:
        return None


def _hash(line: bytes) -> str:
    return sha256(line).hexdigest()


def _history(lines: list[bytes]) -> History:
    entries: list[Entry] = []
    breaks: list[str] = []
    torn, before = 0, FIRST
    for number, (text, line) in enumerate(zip(lines, map(_parsed, lines), strict=True), start=1):
        if line is None:
            torn += 1
        else:
            breaks += [f"line {number}: {found}" for found in _faults(line, before, len(entries) + 1)]
            entries.append(Entry(line.sequence, line.at.astimezone(UTC), line.kind, line.facts))
        before = _hash(text)
    return History(tuple(entries), torn, tuple(breaks))


def _faults(line: _Line, before: str, expected: int) -> Iterator[str]:
    if line.previous != before:
        yield "what stands before it is not what stood there when it was written"
    elif line.sequence != expected:
        yield f"it is entry {line.sequence}, not {expected}"


def _unavailable(error: OSError) -> Unavailable:
    return Unavailable(
        f"the ledger cannot be used: {error.strerror or type(error).__name__}",
        hint="Look at free space and permissions of ledger.jsonl in the deployment's folder.",
        facts={"reason": "ledger"},
    )
