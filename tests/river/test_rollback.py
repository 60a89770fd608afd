"""Back to the version before, by one verb and by one click, with everything gone but the service's own cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Page

from churn.core.artifact import digest_of
from churn.domain.ledger import Kind
from churn.domain.versions import CHAMPION, TAG_SIGNATURE, TAG_VERDICT, ModelVersion
from churn.stores.ledger import Ledger
from churn.stores.model_registry import Registry
from churn.stores.signing_key import read_or_make
from tests.models import judged
from tests.river.conftest import SECONDS_TO_SERVE, River, ask, move_champion_in_the_ui, wait_for_version
from tests.servers import free_port, mlflow_server
from tests.stores.test_model_registry import training

POLL_SECONDS = 1.0


@dataclass
class Deployment:
    """The river's features with a registry of their own, which can be stopped, and two judged versions in it."""

    river: River
    folder: Path
    port: int = field(default_factory=free_port)
    server: ExitStack = field(default_factory=ExitStack)

    def start_registry(self) -> Registry:
        self.server.enter_context(mlflow_server(self.folder, self.port))
        return Registry(self.river.tracking_uri, "rollback", "churn_prediction", self.folder, digest_of)

    def lose_the_artifacts(self) -> None:
        shutil.rmtree(self.folder / "artifacts")

    def register(self, registry: Registry, seed: int) -> ModelVersion:
        """A version with a passed verdict, signed with the deployment's own key."""
        made = registry.record(training(seed, figures={}, datasets={}))
        tags = judged(made, key=read_or_make(self.river.home / "signing.key")).tags
        for name in (TAG_VERDICT, TAG_SIGNATURE):
            registry.tag(made.version, name, tags[name])
        return made


@pytest.fixture
def deployment(river: River, tmp_path: Path) -> Iterator[Deployment]:
    home = tmp_path / "home"
    shutil.copytree(river.home, home, ignore=shutil.ignore_patterns("cache", "ledger.jsonl", "predictions"))
    folder = tmp_path / "registry"
    folder.mkdir()
    made = Deployment(replace(river, home=home, said={}), folder)
    made.river.tracking_uri = f"http://127.0.0.1:{made.port}"
    text = f'poll_seconds = {POLL_SECONDS}\nmlflow_tracking_uri = "{made.river.tracking_uri}"\n'
    (home / "churn.toml").write_text(f'mode = "development"\nclock = "snapshot"\n{text}')
    with made.server:
        yield made


def with_two_versions(deployment: Deployment) -> Registry:
    registry = deployment.start_registry()
    for seed in (1, 2):
        deployment.register(registry, seed)
    registry.set_alias(CHAMPION, "1")
    return registry


def serve_the_second(address: str, registry: Registry) -> None:
    wait_for_version(address, "1")
    registry.set_alias(CHAMPION, "2")
    wait_for_version(address, "2")


@pytest.mark.fault("L9")
def test_a_rollback_is_served_in_time_with_registry_and_artifacts_gone_and_lasts_when_they_return(
    deployment: Deployment,
) -> None:
    registry = with_two_versions(deployment)
    with deployment.river.service() as address:
        serve_the_second(address, registry)
        deployment.server.close()
        deployment.lose_the_artifacts()
        started = time.monotonic()
        command = [sys.executable, "-m", "churn", "rollback", "--why", "a test"]
        with subprocess.Popen(
            command, cwd=deployment.folder, env=deployment.river.environment, stderr=subprocess.PIPE, text=True
        ) as verb:
            wait_for_version(address, "1", seconds=60)
            answered, whole = datetime.now(UTC), time.monotonic() - started
            _, warned = verb.communicate()
        assert verb.returncode == 0
        assert "the alias champion could not be moved" in warned
        entries = Ledger(deployment.river.home / "ledger.jsonl").read().entries
        (acted,) = [entry.at for entry in entries if entry.kind is Kind.ROLLBACK]
        seconds = (answered - acted).total_seconds()
        print(f"rollback: served {seconds:.2f} s after the pointer moved, {whole:.2f} s after the command was started")
        assert seconds < POLL_SECONDS + 2

        registry = deployment.start_registry()  # its alias still points at version 2, whose files are gone
        wait_for_held(address, "2")
        assert ask(f"{address}/v1/model")[1]["version"] == "1"
        registry.set_alias(CHAMPION, "1")
        wait_for_held(address, None)
        registry.set_alias(CHAMPION, "2")
        wait_for_version(address, "2")


@pytest.mark.fault("L9")
def test_one_click_goes_back_to_the_version_before_with_the_artifacts_gone(deployment: Deployment, page: Page) -> None:
    registry = with_two_versions(deployment)
    with deployment.river.service() as address:
        serve_the_second(address, registry)
        deployment.lose_the_artifacts()
        move_champion_in_the_ui(page, deployment.river.tracking_uri, "1")
        assert wait_for_version(address, "1") < SECONDS_TO_SERVE


def wait_for_held(address: str, version: str | None) -> None:
    started = time.monotonic()
    while ask(f"{address}/v1/model")[1]["staging"]["held_version"] != version:
        assert time.monotonic() - started < 30, f"{version} is not what is held"
        time.sleep(0.05)
