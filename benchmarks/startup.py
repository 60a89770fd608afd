"""The start of the service, its memory, and whether that grows -> docs/benchmarks.md.

    python -m benchmarks.startup     # BENCH_ASKED=5000 BENCH_RELOADS=5 for a smaller run

Starts are those of `churn serve` itself, side process included, with a model in the cache. Memory is measured on one
worker while requests go on: after each share of them another version is put into its cache and taken up.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, at_most, run, size
from benchmarks.forest import fitted
from benchmarks.planted import Files, model_files, plant, service, stage
from benchmarks.steps import LOAD_CORE, measured
from churn.demo import running_service
from churn.settings import Settings

USERS = 1_000
STARTS = size("STARTS", 3)
ASKED = size("ASKED", 100_000)
RELOADS = size("RELOADS", 50)
LINES = 4
PATIENCE_SECONDS = 60.0
SLOPE_MB = 5.0  # over all requests and reloads, of some 300: below it nothing grows


def measure(home: Path) -> Iterator[Figure]:
    files = model_files(fitted())
    settings = plant(home / "site", USERS, files)
    # Before the first start: a service that is stopped while MLflow makes its tables leaves half of them.
    measured(make_registry, settings)
    starts = [start_seconds(settings.home) for _ in range(STARTS)]
    feast = import_seconds("feast")
    told = f"`import feast` alone: {feast:.1f} s"
    yield Figure("start to ready, cached model, p50", median(starts), "s", told, None, at_most(5))
    yield Figure("start to ready, cached model, slowest", max(starts), "s", goal=at_most(5))
    yield Figure("`import serving.app`, of that", import_seconds("serving.app"), "s", told, None)
    os.sched_setaffinity(0, {LOAD_CORE})
    with service(settings.home) as (port, pid):
        yield from _memory(settings, files, port, pid)


def _memory(settings: Settings, files: Files, port: int, pid: int) -> Iterator[Figure]:
    yield Figure("memory of a worker with one model, before the first request", memory_mb(pid, "VmRSS"), "MB")
    _reloaded(settings, files, port, "2")
    yield Figure(
        "memory of a worker after one take-up: two models were held", memory_mb(pid, "VmHWM"), "MB", goal=at_most(400)
    )
    samples = [memory_mb(pid, "VmRSS")]
    for reload in range(RELOADS):
        ask(port, ASKED // RELOADS)
        _reloaded(settings, files, port, str(reload + 3))
        samples.append(memory_mb(pid, "VmRSS"))
    title = f"memory over {ASKED:,} requests and {RELOADS} reloads"
    yield Figure(f"{title}, at the end", samples[-1], "MB", goal=at_most(400))
    yield Figure(
        f"{title}, slope of its second half, as far as the whole",
        slope(np.array(samples)),
        "MB",
        goal=at_most(SLOPE_MB),
    )


def slope(samples: NDArray[np.float64]) -> float:
    """Growth over as many samples by a line through the second half: in the first, caches and arenas fill."""
    later = samples[len(samples) // 2 :]
    return float(np.polyfit(np.arange(len(later)), later, 1)[0]) * len(samples) if len(later) > 1 else 0.0


def make_registry(settings: Settings) -> None:
    """MLflow's database, as a deployment that has trained has it."""
    from churn import wiring

    wiring.registry(settings).by_alias("champion")


def start_seconds(home: Path) -> float:
    """From the start of `churn serve` to the first good answer of /readyz."""
    started = time.monotonic()
    with running_service(home):
        return time.monotonic() - started


def import_seconds(module: str) -> float:
    """Seconds of an import in a fresh process, its bytecode there already."""
    program = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-W", "ignore", "-c", program]
    times = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]) for _ in "12"
    ]
    return min(times)


def memory_mb(pid: int, what: str) -> float:
    """VmRSS, what a process holds now, or VmHWM, the most it held."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def _reloaded(settings: Settings, files: Files, port: int, version: str) -> None:
    """Puts the files into the cache as another version, and waits until it answers."""
    stage(settings, files, version)
    deadline = time.monotonic() + PATIENCE_SECONDS
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while _version(connection) != version:
        assert time.monotonic() < deadline, f"version {version} was not taken up"
        time.sleep(0.05)
    connection.close()


def _version(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/v1/model")
    return str(json.load(connection.getresponse())["version"])


def ask(port: int, requests: int) -> None:
    """So many requests for one user each, one after the other on some connections."""
    connections = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(LINES)]
    for number in range(requests):
        connection = connections[number % LINES]
        connection.request("GET", f"/v1/users/{number % USERS}/score")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    for connection in connections:
        connection.close()


def main() -> None:
    run("startup", measure)


if __name__ == "__main__":
    main()
