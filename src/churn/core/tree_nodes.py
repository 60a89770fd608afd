"""The nodes of scikit-learn trees, those of many trees in one set of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Nodes:
    """The nodes of some trees, one tree after the other.

    `children` is (n, 2), left and right, -1 at leaves; `cover` the weight of the training rows that came by; `value`
    the share of class 1 among them.
    """

    children: Places
    feature: Places
    threshold: Floats
    null_goes_left: NDArray[np.bool_]
    cover: Floats
    value: Floats
    roots: Places
    width: int

    @property
    def inner(self) -> NDArray[np.bool_]:
        """(n,) which nodes are no leaves."""
        return np.asarray(self.children[:, 0] >= 0)


def nodes_of(trees: Sequence[Any], column: int) -> Nodes:
    """The nodes of at least one sound Tree object; class 1 stands in `column` of their values."""
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])
    pairs = [np.column_stack([tree.children_left, tree.children_right]) for tree in trees]
    return Nodes(
        children=np.concatenate(
            [np.where(pair < 0, -1, pair + start) for pair, start in zip(pairs, starts[:-1], strict=True)]
        ),
        feature=np.concatenate([tree.feature for tree in trees]),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        null_goes_left=np.concatenate([tree.missing_go_to_left for tree in trees]).astype(bool),
        cover=np.concatenate([tree.weighted_n_node_samples for tree in trees]),
        value=np.concatenate([tree.value[:, 0, column] for tree in trees]),
        roots=starts[:-1],
        width=int(trees[0].n_features),
    )
