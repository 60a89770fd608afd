"""Imports run one way. The contracts stand in pyproject.toml; this runs them, and looks at what the service loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT_OUT_OF_THE_SERVICE = {"mlflow", "evidently", "dbt"}


def test_every_import_contract_is_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_process_loads_neither_mlflow_nor_evidently_nor_dbt() -> None:
    look = (
        "import importlib, pkgutil, sys, serving\n"
        "for module in pkgutil.walk_packages(serving.__path__, 'serving.'): importlib.import_module(module.name)\n"
        f"print(*sorted({KEPT_OUT_OF_THE_SERVICE!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", look], check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
