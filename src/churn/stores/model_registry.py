"""Runs, model versions and aliases: the only importer of MLflow.

A version is registered only once all of its files are in the artifact store, with their digest as a tag; so whoever
sees a version sees a whole one. Models are saved with skops, never pickled, and never loaded through MLflow.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # requirements are given, whatever folder this runs in
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the default keeps retrying for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import mlflow
import numpy as np
import pandas as pd
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

from churn.domain.artifacts import SERVED_FILES, refused
from churn.domain.schema import FEATURE_VIEW, PROJECT
from churn.domain.versions import (
    CHALLENGER,
    CHAMPION,
    FEAST_FILE,
    FEAST_PROJECT,
    FEAST_REFS,
    FEAST_SERVICE,
    FEAST_VIEWS,
    REFERENCE_FILE,
    TAG_DIGEST,
    TAG_FEATURE_SERVICE,
    TAG_LINEAGE,
    ModelVersion,
    TrainingRecord,
)
from churn.errors import NotReady, Refused, Unavailable

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("urllib3").setLevel(logging.ERROR)  # a server that does not answer is told by us, once
# MLflow calls a missing version the one and a missing alias the other.
MISSING = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}
LOGGED_MODEL = re.compile(r"models:/(m-[0-9a-f]{32})")
LAUNCHED_RUN = "MLFLOW_RUN_ID"


@dataclass
class Registry:
    """One experiment and one registered model behind one address.

    `digest_of` maps file names and contents to the digest that the version carries as a tag.
    """

    tracking_uri: str
    experiment: str
    model_name: str
    artifact_root: Path
    digest_of: Callable[[Mapping[str, bytes]], str]

    def __post_init__(self) -> None:
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        with _registry_faults():
            self._client = mlflow.MlflowClient(self.tracking_uri, self.tracking_uri)

    # -- training ----------------------------------------------------------------------------------------------

    def record(self, training: TrainingRecord) -> ModelVersion:
        """Log the run, then the model with all its files, then register it and set the alias challenger."""
        with _registry_faults(), self._run() as run_id:
            self._log_run(training)
            source, digest = self._log_model(training)
            mlflow.set_tags({"churn.digest": digest, TAG_FEATURE_SERVICE: training.lineage.feature_service})
            self._log_for_feast(training)
            version = self._register(source, run_id, digest, training)
            self._client.set_registered_model_alias(self.model_name, CHALLENGER, version)
        return self.get(version)

    @contextmanager
    def _run(self) -> Iterator[str]:
        """A run in our experiment: the one `mlflow run` started there, else a new one that names its parent."""
        experiment_id = self._experiment_id()
        launched = os.environ.get(LAUNCHED_RUN)
        parent = self._find_run(launched) if launched else None
        mine = parent is not None and parent.info.experiment_id == experiment_id
        # mlflow.start_run would pick the launched run up from the environment by itself, whatever its experiment.
        os.environ.pop(LAUNCHED_RUN, None)
        tags = {"mlflow.parentRunId": launched} if parent is not None and not mine and launched else None
        arguments: dict[str, Any] = {"run_id": launched} if mine else {"experiment_id": experiment_id, "tags": tags}
        with mlflow.start_run(**arguments) as run:
            yield run.info.run_id
        if parent is not None and not mine:
            self._client.set_tag(parent.info.run_id, "churn.training_run", run.info.run_id)

    def _find_run(self, run_id: str) -> Any:
        try:
            return self._client.get_run(run_id)
        except MlflowException:
            return None  # launched by an `mlflow run` that tracks elsewhere

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        local = not self.tracking_uri.startswith("http")
        return str(self._client.create_experiment(self.experiment, self.artifact_root.as_uri() if local else None))

    def _log_run(self, training: TrainingRecord) -> None:
        already = mlflow.active_run()
        known = self._client.get_run(already.info.run_id).data.params if already else {}
        mlflow.log_params({name: value for name, value in training.parameters.items() if name not in known})
        mlflow.log_metrics({name: value for name, value in training.metrics.items() if np.isfinite(value)})
        for name, figure in training.figures.items():
            mlflow.log_figure(figure, f"plots/{name}.png")
        for name, table in training.tables.items():
            mlflow.log_dict(table, f"tables/{name}.json")
        for path, text in training.texts.items():
            mlflow.log_text(text, path)
        for context, frame in training.datasets.items():
            mlflow.log_input(from_pandas(frame, name=f"{context}_set", targets="churned"), context=context)

    def _log_for_feast(self, training: TrainingRecord) -> None:
        """What Feast's `resolve_features` and its user interface look for in a run."""
        refs = [f"{FEATURE_VIEW}:{name}" for name in training.features]
        service = training.lineage.feature_service
        tags = {FEAST_PROJECT: PROJECT, FEAST_SERVICE: service, FEAST_VIEWS: FEATURE_VIEW, FEAST_REFS: ",".join(refs)}
        mlflow.set_tags(tags)
        mlflow.log_text(json.dumps(refs), FEAST_FILE)

    def _log_model(self, training: TrainingRecord) -> tuple[str, str]:
        example = pd.DataFrame([[0.0] * len(training.features)], columns=list(training.features))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X has feature names", UserWarning)  # the signature holds their order
            logged = mlflow.sklearn.log_model(
                training.estimator,
                name="model",
                serialization_format="skops",
                skops_trusted_types=list(training.trusted_types),
                signature=_signature(training.features),
                input_example=example,
                pip_requirements=list(training.requirements),
                pyfunc_predict_fn="predict_proba",
            )
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in training.files.items():
                (Path(scratch) / name).write_bytes(content)
            self._client.log_model_artifacts(logged.model_id, scratch)
        return str(logged.model_uri), self._stored_digest(str(logged.model_uri), SERVED_FILES)

    def _stored_digest(self, uri: str, names: tuple[str, ...]) -> str:
        """The digest of what the artifact store holds, not of what was sent to it."""
        with tempfile.TemporaryDirectory() as scratch:
            self._download(uri, names, Path(scratch))
            return self.digest_of({name: (Path(scratch) / name).read_bytes() for name in names})

    def _download(self, source: str, names: tuple[str, ...], folder: Path) -> None:
        """Copy files of a logged model (`models:/m-<id>`) into `folder`."""
        found = LOGGED_MODEL.fullmatch(source)
        if found is None:
            raise Refused(f"the version's source {source!r} is no logged model", hint="Register with `churn train`.")
        location = self._client.get_logged_model(found[1]).artifact_location
        _check_plain(location, names)
        for name in names:
            mlflow.artifacts.download_artifacts(artifact_uri=f"{location}/{name}", dst_path=str(folder))

    def _register(self, source: str, run_id: str, digest: str, training: TrainingRecord) -> str:
        tags = {
            TAG_DIGEST: digest,
            TAG_FEATURE_SERVICE: training.lineage.feature_service,
            FEAST_SERVICE: training.lineage.feature_service,
            TAG_LINEAGE: json.dumps(asdict(training.lineage), sort_keys=True, separators=(",", ":")),
        }
        self._create_model()
        model_id = source.removeprefix("models:/")
        told = training.description
        found = self._client.create_model_version(
            self.model_name, source, run_id, tags=tags, description=told, model_id=model_id
        )
        return str(found.version)

    def _create_model(self) -> None:
        try:
            self._client.create_registered_model(
                self.model_name, description="P(no order and no session in the horizon)"
            )
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise

    # -- versions and aliases ----------------------------------------------------------------------------------

    def champion(self) -> ModelVersion | None:
        return self.by_alias(CHAMPION)

    def by_alias(self, alias: str) -> ModelVersion | None:
        """The version behind an alias, None when the alias or the model does not exist; raises Unavailable."""
        try:
            with _registry_faults(f"the alias {alias}"):
                return _version(self._client.get_model_version_by_alias(self.model_name, alias))
        except NotReady:
            return None

    def get(self, version: str) -> ModelVersion:
        """One version; raises NotReady when the registry does not know it."""
        with _registry_faults(f"version {version} of {self.model_name}"):
            return _version(self._client.get_model_version(self.model_name, version))

    def set_alias(self, alias: str, version: str) -> None:
        with _registry_faults(f"version {version} of {self.model_name}"):
            self._client.set_registered_model_alias(self.model_name, alias, version)

    def tag(self, version: str, key: str, value: str) -> None:
        with _registry_faults(f"version {version} of {self.model_name}"):
            self._client.set_model_version_tag(self.model_name, version, key, value)

    def log_artifact(self, run_id: str, name: str, content: str) -> None:
        """Keep a text beside the run that made a version."""
        with _registry_faults():
            self._client.log_text(run_id, content, name)

    def fetch(self, version: ModelVersion, folder: Path) -> None:
        """Copy the version's files into `folder`: only those that serving reads, whatever else lies beside them."""
        with _registry_faults():
            self._download(version.source, (*SERVED_FILES, REFERENCE_FILE), folder)


