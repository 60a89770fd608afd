"""Shapley values of a forest against their definition, and what must hold of them."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from churn.core import tree_shap
from churn.core.tree_shap import ForestShap

FEATURES = 5
NULL = float("nan")


def rows(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(count, FEATURES) values, a fifth of them null."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, FEATURES))
    values[rng.random(values.shape) < 0.2] = NULL
    return values


def forest(trees: int = 3, depth: int = 6) -> RandomForestClassifier:
    """Nulls and numbers alike decide the outcome; deep enough for features to be asked again on a path."""
    values = rows(400, seed=1)
    outcome = np.nan_to_num(values, nan=0.7) @ [1.0, -1.0, 0.5, 0.0, 2.0] + np.sin(4 * np.nan_to_num(values[:, 0]))
    grown = RandomForestClassifier(trees, max_depth=depth, min_samples_leaf=3, random_state=0)
    return grown.fit(values, (outcome > 0).astype(int))


def shap_of(grown: RandomForestClassifier) -> ForestShap:
    return ForestShap([each.tree_ for each in grown.estimators_], 1)


def expectation(tree: Any, row: Any, known: frozenset[int], node: int = 0) -> float:
    """The vote when only `known` features are: the others send the row both ways, as the training rows went."""
    left, right = tree.children_left[node], tree.children_right[node]
    if left < 0:
        return float(tree.value[node, 0, 1])
    value = row[tree.feature[node]]
    if tree.feature[node] in known:
        goes_left = tree.missing_go_to_left[node] if np.isnan(value) else np.float32(value) <= tree.threshold[node]
        return expectation(tree, row, known, left if goes_left else right)
    cover = tree.weighted_n_node_samples
    return sum(cover[child] / cover[node] * expectation(tree, row, known, child) for child in (left, right))


def shapley(tree: Any, row: Any, feature: int) -> float:
    """Shapley's own formula over all subsets of the other features."""
    others = [each for each in range(FEATURES) if each != feature]
    total = 0.0
    for size in range(FEATURES):
        weight = factorial(size) * factorial(FEATURES - 1 - size) / factorial(FEATURES)
        for subset in map(frozenset, combinations(others, size)):
            total += weight * (expectation(tree, row, subset | {feature}) - expectation(tree, row, subset))
    return total


def test_the_values_are_those_of_shapleys_formula_with_nulls() -> None:
    grown, asked = forest(), rows(12, seed=2)
    found = shap_of(grown).values(asked.astype(np.float32))
    for row, values in zip(asked, found, strict=True):
        for feature in range(FEATURES):
            wanted = np.mean([shapley(each.tree_, row, feature) for each in grown.estimators_])
            assert values[feature] == pytest.approx(wanted, abs=1e-12)


def test_a_path_of_these_trees_asks_again_for_a_feature() -> None:
    assert max(each.tree_.max_depth for each in forest().estimators_) > FEATURES


def test_the_base_and_the_values_add_up_to_the_vote() -> None:
    grown, asked = forest(trees=20), rows(500, seed=3)
    shap = shap_of(grown)
    sums = shap.base + shap.values(asked.astype(np.float32)).sum(axis=1)
    assert np.abs(sums - grown.predict_proba(asked)[:, 1]).max() <= 1e-12


def test_values_on_a_threshold_and_beside_it_go_where_the_tree_sends_them() -> None:
    grown = forest()
    shap, tree = shap_of(grown), grown.estimators_[0].tree_
    for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
        if feature >= 0 and np.isfinite(threshold):
            asked = np.repeat(rows(1, seed=int(feature)), 3, axis=0)
            asked[:, feature] = threshold, np.nextafter(threshold, 9), np.nextafter(threshold, -9)
            sums = shap.base + shap.values(asked.astype(np.float32)).sum(axis=1)
            assert sums == pytest.approx(grown.predict_proba(asked)[:, 1], abs=1e-12)


def test_a_feature_that_no_split_asks_for_gets_nothing() -> None:
    values = rows(200, seed=1)
    values[:, 3] = 1.0
    grown = RandomForestClassifier(5, max_depth=4, random_state=0).fit(values, np.arange(200) % 2)
    assert (shap_of(grown).values(rows(20, seed=2).astype(np.float32))[:, 3] == 0.0).all()


def test_trees_without_a_split_have_a_base_only() -> None:
    grown = RandomForestClassifier(2, max_depth=3, min_samples_leaf=90, random_state=0)
    grown.fit(rows(100, seed=1), np.arange(100) % 2)
    shap = shap_of(grown)
    asked = rows(3, seed=2)
    assert (shap.values(asked.astype(np.float32)) == 0.0).all()
    assert grown.predict_proba(asked)[:, 1] == pytest.approx([shap.base] * 3, abs=1e-12)


def test_how_the_trees_are_grouped_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    grown, asked = forest(trees=7), rows(20, seed=4).astype(np.float32)
    together = shap_of(grown)
    monkeypatch.setattr(tree_shap, "GROVE_NODES", 100)
    apart = shap_of(grown)
    assert len(apart._groves) > 2 > len(together._groves)
    assert np.abs(apart.values(asked) - together.values(asked)).max() <= 1e-12
    assert apart.base == pytest.approx(together.base, abs=1e-12)


def test_values_that_monotonic_constraints_clipped_add_up_to_the_vote() -> None:
    values = np.nan_to_num(rows(400, seed=1))
    labels = (values.sum(axis=1) + np.random.default_rng(0).normal(size=400) > 0).astype(int)
    grown = RandomForestClassifier(5, max_depth=6, monotonic_cst=[1, 1, -1, 0, 0], random_state=0).fit(values, labels)
    shap = shap_of(grown)
    sums = shap.base + shap.values(values.astype(np.float32)).sum(axis=1)
    assert np.abs(sums - grown.predict_proba(values)[:, 1]).max() <= 1e-12


@pytest.mark.parametrize("cover", [0.0, -5.0, NULL, float("inf"), 1e-3])
def test_a_tree_that_does_not_say_how_its_training_rows_went_is_refused(cover: float) -> None:
    grown = forest()
    tree = grown.estimators_[0].tree_
    state = tree.__getstate__()
    state["nodes"]["weighted_n_node_samples"][1] = cover
    tree.__setstate__(state)
    with pytest.raises(ValueError, match="training rows"):
        shap_of(grown)
