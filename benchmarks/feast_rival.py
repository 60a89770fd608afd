"""Feast by itself, with its own SQLite and Redis stores: a repository, filled by its own materialize.

As fast as its settings make it: batches of 10,000, only the latest row of each user, a registry that is never looked
at again.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.planted import CUTOFF, NOW
from churn.domain.schema import FEATURE_NAMES, FEATURE_VIEW, JOIN_KEY, TIMESTAMP

SERVICE = "plain"
_YAML = """project: plain
provider: local
registry:
  registry_type: file
  path: {folder}/registry.db
  cache_ttl_seconds: 0
  serve_features_while_materializing: true
offline_store:
  type: duckdb
online_store:
{online}
materialization:
  online_write_batch_size: 10000
  pull_latest_features: true
entity_key_serialization_version: 3
"""


def write_repository(folder: Path, redis_address: str = "") -> Path:
    """feature_store.yaml with Feast's own SQLite, or its own Redis at that address."""
    sqlite = f"  type: sqlite\n  path: {folder}/online.db"
    redis = f'  type: redis\n  connection_string: "{redis_address}"'
    folder.mkdir(parents=True)
    text = _YAML.format(folder=folder, online=redis if redis_address else sqlite)
    (folder / "feature_store.yaml").write_text(text)
    return folder


def materialize(folder: Path, export: Path) -> float:
    """Applies the definitions and brings the export online; seconds of Feast's materialize alone."""
    store = opened(folder)
    store.apply(_definitions(export))
    started = time.monotonic()
    store.materialize(CUTOFF - timedelta(days=1), NOW)
    return time.monotonic() - started


def opened(folder: Path) -> Any:
    """Its FeatureStore. Imported by way of ours, which keeps Feast's hands off prometheus_client."""
    import churn.stores.feature_store  # noqa: F401

    from feast import FeatureStore  # isort: skip

    return FeatureStore(repo_path=str(folder))


def _definitions(export: Path) -> list[Any]:
    from feast import Entity, FeatureService, FeatureView, Field, FileSource
    from feast.types import Float64
    from feast.value_type import ValueType

    user = Entity(name="user", join_keys=[JOIN_KEY], value_type=ValueType.INT64)
    view = FeatureView(
        name=FEATURE_VIEW,
        entities=[user],
        ttl=timedelta(days=31),
        schema=[Field(name=name, dtype=Float64) for name in FEATURE_NAMES],
        source=FileSource(name="export", path=str(export), timestamp_field=TIMESTAMP),
    )
    return [user, view, FeatureService(name=SERVICE, features=[view])]
