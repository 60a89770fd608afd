"""What a model card is written from: the figures that a training has at hand, without its rows and its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from churn.core.advice import Advice
from churn.core.model import Division, divide
from churn.core.slices import SliceReport
from churn.core.staleness import Staleness
from churn.core.training import Evaluated
from churn.core.training_set import Rows, SplitRows
from churn.core.value import ContactPlan
from churn.domain.versions import Lineage


@dataclass(frozen=True)
class CutoffRows:
    """The training rows of one cutoff: how many churned, how many grew the forest, how many calibrated it."""

    day: str
    rows: int
    churn_rate: float
    forest: int
    calibration: int


@dataclass(frozen=True)
class TrainingData:
    """What the model was made of. `known`: users at the newest training cutoff, `eligible` those among them or not.

    `dropped` are cutoffs whose horizons reach into the test's.
    """

    cutoffs: tuple[CutoffRows, ...]
    dropped: tuple[str, ...]
    eligible: int
    known: int
    calibrated_on: str
    calibration_churn_rate: float


@dataclass(frozen=True)
class CardFacts:
    """All figures of a card. `intervals`, `comparison` and `by_cutoff` are the run's tables of these names."""

    lineage: Lineage
    data: TrainingData
    comparison: Mapping[str, Mapping[str, float]]
    by_cutoff: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Any]
    slices: SliceReport
    plan: ContactPlan
    contacted: float
    staleness: Staleness


def card_facts(
    rows: SplitRows,
    result: Evaluated,
    advice: Advice,
    *,
    lineage: Lineage,
    intervals: Mapping[str, Any],
    slices: SliceReport,
) -> CardFacts:
    """The facts of one training; `contacted` is the share of test users that the plan contacts."""
    return CardFacts(
        lineage=lineage,
        data=training_data(rows, timedelta(days=lineage.horizon_days)),
        comparison=result.comparison,
        by_cutoff=result.by_cutoff,
        intervals=intervals,
        slices=slices,
        plan=advice.contact.plan,
        contacted=advice.contact.test.share,
        staleness=advice.staleness,
    )


def training_data(rows: SplitRows, horizon: timedelta) -> TrainingData:
    """Sizes and churn rates of the training rows, as the fit divides them."""
    train, division = rows.train, divide(rows.train, horizon)
    eligible = int((train.cutoff == train.cutoff.max()).sum())
    return TrainingData(
        cutoffs=tuple(_at(train, division, moment) for moment in np.unique(train.cutoff)),
        dropped=tuple(f"{moment:%Y-%m-%d}" for moment in rows.split.dropped),
        eligible=eligible,
        known=eligible if rows.population is None else len(rows.population),
        calibrated_on=division.how,
        calibration_churn_rate=float(train.y[division.calibration].mean()),
    )


def _at(train: Rows, division: Division, moment: np.datetime64) -> CutoffRows:
    here = train.cutoff == moment
    return CutoffRows(
        day=str(np.datetime_as_string(moment, unit="D")),
        rows=int(here.sum()),
        churn_rate=float(train.y[here].mean()),
        forest=int((here & division.forest).sum()),
        calibration=int((here & division.calibration).sum()),
    )
