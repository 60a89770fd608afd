"""The MLflow server as compose.yaml sets it up, on a real PostgreSQL: it registers our models and nobody else's."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from tests.servers import free_port, mlflow_server

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def registry_uri(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    compose = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    port = free_port()
    environment = {
        name: value.replace("$$", "$").replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        for name, value in compose["services"]["mlflow"]["environment"].items()
        if name != "MLFLOW_BACKEND_STORE_URI"
    }
    backend = postgres_url.replace("postgresql:", "postgresql+psycopg2:")
    with mlflow_server(tmp_path_factory.mktemp("registry"), port, backend, environment) as uri:
        yield uri


def status_of(url: str, body: dict[str, str], host: str) -> int:
    headers = {"Content-Type": "application/json", "Host": host}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_logged_model_can_be_registered_and_get_an_alias(registry_uri: str) -> None:
    client = mlflow.MlflowClient(registry_uri, registry_uri)
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(registry_uri)
    mlflow.set_registry_uri(registry_uri)
    try:
        model = LogisticRegression().fit(np.array([[0.0], [1.0]]), [0, 1])
        logged = mlflow.sklearn.log_model(model, name="model", serialization_format="skops", pip_requirements=["skops"])
        version = mlflow.register_model(logged.model_uri, "accepted")
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
    client.set_registered_model_alias("accepted", "champion", version.version)
    assert client.get_model_version_by_alias("accepted", "champion").source == logged.model_uri


@pytest.mark.fault("S8")
@pytest.mark.parametrize("source", ["s3://elsewhere/model", "file:///etc", "models:/m-short"])
def test_files_from_elsewhere_are_no_model_version(registry_uri: str, source: str) -> None:
    client = mlflow.MlflowClient(registry_uri, registry_uri)
    if not client.search_registered_models("name = 'refused'"):
        client.create_registered_model("refused")
    with pytest.raises(mlflow.MlflowException, match="Invalid model version source"):
        client.create_model_version("refused", source)


@pytest.mark.fault("S8")
@pytest.mark.parametrize(("host", "status"), [("mlflow:5000", 200), ("elsewhere.example", 403)])
def test_the_server_answers_to_its_own_names_only(registry_uri: str, host: str, status: int) -> None:
    url = f"{registry_uri}/api/2.0/mlflow/experiments/search"
    assert status_of(url, {"max_results": "1"}, host) == status
