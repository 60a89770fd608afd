"""A small planted deployment, its model and files, made once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import forest, service
from benchmarks.planted import Files, model_files, plant
from benchmarks.service import Site

USERS = 60


@pytest.fixture(scope="session")
def small_model() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest, "TREES", 5)
        patch.setattr(forest, "GROWN_ON", 1_000)
        yield forest.fitted()


@pytest.fixture(scope="session")
def small_files(small_model: Any) -> Files:
    return model_files(small_model)


@pytest.fixture(scope="session")
def small_site(small_model: Any, small_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A deployment with USERS users in SQLite."""
    home = tmp_path_factory.mktemp("bench")
    plant(home / "SQLite", USERS, small_files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "USERS", USERS)
        patch.setattr(service, "SECONDS", 0.1)
        patch.setattr(service, "STAGED", 20)
        yield Site(home, small_model, small_files, {"SQLite": "", "Redis": ""})
