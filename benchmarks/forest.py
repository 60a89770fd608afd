"""The forest's path beside scikit-learn and others -> a table on stdout; the figures of docs/decisions/0020.

    python benchmarks/forest.py                     # ours, a loop over the trees, scikit-learn
    pip install treelite onnxruntime skl2onnx       # in an environment of its own: these too

A forest as training grows it, on rows of which every tenth cell is null. Votes alone, without calibration, since others
have none; the last line is ours with it. Differences are the largest ones from `predict_proba`, over 10,000 rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
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

TREES, GROWN_ON, ASKED = size("TREES", 200), 40_000, 10_000
SIZES = {1: 1_000, 10: 300, 100: 100, 1_000: 20, 10_000: 5}  # rows of a call, and how many calls
IDLE = FEATURE_NAMES.index("days_since_last_activity")
Vectors = NDArray[np.float64]
Ask = Callable[[Vectors], Vectors]


def main() -> None:
    model = fitted()
    forest = model.calibrated_classifiers_[0].estimator.estimator
    full, holed = np.nan_to_num(vectors(ASKED, seed=2)), vectors(ASKED, seed=2)
    table = Table("path", *(f"{size:,} p50 / p99 ms" for size in SIZES), "farthest", "with nulls")
    for name, ask in paths(forest):
        off = [f"{np.abs(ask(rows) - forest.predict_proba(rows)[:, 1]).max():.2g}" for rows in (full, holed)]
        table.add_row(name, *timed(ask, holed), *off)
    ours = forest_predictor(model)
    off = [f"{np.abs(ours(rows) - model.predict_proba(rows)[:, 1]).max():.2g}" for rows in (full, holed)]
    table.add_row("ours, calibrated", *timed(ours, holed), *off)
    nodes = sum(each.tree_.node_count for each in forest.estimators_)
    console = Console(width=160)
    console.print(table)
    console.print(f"{TREES} trees, {nodes:,} nodes, {len(FEATURE_NAMES)} features")


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


def timed(ask: Ask, rows: Vectors) -> Iterator[str]:
    """p50 / p99 in ms for every size of call."""
    for size, calls in SIZES.items():
        ask(rows[:size])
        times = [clocked(ask, rows[place * size % ASKED :][:size]) for place in range(calls)]
        yield f"{np.quantile(times, 0.5):.3f} / {np.quantile(times, 0.99):.3f}"


def clocked(ask: Ask, rows: Vectors) -> float:
    started = time.perf_counter()
    ask(rows)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
