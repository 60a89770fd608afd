"""The rivals as running programs, each on the service's core: all take the same requests the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.planted import program
from churn.domain.schema import FEATURE_NAMES

_UVICORN = ["-m", "uvicorn", "--log-level", "warning", "--no-access-log"]


@contextmanager
def empty_service(folder: Path) -> Iterator[int]:
    command = [sys.executable, *_UVICORN, "benchmarks.empty_service:app", "--port"]
    with program(command, "/", folder, {}) as (port, _):
        yield port


@contextmanager
def plain_service(repository: Path, model: Path) -> Iterator[int]:
    """benchmarks/plain_service.py under the same uvicorn."""
    command = [sys.executable, *_UVICORN, "benchmarks.plain_service:app", "--port"]
    names = {"PLAIN_REPOSITORY": repository, "PLAIN_MODEL": model, "PLAIN_FEATURES": ",".join(FEATURE_NAMES)}
    environment = {name: str(value) for name, value in names.items()}
    with program(command, "/healthz", repository, environment) as (port, _):
        yield port


@contextmanager
def feast_serve(repository: Path) -> Iterator[int]:
    """Feast's own server with one worker, which it would else end after 1,000 requests."""
    command = [sys.executable, "-m", "feast.cli.cli", "--chdir", str(repository), "serve", "--no-access-log"]
    command += ["--workers", "1", "--max-requests", "100000000", "--registry_ttl_sec", "3600", "--port"]
    with program(command, "/health", repository, {}) as (port, _):
        yield port


@contextmanager
def mlflow_serve(model: Path) -> Iterator[int]:
    """`mlflow models serve` of a saved model, in this environment."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
    command += ["--env-manager", "local", "--workers", "1", "--port"]
    with program(command, "/ping", model.parent, {}) as (port, _):
        yield port


def save_for_mlflow(model: Any, folder: Path) -> None:
    """The model as MLflow saves it, asked for probabilities; without a signature, which costs it a millisecond."""
    import mlflow.sklearn
    import skops.io

    mlflow.sklearn.save_model(
        model,
        str(folder),
        serialization_format="skops",
        skops_trusted_types=skops.io.get_untrusted_types(data=skops.io.dumps(model)),
        pyfunc_predict_fn="predict_proba",
        pip_requirements=["mlflow", "scikit-learn", "skops"],
    )
