"""Figures with their intervals in the words of a model card: told apart from zero, or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from churn.core.bootstrap import Interval

NOT_MEASURED = "not measured"
NO_VALUE = "–"
TO = ",\u00a0"  # no line break inside of brackets


def interval(told: Mapping[str, float]) -> Interval:
    """An interval as the run's tables hold it."""
    return Interval(told["estimate"], told["low"], told["high"])


def side_of(apart: Interval) -> int | None:
    """The side of zero on which all of the interval lies, 0 when on both, None without an interval."""
    if not (isfinite(apart.low) and isfinite(apart.high)):
        return None
    return int(apart.low > 0) - int(apart.high < 0)


def stands(apart: Interval, sign: int) -> str:
    """Ahead, behind or not told apart, by a difference of which `sign` is the better side."""
    side = side_of(apart)
    if side is None:
        return NOT_MEASURED
    if side == 0:
        return f"not told apart: {signed(apart)}"
    return f"{'ahead' if side == sign else 'behind'} by {size(apart)}"


def size(apart: Interval) -> str:
    """How far from zero, without the side."""
    low, high = sorted((abs(apart.low), abs(apart.high)))
    return around(Interval(abs(apart.estimate), low, high))


def around(told: Interval) -> str:
    """`0.8123 [0.7901, 0.8330]`."""
    return f"{plain(told.estimate)} [{plain(told.low)}{TO}{plain(told.high)}]"


def signed(told: Interval) -> str:
    """`+0.0123 [-0.0101, +0.0330]`."""
    return f"{told.estimate:+.4f} [{told.low:+.4f}{TO}{told.high:+.4f}]"


def plain(value: float) -> str:
    """Four digits, or a dash where there is no value."""
    return f"{value:.4f}" if isfinite(value) else NO_VALUE


def in_words(name: str) -> str:
    """`tenure.under_90_days` as a person would say it."""
    return name.replace(".", ": ", 1).replace("_", " ")


def listed(values: Mapping[str, object], between: str = " = ") -> str:
    """Names with their values, in one line."""
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())


def span(days: Sequence[str]) -> str:
    """The only day, or how many from when to when."""
    return days[0] if len(days) == 1 else f"{len(days)} cutoffs from {days[0]} to {days[-1]}"
