"""The dependency group `serving` suffices: the service and its side process load nothing else.

Every module of every package that the image does not install is made unimportable, then both are started.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK: dict[str, Any] = tomllib.loads((REPOSITORY / "uv.lock").read_text())
PACKAGES: dict[str, list[dict[str, Any]]] = {}
for _package in LOCK["package"]:
    PACKAGES.setdefault(_package["name"], []).append(_package)


def closure(wanted: list[dict[str, Any]]) -> set[str]:
    """Names of the lock's packages that these dependencies bring, with their extras."""
    seen: set[tuple[str, str]] = set()
    queue = [(entry["name"], extra) for entry in wanted for extra in ("", *entry.get("extra", []))]
    while queue:
        name, extra = queue.pop()
        if (name, extra) not in seen:
            seen.add((name, extra))
            queue += [(entry["name"], each) for entry in _needs(name, extra) for each in ("", *entry.get("extra", []))]
    return {name for name, _ in seen}


def _needs(name: str, extra: str) -> list[dict[str, Any]]:
    lists = [
        package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
        for package in PACKAGES[name]
    ]
    return [entry for entries in lists for entry in entries]


def modules_that_the_image_lacks() -> list[str]:
    installed = closure(PACKAGES["churn"][0]["dev-dependencies"]["serving"]) | {"churn"}
    normal = {module: {re.sub(r"[-_.]+", "-", name).lower() for name in names} for module, names in _distributions()}
    return sorted(module for module, names in normal.items() if not names & installed)


def _distributions() -> list[tuple[str, list[str]]]:
    return [(module, names) for module, names in packages_distributions().items() if module.isidentifier()]


def run_without_them(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({modules_that_the_image_lacks()!r}))\n"
    settings = {"CHURN_HOME": str(home), "CHURN_MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-c", blocked + code],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **settings},
        timeout=120,
    )


def test_the_image_lacks_what_serving_does_not_need() -> None:
    assert {"dbt", "evidently", "feast", "matplotlib", "alembic", "pytest"} <= set(modules_that_the_image_lacks())


def test_the_service_loads_with_what_the_image_installs(tmp_path: Path) -> None:
    parts = "churn.stores.raw_tables, churn.stores.online.store, churn.stores.prediction_log, redis, hiredis"
    done = run_without_them(f"import serving.app, {parts}", tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_policy_is_read_with_what_the_image_installs(tmp_path: Path) -> None:
    """The side process asks it whether a person may override a verdict."""
    done = run_without_them(
        "from churn import settings, wiring; print(wiring.policy(settings.load_settings()).allow_override)", tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_the_side_process_runs_with_what_the_image_installs_and_ends_with_its_parent(tmp_path: Path) -> None:
    # Its standard input is closed from the start, which is how it learns that its parent is gone.
    done = run_without_them("import sys; sys.argv = ['churn', 'stage']; from churn.cli import main; main()", tmp_path)
    assert done.returncode == 0, done.stderr
