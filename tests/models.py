"""Small real models for tests: trained, calibrated, written as artifacts and put behind a hand-written registry."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from churn.core.artifact import Card, Expected, card_bytes, digest_of, golden_rows, open_artifact
from churn.core.scoring import ServedModel
from churn.core.seal import Claim, seal
from churn.core.value import ContactPlan, Economics
from churn.domain.artifacts import Artifact
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE, FEATURES
from churn.domain.versions import (
    CARD_FILE,
    MODEL_FILE,
    MODEL_NAME,
    TAG_DIGEST,
    TAG_FEATURE_SERVICE,
    TAG_SIGNATURE,
    TAG_VERDICT,
    ModelVersion,
)
from churn.errors import Unavailable
from churn.stores.model_cache import ModelCache
from churn.stores.skops_file import SKLEARN_VERSION, load_skops

HORIZON_DAYS = 60
KEY = "a key of the tests, which is no secret"
RECENCY = FEATURE_NAMES.index("days_since_last_activity")
CONTACT_PLAN = ContactPlan(Economics(cost=1.0, margin=10.0), 0.2, 2.5, 2.25)
Vectors = NDArray[np.float64]


def random_vectors(rows: int, seed: int) -> Vectors:
    """(rows, f) valid vectors of eligible users; a tenth of the cells that may be null are."""
    rng = np.random.default_rng(seed)
    vectors = rng.gamma(2.0, 10.0, size=(rows, len(FEATURE_NAMES)))
    for column, feature in enumerate(FEATURES):
        if feature.high is not None:
            vectors[:, column] = rng.uniform(feature.low or 0.0, feature.high, size=rows)
        if feature.nullable:
            vectors[rng.random(rows) < 0.1, column] = np.nan
    vectors[:, RECENCY] = rng.uniform(0, HORIZON_DAYS, size=rows)
    return vectors


@cache
def calibrated_forest(seed: int = 1, method: str = "sigmoid") -> Any:
    """A calibrated forest of 15 trees; churn follows recency, with noise."""
    vectors = random_vectors(600, seed)
    churned = (vectors[:, RECENCY] + np.random.default_rng(seed).normal(0, 15, 600) > 30).astype(int)
    forest = RandomForestClassifier(n_estimators=15, max_depth=6, min_samples_split=5, random_state=seed)
    forest.fit(vectors[:400], churned[:400])
    return CalibratedClassifierCV(FrozenEstimator(forest), method=method).fit(vectors[400:], churned[400:])


def card_of(estimator: Any) -> Card:
    vectors = random_vectors(20, seed=99)
    return Card(
        features=FEATURE_NAMES,
        feature_service=FEATURE_SERVICE,
        horizon_days=HORIZON_DAYS,
        sklearn_version=SKLEARN_VERSION,
        golden=golden_rows(vectors, estimator.predict_proba(vectors)[:, 1]),
        contact=CONTACT_PLAN,
    )


@cache
def artifact_files(seed: int = 1) -> Mapping[str, bytes]:
    """The served files of a good version; another seed is another model."""
    estimator = calibrated_forest(seed)
    return {MODEL_FILE: skops.io.dumps(estimator), CARD_FILE: card_bytes(card_of(estimator))}


def with_card(files: Mapping[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The same files with another card; the digest follows."""
    card = replace(card_of(calibrated_forest()), **changes)
    return {**files, CARD_FILE: card_bytes(card)}


def version_of(files: Mapping[str, bytes], version: str = "1", digest: str | None = None) -> ModelVersion:
    tags = {TAG_DIGEST: digest_of(files) if digest is None else digest}
    return ModelVersion(MODEL_NAME, version, f"run-{version}", f"models:/m-{version}", tags, ("champion",))


def claim_of(version: ModelVersion, /, **changes: Any) -> Claim:
    """A passed verdict on the version as it is, or a changed one."""
    facts = {
        "model_name": version.name,
        "version": version.version,
        "digest": version.digest,
        "feature_service": FEATURE_SERVICE,
        "passed": True,
        "verdict_sha256": "a" * 64,
        "policy_sha256": "b" * 64,
        "decided_at": "2026-11-20T10:00:00+00:00",
    }
    return Claim(**{**facts, **changes})


def judged(version: ModelVersion, /, key: str = KEY, **changes: Any) -> ModelVersion:
    """The version with that verdict, sealed with `key`, as its tags."""
    sealed = seal(claim_of(version, **changes), key)
    tags = {TAG_FEATURE_SERVICE: FEATURE_SERVICE, TAG_VERDICT: sealed.claim, TAG_SIGNATURE: sealed.signature}
    return replace(version, tags={**version.tags, **tags})


def served_model(seed: int = 1, version: str = "1") -> ServedModel:
    files = artifact_files(seed)
    return OPEN_MODEL(Artifact(version, digest_of(files), files))


OPEN_MODEL = partial(open_artifact, load_estimator=load_skops, expected=Expected(SKLEARN_VERSION))


def model_cache(root: Path, size_limit: int = 2**26) -> ModelCache[ServedModel]:
    return ModelCache(root, OPEN_MODEL, size_limit=size_limit)


@dataclass
class FakeRegistry:
    """A registry in memory. `down` makes it refuse; `fetches` counts downloads."""

    files: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    alias: ModelVersion | None = None
    down: bool = False
    fetches: int = 0

    def promote(self, seed: int, version: str) -> ModelVersion:
        """Registers the model of `seed` as `version` and moves the alias to it."""
        self.files[version] = artifact_files(seed)
        self.alias = version_of(self.files[version], version)
        return self.alias

    def champion(self) -> ModelVersion | None:
        if self.down:
            raise Unavailable("the registry does not answer")
        return self.alias

    def fetch(self, version: ModelVersion, folder: Path) -> None:
        if self.down:
            raise Unavailable("the registry does not answer")
        self.fetches += 1
        for name, data in self.files[version.version].items():
            (folder / name).write_bytes(data)


def nodes_of(model: bytes) -> dict[str, frozenset[str]]:
    """The kinds of node in a skops file, and the types that each builds; compare `MODEL_NODES`."""
    found: dict[str, set[str]] = {}
    rest = [json.loads(zipfile.ZipFile(io.BytesIO(model)).read("schema.json"))]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            if "__loader__" in part:
                found.setdefault(part["__loader__"], set()).add(f"{part['__module__']}.{part['__class__']}")
            rest += part.values()
        elif isinstance(part, list):
            rest += part
    return {loader: frozenset(types) for loader, types in found.items()}
