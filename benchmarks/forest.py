"""The forest's path beside scikit-learn and others -> docs/benchmarks.md; the figures of docs/decisions/0020.

    python -m benchmarks.forest                     # ours, a loop over the trees, scikit-learn
    pip install treelite onnxruntime skl2onnx       # in an environment of its own: these too

A forest as training grows it, on rows of which every tenth cell is null. Votes alone, without calibration, since others
have none; the last line is ours with it. Differences are the largest ones from `predict_proba`, over 10,000 rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from benchmarks.figures import Figure, at_least, at_most, run, size
from churn.core.forest import forest_members, forest_predictor
from churn.domain.schema import FEATURE_NAMES, FEATURES

TREES = size("TREES", 200)
GROWN_ON = size("GROWN_ON", 40_000)
ASKED = LARGEST = 10_000
CALLS = size("CALLS", 1_000)
SIZES = {1: CALLS, 10: CALLS // 3, 100: CALLS // 10, 1_000: CALLS // 50, LARGEST: max(CALLS // 200, 1)}  # rows: calls
IDLE = FEATURE_NAMES.index("days_since_last_activity")
Vectors = NDArray[np.float64]
Ask = Callable[[Vectors], Vectors]


@dataclass(frozen=True)
class Timed:
    """p50 and p99 in ms by rows a call, and the farthest from `predict_proba`: on full rows, and on such with nulls."""

    ms: Mapping[int, tuple[float, float]]
    full: float
    holed: float


def measure(_home: Path) -> Iterator[Figure]:
    model = fitted()
    forest = model.calibrated_classifiers_[0].estimator.estimator
    found = {name: timed(ask, forest) for name, ask in paths(forest)}
    ours = timed(forest_predictor(model), model)
    Console(stderr=True, width=160).print(_table({**found, "ours, calibrated": ours}))
    nodes = sum(each.tree_.node_count for each in forest.estimators_)
    yield Figure(f"nodes of the {TREES} trees", nodes, "nodes")
    rival = timed(lambda rows: model.predict_proba(rows)[:, 1], model)
    for rows, goal, of in ((1, at_most(0.15), "value"), (LARGEST, at_least(1), "ratio")):
        mine, theirs = ours.ms[rows][0], rival.ms[rows][0]
        told = f"predict_proba: {theirs:,.3g} ms"
        yield Figure(f"probabilities, {rows:,} rows a call, p50", mine, "ms", told, theirs / mine, goal, of)
    yield Figure("farthest from predict_proba, nulls included", max(ours.full, ours.holed), "", goal=at_most(1e-9))
    for name, each in found.items():
        for rows in (1, LARGEST):
            yield Figure(f"votes by {name}, {rows:,} rows a call, p50", each.ms[rows][0], "ms")
        yield Figure(f"votes by {name}, farthest from scikit-learn's where cells are null", each.holed, "")


def _table(found: Mapping[str, Timed]) -> Table:
    table = Table("path", *(f"{size:,} p50 / p99 ms" for size in SIZES), "farthest", "with nulls")
    for name, each in found.items():
        times = (f"{middle:.3f} / {late:.3f}" for middle, late in each.ms.values())
        table.add_row(name, *times, f"{each.full:.2g}", f"{each.holed:.2g}")
    return table


def fitted() -> Any:
    """A calibrated forest of the shape that training grows."""
    rows = vectors(GROWN_ON, seed=1)
    noise = np.random.default_rng(1).normal(0, 15, GROWN_ON)
    silent = (rows[:, IDLE] + np.nan_to_num(rows[:, 3]) / 2 + noise > 45).astype(int)
    forest = RandomForestClassifier(
        n_estimators=TREES,
        max_depth=10,
        min_samples_split=5,
        min_samples_leaf=50,
        monotonic_cst=[feature.risk for feature in FEATURES],
        random_state=42,
    )
    forest.fit(rows[::2], silent[::2])
    model = CalibratedClassifierCV(FrozenEstimator(forest), method="temperature", ensemble=False)
    return model.fit(rows[1::2], silent[1::2])


def vectors(count: int, seed: int) -> Vectors:
    """(count, f) valid vectors; every tenth cell that may be null is."""
    rng = np.random.default_rng(seed)
    rows = rng.gamma(2.0, 10.0, size=(count, len(FEATURES)))
    for column, feature in enumerate(FEATURES):
        if feature.high is not None:
            rows[:, column] = rng.uniform(feature.low or 0.0, feature.high, size=count)
        if feature.nullable:
            rows[rng.random(count) < 0.1, column] = np.nan
    return rows


def paths(forest: Any) -> Iterator[tuple[str, Ask]]:
    """Every way of asking for the forest's votes."""
    yield "ours", forest_members(forest)[0].votes
    yield "loop over the trees", partial(looped, [each.tree_ for each in forest.estimators_])
    yield "scikit-learn", lambda rows: forest.predict_proba(rows)[:, 1]
    named = forest.__class__(**forest.get_params())
    named.__dict__.update(forest.__dict__, feature_names_in_=np.array(FEATURE_NAMES, dtype=object))
    yield "scikit-learn, DataFrame", lambda rows: named.predict_proba(pd.DataFrame(rows, columns=FEATURE_NAMES))[:, 1]
    for make in (treelite_path, onnx_path):
        try:
            yield make(forest)
        except ImportError as error:
            Console(stderr=True).print(f"left out: {error}")


def looped(trees: list[Any], rows: Vectors) -> Vectors:
    narrow = rows.astype(np.float32)
    total = np.zeros(len(rows))
    for tree in trees:
        total += tree.predict(narrow)[:, 1]
    return total / len(trees)


def treelite_path(forest: Any) -> tuple[str, Ask]:
    import treelite

    model = treelite.sklearn.import_model(forest)

    def ask(rows: Vectors) -> Vectors:
        found = treelite.gtil.predict(model, rows.astype(np.float32), nthread=1)
        return np.asarray(found.reshape(len(rows), -1)[:, -1], dtype=np.float64)

    return f"treelite {treelite.__version__}", ask


def onnx_path(forest: Any) -> tuple[str, Ask]:
    import onnxruntime
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    width = [("X", FloatTensorType([None, len(FEATURES)]))]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = convert_sklearn(forest, initial_types=width, options={id(forest): {"zipmap": False}}, target_opset=17)
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    version = onnxruntime.__version__
    return f"ONNX Runtime {version}", lambda rows: session.run(None, {"X": rows.astype(np.float32)})[1][:, 1]


def timed(ask: Ask, reference: Any) -> Timed:
    """How long a path takes for every size of call, and how far it is from what the reference says."""
    full, holed = np.nan_to_num(vectors(ASKED, seed=2)), vectors(ASKED, seed=2)
    off = [float(np.abs(ask(rows) - reference.predict_proba(rows)[:, 1]).max()) for rows in (full, holed)]
    return Timed({rows: _quantiles(ask, holed, rows) for rows in SIZES}, *off)


def _quantiles(ask: Ask, rows: Vectors, asked: int) -> tuple[float, float]:
    ask(rows[:asked])
    times = [clocked(ask, rows[place * asked % ASKED :][:asked]) for place in range(SIZES[asked])]
    return float(np.quantile(times, 0.5)), float(np.quantile(times, 0.99))


def clocked(ask: Ask, rows: Vectors) -> float:
    started = time.perf_counter()
    ask(rows)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    run("forest", measure)


if __name__ == "__main__":
    main()
