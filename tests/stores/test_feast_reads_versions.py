"""Feast's own MLflow integration understands the runs and versions that we record, though it is not switched on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from churn.core.artifact import digest_of
from churn.domain.schema import FEATURE_NAMES, PROJECT
from churn.domain.versions import FEAST_FILE, ModelVersion
from churn.stores.feature_store import Features, FeatureStore, FeatureStoreConfig, _repo_config
from churn.stores.model_registry import Registry
from churn.stores.online.store import OnlineStore, open_table
from tests.stores.test_model_registry import training


def feast_error() -> type[Exception]:
    """Feast's own error; imported late, because Feast may only be imported by way of our store, which tames it."""
    from feast.mlflow_integration import FeastMlflowModelResolutionError

    return FeastMlflowModelResolutionError


FEAST_TAGS = ("feast.project", "feast.feature_service", "feast.feature_views", "feast.feature_refs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feast-and-mlflow")


@pytest.fixture(scope="module")
def registry(folder: Path) -> Registry:
    return Registry(f"sqlite:///{folder}/mlflow.db", "feast-reads", "feast-reads", folder / "mlruns", digest_of)


@pytest.fixture(scope="module")
def version(registry: Registry) -> ModelVersion:
    return registry.record(training())


@pytest.fixture(scope="module")
def store(folder: Path, repository: Path, registry: Registry) -> Iterator[FeatureStore]:
    """Feast over our definitions, as somebody else might open it: with its MLflow integration on."""
    ours = FeatureStoreConfig(repository / "feature_repo", folder, "integer", timedelta(days=31))
    Features(ours, OnlineStore(open_table(folder))).apply()
    config = _repo_config(ours)
    config.mlflow_config = {"enabled": True, "tracking_uri": registry.tracking_uri, "auto_log": False}
    yield FeatureStore(config=config)


def test_feast_finds_the_feature_service_of_a_version(store: FeatureStore, version: ModelVersion) -> None:
    for name in (version.version, "challenger"):
        assert store.mlflow.resolve_features(f"models:/{version.name}/{name}") == "churn_v1"


def test_feast_cannot_read_an_alias_as_mlflow_writes_it(store: FeatureStore, version: ModelVersion) -> None:
    with pytest.raises(feast_error(), match="Invalid model_uri format"):
        store.mlflow.resolve_features(f"models:/{version.name}@challenger")


def test_feast_refuses_a_version_that_needs_other_features_than_the_service_has(
    store: FeatureStore, registry: Registry
) -> None:
    other = registry.record(training(features=(*FEATURE_NAMES[:-1], "shoe_size")))
    with pytest.raises(feast_error(), match=r"Missing: \{'user_analytics:shoe_size'\}"):
        store.mlflow.resolve_features(f"models:/{other.name}/{other.version}")


def test_a_run_carries_the_tags_that_feast_itself_would_write(store: FeatureStore, version: ModelVersion) -> None:
    client = store.mlflow.client
    ours = client.get_run(version.run_id)
    refs = json.loads(Path(client.download_artifacts(version.run_id, FEAST_FILE)).read_text())
    with store.mlflow.start_run(experiment_id=ours.info.experiment_id) as run:
        assert store.mlflow.log_feature_retrieval(
            refs, entity_count=1, duration_seconds=0.1, feature_service_name="churn_v1"
        )
    theirs = client.get_run(run.info.run_id).data.tags
    assert {name: ours.data.tags[name] for name in FEAST_TAGS} == {name: theirs[name] for name in FEAST_TAGS}


def test_the_project_is_that_of_the_feature_store(store: FeatureStore) -> None:
    assert store.project == PROJECT


def test_our_own_feature_store_has_the_integration_switched_off(repository: Path, folder: Path) -> None:
    ours = FeatureStoreConfig(repository / "feature_repo", folder, "integer", timedelta(days=31))
    assert Features(ours, OnlineStore(open_table(folder)))._open().mlflow is None
