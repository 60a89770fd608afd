"""From the feature store and the labels to the rows of a training: one way for training, rebuilding and measuring."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import numpy as np
import pandas as pd

from churn.core.training_set import SplitRows, entities_of, rows_of, split_rows
from churn.domain.ports import Labels, OfflineFeatures
from churn.domain.schema import FEATURE_NAMES
from churn.domain.windows import Split
from churn.errors import Mismatch


class RowSources(Protocol):
    """Where the rows come from."""

    @property
    def labels(self) -> Labels: ...
    @property
    def features(self) -> OfflineFeatures: ...


def load_rows(sources: RowSources, split: Split, horizon: timedelta) -> SplitRows:
    """The training and test rows of a split, and the whole population at the newest training cutoff."""
    everybody = sources.features.offline_rows(max(split.train))[list(FEATURE_NAMES)].to_numpy(np.float64)
    return split_rows(rows_of(training_frame(sources, split, horizon)), split, everybody)


def training_frame(sources: RowSources, split: Split, horizon: timedelta) -> pd.DataFrame:
    """Eligible labelled rows of the split's cutoffs with their features; raises Mismatch on a row without any."""
    labels = sources.labels.read_labels([*split.train, *split.test], horizon)
    frame = sources.features.training_frame(entities_of(labels))
    unmatched = int(frame["days_since_signup"].isna().sum())
    if unmatched:
        raise Mismatch(
            f"{unmatched} of {len(frame)} labelled rows have no features at their cutoff",
            hint="Labels and features come from different builds: run `churn build-features` again.",
        )
    return frame
