"""Steps in processes of their own, so that the peak memory of each is its own; and cores for who must not share one."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What is measured gets the first core, whoever asks it the last; on one core both share it.
CORES = sorted(os.sched_getaffinity(0))
SERVICE_CORE, LOAD_CORE = CORES[0], CORES[-1]
_PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execvp(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True)
class Measured:
    """What a step returned, how long it took, and the peak memory of its process in GB."""

    result: Any
    seconds: float
    peak_gb: float


def measured(step: Callable[..., Any], *arguments: Any, core: int | None = None) -> Measured:
    """Run a step in a fresh process, on one core only if said so."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_in_child, step, arguments, core).result()


def _in_child(step: Callable[..., Any], arguments: tuple[Any, ...], core: int | None) -> Measured:
    if core is not None:
        os.sched_setaffinity(0, {core})
    started = time.monotonic()
    result = step(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Measured(result, time.monotonic() - started, peak)


def processor_seconds(pid: int) -> float:
    """What a process has used of processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """The command with all threads that it will have on that core."""
    return [sys.executable, "-c", _PINNED, str(core), *command]
