"""Reasons of a prediction: what each feature adds to the log-odds (the margin) of the served, calibrated probability.

A forest's own probability is divided among the features by exact Shapley values (tree_shap.py). Calibration, the mean
over the members of a model and the log-odds are carried through by the rescale rule (Chen, Lundberg and Lee 2022,
"Explaining a series of models by propagating Shapley values"): each contribution is stretched by what its sum is
stretched by. The margins of 0 and 1 are those of 1e-12 and 1 - 1e-12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churn.core.forest import Member, Predict, as_float32
from churn.core.reason_texts import reason_text
from churn.core.scoring import Contributions, Explain, ServedModel
from churn.core.tree_shap import ForestShap
from churn.domain.predictions import Prediction
from churn.domain.reasons import FAMILIES, Explanation, Reason, ReasonCode

Vectors = NDArray[np.float64]
EDGE = 1e-12
# Two probabilities nearer together than this stretch like others so far apart: a difference of roundings has no slope.
NEAR = 1e-9
# A calibration that makes more than ten of one unit of log-odds is a step (isotonic has them), which has no slope.
STEEPEST = 10.0


def margins(probabilities: Vectors) -> Vectors:
    """Log-odds of n probabilities, 0 and 1 taken as 1e-12 and 1 - 1e-12."""
    inside = np.clip(probabilities, EDGE, 1 - EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def margin(probability: float) -> float:
    """The same of one probability."""
    return float(margins(np.array([probability]))[0])


class Explainer:
    """Contributions to the margins of a model made of forests, of at least one.

    Raises ValueError when a tree's nodes do not say how the training rows went.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._parts = [_part(member) for member in members]
        self._base = float(np.mean([part.calibrated_base for part in self._parts]))

    def __call__(self, vectors: Vectors) -> Contributions:
        """(n, f) vectors, nan = null -> (n, f) contributions. Raises ValueError as the model's `predict` does."""
        base = margin(self._base)
        if len(vectors) == 0:
            return Contributions(base, np.zeros(vectors.shape))
        votes = [part.member.votes(vectors) for part in self._parts]
        calibrated = [part.member.calibrate(each) for part, each in zip(self._parts, votes, strict=True)]
        probabilities = np.mean(calibrated, axis=0)
        narrow = as_float32(vectors, vectors.shape[1])
        values = np.array([part.shap.values(narrow) for part in self._parts])
        stretch = np.array([part.slopes(*each) for part, *each in zip(self._parts, votes, calibrated, strict=True)])
        stretch *= _slopes(margins, self._base, probabilities) / len(self._parts)
        carried = np.einsum("mn,mnf->nf", stretch, values)
        return Contributions(base, _made_to_add_up(carried, np.abs(values).sum(axis=0), margins(probabilities) - base))


@dataclass(frozen=True)
class _Part:
    """A member, the division of its forest's probability, and what its calibration makes of the base of that."""

    member: Member
    shap: ForestShap
    calibrated_base: float

    def slopes(self, votes: Vectors, calibrated: Vectors) -> Vectors:
        """(n,) what calibration stretches the forest's contributions by."""
        found = _slopes(self.member.calibrate, self.shap.base, votes)
        one_to_one = _slopes(margins, self.shap.base, votes) / _slopes(margins, self.calibrated_base, calibrated)
        return np.clip(found, -STEEPEST * one_to_one, STEEPEST * one_to_one)


def _part(member: Member) -> _Part:
    shap = ForestShap(member.trees, member.column)
    return _Part(member, shap, float(member.calibrate(np.array([shap.base]))[0]))


def _slopes(function: Predict, start: float, ends: Vectors) -> Vectors:
    """(n,) slopes of an elementwise function of probabilities between `start` and each of `ends`."""
    step = NEAR if start < 0.5 else -NEAR
    apart = np.where(np.abs(ends - start) < NEAR, start + step, ends)
    return np.asarray((function(apart) - function(np.array([start]))) / (apart - start))


def _made_to_add_up(contributions: Vectors, size: Vectors, wanted: Vectors) -> Vectors:
    """(n, f) contributions whose sums are `wanted`, (n,): what is missing goes to features by their `size`.

    That is nothing but roundings, unless a step of the calibration was held back by STEEPEST.
    """
    missing = wanted - contributions.sum(axis=1)
    total = size.sum(axis=1)
    rate = np.divide(missing, total, out=np.zeros(len(total)), where=total > 0)
    return np.asarray(contributions + size * rate[:, None])


def explanations(model: ServedModel, predictions: Sequence[Prediction]) -> list[Explanation | None]:
    """Why each prediction is what it is; None where it has no probability, or the model no `explain`."""
    told: list[Explanation | None] = [None] * len(predictions)
    places = [place for place, each in enumerate(predictions) if each.probability is not None]
    if model.explain is None or not places:
        return told
    vectors = np.array([predictions[place].vector for place in places], dtype=np.float64)
    probability = np.array([predictions[place].probability for place in places], dtype=np.float64)
    for place, why in zip(places, explained(model.explain, model.features, vectors, probability), strict=True):
        told[place] = why
    return told


def explained(explain: Explain, features: Sequence[str], vectors: Vectors, probabilities: Vectors) -> list[Explanation]:
    """The explanations of (n, f) vectors and their n probabilities."""
    found = explain(vectors)
    sums, ends = family_sums(features, found.features).tolist(), margins(probabilities).tolist()
    values = [dict(zip(features, row, strict=True)) for row in vectors.tolist()]
    reasons = map(_reasons, sums, values)
    return [Explanation(found.base_margin, end, each) for end, each in zip(ends, reasons, strict=True)]


def family_sums(features: Sequence[str], contributions: Vectors) -> Vectors:
    """(n, f) contributions of features -> (n, number of codes), in the order of ReasonCode."""
    columns = {name: place for place, name in enumerate(features)}
    return np.column_stack(
        [contributions[:, [columns[name] for name in FAMILIES[code]]].sum(axis=1) for code in ReasonCode]
    )


def _reasons(sums: Sequence[float], values: Mapping[str, float]) -> tuple[Reason, ...]:
    reasons = [Reason(code, reason_text(code, values), each) for code, each in zip(ReasonCode, sums, strict=True)]
    return tuple(sorted(reasons, key=lambda reason: -abs(reason.contribution)))
