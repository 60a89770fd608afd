"""train: feature store and labels -> a registered, calibrated model version with alias challenger."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from churn.core.advice import Advice, advise
from churn.core.alarms import MUTABLE_GROUPS, MUTABLE_TIMES, Log, Mutable, after_test, before_fit
from churn.core.artifact import Card, card_bytes, golden_rows
from churn.core.card_facts import CardFacts, card_facts
from churn.core.lineage import frame_sha256, table_digests
from churn.core.model import ForestParameters, probabilities
from churn.core.model_card import MARKDOWN_FILE, PAGE_FILE, PLOTS_FROM_CARD, model_card, summary
from churn.core.plots import slices as plot_slices
from churn.core.sections import as_html, as_markdown
from churn.core.slices import TIER, SliceReport, labels_of, slice_report
from churn.core.training import (
    Evaluated,
    dataset_frame,
    figures,
    golden_vectors,
    intervals_table,
    metric_values,
    reference_frame,
)
from churn.core.training import train as fit_and_judge
from churn.core.training_rows import load_rows
from churn.core.training_set import Rows, SplitRows
from churn.core.value import Economics
from churn.domain.artifacts import TRUSTED_TYPES
from churn.domain.ports import LabelledUsers, Labels, ModelRegistry, OfflineFeatures, Snapshot
from churn.domain.predictions import HIGH_FROM
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE
from churn.domain.versions import CARD_FILE, REFERENCE_FILE, Lineage, ModelVersion, TrainingRecord
from churn.domain.windows import Split, cutoff_name, split_cutoffs
from churn.errors import NotReady, Refused

PAGE_DPI = 100  # of a page's pictures: several stand in one file
SERVING_PACKAGES = ("scikit-learn", "skops", "numpy")


@dataclass(frozen=True)
class TrainingStores:
    """What training reads and writes."""

    raw: LabelledUsers
    labels: Labels
    features: OfflineFeatures
    registry: ModelRegistry


@dataclass(frozen=True)
class TrainingPlan:
    """What to train, and for what money. The rest says which code does it."""

    parameters: ForestParameters
    horizon: timedelta
    test_cutoffs: int
    economics: Economics
    commit: str
    lock_sha256: str
    packages: Mapping[str, str] = field(default_factory=dict)
    feast_sha256: str = ""
    fairness_column: str = ""


@dataclass(frozen=True)
class Trained:
    """What one training came to."""

    version: ModelVersion
    rows: SplitRows
    result: Evaluated
    advice: Advice


def train(stores: TrainingStores, plan: TrainingPlan, progress: Callable[[str], None]) -> Trained:
    """Train on the oldest matured cutoffs, test on the newest, record everything, register a version."""
    snapshot = stores.raw.current()
    split = split_cutoffs(_labelled(stores, plan.horizon, snapshot), plan.horizon, plan.test_cutoffs)
    origin = _origin(stores, split, snapshot)
    progress("joining features and labels")
    rows = load_rows(stores, split, plan.horizon)
    before_fit(rows, plan.horizon, _log(origin, plan.horizon), _mutable(stores, snapshot))
    progress("fitting the forest and its baselines")
    result = fit_and_judge(rows, plan.parameters, plan.horizon)
    after_test(rows.test, result.probability)
    slices = _slices(stores, plan, origin.snapshot, (rows.test, result.probability))
    progress("choosing whom to contact, and ageing the model")
    advice = advise(rows, result, horizon=plan.horizon, economics=plan.economics)
    progress("recording the run")
    record = _with_slices(_record(origin, plan, rows, result, advice), slices)
    facts = card_facts(
        rows, result, advice, lineage=record.lineage, intervals=record.tables["intervals"], slices=slices
    )
    version = stores.registry.record(_with_model_card(record, facts))
    return Trained(version, rows, result, advice)


@dataclass(frozen=True)
class _Origin:
    """What the rows come from: the snapshot, and the manifest's entries of the cutoffs used, by name.

    Read once, before anything is joined: an ingest or a build during the fit must not end up in the lineage.
    """

    snapshot: Snapshot
    used: dict[str, dict[str, Any]]


def _origin(stores: TrainingStores, split: Split, snapshot: Snapshot) -> _Origin:
    built = stores.labels.manifest()["cutoffs"]
    used = {name: built[name] for name in map(cutoff_name, (*split.train, *split.test))}
    _one_definition(used.values())
    return _Origin(snapshot, used)


def _labelled(stores: TrainingStores, horizon: timedelta, snapshot: Snapshot) -> list[datetime]:
    """Labelled cutoffs of the snapshot; raises NotReady when only older snapshots have any."""
    cutoffs = stores.labels.labelled_cutoffs(horizon, snapshot.snapshot_id)
    if not cutoffs:
        raise NotReady(
            f"no cutoff with labels for {horizon.days} days was built from the current snapshot {snapshot.snapshot_id}",
            hint="churn build-features --from … --every month builds them anew, with every label that has matured.",
        )
    return cutoffs


def _log(origin: _Origin, horizon: timedelta) -> Log:
    """The end of the log, and the longest horizon that any used label was made for."""
    labelled = [entry["labels"] for entry in origin.used.values()]
    days = max((entry["horizon_days"] for entry in labelled if entry), default=horizon.days)
    return Log(origin.snapshot.log_end, timedelta(days=days))


def _mutable(stores: TrainingStores, snapshot: Snapshot) -> Mutable:
    """Today's values of the columns that no feature may follow."""
    return {name: stores.raw.user_labels(snapshot, name) for name in (*MUTABLE_TIMES, *MUTABLE_GROUPS)}


