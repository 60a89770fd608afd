"""Many rows through many trees at once: one step down in all trees is one pass over flat arrays.

A tree's own `predict` costs microseconds before it looks at a row, and a forest has hundreds of trees. Here the rows
of a block stand at a node of every tree together, and go down level by level. Rows that arrive at a leaf stay there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn.core.tree_nodes import Floats, Nodes, Places, nodes_of

# Rows times trees that go down together: few enough to stay in the processor's cache (docs/decisions/0020).
BLOCK = 20_000


class ForestWalk:
    """The mean vote of sound scikit-learn `trees` (Tree objects) for the class in `column`.

    Comparisons, additions and their order are scikit-learn's: values of float32 with thresholds of float64, tree after
    tree. So the numbers are the same to the last bit.
    """

    def __init__(self, trees: Sequence[Any], column: int) -> None:
        nodes = nodes_of(trees, column)
        levels = list(_levels(nodes))
        order, inner = np.concatenate(levels), nodes.inner
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self._depth, self._trees, self._width = len(levels) - 1, len(trees), nodes.width
        # Level by level, the right child before the left: one step is `right child + whether to go left`.
        self._right = np.where(inner, place[nodes.children[:, 1]], place)[order]
        self._column = np.where(inner, nodes.feature + nodes.width * nodes.null_goes_left, 0)[order]
        self._threshold = np.where(inner, nodes.threshold, np.nan)[order]  # nothing goes left of NaN: leaves stay
        self._value = nodes.value[order]

    def __call__(self, rows: NDArray[np.float32]) -> Floats:
        """(n, f) float32 rows, nan = null -> (n,) mean votes."""
        size = max(1, BLOCK // self._trees)
        blocks = [self._votes(rows[start : start + size]) for start in range(0, len(rows), size)]
        return np.concatenate(blocks) if blocks else np.zeros(0)

    def _votes(self, rows: NDArray[np.float32]) -> Floats:
        asked, start = _with_nulls_both_ways(rows), np.arange(len(rows)) * (2 * self._width)
        start, node = np.tile(start, self._trees), np.repeat(np.arange(self._trees), len(rows))
        for _ in range(self._depth):
            cell = self._column.take(node)
            cell += start
            goes_left = asked.take(cell) <= self._threshold.take(node)
            node = self._right.take(node)
            node += goes_left
        votes = self._value.take(node).reshape(self._trees, len(rows))
        # Not `sum`, which adds in pairs: its last bits would be others.
        return np.asarray(np.add.accumulate(votes, axis=0)[-1] / self._trees)


def _with_nulls_both_ways(rows: NDArray[np.float32]) -> Floats:
    """Per row its values, where null is NaN and so never left, then again with nulls that always go left; flat."""
    wide = np.concatenate([rows, rows], axis=1, dtype=np.float64)
    again = wide[:, rows.shape[1] :]
    again[np.isnan(again)] = -np.inf
    return wide.ravel()


def _levels(nodes: Nodes) -> Iterator[Places]:
    """The nodes of every depth, from the roots on; siblings side by side, the right one first."""
    level, inner = nodes.roots, nodes.inner
    while len(level):
        yield level
        level = nodes.children[level[inner[level]], ::-1].ravel()
