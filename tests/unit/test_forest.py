"""The fast path against scikit-learn itself."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from churn.core.forest import forest_members, forest_predictor, reference_predictor
from churn.core.model import RISK_DIRECTIONS
from churn.core.tree_walk import BLOCK
from churn.domain.schema import FEATURE_NAMES
from tests.models import RECENCY, Vectors, calibrated_forest, random_vectors

WIDTH = len(FEATURE_NAMES)


def thresholds_of(estimator: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One vector per split, with the split's own threshold and its neighbours in the split's column."""
    forest = estimator.calibrated_classifiers_[0].estimator.estimator
    rows = []
    for tree in (each.tree_ for each in forest.estimators_):
        for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
            if feature < 0 or np.isinf(threshold):  # leaves, and splits between null and everything else
                continue
            for value in (threshold, np.nextafter(threshold, -np.inf), np.nextafter(threshold, np.inf)):
                row = random_vectors(1, seed=int(feature))[0]
                row[feature] = value
                rows.append(row)
    return np.array(rows)


def with_nulls(vectors: Vectors) -> Vectors:
    """The same with every fifth cell null."""
    return np.where(np.random.default_rng(0).random(vectors.shape) < 0.2, np.nan, vectors)


@cache
def shipped_forest(cv: int | None = None) -> Any:
    """A forest with the parameters of training, on nulls too; with `cv`, one member a fold."""
    vectors = with_nulls(random_vectors(1_200, seed=11))
    churned = (np.nan_to_num(vectors[:, RECENCY]) + np.random.default_rng(1).normal(0, 15, 1_200) > 25).astype(int)
    shape = {"n_estimators": 60, "max_depth": 10, "min_samples_leaf": 10, "random_state": 0}
    forest = RandomForestClassifier(**shape, monotonic_cst=list(RISK_DIRECTIONS))
    if cv is not None:
        return CalibratedClassifierCV(forest, method="temperature", cv=cv).fit(vectors, churned)
    frozen = FrozenEstimator(forest.fit(vectors[:800], churned[:800]))
    return CalibratedClassifierCV(frozen, method="temperature", ensemble=False).fit(vectors[800:], churned[800:])


@cache
def splits_of_the_shipped_forest() -> tuple[tuple[int, float], ...]:
    trees = [each.tree_ for each in shipped_forest().calibrated_classifiers_[0].estimator.estimator.estimators_]
    pairs = {
        (int(feature), float(threshold))
        for tree in trees
        for feature, threshold in zip(tree.feature, tree.threshold, strict=True)
        if feature >= 0 and np.isfinite(threshold)
    }
    return tuple(sorted(pairs))


def near(threshold: float) -> list[float]:
    """A threshold, the float32 number nearest to it, and what lies beside both."""
    narrow = np.float32(threshold)
    beside = [np.nextafter(narrow, np.float32(end)) for end in (-np.inf, np.inf)]
    return [threshold, *(float(np.nextafter(threshold, end)) for end in (-np.inf, np.inf)), *map(float, beside)]


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_the_fast_path_is_bit_equal_to_predict_proba_with_nulls(method: str) -> None:
    estimator = calibrated_forest(1, method)
    vectors = with_nulls(random_vectors(2_000, seed=7))
    assert np.array_equal(forest_predictor(estimator)(vectors), reference_predictor(estimator)(vectors))


def test_the_fast_path_is_bit_equal_on_every_threshold_and_beside_it() -> None:
    vectors = thresholds_of(calibrated_forest())
    estimator = calibrated_forest()
    assert len(vectors) > 500
    assert np.array_equal(forest_predictor(estimator)(vectors), reference_predictor(estimator)(vectors))


@pytest.mark.parametrize("cv", [None, 3])
@pytest.mark.parametrize("rows", [1, 2, 333, 334, 1_000])
def test_forests_with_directions_and_several_members_are_bit_equal_at_every_size_of_block(
    cv: int | None, rows: int
) -> None:
    estimator, vectors = shipped_forest(cv), with_nulls(random_vectors(rows, seed=rows))
    assert len(forest_members(estimator)) == (cv or 1)
    assert BLOCK // 60 == 333  # rows of one block: the sizes above lie at its edge
    assert np.array_equal(forest_predictor(estimator)(vectors), reference_predictor(estimator)(vectors))


@given(st.data())
def test_rows_made_of_thresholds_nulls_zeros_and_huge_values_are_bit_equal(data: st.DataObject) -> None:
    rare = st.sampled_from([float("nan"), 0.0, -0.0, 3.4e38, -3.4e38, 1e-45, 1e-300])
    vector = data.draw(st.lists(rare, min_size=WIDTH, max_size=WIDTH))
    for feature, threshold in data.draw(st.lists(st.sampled_from(splits_of_the_shipped_forest()), max_size=20)):
        vector[feature] = data.draw(st.sampled_from(near(threshold)))
    estimator, vectors = shipped_forest(), np.array([vector])
    assert np.array_equal(forest_predictor(estimator)(vectors), reference_predictor(estimator)(vectors))


