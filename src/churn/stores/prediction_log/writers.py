"""The two modes of the log: on disk before the answer, or at most a second after it.

In both, lines that arrive while the disk is busy go into one batch, which takes one write and one `fdatasync`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread

from churn.domain.records import LogState, PredictionRecord
from churn.errors import Unavailable
from churn.stores.prediction_log.lines import encode
from churn.stores.prediction_log.segments import SEGMENT_BYTES, Segments, unavailable

FLUSH_SECONDS = 0.25
AT_RISK_SECONDS = 1.0
BUFFER_BYTES = 16 * 2**20


def _system_now() -> datetime:
    return datetime.now(UTC)


class _Batch:
    """Lines that go to the disk together. `error` holds until they are there."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.size = 0
        self.predictions = 0
        self.since = time.monotonic()
        self.done = Event()
        self.error: OSError | None = OSError(errno.EIO, "not written")

    def add(self, line: bytes, predictions: int) -> None:
        if not self.lines:
            self.since = time.monotonic()
        self.lines.append(line)
        self.size += len(line)
        self.predictions += predictions

    def put_before(self, later: _Batch) -> None:
        later.lines[:0] = self.lines
        later.size += self.size
        later.predictions += self.predictions
        later.since = self.since


class _Committer:
    """Collects lines of many threads and writes a batch of them at a time."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self.lock = Lock()  # over the batches and the counts; never held while the disk works
        self.next = _Batch()
        self.refused = 0
        self._disk = Lock()  # over the segments
        self._writing: _Batch | None = None
        self._written = self._failures = 0

    def flush(self, *, keep: bool = False) -> _Batch:
        """Writes what waits. What the disk does not take is dropped, or put back when it is to be kept."""
        with self._disk:
            with self.lock:
                batch, self.next = self.next, _Batch()
                self._writing = batch
            try:
                self.segments.write(b"".join(batch.lines))
                batch.error = None
            except OSError as error:
                batch.error = error
            finally:
                self._settle(batch, keep=keep)
                batch.done.set()
        return batch

    def _settle(self, batch: _Batch, *, keep: bool) -> None:
        with self.lock:
            self._writing = None
            if batch.error is None:
                self._written += batch.predictions
                return
            self._failures += 1
            if keep:
                batch.put_before(self.next)
            else:
                self.refused += batch.predictions

    def close(self) -> None:
        with self._disk:
            self.segments.close()

    def state(self) -> LogState:
        with self.lock:
            waiting = self.batches()
            return LogState(
                waiting=sum(batch.predictions for batch in waiting),
                oldest_seconds=max((time.monotonic() - batch.since for batch in waiting), default=0.0),
                written=self._written,
                refused=self.refused,
                failures=self._failures,
            )

    def batches(self) -> list[_Batch]:
        """Those that hold lines which are not known to be on disk; the oldest first."""
        return [batch for batch in (self._writing, self.next) if batch is not None and batch.lines]


class PredictionLog:
    """Appends records durably. Safe for several threads; several processes may share the folder."""

    def __init__(
        self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, now: Callable[[], datetime] = _system_now
    ) -> None:
        self._committer = _Committer(Segments(folder, segment_bytes, now))

    def append(self, records: Sequence[PredictionRecord]) -> None:
        """Returns once the disk has all records; raises Unavailable, then the log has none of them.

        The first line of a batch leads: its thread writes the batch, and wakes the threads of the others.
        """
        line, committer = b"".join(map(encode, records)), self._committer
        with committer.lock:
            batch = committer.next
            leads = not batch.lines
            batch.add(line, _predictions(records))
        if leads:
            committer.flush()
        else:
            batch.done.wait()
        if batch.error is not None:
            raise unavailable(batch.error) from batch.error

    def state(self) -> LogState:
        """How the log fares."""
        return self._committer.state()

    def close(self) -> None:
        """Finishes the segment; a later append opens a new one."""
        self._committer.close()


class BufferedPredictionLog:
    """Appends to memory, from where a thread brings them to the disk four times a second.

    What a sudden end can lose was answered within the last second, for nothing is taken while a record waits longer,
    or while `buffer_bytes` wait: then append raises Unavailable, and the refused predictions are counted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        buffer_bytes: int = BUFFER_BYTES,
        now: Callable[[], datetime] = _system_now,
    ) -> None:
        self._committer = _Committer(Segments(folder, segment_bytes, now))
        self._buffer_bytes = buffer_bytes
        self._flusher: tuple[Thread, Event] | None = None

    def append(self, records: Sequence[PredictionRecord]) -> None:
        """Returns at once; raises Unavailable when the disk does not keep up."""
        line, committer = b"".join(map(encode, records)), self._committer
        with committer.lock:
            if self._is_full(len(line)):
                committer.refused += _predictions(records)
                raise _behind()
            committer.next.add(line, _predictions(records))
            if self._flusher is None:
                self._flusher = self._started()

    def state(self) -> LogState:
        """How the log fares."""
        return self._committer.state()

    def close(self) -> None:
        """Writes what waits; a later append starts anew. Raises Unavailable when the disk does not take it."""
        with self._committer.lock:
            flusher, self._flusher = self._flusher, None
        if flusher is not None:
            thread, stop = flusher
            stop.set()
            thread.join()
        last = self._committer.flush(keep=True) if self._committer.next.lines else None
        self._committer.close()
        if last is not None and last.error is not None:
            raise unavailable(last.error) from last.error

    def _is_full(self, more: int) -> bool:
        waiting = self._committer.batches()
        if not waiting:
            return False
        late = time.monotonic() - waiting[0].since > AT_RISK_SECONDS
        return late or sum(batch.size for batch in waiting) + more > self._buffer_bytes

    def _started(self) -> tuple[Thread, Event]:
        stop = Event()
        thread = Thread(target=self._keep_flushing, args=(stop,), name="prediction-log", daemon=True)
        thread.start()
        return thread, stop

    def _keep_flushing(self, stop: Event) -> None:
        while not stop.wait(FLUSH_SECONDS):
            if self._committer.next.lines:
                self._committer.flush(keep=True)


def _predictions(records: Sequence[PredictionRecord]) -> int:
    return sum(len(record.predictions) for record in records)


def _behind() -> Unavailable:
    return Unavailable(
        "the prediction log cannot be used: the disk does not keep up with what is answered",
        hint="Look at free space and speed of the disk of the predictions folder; nothing is answered meanwhile.",
        facts={"reason": "prediction_log"},
    )
