"""A registered model version and the tags that let it be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODEL_NAME = "churn_prediction"
EXPERIMENT = "churn_prediction"
CHAMPION = "champion"
CHALLENGER = "challenger"

MODEL_FILE = "model.skops"
CARD_FILE = "churn_model.json"
REFERENCE_FILE = "reference.parquet"
TAG_DIGEST = "churn.digest"
TAG_FEATURE_SERVICE = "churn.feature_service"
TAG_LINEAGE = "churn.lineage"
TAG_VERDICT = "churn.verdict"
# What Feast's own MLflow integration reads and writes, so that its tools understand our runs and versions: see
# docs/decisions/0017.
FEAST_SERVICE = "feast.feature_service"
FEAST_PROJECT = "feast.project"
FEAST_VIEWS = "feast.feature_views"
FEAST_REFS = "feast.feature_refs"
FEAST_FILE = "feast_features.json"
TAG_SIGNATURE = "churn.verdict_signature"
TAG_OVERRIDE = "churn.override"
SHORTEST_KEY = 32  # characters of a key that signs verdicts


@dataclass(frozen=True)
class ModelVersion:
    """One version as the registry knows it. `tags` holds the digest and the lineage."""

    name: str
    version: str
    run_id: str
    source: str
    tags: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the artifact's files, or "" when the version carries none."""
        return self.tags.get(TAG_DIGEST, "")

    @property
    def feature_service(self) -> str:
        return self.tags.get(TAG_FEATURE_SERVICE, "")

    @property
    def override(self) -> str:
        """A person's reason to serve the version without a passed verdict, "" when there is none."""
        return self.tags.get(TAG_OVERRIDE, "").strip()

    @property
    def key(self) -> tuple[str, str]:
        """What tells two versions' files apart, as in the local cache."""
        return self.version, self.digest


@dataclass(frozen=True)
class Lineage:
    """Everything that made a version: enough to make it again (promise 8). Instants are ISO 8601 in UTC.

    `feature_sha256` and `label_sha256` say, per cutoff used, what its rows are; all were built from the one snapshot.
    `feast_sha256` is of the feature service's definitions. `packages` are those that computed the numbers: an installed
    package has neither commit nor lock.
    """

    snapshot_id: str
    snapshot_sha256: dict[str, str]
    feature_service: str
    feature_sha256: dict[str, str]
    dbt_sha256: str
    train_cutoffs: tuple[str, ...]
    test_cutoffs: tuple[str, ...]
    horizon_days: int
    parameters: dict[str, str | int]
    commit: str
    lock_sha256: str
    data_sha256: str = ""
    label_sha256: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    feast_sha256: str = ""


@dataclass(frozen=True)
class TrainingRecord:
    """What one training leaves behind. `files` go beside the model file; `figures` are matplotlib Figures by name.

    `texts` are the run's other artifacts by path; `description` is what a person reads beside the version.
    """

    estimator: Any
    parameters: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    lineage: Lineage
    features: tuple[str, ...]
    trusted_types: tuple[str, ...]
    files: Mapping[str, bytes]
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, Any] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
