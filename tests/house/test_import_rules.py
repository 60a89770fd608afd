"""Imports run one way. The contracts stand in pyproject.toml; this runs them, and looks at what the service loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT_OUT_OF_THE_SERVICE = {"mlflow", "evidently", "dbt", "feast", "duckdb"}


def test_every_import_contract_is_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout + done.stderr


LOOK = f"""
import importlib, pkgutil, sys, serving
for module in pkgutil.walk_packages(serving.__path__, "serving."):
    importlib.import_module(module.name)
from churn import wiring
from churn.errors import ChurnError, NotReady
from churn.settings import load_settings
settings = load_settings({{}}, home=sys.argv[1], online_store=sys.argv[2], redis_address="127.0.0.1:9")
wiring.model_cache(settings), wiring.prediction_log(settings), wiring.ledger(settings)
try:
    wiring.raw_tables(settings).current()
except NotReady:
    pass
try:
    wiring.online_store(settings).read([1])
except ChurnError as error:
    print(error.facts["reason"])
print(*sorted({KEPT_OUT_OF_THE_SERVICE!r} & sys.modules.keys()))
"""


@pytest.mark.fault("F13")
@pytest.mark.parametrize(("store", "reason"), [("sqlite", "feature_store_empty"), ("redis", "redis_down")])
def test_the_service_process_loads_neither_feast_nor_the_libraries_of_the_jobs(
    store: str, reason: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", LOOK, str(tmp_path), store]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [reason, ""]
