"""Fixtures that every test may ask for. The servers are real; a missing one fails the test and says what to install."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from tests import servers

if TYPE_CHECKING:
    from playwright.sync_api import Page

# The developer's own deployment must not leak into tests, nor may tests talk to anybody.
for name in [name for name in os.environ if name.startswith(("CHURN_", "MLFLOW_"))]:
    del os.environ[name]
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", TZ="UTC")
# Two gradient boostings that share two cores wait for each other's threads: 20 s instead of 0.3 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Repeatable by default: a red CI run is red on the next machine too. HYPOTHESIS_PROFILE=explore looks further.
hypothesis_settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
hypothesis_settings.register_profile("explore", deadline=None, max_examples=500, print_blob=True)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def _address_of(server: AbstractContextManager[str]) -> Iterator[str]:
    try:
        with server as address:
            yield address
    except servers.MissingProgram as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of one Redis for all tests; use a key prefix, project or database number of your own."""
    yield from _address_of(servers.redis_server(tmp_path_factory.mktemp("redis")))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """postgresql://churn@127.0.0.1:PORT/postgres for all tests; use a schema or database of your own."""
    yield from _address_of(servers.postgres_server())


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """http://127.0.0.1:PORT of one MLflow server for all tests; use an experiment and model name of your own."""
    yield from _address_of(servers.mlflow_server(tmp_path_factory.mktemp("mlflow")))


@pytest.fixture(scope="session")
def chromium_program() -> str:
    """Path of Chromium."""
    try:
        return servers.chromium_program()
    except servers.MissingProgram as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture
def page(chromium_program: str) -> Iterator[Page]:
    """A page of a headless Chromium of its own.

    One browser for each test, not for the session: while Playwright's synchronous API is open, `asyncio.run` fails
    in every other test of the process.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_program, args=list(servers.CHROMIUM_ARGUMENTS))
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds README.md."""
    return Path(__file__).resolve().parents[1]