def _record(origin: _Origin, plan: TrainingPlan, rows: SplitRows, result: Evaluated, advice: Advice) -> TrainingRecord:
    reference = _parquet(reference_frame(rows, result.fitted))
    frames = {"train": dataset_frame(rows.train), "test": dataset_frame(rows.test)}
    return TrainingRecord(
        estimator=result.fitted.estimator,
        parameters=_parameters(plan, result),
        metrics=metric_values(result, rows) | advice.metrics(),
        lineage=_lineage(origin, plan, rows, result),
        features=FEATURE_NAMES,
        trusted_types=TRUSTED_TYPES,
        files={CARD_FILE: _card(plan, rows, result, advice, reference), REFERENCE_FILE: reference},
        figures=figures(result, rows.test) | advice.figures(),
        tables={
            "comparison": result.comparison,
            "by_cutoff": result.by_cutoff,
            "search": [asdict(each) for each in result.fitted.search],
            "intervals": intervals_table(rows.test, result),
            **advice.tables(),
        },
        datasets=frames,
        requirements=tuple(f"{name}=={installed_version(name)}" for name in SERVING_PACKAGES),
    )


def _parameters(plan: TrainingPlan, result: Evaluated) -> dict[str, str | int | float]:
    money = plan.economics
    return {
        **plan.parameters.as_dict(),
        "chosen_shape": result.fitted.parameters.shape,
        "horizon_days": plan.horizon.days,
        "test_cutoffs": plan.test_cutoffs,
        "contact_cost": money.cost,
        "contact_margin": money.margin,
        "contact_budget": "none" if money.budget is None else money.budget,
    }


def _slices(
    stores: TrainingStores, plan: TrainingPlan, snapshot: Snapshot, tested: tuple[Rows, NDArray[np.float64]]
) -> SliceReport:
    """The figures of parts of the test rows; the tier is today's, so it cuts reports and is no feature."""
    test, probability = tested
    tiers = labels_of(test.user_id, stores.raw.user_labels(snapshot, TIER))
    return slice_report(test, probability, {TIER: tiers}, fairness_column=plan.fairness_column, threshold=HIGH_FROM)


def _with_slices(record: TrainingRecord, slices: SliceReport) -> TrainingRecord:
    return replace(
        record,
        metrics={**record.metrics, **slices.metric_values()},
        figures={**record.figures, "slices": plot_slices(slices.slices)},
        tables={**record.tables, "slices": slices.table()},
    )


def _with_model_card(record: TrainingRecord, facts: CardFacts) -> TrainingRecord:
    report = model_card(facts)
    pictures = {name: _png(record.figures[name]) for name in report.pictures}
    texts = {MARKDOWN_FILE: as_markdown(report, PLOTS_FROM_CARD), PAGE_FILE: as_html(report, pictures)}
    return replace(record, texts=texts, description=summary(facts))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PAGE_DPI)
    return buffer.getvalue()


def _card(plan: TrainingPlan, rows: SplitRows, result: Evaluated, advice: Advice, reference: bytes) -> bytes:
    golden = golden_vectors(rows.test)
    return card_bytes(
        Card(
            features=FEATURE_NAMES,
            feature_service=FEATURE_SERVICE,
            horizon_days=plan.horizon.days,
            sklearn_version=installed_version("scikit-learn"),
            golden=golden_rows(golden, probabilities(result.fitted.estimator, golden)),
            contact=advice.contact.plan,
            reference_sha256=sha256(reference).hexdigest(),
            newest_label=max(rows.split.test) + plan.horizon,
        )
    )


def _lineage(origin: _Origin, plan: TrainingPlan, rows: SplitRows, result: Evaluated) -> Lineage:
    split = rows.split
    return Lineage(
        snapshot_id=origin.snapshot.snapshot_id,
        snapshot_sha256=table_digests(origin.snapshot.manifest),
        feature_service=FEATURE_SERVICE,
        feature_sha256={name: entry["sha256"] for name, entry in origin.used.items()},
        dbt_sha256=origin.used[max(origin.used)]["dbt_hash"],
        train_cutoffs=tuple(moment.isoformat() for moment in split.train),
        test_cutoffs=tuple(moment.isoformat() for moment in split.test),
        horizon_days=plan.horizon.days,
        parameters=result.fitted.parameters.as_dict(),
        commit=plan.commit,
        lock_sha256=plan.lock_sha256,
        data_sha256=frame_sha256(dataset_frame(rows.train)),
        label_sha256={name: entry["labels"]["sha256"] for name, entry in origin.used.items()},
        packages=dict(plan.packages),
        feast_sha256=plan.feast_sha256,
    )


def _one_definition(entries: Iterable[Mapping[str, Any]]) -> None:
    if len({entry["dbt_hash"] for entry in entries}) > 1:
        raise Refused(
            "the cutoffs were built by different versions of the dbt models",
            hint="Build all of them anew: churn build-features --from … --to ….",
        )


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
