"""What must hold for one column of a window before its distribution means anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from churn.core.drift_rules import FINITE, IN_RANGE, NOT_STUCK, NULLS, PREDICTION, SAME_UNITS, DriftPolicy
from churn.domain.schema import FEATURES, Feature

Values = NDArray[np.float64]
Check = Callable[["Column", DriftPolicy], str]

ENOUGH_SIZES = 30
_DECLARED = {feature.name: feature for feature in FEATURES} | {
    PREDICTION: Feature(PREDICTION, "the champion's probability of churn", low=0, high=1)
}


@dataclass(frozen=True)
class Column:
    """One column in the window (n,) and in the reference (m,); nan = null."""

    name: str
    current: Values
    reference: Values


def is_number(rows: pd.DataFrame, name: str) -> bool:
    """Whether `rows` has such a column, of numbers; truth values are none."""
    return name in rows and types.is_numeric_dtype(rows[name]) and not types.is_bool_dtype(rows[name])


def column(name: str, current: pd.DataFrame, reference: pd.DataFrame) -> Column:
    """The column `name` of both as float64; nullable integers and floats become plain ones."""
    return Column(name, *(rows[name].to_numpy(dtype=np.float64, na_value=np.nan) for rows in (current, reference)))


def infinite(column: Column, _: DriftPolicy) -> str:
    sides = (("the window", column.current), ("the reference", column.reference))
    return " and ".join(f"{np.isinf(values).sum():,} in {side}" for side, values in sides if np.isinf(values).any())


def out_of_range(column: Column, _: DriftPolicy) -> str:
    declared, values = _DECLARED[column.name], column.current
    low = -np.inf if declared.low is None else declared.low
    high = np.inf if declared.high is None else declared.high
    wrong = int(((values < low) | (values > high)).sum())
    return f"outside [{low:g}, {high:g}] in {wrong / len(values):.1%}" if wrong else ""


def nulls(column: Column, policy: DriftPolicy) -> str:
    now, before = (float(np.isnan(values).mean()) for values in (column.current, column.reference))
    if now > 0 and not _DECLARED[column.name].nullable:
        return f"{now:.1%} null, which this column must never be"
    return f"{now:.1%} null, {before:.1%} in the reference" if now > before + policy.null_rise else ""


def stuck(column: Column, policy: DriftPolicy) -> str:
    """A constant is stuck when the reference varies and would give such a window with next to no probability."""
    value, reference = column.current[0], column.reference
    if not _equals(column.current, value).all() or _equals(reference, reference[0]).all():
        return ""
    before = float(_equals(reference, value).mean())
    by_chance = len(column.current) * np.log(max(before, 0.5 / len(reference)))
    if by_chance >= np.log(policy.constant_by_chance):
        return ""
    return f"always {'null' if np.isnan(value) else f'{value:g}'}; {before:.1%} of the reference"


def rescaled(column: Column, policy: DriftPolicy) -> str:
    now, before = (_typical_size(values) for values in (column.current, column.reference))
    if column.name == PREDICTION or now is None or before is None:
        return ""
    ratio = now / before
    if 1 / policy.rescaled < ratio < policy.rescaled:
        return ""
    return f"typically {now:.3g}, {before:.3g} in the reference ({ratio:.2g} times)"


# Each tells what is wrong with a column, or "". The first hold for a single row, the others need enough of them.
ALWAYS: dict[str, Check] = {FINITE: infinite, IN_RANGE: out_of_range}
IF_ENOUGH: dict[str, Check] = {NULLS: nulls, NOT_STUCK: stuck, SAME_UNITS: rescaled}


def _equals(values: Values, value: float) -> NDArray[np.bool_]:
    same: np.ndarray[Any, np.dtype[np.bool_]] = np.isnan(values) if np.isnan(value) else values == value
    return same


def _typical_size(values: Values) -> float | None:
    """Median size of the values that are not 0; None when too few tell."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(np.median(sizes)) if sizes.size >= ENOUGH_SIZES else None
