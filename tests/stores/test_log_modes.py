"""Both modes of the prediction log beside slow and broken disks, and what shares one write."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from churn.domain.records import LogState
from churn.errors import Unavailable
from churn.stores.prediction_log import BufferedPredictionLog, PredictionLog, segments
from churn.stores.prediction_log.lines import encode
from tests.serving.conftest import eventually
from tests.stores import log_records
from tests.stores.log_records import logged, record


class Disk:
    """`os.fdatasync`, that can be held up or fail; counts what goes through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.error: OSError | None = None
        self.free = threading.Event()
        self.free.set()
        self._real = os.fdatasync
        monkeypatch.setattr(segments.os, "fdatasync", self)

    def __call__(self, handle: int) -> None:
        self.free.wait()
        self.syncs += 1
        if self.error is not None:
            raise self.error
        self._real(handle)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def in_threads(number: int, job: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=job, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    return threads


# -- sync ------------------------------------------------------------------------------------------------------


def test_appends_that_wait_for_the_disk_share_one_write(tmp_path: Path, disk: Disk) -> None:
    log = PredictionLog(tmp_path)
    disk.free.clear()
    first = in_threads(1, lambda _: log.append([record("first")]))
    assert eventually(lambda: log.state().waiting == 1)
    others = in_threads(8, lambda place: log.append([record(f"other-{place}")]))
    assert eventually(lambda: log.state().waiting == 9)
    assert all(thread.is_alive() for thread in first + others), "none returns before the disk has its record"
    disk.free.set()
    for thread in first + others:
        thread.join()
    assert disk.syncs == 2
    assert log.state() == LogState(written=9)
    assert len(logged(tmp_path)[0]) == 9
    log.close()


@pytest.mark.fault("P3")
def test_every_append_of_a_write_that_failed_is_refused_and_none_is_in_the_log(tmp_path: Path, disk: Disk) -> None:
    log = PredictionLog(tmp_path)
    log.append([record("before")])
    disk.free.clear()
    refused: list[int] = []

    def append(place: int) -> None:
        try:
            log.append([record("lost")])
        except Unavailable:
            refused.append(place)

    threads = in_threads(5, append)
    assert eventually(lambda: log.state().waiting == 5)
    disk.error = OSError(5, "Input/output error")
    disk.free.set()
    for thread in threads:
        thread.join()
    disk.error = None
    log.append([record("after")])
    log.close()
    assert sorted(refused) == [0, 1, 2, 3, 4]
    assert (log.state().written, log.state().refused) == (2, 5)
    assert 1 <= log.state().failures <= 2
    assert logged(tmp_path) == (["before", "after"], 0)


@pytest.mark.fault("P5")
def test_a_segment_that_was_removed_by_hand_takes_no_more_records(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    log.append([record("removed")])
    (path,) = log_records.segments(tmp_path)
    path.unlink()
    with pytest.raises(Unavailable):
        log.append([record("refused")])
    log.append([record("taken")])
    log.close()
    assert logged(tmp_path) == (["taken"], 0)


def test_a_new_day_begins_a_new_segment(tmp_path: Path) -> None:
    clock = [datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)]
    log = PredictionLog(tmp_path, now=lambda: clock[0])
    log.append([record("a")])
    log.append([record("b")])
    clock[0] += timedelta(seconds=1)
    log.append([record("c")])
    log.close()
    assert [path.name[:15] for path in log_records.segments(tmp_path)] == ["20261123T235959", "20261124T000000"]
    assert logged(tmp_path) == (["a", "b", "c"], 0)


# -- buffered --------------------------------------------------------------------------------------------------


def test_a_buffered_append_returns_at_once_and_is_on_disk_within_a_second(tmp_path: Path) -> None:
    log = BufferedPredictionLog(tmp_path)
    log.append([record("a"), record("b")])
    assert (log.state().waiting, log.state().written) == (2, 0)
    assert logged(tmp_path) == ([], 0)
    assert eventually(lambda: log.state() == LogState(written=2), seconds=1.0)
    assert logged(tmp_path) == (["a", "b"], 0)
    log.close()


def test_closing_writes_what_waits_and_a_later_append_starts_anew(tmp_path: Path) -> None:
    log = BufferedPredictionLog(tmp_path)
    for name in ("a", "b"):
        log.append([record(name)])
        log.close()
    assert logged(tmp_path) == (["a", "b"], 0)
    assert not [thread for thread in threading.enumerate() if thread.name == "prediction-log"]


@pytest.mark.fault("P4")
def test_while_the_disk_stalls_nothing_is_taken_after_a_second(tmp_path: Path, disk: Disk) -> None:
    log = BufferedPredictionLog(tmp_path)
    disk.free.clear()
    started, taken = time.monotonic(), 0
    with pytest.raises(Unavailable, match="does not keep up"):
        while time.monotonic() - started < 5:
            log.append([record(str(taken))])
            taken += 1
            time.sleep(0.005)
    assert 0.9 < time.monotonic() - started < 1.5
    state = log.state()
    assert (state.waiting, state.written, state.refused) == (taken, 0, 1)
    assert state.oldest_seconds > 1.0
    disk.free.set()
    assert eventually(lambda: log.state().waiting == 0)
    log.append([record("after")])
    log.close()
    assert len(logged(tmp_path)[0]) == taken + 1


@pytest.mark.fault("P4")
def test_a_full_buffer_takes_no_more_and_counts_what_it_refused(tmp_path: Path, disk: Disk) -> None:
    log = BufferedPredictionLog(tmp_path, buffer_bytes=3 * len(encode(record())))
    disk.free.clear()
    for _ in range(3):
        log.append([record()])
    with pytest.raises(Unavailable):
        log.append([record(), record()])
    assert (log.state().waiting, log.state().refused) == (3, 2)
    disk.free.set()
    log.close()
    assert len(logged(tmp_path)[0]) == 3


@pytest.mark.fault("P3")
def test_what_a_broken_disk_did_not_take_is_kept_and_written_later_in_order(tmp_path: Path, disk: Disk) -> None:
    log = BufferedPredictionLog(tmp_path)
    disk.error = OSError(28, "No space left on device")
    log.append([record("a")])
    assert eventually(lambda: log.state().failures >= 1)
    log.append([record("b")])
    assert (log.state().waiting, log.state().refused) == (2, 0)
    disk.error = None
    assert eventually(lambda: log.state().written == 2)
    log.close()
    assert logged(tmp_path) == (["a", "b"], 0)


def test_closing_on_a_broken_disk_says_so(tmp_path: Path, disk: Disk) -> None:
    log = BufferedPredictionLog(tmp_path)
    disk.error = OSError(28, "No space left on device")
    log.append([record("a")])
    with pytest.raises(Unavailable, match="No space left"):
        log.close()
    assert log.state().waiting == 1
