"""The service as a process of its own, for tests that kill it: `uvicorn --factory tests.serving.program:create`.

SITE_HOME names the deployment's folder. `python -m tests.serving.program PORT` runs it with a side process; with
WORKERS set, by so many processes. DRAIN_SECONDS is 0 unless set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from churn.jobs.serve import serve, serve_as_worker, serve_by_workers
from serving.app import create_app
from tests.serving.conftest import make_site


def create() -> FastAPI:
    return create_app(make_site(Path(os.environ["SITE_HOME"])).parts)


def create_by_the_systems_clock() -> FastAPI:
    """For tests that change the time of the whole process."""
    parts = make_site(Path(os.environ["SITE_HOME"])).parts
    return create_app(replace(parts, clock=lambda: datetime.now(UTC)))


APP = "tests.serving.program:create"
DRAIN_SECONDS = float(os.environ.get("DRAIN_SECONDS", "0"))
WORKERS = int(os.environ.get("WORKERS", "1"))


def main() -> None:
    def worker(numbers: Sequence[int]) -> list[str]:
        return [sys.executable, "-m", "tests.serving.program", "worker", *map(str, numbers)]

    side = [sys.executable, "-m", "tests.serving.side", os.environ["SITE_HOME"] + "/side.pid"]
    given: dict[str, Any] = {"host": "127.0.0.1", "port": int(sys.argv[1]), "drain_seconds": DRAIN_SECONDS}
    if WORKERS == 1:
        serve(APP, side_command=side, announce=print, **given)
    else:
        serve_by_workers(worker, workers=WORKERS, side_command=side, announce=print, **given)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        serve_as_worker(APP, list(map(int, sys.argv[2:])), DRAIN_SECONDS)
    else:
        main()
