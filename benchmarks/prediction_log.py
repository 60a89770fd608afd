"""The prediction log: records a second in both modes beside one fsync a record, and compaction -> docs/benchmarks.md.

    python -m benchmarks.prediction_log     # BENCH_SECONDS=1 for shorter runs, BENCH_COMPACTED for fewer records

One record is one user's: 35 features, model, times. Writers are threads of one process, as in the service. The rival
does what a durable log does without a group commit: open, write, flush, fsync, close for each record.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median
from threading import Lock, Thread

from benchmarks.figures import Figure, run, seconds, size
from benchmarks.planted import CUTOFF, NOW, eligible
from benchmarks.steps import measured
from churn.domain.ports import PredictionSink
from churn.domain.predictions import Prediction, Status
from churn.domain.records import PredictionRecord
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE
from churn.errors import Unavailable
from churn.stores.prediction_log import BufferedPredictionLog, PredictionLog

SECONDS = seconds("SECONDS", 5.0)
COMPACTED = size("COMPACTED", 300_000)
WRITERS = (1, 8)
MODES: Mapping[str, Callable[[Path], PredictionSink]] = {"sync": PredictionLog, "buffered": BufferedPredictionLog}
USERS = 500
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def measure(home: Path) -> Iterator[Figure]:
    yield Figure("one fdatasync of 1 kB on this disk, p50", sync_ms(home), "ms")
    naive = {}
    for writers in WRITERS:
        log = NaiveLog(home / f"naive-{writers}.jsonl")
        naive[writers] = rate(log.append, writers)
        yield Figure(f"open, write, fsync a record, {_writers(writers)}", naive[writers], "records/s")
    for mode, kind in MODES.items():
        for writers in WRITERS:
            found = _rate_of(kind(home / f"{mode}-{writers}"), writers)
            rival = f"fsync a record: {naive[writers]:,.0f} records/s"
            yield Figure(f"{mode}, {_writers(writers)}", found, "records/s", rival, found / naive[writers])
    yield from _compaction(home / "past")


def _rate_of(log: PredictionSink, writers: int) -> float:
    found = rate(lambda record: log.append([record]), writers)
    log.close()
    return found


def _writers(writers: int) -> str:
    return f"{writers} writer{'s' if writers > 1 else ''}"


def _compaction(folder: Path) -> Iterator[Figure]:
    fill(folder, COMPACTED)
    size_before = _size(folder)
    done = measured(compacted, folder, COMPACTED)
    yield Figure(f"compaction of {COMPACTED:,} records", COMPACTED / done.seconds, "records/s")
    yield Figure("compaction, peak memory", done.peak_gb, "GB")
    yield Figure("a record in a segment", size_before / COMPACTED, "bytes")
    yield Figure("a record in a compacted day", _size(folder) / COMPACTED, "bytes")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


class NaiveLog:
    """A JSON line and an fsync a record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def append(self, record: PredictionRecord) -> None:
        line = json.dumps(asdict(record), default=str)
        with self._lock, self._path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def records(seed: int = 3, moment: datetime = NOW) -> list[PredictionRecord]:
    """One for each of USERS users."""
    return [
        PredictionRecord(
            request_id=f"{seed:016x}{user:016x}",
            predicted_at=moment,
            source="id",
            predictions=[Prediction(user, Status.OK, 0.25, CUTOFF, tuple(vector), "")],
            model_version="1",
            model_digest="0" * 64,
            feature_service=FEATURE_SERVICE,
            features=FEATURE_NAMES,
            latency_ms=0.5,
        )
        for user, vector in enumerate(eligible(USERS, seed).tolist())
    ]


def rate(append: Callable[[PredictionRecord], object], writers: int) -> float:
    """Records a second that so many threads bring in; one that is refused for want of room is brought again."""
    given, done = records(), [0] * writers
    end = time.monotonic() + SECONDS

    def write(writer: int) -> None:
        for number in count(writer):
            if time.monotonic() >= end:
                return
            try:
                append(given[number % USERS])
            except Unavailable:
                time.sleep(0.001)
                continue
            done[writer] += 1

    threads = [Thread(target=write, args=(writer,)) for writer in range(writers)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started)


def sync_ms(home: Path) -> float:
    handle, times = os.open(home / "probe", os.O_WRONLY | os.O_CREAT | os.O_APPEND), []
    for _ in range(200):
        started = time.perf_counter()
        os.write(handle, b"x" * 1000)
        os.fdatasync(handle)
        times.append(time.perf_counter() - started)
    os.close(handle)
    return median(times) * 1000


def fill(folder: Path, wanted: int) -> None:
    """Finished segments of yesterday with so many records."""
    log = PredictionLog(folder, now=lambda: YESTERDAY)
    for start in range(0, wanted, USERS):
        log.append(records(start, YESTERDAY)[: wanted - start])
    log.close()


def compacted(folder: Path, wanted: int) -> None:
    from churn.stores.prediction_log.compaction import compact

    (day,) = compact(folder, datetime.now(UTC).date())
    assert (day.predictions, day.damaged) == (wanted, 0)


def main() -> None:
    run("prediction_log", measure)


if __name__ == "__main__":
    main()
