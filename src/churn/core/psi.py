"""Population stability index (PSI) of one column, with its noise taken out.

Method. The reference is cut at its deciles; nulls are a bin of their own, and so is what lies below a heavy lowest
value. With p and q the shares of a bin in the reference and in the window,

    PSI = sum over bins of (q - p) * ln(q / p)

Without any drift PSI is not 0: with B bins and m and n rows it is distributed as (1/m + 1/n) * chi-square(B - 1)
(B. Yurdakul, "Statistical Properties of Population Stability Index", dissertation, Western Michigan University, 2018,
https://scholarworks.wmich.edu/dissertations/3208/). So its mean under no drift, (B - 1) * (1/m + 1/n), is subtracted,
and an excess counts only when it is both an effect that matters (the policy's limit) and beyond what chance gives.

Why our own and not Evidently's: Evidently raises on columns that are all null or infinite and drops missing ones
silently, and its PSI knows nothing of sample size. The verdict must not depend on it; it makes the pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

Values = NDArray[np.float64]
Counts = NDArray[np.int64]

DECILES = np.arange(1, 10) / 10  # each the nearest float: 0.3 of ten rows is the third, not the fourth
HALF = 0.5  # added to every count, so that a bin empty on one side stays finite


def edges(reference: Values) -> Values:
    """Inner edges (at most 10) of the bins of `reference` (m,); empty when it holds no number.

    Each edge closes its bin on the right, so that a heavy value such as 0 has a bin that ends with it.
    """
    known = np.sort(reference[~np.isnan(reference)])
    if not known.size:
        return known
    cuts = np.unique(np.quantile(known, DECILES, method="inverted_cdf"))
    below = [np.nextafter(known[0], -np.inf)] if cuts[0] == known[0] else []
    return np.concatenate([below, cuts])


def bin_of(values: Values, cuts: Values) -> Counts:
    """The bin (n,) of each value: 0..len(cuts) for numbers, len(cuts) + 1 for null."""
    places: Counts = np.searchsorted(cuts, values, side="left").astype(np.int64)
    places[np.isnan(values)] = len(cuts) + 1
    return places


def counts(values: Values, cuts: Values) -> Counts:
    """Rows per bin, (len(cuts) + 2,), the last being null."""
    return np.bincount(bin_of(values, cuts), minlength=len(cuts) + 2)


def excess(reference: Counts, current: Counts) -> float:
    """PSI of two rows of counts minus what it is expected to be without drift; never below 0."""
    seen = (reference + current) > 0
    p, q = _shares(reference[seen]), _shares(current[seen])
    raw = float(np.sum((q - p) * np.log(q / p)))
    return max(0.0, raw - (int(seen.sum()) - 1) * _scale(reference, current))


def chance(reference: Counts, current: Counts, alpha: float) -> float:
    """The excess that no drift at all reaches with probability `alpha`."""
    freedom = int(((reference + current) > 0).sum()) - 1
    if freedom < 1:
        return 0.0
    return float((chdtri(freedom, alpha) - freedom) * _scale(reference, current))


def variance_explained(values: Values, outcome: Values) -> float:
    """Share in [0, 1] of the variance of `outcome` (m,) that goes with the bins of `values` (m,).

    The correlation ratio, less what bins explain by chance: (bins - 1) / (m - 1).
    """
    if len(outcome) < 2 or np.ptp(outcome) == 0:
        return 0.0
    total = float(np.sum((outcome - outcome.mean()) ** 2))
    places = bin_of(values, edges(values))
    rows = np.bincount(places)
    means = np.bincount(places, weights=outcome)[rows > 0] / rows[rows > 0]
    between = float(np.sum(rows[rows > 0] * (means - outcome.mean()) ** 2))
    return max(0.0, between / total - (len(means) - 1) / (len(outcome) - 1))


def _shares(of: Counts) -> Values:
    shares: Values = (of + HALF) / (of.sum() + HALF * len(of))
    return shares


def _scale(reference: Counts, current: Counts) -> float:
    return float(1 / reference.sum() + 1 / current.sum())
