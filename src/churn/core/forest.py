"""The forest's fast path: the same numbers as scikit-learn's `predict_proba`, without its cost per call.

`predict_proba` spends 10 ms a call on checks and thread pools; all trees walked at once (tree_walk.py) make the same
comparisons and additions in the same order in 0.05 ms. scikit-learn stays the reference: golden rows decide at load
(see artifact.py), and whatever is not recognised here is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from churn.core.tree_walk import ForestWalk

Vectors = NDArray[np.float64]
Predict = Callable[[Vectors], Vectors]
METHODS = ("sigmoid", "isotonic", "temperature")
LOG_EPSILON = 1e-12  # scikit-learn's, in the logarithms of probabilities


@dataclass(frozen=True)
class Member:
    """One forest of a model, sound to walk through, and its calibration; a model answers with its members' mean.

    `votes` maps (n, f) vectors to the forest's own probabilities of class 1, `calibrate` these to the member's.
    """

    trees: Sequence[Any]
    column: int
    votes: Predict
    calibrate: Predict


def forest_predictor(estimator: Any) -> Predict:
    """(n, f) float64 vectors -> (n,) probabilities of class 1, bit-equal to `estimator.predict_proba`, NaN included.

    Raises ValueError for an estimator that is not a sound forest, calibrated or not, of the classes 0 and 1, and, when
    called, for another number of columns or for values beyond float32.
    """
    return partial(_mean, forest_members(estimator))


def forest_members(estimator: Any) -> Sequence[Member]:
    """The forests that `estimator` is made of, at least one. Raises ValueError as above."""
    column = _positive_column(estimator.classes_)
    if isinstance(estimator, RandomForestClassifier):
        return [_member(estimator, column, np.copy)]
    if isinstance(estimator, CalibratedClassifierCV) and all(map(_is_forest, estimator.calibrated_classifiers_)):
        # scikit-learn calibrates the last class of two, whatever the order of the labels.
        return [_member(_thawed(each.estimator), 1, _calibration(each)) for each in estimator.calibrated_classifiers_]
    raise ValueError("the model is no forest")


def reference_predictor(estimator: Any) -> Predict:
    """The same question asked of scikit-learn itself."""
    column = _positive_column(estimator.classes_)
    return lambda vectors: np.asarray(estimator.predict_proba(vectors)[:, column], dtype=np.float64)


def _positive_column(classes: Any) -> int:
    found = [float(each) for each in classes]
    if sorted(found) != [0.0, 1.0]:
        raise ValueError(f"the classifier knows {len(found)} classes, not exactly 0 and 1")
    return found.index(1.0)


def _is_forest(member: Any) -> bool:
    return member.method in METHODS and isinstance(_thawed(member.estimator), RandomForestClassifier)


def _thawed(estimator: Any) -> Any:
    return estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator


def _calibration(member: Any) -> Predict:
    """scikit-learn's formulas without its checks, which cost more than the whole forest does."""
    (calibrator,) = member.calibrators
    if member.method == "temperature":
        return partial(_tempered, float(calibrator.beta_))
    if member.method == "sigmoid":
        return partial(_sigmoid, float(calibrator.a_), float(calibrator.b_))
    return partial(_stepped, calibrator.X_thresholds_, calibrator.y_thresholds_)


def _sigmoid(slope: float, intercept: float, probabilities: Vectors) -> Vectors:
    return np.asarray(expit(-(slope * probabilities + intercept)))


def _stepped(places: Vectors, values: Vectors, probabilities: Vectors) -> Vectors:
    return np.asarray(np.interp(probabilities, places, values))


def _tempered(beta: float, probabilities: Vectors) -> Vectors:
    """The softmax of beta times the logarithms of both classes."""
    no, yes = beta * np.log(1 - probabilities + LOG_EPSILON), beta * np.log(probabilities + LOG_EPSILON)
    larger = np.maximum(no, yes)
    no, yes = np.exp(no - larger), np.exp(yes - larger)
    return np.asarray(yes / (no + yes))


def _mean(members: Sequence[Member], vectors: Vectors) -> Vectors:
    total = np.zeros(len(vectors))
    for member in members:
        total += member.calibrate(member.votes(vectors))
    return total / len(members)


def _calibrated(calibrate: Predict, votes: Vectors) -> Vectors:
    return _at_most_one(calibrate(votes))


def _at_most_one(probabilities: Vectors) -> Vectors:
    probabilities[(probabilities > 1.0) & (probabilities <= 1.0 + 1e-5)] = 1.0
    return probabilities


def _member(forest: Any, column: int, calibrate: Predict) -> Member:
    if forest.n_outputs_ != 1 or len(forest.classes_) != 2:
        raise ValueError("the forest does not tell two classes apart")
    width = int(forest.n_features_in_)
    trees = [each.tree_ for each in forest.estimators_]
    for tree in trees:
        _check_nodes(tree, width)
    return Member(trees, column, partial(_votes, ForestWalk(trees, column), width), partial(_calibrated, calibrate))


def _votes(walk: ForestWalk, width: int, vectors: Vectors) -> Vectors:
    return walk(as_float32(vectors, width))


def as_float32(vectors: Vectors, width: int) -> NDArray[np.float32]:
    """(n, width) vectors as the trees read them; raises ValueError for another width or values beyond float32."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ValueError(f"the forest takes {width} features, not {vectors.shape[1:]}")
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(vectors, dtype=np.float32)
    if np.isinf(narrow).any():
        raise ValueError("a value is infinite or too large for float32")
    return narrow


def _check_nodes(tree: Any, width: int) -> None:
    """scikit-learn's C code trusts the arrays: a crafted tree would be read beyond them or never reach a leaf."""
    if tree.node_count == 0:  # C would read a first node all the same
        raise ValueError("a tree has no nodes")
    own = np.arange(tree.node_count)
    inner = tree.children_left != -1
    children = np.concatenate([tree.children_left[inner], tree.children_right[inner]])
    # Each but the root is one node's child: ways that meet again would make a small file an endless tree.
    if not ((children > np.tile(own[inner], 2)).all() and np.array_equal(np.sort(children), own[1:])):
        raise ValueError("a tree's nodes do not lead to leaves")
    if not ((tree.feature[inner] >= 0) & (tree.feature[inner] < width)).all() or tree.n_features != width:
        raise ValueError("a tree asks for a feature that does not exist")
    if not ((tree.value >= 0) & (tree.value <= 1)).all():
        raise ValueError("a tree votes with something else than a share")
