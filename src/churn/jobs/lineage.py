"""lineage: the chain that a version came from, as far as it and the raw tables tell; nothing is computed anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from churn.core.lineage import parse_lineage
from churn.domain.ports import Snapshot
from churn.domain.schema import FEATURE_VIEW
from churn.domain.versions import TAG_LINEAGE, TAG_VERDICT, ModelVersion
from churn.errors import Mismatch, NotReady


class Snapshots(Protocol):
    """The raw tables, as far as a lineage needs them."""

    def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot of that id; raises NotReady for an unknown one, Mismatch for a damaged one."""


@dataclass(frozen=True)
class Step:
    """One step of the chain. A fact that nobody recorded is None, and is never left out."""

    name: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Chain:
    """From the raw tables to the aliases, in the order of the river."""

    name: str
    version: str
    steps: tuple[Step, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "chain": {each.name: each.facts for each in self.steps}}


def trace(version: ModelVersion, raw: Snapshots) -> Chain:
    """The chain of a version; raises Mismatch when its lineage is none of ours."""
    known = asdict(parse_lineage(version)) if TAG_LINEAGE in version.tags else {}
    manifest = _manifest(raw, known.get("snapshot_id"))
    steps = (
        Step("raw snapshot", _of(known, "snapshot_id", "snapshot_sha256") | {"still here": manifest is not None}),
        Step("contract", _contract(manifest or {})),
        Step("cutoffs", _of(known, "train_cutoffs", "test_cutoffs", "horizon_days")),
        Step("features", _features(known, version)),
        Step("training set", _of(known, "data_sha256", "label_sha256")),
        Step("code", _of(known, "commit", "lock_sha256", "packages", "parameters")),
        Step("model", {"digest": version.digest or None, "source": version.source or None}),
        Step("run", {"run_id": version.run_id or None}),
        Step("verdict", _verdict(version.tags.get(TAG_VERDICT))),
        Step("aliases", {"names": list(version.aliases)}),
    )
    return Chain(version.name, version.version, steps)


def _of(known: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The named facts; one that was not recorded, or recorded as nothing, is None."""
    return {name: known.get(name) or None for name in names}


def _features(known: Mapping[str, Any], version: ModelVersion) -> dict[str, Any]:
    service = known.get("feature_service") or version.feature_service
    facts = {"feature_service": service or None, "feature_view": FEATURE_VIEW if service else None}
    return {**facts, **_of(known, "feast_sha256", "dbt_sha256", "feature_sha256")}


def _manifest(raw: Snapshots, snapshot_id: str | None) -> Mapping[str, Any] | None:
    """What the contract found, None when the snapshot is gone with it."""
    try:
        return raw.get(snapshot_id).manifest if snapshot_id else None
    except (NotReady, Mismatch):
        return None


def _contract(manifest: Mapping[str, Any]) -> dict[str, Any]:
    tables, source = manifest.get("tables", {}), manifest.get("source", {})
    breaches = [f"{each['table']}: {each['rule']} ({each['count']})" for each in manifest.get("breaches", ())]
    return {
        "rows": {name: facts["rows"] for name, facts in tables.items()} or None,
        "set aside": {name: facts["quarantined"] for name, facts in tables.items()} or None,
        "breaches": breaches if manifest else None,
        "log_end": manifest.get("log_end"),
        "files": source.get("files"),
        "mapping": source.get("mapping"),
        "tz": source.get("tz"),
    }


def _verdict(text: str | None) -> dict[str, Any]:
    """The verdict's outcome; a text that is no JSON object is told as it is."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {"text": text}
    if not isinstance(found, dict):
        found = {"text": text}
    reasons = [f"{each.get('rule')}: {each.get('found')}" for each in found.get("reasons", ())]
    return {"passed": found.get("passed"), "against": found.get("champion"), "reasons": reasons or found.get("text")}
