"""Shops whose truth is known, as rows of a training: real features of the river beside the probability behind each.

A row's attainable probability is P(silent | all that could be known at its cutoff), so outcomes may be drawn anew from
it as often as wanted: the same pasts, another future.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from churn import river, wiring
from churn.core.evaluation import CLIP
from churn.core.training_rows import load_rows
from churn.core.training_set import Rows, SplitRows
from churn.domain.windows import split_cutoffs
from churn.jobs.train import TrainingStores
from churn.settings import Settings, load_settings

Array = NDArray[np.float64]
HORIZON = timedelta(days=60)
DAYS = 730
TRAINED = [datetime(2025, month, 1, tzinfo=UTC) for month in range(1, 9)]
TESTED = datetime(2025, 10, 1, tzinfo=UTC)  # 91 days before the end of the log: every late row of its horizon is there
TABLES = ("users", "orders", "user_sessions")


@dataclass(frozen=True)
class KnownRows:
    """Rows, and the probability that each outcome was drawn from, (n,)."""

    rows: Rows
    attainable: Array

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: NDArray[np.bool_]) -> KnownRows:
        return KnownRows(self.rows.where(mask), self.attainable[mask])

    def with_new_outcomes(self, rng: np.random.Generator) -> KnownRows:
        """The same pasts with another future."""
        drawn = (rng.random(len(self)) < self.attainable).astype(np.int64)
        return replace(self, rows=replace(self.rows, y=drawn))


@dataclass(frozen=True)
class KnownShop:
    """The training and test rows of one simulated shop."""

    seed: int
    train: KnownRows
    test: KnownRows


def known_shop(users: int, seed: int) -> KnownShop:
    """A shop by the river itself, from raw tables to rows, in a home of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = load_settings({}, home=Path(scratch), horizon_days=HORIZON.days)
        folder = river.simulate(settings, users=users, days=DAYS, seed=seed, folder="").folder
        sources = {name: str(folder / f"{name}.parquet") for name in TABLES}
        river.ingest_tables(settings, sources, [], tz="UTC", date_format="")
        river.build(settings, lambda snapshot: [*TRAINED, TESTED], lambda done, total: None)
        rows, truth = _rows(settings), pd.read_parquet(folder / "truth.parquet")
    return KnownShop(seed, known(rows.train, truth), known(rows.test, truth))


def _rows(settings: Settings) -> SplitRows:
    stores = TrainingStores(
        wiring.raw_tables(settings), wiring.warehouse(settings), wiring.features(settings), wiring.registry(settings)
    )
    return load_rows(stores, split_cutoffs([*TRAINED, TESTED], HORIZON), HORIZON)


def known(rows: Rows, truth: pd.DataFrame) -> KnownRows:
    """Rows beside their attainable probability; `truth` as the simulator writes it."""
    told = truth.set_index(["user_id", "cutoff"])["attainable_probability"]
    attainable = told.reindex(pd.MultiIndex.from_arrays([rows.user_id, rows.cutoff])).to_numpy(np.float64)
    if np.isnan(attainable).any():
        raise AssertionError("a row of the river is not eligible in the truth of the simulator")
    return KnownRows(rows, attainable)


def expected_log_loss(attainable: Array, probability: Array) -> float:
    """The log loss that a probability has on average over the outcomes: no chance is left in it."""
    clipped = np.clip(probability, CLIP, 1 - CLIP)
    return float(-np.mean(attainable * np.log(clipped) + (1 - attainable) * np.log1p(-clipped)))


def expected_auc(attainable: Array, score: Array) -> float:
    """ROC-AUC with each row counted as churned and as stayed, by its probability of either."""
    outcome = np.repeat([1, 0], len(score))
    weight = np.concatenate([attainable, 1 - attainable])
    return float(roc_auc_score(outcome, np.tile(score, 2), sample_weight=weight))
