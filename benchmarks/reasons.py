"""Reasons: our Shapley values beside shap's, and a request that asks for reasons -> a table on stdout.

    python benchmarks/reasons.py          # ours alone; shap is no dependency of this project
    pip install shap==0.51.0              # in an environment of its own, with this project: both

Forests of 100, 300 and 500 trees as training grows them, on 20,000 rows of which every tenth cell is null. One row at
a time, as the service asks. Processor time is given beside the clock's: it is what a busy machine does not change.
"""

from __future__ import annotations

import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import skops.io
import uvicorn
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from churn.core.artifact import Card, Expected, card_bytes, digest_of, golden_rows, open_artifact
from churn.core.forest import forest_members
from churn.core.reasons import Explainer, margins
from churn.core.tree_shap import ForestShap
from churn.core.value import NO_PLAN
from churn.domain.artifacts import Artifact
from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE, FEATURES
from churn.domain.versions import CARD_FILE, MODEL_FILE, MODEL_NAME, TAG_DIGEST, ModelVersion
from churn.stores.ledger import Ledger
from churn.stores.model_cache import ModelCache
from churn.stores.prediction_log import PredictionLog
from churn.stores.skops_file import SKLEARN_VERSION, load_skops
from serving.app import create_app
from serving.dependencies import Dependencies

try:
    import shap
except ImportError:
    shap = None

TREES = (100, 300, 500)
ROWS, ASKED = 20_000, 300
NOW = datetime(2011, 10, 11, tzinfo=UTC)
IDLE = FEATURE_NAMES.index("days_since_last_activity")
Vectors = NDArray[np.float64]


def main() -> None:
    table = Table("trees", "leaves", "what", "p50 ms", "p99 ms", "p50 CPU ms", "p99 CPU ms", "farthest from its sum")
    for trees in TREES:
        for cells in rows_of(trees):
            table.add_row(*cells)
    console = Console(width=140)
    console.print(table)
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    if shap is None:
        console.print("shap is not installed: pip install shap==0.51.0 in an environment of its own")


def rows_of(trees: int) -> Iterator[list[str]]:
    """The lines of one forest."""
    model, asked = fitted(trees), vectors(ASKED, seed=2)
    forest = model.calibrated_classifiers_[0].estimator.estimator
    start = [str(trees), f"{sum(each.get_n_leaves() for each in forest.estimators_):,}"]
    votes = forest.predict_proba(asked)[:, 1]
    ours = ForestShap([each.tree_ for each in forest.estimators_], 1)
    narrow = asked.astype(np.float32)
    found, took = timed(lambda row: ours.values(narrow[row : row + 1])[0])
    yield [*start, "ours", *took, f"{np.abs(ours.base + found.sum(axis=1) - votes).max():.1e}"]
    if shap is not None:
        theirs = shap.TreeExplainer(forest)
        other, took = timed(lambda row: theirs.shap_values(asked[row : row + 1], check_additivity=False)[0, :, 1])
        yield [*start, "shap", *took, f"{np.abs(theirs.expected_value[1] + other.sum(axis=1) - votes).max():.1e}"]
        yield [*start, "ours - shap", "", "", "", "", f"{np.abs(found - other).max():.1e}"]
    explain, wanted = Explainer(forest_members(model)), margins(model.predict_proba(asked)[:, 1])
    found, took = timed(lambda row: explain(asked[row : row + 1]).features[0])
    base = explain(asked[:1]).base_margin
    yield [*start, "ours, of the margin", *took, f"{np.abs(base + found.sum(axis=1) - wanted).max():.1e}"]
    for query in ("", "?explain=true"):
        yield [*start, f"GET /v1/users/…/score{query}", *requests(model, asked, query), ""]


