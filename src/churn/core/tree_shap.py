"""Exact Shapley values of a forest's features, row by row, without a compiled extension.

The game is TreeSHAP's (Lundberg et al. 2020, "From local explanations to global understanding", path-dependent): where
a feature is not known, a row goes both ways, in the shares in which the training rows went. A Shapley value is the
integral over t in [0, 1] of a derivative of the game's multilinear extension (Owen 1972). For a leaf the extension is
the product of `t * met + (1 - t) * share` over the d features of its path: a polynomial in t, so d / 2 Gauss-Legendre
points give the integral exactly. The products are carried down the trees and the leaves' sums up, as in Linear TreeSHAP
(Yu et al. 2022): the cost is that of the nodes times the points. Every factor is positive: nothing cancels on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn.core.tree_nodes import Floats, Nodes, Places, nodes_of

Narrow = NDArray[np.float32]
Mask = NDArray[np.bool_]

GROVE_NODES = 50_000  # trees are worked through in groves: bounds the memory that one thread takes, to about 12 MB


class ForestShap:
    """Shapley values of the mean vote of sound scikit-learn `trees` (Tree objects) for the class in `column`.

    Raises ValueError when a tree's nodes do not say how the training rows went.
    """

    def __init__(self, trees: Sequence[Any], column: int) -> None:
        self._groves = [_Grove(nodes_of(part, column), len(trees)) for part in _groups(trees)]
        self.base = sum(grove.base for grove in self._groves)

    def values(self, rows: Narrow) -> Floats:
        """(n, f) float32 rows, nan = null -> (n, f): `base` and a row's values add up to its mean vote."""
        found = np.zeros(rows.shape)
        for place, row in enumerate(rows):
            for grove in self._groves:
                found[place] += grove.values(row)
        return found


@dataclass(frozen=True)
class _Depth:
    """The nodes of one depth, and what is known on the way to each; needed only while a grove is built.

    An edge bears the number of the node it leads to, roots have none. `feature` is asked on the edge, `earlier` is the
    edge that asked for it before (-1: none). Per node and feature: `shares` is the share of the training rows that went
    this way at all splits of the path by that feature, `newest` the edge of the last of these splits (-1: none).
    """

    nodes: Places
    edges: slice
    feature: Places
    earlier: Places
    shares: Floats
    newest: Places


@dataclass(frozen=True)
class _Level:
    """What a row needs of one depth; `leaf_values` are parts of the mean vote.

    The children of the inner nodes are, left before right, the next level.
    """

    inner: Places
    leaf: Places
    leaf_values: Floats
    edges: slice


class _Grove:
    """Some trees, level by level across all of them."""

    def __init__(self, nodes: Nodes, voters: int) -> None:
        depths = list(_depths(nodes))
        self._levels = [_level(nodes, depth, voters) for depth in depths]
        self._feature = np.concatenate([depth.feature for depth in depths])
        self._share = np.concatenate([_own_shares(depth) for depth in depths])
        self._repeats = [_repeats(depth) for depth in depths]
        self._again, self._earlier = (np.concatenate(part) for part in zip(*self._repeats, strict=True))
        splits = np.concatenate([depth.nodes[level.inner] for depth, level in zip(depths, self._levels, strict=True)])
        self._asked, self._threshold = nodes.feature[splits], nodes.threshold[splits]
        self._null_goes_left = nodes.null_goes_left[splits]
        self._points, self._weights = _quadrature(max(int((each.newest >= 0).sum(axis=1).max()) for each in depths))
        self._unmet = (1 - self._points)[:, None] * self._share
        self._width, self._trees = nodes.width, len(nodes.roots)
        self.base = float(sum(map(_expected, depths, self._levels)))

    def values(self, row: Narrow) -> Floats:
        """(f,) values of one row. What a split says of a feature, a later one by the same feature says better."""
        met = self._met(row)
        factor = self._points[:, None] * met
        factor += self._unmet
        replaced = factor[:, self._earlier]
        below = self._sums(self._products(factor, replaced))
        gain = (met - self._share) * (self._weights @ (below / factor))
        surplus = (met - self._share)[self._earlier] * (self._weights @ (below[:, self._again] / replaced))
        taken_back = np.bincount(self._feature[self._again], surplus, self._width)
        return np.asarray(np.bincount(self._feature, gain, self._width) - taken_back)

    def _met(self, row: Narrow) -> Floats:
        """(edges,) 1 where the row goes this way at all splits of the path by the edge's feature, else 0."""
        values = row[self._asked]
        left = (values <= self._threshold) | (np.isnan(values) & self._null_goes_left)
        met = np.column_stack([left, ~left]).ravel()
        for again, earlier in self._repeats:
            met[again] &= met[earlier]
        return met.astype(np.float64)

    def _products(self, factor: Floats, replaced: Floats) -> list[Floats]:
        """Per level (points, nodes): the product of the factors of the features on the path."""
        step = factor.copy()
        step[:, self._again] /= replaced
        products = [np.ones((len(self._points), self._trees))]
        for level, below in pairwise(self._levels):
            parents = np.repeat(products[-1][:, level.inner], 2, axis=1)
            parents *= step[:, below.edges]
            products.append(parents)
        return products

    def _sums(self, products: list[Floats]) -> Floats:
        """(points, edges): the sum of value times product over the leaves that an edge leads to."""
        sums = np.empty((len(self._points), len(self._share)))
        below = sums[:, :0]
        for level, product in zip(self._levels[:0:-1], products[:0:-1], strict=True):
            here = sums[:, level.edges]
            here[:, level.leaf] = product[:, level.leaf] * level.leaf_values
            here[:, level.inner] = below[:, 0::2] + below[:, 1::2]
            below = here
        return sums


