"""Batch scoring, from the offline store to Parquet, beside `predict_proba` on the same rows -> a table on stdout.

    python benchmarks/scoring.py         # SCORED_USERS=100000 for fewer than a million

A forest of the shape that training grows; an export as the warehouse writes it, with every tenth cell null. Either runs
in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from forest import IDLE, fitted, vectors
from rich.console import Console

from churn.core.forest import forest_predictor
from churn.core.scoring import ServedModel
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE, FEATURE_VIEW, JOIN_KEY, TIMESTAMP
from churn.domain.windows import cutoff_name

USERS = int(os.environ.get("SCORED_USERS", "1000000"))
PART = 100_000
CUTOFF = datetime(2026, 1, 1, tzinfo=UTC)
HORIZON_DAYS = 60


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        write_export(home)
        (home / "model.pickle").write_bytes(pickle.dumps(fitted()))
        alone, alone_gb = measured(predict_alone, home)
        ours, ours_gb = measured(score_to_parquet, home)
    console.print(f"{USERS:,} users: predict_proba alone {alone:.1f} s, {alone_gb:.2f} GB")
    console.print(
        f"offline store to Parquet {ours:.1f} s, {ours_gb:.2f} GB: {ours / alone:.2f} times predict_proba alone"
    )


def write_export(home: Path) -> None:
    path = export_of(home)
    path.parent.mkdir(parents=True)
    writer = None
    for table in tables():
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()


def tables() -> Iterator[pa.Table]:
    """PART users at a time, all of them eligible."""
    for start in range(0, USERS, PART):
        count = min(PART, USERS - start)
        rows = vectors(count, seed=start + 3)
        rows[:, IDLE] %= HORIZON_DAYS
        features = {name: pa.array(rows[:, place], from_pandas=True) for place, name in enumerate(FEATURE_NAMES)}
        stamp = pa.array(np.full(count, np.datetime64(CUTOFF.replace(tzinfo=None), "us")))
        yield pa.table({JOIN_KEY: np.arange(start, start + count), TIMESTAMP: stamp, **features})


def export_of(home: Path) -> Path:
    return home / "offline" / FEATURE_VIEW / f"{cutoff_name(CUTOFF)}.parquet"


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

    model = pickle.loads((home / "model.pickle").read_bytes())
    served = ServedModel("1", "", FEATURE_SERVICE, FEATURE_NAMES, HORIZON_DAYS, forest_predictor(model))
    repository = Path(__file__).resolve().parents[1] / "feature_repo"
    store = Features(
        FeatureStoreConfig(repo=repository, home=home, user_id_type="integer", ttl=timedelta(days=HORIZON_DAYS))
    )
    started = time.monotonic()
    scored = score_users(store, served, CUTOFF, lambda done, total: None)
    write_scores(scored, home / "scores.parquet")
    return time.monotonic() - started


def measured(step: Callable[[Path], float], home: Path) -> tuple[float, float]:
    """What a step says, and the peak memory in GB of a fresh process that did nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_in_child, step, home).result()


def _in_child(step: Callable[[Path], float], home: Path) -> tuple[float, float]:
    return step(home), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
