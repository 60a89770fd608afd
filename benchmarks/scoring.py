"""Batch scoring, from the offline store to Parquet, beside `predict_proba` on the same rows -> docs/benchmarks.md.

    python -m benchmarks.scoring         # BENCH_SCORED_USERS=100000 for fewer than a million

A forest of the shape that training grows; an export as the warehouse writes it, with every tenth cell null. Either runs
in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import REPOSITORY, Figure, at_least, at_most, run, size
from benchmarks.forest import fitted
from benchmarks.planted import CUTOFF, HORIZON_DAYS, export_of, write_export
from benchmarks.steps import measured
from churn.core.forest import forest_predictor
from churn.core.scoring import ServedModel
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE

USERS = size("SCORED_USERS", 1_000_000)
SLOWEST = 1.5  # times predict_proba alone


def measure(home: Path) -> Iterator[Figure]:
    write_export(export_of(home), USERS)
    (home / "model.pickle").write_bytes(pickle.dumps(fitted()))
    alone, ours = measured(predict_alone, home), measured(score_to_parquet, home)
    told = f"predict_proba alone: {alone.result:.1f} s, {alone.peak_gb:.2f} GB"
    name = f"{USERS:,} users from the offline store to scores in Parquet"
    ratio = alone.result / ours.result
    yield Figure(name, ours.result, "s", told, ratio, at_least(round(1 / SLOWEST, 3)), "ratio")
    yield Figure(f"{name}, peak memory", ours.peak_gb, "GB", goal=at_most(2))


def predict_alone(home: Path) -> float:
    """Seconds of scikit-learn's `predict_proba` on the matrix."""
    model = pickle.loads((home / "model.pickle").read_bytes())
    columns = pq.read_table(export_of(home), columns=list(FEATURE_NAMES))
    matrix = np.column_stack([columns[name].to_numpy() for name in FEATURE_NAMES])
    started = time.monotonic()
    model.predict_proba(matrix)
    return time.monotonic() - started


def score_to_parquet(home: Path) -> float:
    """Seconds from the offline store to a file of scores in place."""
    from churn.jobs.score import score_users
    from churn.river import write_scores
    from churn.stores.feature_store import Features, FeatureStoreConfig
    from churn.stores.online.store import OnlineStore, open_table

    model = pickle.loads((home / "model.pickle").read_bytes())
    served = ServedModel("1", "", FEATURE_SERVICE, FEATURE_NAMES, HORIZON_DAYS, forest_predictor(model))
    config = FeatureStoreConfig(REPOSITORY / "feature_repo", home, "integer", timedelta(days=HORIZON_DAYS))
    store = Features(config, OnlineStore(open_table(home)))
    started = time.monotonic()
    scored = score_users(store, served, CUTOFF, lambda done, total: None)
    write_scores(scored, home / "scores.parquet")
    return time.monotonic() - started


def main() -> None:
    run("scoring", measure)


if __name__ == "__main__":
    main()