def _groups(trees: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The trees in order, in groups of about GROVE_NODES nodes."""
    group = np.cumsum([tree.node_count for tree in trees]) // GROVE_NODES
    starts = np.flatnonzero(np.diff(group, prepend=-1)).tolist()
    return (trees[start:end] for start, end in pairwise([*starts, len(trees)]))


def _depths(nodes: Nodes) -> Iterator[_Depth]:
    """Every depth from the roots on."""
    none = np.zeros(0, dtype=np.intp)
    unasked = np.full((len(nodes.roots), nodes.width), -1, dtype=np.intp)
    depth = _Depth(nodes.roots, slice(0, 0), none, none, np.ones(unasked.shape), unasked)
    while len(depth.nodes):
        yield depth
        depth = _below(nodes, depth)


def _below(nodes: Nodes, above: _Depth) -> _Depth:
    inner = nodes.inner[above.nodes]
    parent = np.repeat(np.flatnonzero(inner), 2)
    split, children = above.nodes[parent], nodes.children[above.nodes[inner]].ravel()
    feature, each = nodes.feature[split], np.arange(len(children))
    shares, newest = above.shares[parent], above.newest[parent]
    earlier = newest[each, feature]
    shares[each, feature] *= _shares(nodes.cover[children], nodes.cover[split])
    newest[each, feature] = above.edges.stop + each
    edges = slice(above.edges.stop, above.edges.stop + len(children))
    return _Depth(children, edges, feature, earlier, shares, newest)


def _shares(children: Floats, parents: Floats) -> Floats:
    """The part of a split's training rows that each child got; the two of a split make 1, else ValueError is raised."""
    pairs = children.reshape(-1, 2)
    sums = pairs.sum(axis=1)
    if not ((pairs > 0).all() and np.allclose(sums, parents[::2], rtol=1e-9, atol=0)):
        raise ValueError("a tree's nodes do not say how the training rows went")
    return np.asarray((pairs / sums[:, None]).ravel())


def _level(nodes: Nodes, depth: _Depth, voters: int) -> _Level:
    inner = nodes.inner[depth.nodes]
    leaf = np.flatnonzero(~inner)
    return _Level(np.flatnonzero(inner), leaf, nodes.value[depth.nodes[leaf]] / voters, depth.edges)


def _own_shares(depth: _Depth) -> Floats:
    return np.asarray(depth.shares[np.arange(len(depth.feature)), depth.feature])


def _repeats(depth: _Depth) -> tuple[Places, Places]:
    """The edges by a feature that their path has asked for before, and the edges that did."""
    again = np.flatnonzero(depth.earlier >= 0)
    return again + depth.edges.start, depth.earlier[again]


def _expected(depth: _Depth, level: _Level) -> float:
    """The share of this level's leaves in the mean vote when nothing is known."""
    return float(depth.shares[level.leaf].prod(axis=1) @ level.leaf_values)


def _quadrature(features: int) -> tuple[Floats, Floats]:
    """Points and weights on [0, 1], exact for the polynomials of paths that ask for so many features."""
    points, weights = np.polynomial.legendre.leggauss(max(1, (features + 1) // 2))
    return (points + 1) / 2, weights / 2
