"""One small shop brought down the whole river, every verb through `mlflow run`, against a real MLflow server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.servers import program_environment

SECONDS = 280
SECONDS_TO_SERVE = 5.0


@dataclass
class River:
    """A deployment in a folder of its own. `settings` are CHURN_ variables; `said` keeps what each verb printed."""

    repository: Path
    home: Path
    tracking_uri: str
    settings: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in program_environment().items() if not name.startswith("CHURN_")}
        settings = {"CHURN_HOME": str(self.home), "COLUMNS": "200", **self.settings}
        return {**ours, **settings, "MLFLOW_TRACKING_URI": self.tracking_uri, "VIRTUAL_ENV": sys.prefix}

    def mlflow_run(self, verb: str, **parameters: object) -> subprocess.CompletedProcess[str]:
        """`mlflow run . --env-manager local -e verb -P name=value …`."""
        given = [part for name, value in parameters.items() for part in ("-P", f"{name}={value}")]
        mlflow = Path(sys.executable).parent / "mlflow"
        done = self._run([str(mlflow), "run", ".", "--env-manager", "local", "-e", verb, *given])
        self.said[verb] = done.stdout + done.stderr
        return done

    def churn(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`churn …`, by the command line."""
        return self._run([sys.executable, "-m", "churn", *arguments])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.repository,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    @contextmanager
    def service(self) -> Iterator[str]:
        """The address of a running service."""
        from churn.demo import running_service

        with running_service(self.home) as address:
            yield address


def ask(url: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a GET, or of a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def wait_for_version(address: str, version: str, seconds: float = 3 * SECONDS_TO_SERVE) -> float:
    """Seconds until the service says it serves `version`."""
    started = time.monotonic()
    while ask(f"{address}/v1/model")[1].get("version") != version:
        assert time.monotonic() - started < seconds, "the service did not take the champion up"
        time.sleep(0.05)
    return time.monotonic() - started


def move_champion_in_the_ui(page: Page, tracking_uri: str, version: str) -> None:
    """What a person does: open the model, edit the aliases of a version, type champion, save."""
    page.goto(f"{tracking_uri}/#/models/churn_prediction")
    row = page.get_by_role("row").filter(has_text=f"Version {version}")
    row.locator("[data-component-id*='modelversiontablealiasescell']").last.click()
    dialog = page.get_by_role("dialog").last
    dialog.get_by_role("combobox").click()
    dialog.get_by_role("combobox").type("champion")
    dialog.get_by_role("combobox").press("Enter")
    with page.expect_response(lambda response: "registered-models/alias" in response.url) as saved:
        dialog.get_by_role("button", name="Save aliases").click()
    assert saved.value.ok
    expect(dialog).not_to_be_visible()


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def river(repository: Path, mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> River:
    """The river up to a champion: simulate, ingest, build-features, train, promote, each by `mlflow run`."""
    made = River(repository, tmp_path_factory.mktemp("river") / "home", mlflow_uri)
    made.home.mkdir()
    # Versions are retrained here as they are: not worse is enough.
    policy = (repository / "policy.yaml").read_text().replace("superior_in: [log_loss]", "superior_in: []")
    (made.home / "policy.yaml").write_text(policy)
    settings = f'mode = "development"\nclock = "snapshot"\nmlflow_tracking_uri = "{mlflow_uri}"\n'
    (made.home / "churn.toml").write_text(f'{settings}policy = "{made.home / "policy.yaml"}"\n')
    shop = made.home / "shop"
    succeeded(made.mlflow_run("simulate", users=1500, days=540, seed=7))
    tables = {"users": "users", "orders": "orders", "sessions": "user_sessions"}
    succeeded(made.mlflow_run("ingest", **{name: shop / f"{table}.parquet" for name, table in tables.items()}))
    succeeded(made.mlflow_run("build-features", **{"from": "2024-07-01"}))
    succeeded(made.mlflow_run("train", n_estimators=20))
    succeeded(made.mlflow_run("promote"))
    return made