def vectors(count: int, seed: int) -> Vectors:
    """(count, f) valid vectors, a tenth of the cells that may be null are."""
    rng = np.random.default_rng(seed)
    found = rng.gamma(2.0, 10.0, size=(count, len(FEATURES)))
    for column, feature in enumerate(FEATURES):
        if feature.high is not None:
            found[:, column] = rng.uniform(feature.low or 0.0, feature.high, size=count)
        elif feature.low is not None:
            found[:, column] += feature.low
        if feature.nullable:
            found[rng.random(count) < 0.1, column] = np.nan
    found[:, IDLE] = rng.uniform(0, 59, size=count)
    return found


def fitted(trees: int) -> CalibratedClassifierCV:
    """A calibrated forest; churn follows recency and some others, with noise."""
    rows = vectors(ROWS, seed=1)
    noise = np.random.default_rng(1).normal(0, 15, ROWS)
    labels = (rows[:, IDLE] + np.nan_to_num(rows[:, :8]) @ np.linspace(0.5, -0.3, 8) + noise > 35).astype(int)
    forest = RandomForestClassifier(trees, max_depth=10, min_samples_split=5, min_samples_leaf=50, random_state=42)
    forest.fit(rows[: ROWS // 2], labels[: ROWS // 2])
    model = CalibratedClassifierCV(FrozenEstimator(forest), method="temperature", ensemble=False)
    return model.fit(rows[ROWS // 2 :], labels[ROWS // 2 :])


def timed(ask: Callable[[int], Any]) -> tuple[Vectors, list[str]]:
    """The answers for each asked row; p50 and p99 of the clock's and of the processor's milliseconds."""
    ask(0)
    answers, clock, processor = [], [], []
    for row in range(ASKED):
        before = time.perf_counter(), time.process_time()
        answers.append(ask(row))
        clock.append(1000 * (time.perf_counter() - before[0]))
        processor.append(1000 * (time.process_time() - before[1]))
    return np.array(answers), [f"{np.percentile(took, share):.2f}" for took in (clock, processor) for share in (50, 99)]


class Known:
    """An online store that knows the asked rows by their numbers."""

    def __init__(self, asked: Vectors) -> None:
        self._rows = [FeatureRow(user, NOW, tuple(row)) for user, row in enumerate(asked.tolist())]

    def read(self, user_ids: list[UserId]) -> list[FeatureRow]:
        return [self._rows[int(user)] for user in user_ids]


def requests(model: CalibratedClassifierCV, asked: Vectors, query: str) -> list[str]:
    """One user a request, over HTTP in this process, prediction log included."""
    with tempfile.TemporaryDirectory() as scratch:
        app = create_app(deployment(model, asked, Path(scratch)))
        with serving(app) as address, httpx.Client(base_url=address) as client:

            def ask(row: int) -> float:
                answer = client.get(f"/v1/users/{row}/score{query}").json()
                assert ("explanation" in answer) == bool(query)
                return float(answer["churn_probability"])

            return timed(ask)[1]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of the application, served by a thread of this process until the block is left."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def deployment(model: CalibratedClassifierCV, asked: Vectors, home: Path) -> Dependencies:
    golden = golden_rows(asked[:32], model.predict_proba(asked[:32])[:, 1])
    card = Card(FEATURE_NAMES, FEATURE_SERVICE, 60, SKLEARN_VERSION, golden, NO_PLAN)
    files = {MODEL_FILE: skops.io.dumps(model), CARD_FILE: card_bytes(card)}
    cache = ModelCache(home, opened)

    def fetch(_version: ModelVersion, folder: Path) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)

    cache.stage(ModelVersion(MODEL_NAME, "1", "run", "models:/m", {TAG_DIGEST: digest_of(files)}, ()), fetch)
    return Dependencies(
        online=Known(asked),
        cache=cache,
        log=PredictionLog(home / "predictions"),
        ledger=Ledger(home / "ledger.jsonl"),
        clock=lambda: NOW,
        max_feature_age=timedelta(days=31),
        user_id_type="integer",
        keys=None,
    )


def opened(artifact: Artifact) -> Any:
    return open_artifact(artifact, load_skops, Expected(SKLEARN_VERSION))


if __name__ == "__main__":
    main()
