"""rebuild: a version's lineage -> its training set and its model once more, apart from the deployment, compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from churn.core.artifact import Card, digest_of, parse_card
from churn.core.lineage import (
    Checkout,
    Link,
    artifact_link,
    code_links,
    compared,
    definition_links,
    digest_link,
    frame_sha256,
    missing_snapshot,
    parse_lineage,
    parse_parameters,
    require,
    snapshot_link,
    split_of,
)
from churn.core.model import Fitted, fit, probabilities
from churn.core.training import dataset_frame
from churn.core.training_rows import load_rows
from churn.core.training_set import SplitRows
from churn.domain.ports import BuildReport, Labels, OfflineFeatures, Snapshot
from churn.domain.versions import CARD_FILE, Lineage, ModelVersion
from churn.errors import Mismatch, NotReady

Tell = Callable[[str], None]
Progress = Callable[[int, int], None]
OTHER_ROWS = "The packages above read, sum or write otherwise: install those of the lock file."


class Snapshots(Protocol):
    """The raw tables, as far as a rebuild needs them."""

    def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot of that id; raises NotReady for an unknown one, Mismatch for a damaged one."""

    def digests(self, snapshot: Snapshot) -> Mapping[str, str]:
        """sha256 of each raw table's file as it is now."""


class Rows(Labels, Protocol):
    """A warehouse of the rebuild's own."""

    def build(
        self,
        snapshot: Snapshot,
        cutoffs: Sequence[datetime],
        horizon: timedelta,
        *,
        on_progress: Callable[[int, int], None],
    ) -> BuildReport:
        """Build, test and export the cutoffs."""


class Features(OfflineFeatures, Protocol):
    """A feature store of the rebuild's own."""

    def apply(self) -> None: ...


@dataclass(frozen=True)
class Workshop:
    """Empty stores for one rebuild, apart from those of the deployment."""

    labels: Rows
    features: Features


@dataclass(frozen=True)
class RebuildStores:
    """What a rebuild reads, and where it works. `files`: a version's artifact files by name."""

    raw: Snapshots
    files: Callable[[ModelVersion], Mapping[str, bytes]]
    workshop: Callable[[Snapshot], AbstractContextManager[Workshop]]


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild came to: every link of the chain, and how far the golden rows' probabilities lie apart."""

    version: str
    links: tuple[Link, ...]
    golden_rows: int
    largest_difference: float

    @property
    def golden_equal(self) -> bool:
        """Whether the rebuilt model answers every golden row with the very same bits."""
        return self.largest_difference == 0.0


def rebuild(stores: RebuildStores, version: ModelVersion, here: Checkout, tell: Tell) -> Rebuilt:
    """Make the version once more out of what its lineage names, and compare.

    Raises NotReady when something needed is gone and Mismatch when something needed is not what it was, before the
    long work and with every link in facts["links"]. Writes to the workshop only.
    """
    tell("checking what the version was made of")
    lineage = parse_lineage(version)
    parameters = parse_parameters(lineage.parameters)
    card, artifact = _card(version, stores.files(version))
    snapshot, raw = _snapshot(stores.raw, lineage)
    before = [artifact, raw, *definition_links(lineage, card, here), *code_links(lineage, here)]
    require(version, before)
    assert snapshot is not None  # it is needed, and nothing needed is missing
    with stores.workshop(snapshot) as workshop:
        rows, made = _rows(workshop, snapshot, lineage, tell)
    tell("fitting the forest")
    fitted = fit(rows.train, parameters, timedelta(days=lineage.horizon_days))
    difference = _difference(fitted, card)
    return Rebuilt(version.version, (*before, *made), len(card.golden.probabilities), difference)


def _card(version: ModelVersion, files: Mapping[str, bytes]) -> tuple[Card, Link]:
    """The card, and whether it is the one that was registered; raises Mismatch when it is not."""
    link = artifact_link(version.digest, digest_of(files))
    require(version, [link])
    card = parse_card(files[CARD_FILE])
    if not card.golden.probabilities:
        raise NotReady(f"version {version.version} has no golden rows to compare", hint="churn train")
    return card, link


def _snapshot(raw: Snapshots, lineage: Lineage) -> tuple[Snapshot | None, Link]:
    """The snapshot, None when it is gone or cannot be read, and whether its tables are as they were."""
    try:
        snapshot = raw.get(lineage.snapshot_id)
    except (NotReady, Mismatch) as error:
        return None, missing_snapshot(error.message)
    return snapshot, snapshot_link(lineage.snapshot_sha256, raw.digests(snapshot))


def _rows(workshop: Workshop, snapshot: Snapshot, lineage: Lineage, tell: Tell) -> tuple[SplitRows, list[Link]]:
    """The rows of the training, built anew from the snapshot, and whether they are the ones of then."""
    split, horizon = split_of(lineage), timedelta(days=lineage.horizon_days)
    cutoffs = [*split.train, *split.test]
    workshop.labels.build(
        snapshot, cutoffs, horizon, on_progress=lambda done, total: tell(f"building features at {done}/{total} cutoffs")
    )
    workshop.features.apply()
    tell("joining features and labels")
    rows = load_rows(workshop, split, horizon)
    built = workshop.labels.manifest()["cutoffs"]
    return rows, _row_links(lineage, built, rows)


def _row_links(lineage: Lineage, built: Mapping[str, Any], rows: SplitRows) -> list[Link]:
    features = {name: entry["sha256"] for name, entry in built.items()}
    labels = {name: entry["labels"]["sha256"] for name, entry in built.items() if entry["labels"]}
    return [
        compared("features", lineage.feature_sha256, features, way_out=OTHER_ROWS),
        compared("labels", lineage.label_sha256, labels, way_out=OTHER_ROWS),
        digest_link("training set", lineage.data_sha256, frame_sha256(dataset_frame(rows.train)), way_out=OTHER_ROWS),
    ]


def _difference(fitted: Fitted, card: Card) -> float:
    """The largest difference between what the rebuilt model and the training say of a golden row; 0.0 = equal bits."""
    vectors = np.array(card.golden.vectors, dtype=np.float64)
    found: NDArray[np.float64] = probabilities(fitted.estimator, vectors)
    return float(np.abs(found - np.array(card.golden.probabilities)).max())