def _check_plain(location: str, names: tuple[str, ...]) -> None:
    """Raises Refused when a file on this machine is a link or no file: MLflow would follow it, or wait for a pipe."""
    place = urlsplit(location)
    if place.scheme not in ("", "file"):
        return
    folder = Path(url2pathname(place.path))
    files = [folder / name for name in names]
    if any(each.is_symlink() for each in (folder.parent, folder, *files)):
        raise refused("file_kind", "it holds a link")
    if any(each.exists() and not each.is_file() for each in files):
        raise refused("file_kind", "it holds something that is neither file nor folder")


def _signature(features: tuple[str, ...]) -> ModelSignature:
    columns = Schema([ColSpec(DataType.double, name) for name in features])
    return ModelSignature(inputs=columns, outputs=Schema([TensorSpec(np.dtype(np.float64), (-1, 2))]))


def _version(found: Any) -> ModelVersion:
    """Raises Unavailable when the answer was cut off in its headers, which MLflow's client reads as an empty one."""
    if not (found.name and found.version):
        raise Unavailable("MLflow's answer names no version", hint="Look at the server, and at what lies before it.")
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        run_id=found.run_id or "",
        source=found.source,
        tags=dict(found.tags),
        aliases=tuple(found.aliases),
    )


@contextmanager
def _registry_faults(what: str = "") -> Iterator[None]:
    """What the registry lacks becomes NotReady, a registry that does not answer becomes Unavailable."""
    try:
        yield
    except MlflowException as error:
        if what and error.error_code in MISSING:
            raise NotReady(f"the registry does not know {what}", hint="churn train registers a version.") from error
        raise Unavailable(
            f"MLflow failed: {error.message}", hint="Check MLFLOW_TRACKING_URI and the server."
        ) from error
    except Exception as error:
        # An embedded registry's database speaks through SQLAlchemy, which a client of a server need not have; JSON
        # that is no answer of MLflow's speaks through protobuf.
        if not isinstance(error, OSError) and not type(error).__module__.startswith(
            ("sqlalchemy.", "google.protobuf.")
        ):
            raise
        raise Unavailable(
            f"MLflow does not answer: {error}", hint="Check MLFLOW_TRACKING_URI and the server."
        ) from error
