"""The prediction log beside sudden ends and broken disks, in processes of its own.

PREDICTION_LOG_ROUNDS and PREDICTION_LOG_RECORDS make the rounds of killing and the records of two writers more.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import httpx
import pytest

from churn.stores.prediction_log.compaction import compact
from churn.stores.prediction_log.reading import read_predictions
from tests.servers import program_environment, strace_program
from tests.serving.conftest import make_site
from tests.serving.test_processes import program
from tests.stores.log_records import FIRST, LAST, NOON, logged

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("PREDICTION_LOG_ROUNDS", "20"))
RECORDS = int(os.environ.get("PREDICTION_LOG_RECORDS", "2000"))


def writer(folder: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "tests.stores.log_program", str(folder), *map(str, words)]


def run(command: Sequence[str]) -> list[str]:
    """The lines that a writer told, until it ended."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=program_environment(), timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@contextmanager
def started(command: Sequence[str], told: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A writer whose lines go to a file; killed at the end."""
    with told.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, cwd=ROOT, env=program_environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def kill_after(process: subprocess.Popen[bytes], told: Path, seconds: float) -> float:
    """When the writer was killed with -9: so many seconds after its first acknowledgement."""
    deadline = time.monotonic() + 60
    while told.stat().st_size == 0:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(seconds)
    killed = time.time()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return killed


def acknowledged(told: Path) -> dict[str, float]:
    """Request ids that a writer told, and when they were taken; the last line may be cut."""
    lines = told.read_text().split("\n")[:-1]
    return {name: float(moment) for name, moment in (line.split(" ") for line in lines)}


# -- P1: kill -9 -----------------------------------------------------------------------------------------------


@pytest.mark.fault("P1")
def test_every_acknowledged_record_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Segments of 20 kB, so that many rounds are killed in the middle of a rotation."""
    seed = random.randrange(10**6)
    chance, answered = random.Random(seed), dict[str, float]()
    for number in range(ROUNDS):
        told = tmp_path / f"told-{number}"
        with started(writer(tmp_path / "log", "sync", 4, 0, 20_000), told) as process:
            kill_after(process, told, chance.uniform(0.0, 0.2))
        answered |= acknowledged(told)
    found, skipped = logged(tmp_path / "log")
    assert len(answered) > 10 * ROUNDS
    assert set(answered) - set(found) == set(), f"seed {seed}"
    assert len(found) == len(set(found))
    assert skipped <= ROUNDS, "at most one torn line a kill"
    compact(tmp_path / "log", FIRST.date())
    assert logged(tmp_path / "log")[0] == found


@pytest.mark.fault("P1")
def test_a_buffered_log_loses_at_most_the_last_second_by_kill_9(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    for number in range(3):
        folder, told = tmp_path / f"log-{number}", tmp_path / f"told-{number}"
        with started(writer(folder, "buffered", 2, 0), told) as process:
            killed = kill_after(process, told, chance.uniform(1.2, 1.6))
        found = set(logged(folder)[0])
        lost = [moment for name, moment in acknowledged(told).items() if name not in found]
        assert found, f"seed {seed}"
        assert all(killed - moment <= 1.0 for moment in lost), f"seed {seed}"


# -- P2: on disk before it leaves --------------------------------------------------------------------------------


@pytest.mark.fault("P2")
def test_the_service_syncs_the_log_before_it_sends_the_answer(tmp_path: Path) -> None:
    """Order of write(log), fdatasync and the send of the 200, as the kernel saw it."""
    site, trace = make_site(tmp_path / "site"), tmp_path / "trace"
    site.promote()
    strace = [strace_program(), "-f", "-tt", "-y", "-s", "400", "-o", str(trace)]
    calls = ["-e", "trace=write,writev,fdatasync,sendto,sendmsg", "-e", "signal=none"]
    service = ["-m", "uvicorn", "--factory", "tests.serving.program:create", "--log-level", "error", "--port"]
    with program(site, *service, before=[*strace, *calls]) as (_, address):
        answer = httpx.post(
            f"{address}/v1/score", json={"user_ids": [1]}, headers={"X-Request-ID": "traced"}, timeout=30
        )
        assert answer.status_code == 200
    steps = [step for line in trace.read_text().splitlines() if (step := step_of(line))]
    assert [step for step, _ in groupby(steps)] == ["write", "sync", "send"]


def step_of(line: str) -> str:
    """What a line of the trace is for the one request of the test; a sync counts where it ends."""
    if ".jsonl>" in line and "write(" in line and "traced" in line:
        return "write"
    if "fdatasync" in line:
        return "" if "unfinished" in line else "sync"
    return "send" if re.search(r"(send\w*|writev?)\(\d+<(socket|TCP).*traced", line) else ""


# -- P3: broken disks ------------------------------------------------------------------------------------------


def strace_with(fault: str) -> list[str]:
    """Starts a program whose system calls meet that fault."""
    return [strace_program(), "-f", "-q", "-o", "/dev/null", "-e", f"inject={fault}"]


@pytest.mark.fault("P3")
@pytest.mark.parametrize("mode", ["sync", "buffered"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT", "EROFS"])
def test_a_disk_that_fails_and_recovers_loses_nothing_that_was_acknowledged(
    error: str, mode: str, tmp_path: Path
) -> None:
    fault = strace_with(f"fdatasync:error={error}:when=2")
    told = Counter(line.split(" ")[0] for line in run([*fault, *writer(tmp_path / "log", mode, 1, 12, 10_000, 0.1)]))
    refused = told.pop("refused", 0)
    found, skipped = logged(tmp_path / "log")
    assert found == list(told) and skipped == 0
    assert (refused, len(found)) == ((1, 11) if mode == "sync" else (0, 12))


# -- P4: slow disks --------------------------------------------------------------------------------------------


@pytest.mark.fault("P4")
def test_a_slow_disk_costs_latency_in_sync_mode_and_nothing_else(tmp_path: Path) -> None:
    fault = strace_with("fdatasync:delay_enter=100000")
    begun = time.monotonic()
    told = run([*fault, *writer(tmp_path / "log", "sync", 4, 5)])
    assert time.monotonic() - begun >= 0.5
    assert sorted(logged(tmp_path / "log")[0]) == sorted(line.split(" ")[0] for line in told)
    assert len(told) == 20


@pytest.mark.fault("P4")
def test_a_stalling_disk_refuses_in_buffered_mode_and_loses_nothing_that_was_taken(tmp_path: Path) -> None:
    fault = strace_with("fdatasync:delay_enter=2500000:when=1")
    told = [
        line.split(" ")[0] for line in run([*fault, *writer(tmp_path / "log", "buffered", 1, 400, 1_000_000, 0.01)])
    ]
    taken = [name for name in told if name != "refused"]
    assert "refused" in told
    assert logged(tmp_path / "log") == (taken, 0)


# -- P6: several writers ---------------------------------------------------------------------------------------


@pytest.mark.fault("P6")
def test_two_processes_write_whole_lines_into_segments_of_their_own(tmp_path: Path) -> None:
    told = [tmp_path / "one", tmp_path / "two"]
    command = writer(tmp_path / "log", "sync", 2, RECORDS // 4, 100_000)
    with started(command, told[0]) as one, started(command, told[1]) as two:
        assert (one.wait(timeout=280), two.wait(timeout=280)) == (0, 0)
    answered = acknowledged(told[0]) | acknowledged(told[1])
    frame, skipped = read_predictions(tmp_path / "log", FIRST, LAST)
    assert len(answered) == 4 * (RECORDS // 4)
    assert (set(frame["request_id"]), len(frame), skipped) == (set(answered), len(answered), 0)
    assert (frame["predicted_at"] - NOON).max() == timedelta(0)