def test_splits_between_null_and_everything_else_send_the_largest_numbers_as_scikit_learn_does() -> None:
    vectors = np.tile(random_vectors(1, seed=2), (200, 1))
    vectors[::2, 0] = np.nan
    forest = RandomForestClassifier(5, random_state=0).fit(vectors, np.arange(200) % 2)
    assert any(np.isinf(each.tree_.threshold).any() for each in forest.estimators_)
    asked = np.array([vectors[0], vectors[1], vectors[1]])
    asked[2, 0] = np.finfo(np.float32).max
    found = forest_predictor(forest)(asked)
    assert found.tolist() == forest.predict_proba(asked)[:, 1].tolist()
    assert found[0] != found[2]


def test_one_row_alone_scores_as_it_does_among_others() -> None:
    predict = forest_predictor(calibrated_forest())
    vectors = random_vectors(50, seed=3)
    assert [predict(vectors[row : row + 1])[0] for row in range(50)] == predict(vectors).tolist()


@given(st.lists(st.floats(-3e38, 3e38) | st.just(float("nan")), min_size=WIDTH, max_size=WIDTH))
def test_any_float32_number_scores_as_scikit_learn_scores_it(values: list[float]) -> None:
    estimator, vectors = calibrated_forest(), np.array([values])
    assert np.array_equal(forest_predictor(estimator)(vectors), reference_predictor(estimator)(vectors))


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_no_rows_give_no_probabilities(method: str) -> None:
    assert forest_predictor(calibrated_forest(1, method))(np.zeros((0, WIDTH))).shape == (0,)


def test_a_bare_forest_scores_as_scikit_learn_scores_it() -> None:
    vectors = random_vectors(300, seed=5)
    forest = RandomForestClassifier(5, random_state=0).fit(vectors, np.arange(300) % 2)
    assert np.array_equal(forest_predictor(forest)(vectors), forest.predict_proba(vectors)[:, 1])


def test_a_model_that_is_no_forest_is_refused() -> None:
    vectors = np.nan_to_num(random_vectors(300, seed=5))
    model = LogisticRegression(max_iter=5_000).fit(vectors / 100, np.arange(300) % 2)
    with pytest.raises(ValueError, match="no forest"):
        forest_predictor(model)


@pytest.mark.parametrize("cv", [2, None])
def test_a_tree_outside_a_forest_is_refused_since_nobody_would_check_its_nodes(cv: int | None) -> None:
    vectors, labels = random_vectors(300, seed=5), np.arange(300) % 2
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(vectors, labels)
    model = tree if cv is None else CalibratedClassifierCV(tree, cv=cv).fit(vectors, labels)
    with pytest.raises(ValueError, match="no forest"):
        forest_predictor(model)


@pytest.mark.parametrize("labels", [[0], [1], [0, 1, 2], [5, 6]])
def test_classes_other_than_0_and_1_are_refused(labels: list[int]) -> None:
    vectors = random_vectors(60, seed=1)
    forest = RandomForestClassifier(3).fit(vectors, np.resize(labels, 60))
    with pytest.raises(ValueError, match="classes"):
        forest_predictor(forest)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e39, -1e300])
def test_what_float32_cannot_hold_is_refused_as_scikit_learn_refuses_it(value: float) -> None:
    vectors = random_vectors(2, seed=1)
    vectors[1, 0] = value
    with pytest.raises(ValueError, match="float32"):
        forest_predictor(calibrated_forest())(vectors)


def test_another_number_of_features_is_refused_before_the_trees_read_beyond_the_row() -> None:
    with pytest.raises(ValueError, match="features"):
        forest_predictor(calibrated_forest())(np.zeros((1, WIDTH - 1)))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("left_child", 0),
        ("right_child", 10_000),
        ("right_child", 1),  # both ways lead to one node: such trees can double at every step
        ("left_child", -7),
        ("feature", WIDTH),
        ("feature", -1),
    ],
)
def test_a_crafted_tree_is_refused(part: str, value: int) -> None:
    forest = RandomForestClassifier(2, max_depth=3, random_state=0)
    forest.fit(random_vectors(60, seed=1), np.arange(60) % 2)
    tree = forest.estimators_[0].tree_
    state = tree.__getstate__()
    state["nodes"][part][0] = value
    tree.__setstate__(state)
    with pytest.raises(ValueError, match="a tree"):
        forest_predictor(forest)


@pytest.mark.parametrize("vote", [-0.5, 1.5, np.nan])
def test_a_tree_that_votes_outside_0_and_1_is_refused_since_calibration_reads_it_as_a_probability(vote: float) -> None:
    forest = RandomForestClassifier(2, max_depth=3, random_state=0)
    forest.fit(random_vectors(60, seed=1), np.arange(60) % 2)
    forest.estimators_[1].tree_.value[0, 0, 1] = vote
    with pytest.raises(ValueError, match="a tree votes"):
        forest_predictor(forest)


def test_a_tree_without_nodes_is_refused() -> None:
    forest = RandomForestClassifier(2, max_depth=3, random_state=0)
    forest.fit(random_vectors(60, seed=1), np.arange(60) % 2)
    forest.estimators_[1].tree_ = Tree(WIDTH, np.array([2]), 1)
    with pytest.raises(ValueError, match="no nodes"):
        forest_predictor(forest)
