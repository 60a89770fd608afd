"""The service as a process of its own, for tests that kill it: `uvicorn --factory tests.serving.program:create`.

SITE_HOME names the deployment's folder. `python -m tests.serving.program PORT` runs it with a side process.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI

from churn.jobs.serve import serve
from serving.app import create_app
from tests.serving.conftest import make_site


def create() -> FastAPI:
    return create_app(make_site(Path(os.environ["SITE_HOME"])).parts)


def create_by_the_systems_clock() -> FastAPI:
    """For tests that change the time of the whole process."""
    parts = make_site(Path(os.environ["SITE_HOME"])).parts
    return create_app(replace(parts, clock=lambda: datetime.now(UTC)))


if __name__ == "__main__":
    serve(
        "tests.serving.program:create",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        side_command=[sys.executable, "-m", "tests.serving.side", os.environ["SITE_HOME"] + "/side.pid"],
        announce=print,
    )
