"""A deployment without its river: an export of random users, the same online, a forest of the shipped shape, served.

python -m benchmarks.planted PORT     serves the deployment in CHURN_HOME; see `service`
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skops.io
from numpy.typing import NDArray

from benchmarks.figures import REPOSITORY
from benchmarks.forest import IDLE, vectors
from benchmarks.steps import SERVICE_CORE, on_core
from churn.core.artifact import Card, card_bytes, digest_of, golden_rows
from churn.core.value import NO_PLAN
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE, FEATURE_VIEW, FEATURES, JOIN_KEY, TIMESTAMP
from churn.domain.versions import CARD_FILE, MODEL_FILE, MODEL_NAME, TAG_DIGEST, ModelVersion
from churn.domain.windows import cutoff_name
from churn.settings import Settings, load_settings
from churn.stores.skops_file import SKLEARN_VERSION

CUTOFF = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
HORIZON_DAYS = 60
PART = 100_000
SHOP_TABLES = ("orders", "users", "user_sessions")
Files = Mapping[str, bytes]


def eligible(count: int, seed: int) -> NDArray[np.float64]:
    """(count, f) valid vectors of users who get a probability; every tenth cell that may be null is."""
    lowest = [-np.inf if feature.low is None else feature.low for feature in FEATURES]
    rows = np.maximum(vectors(count, seed), lowest)
    rows[:, IDLE] = np.nan_to_num(rows[:, IDLE]) % (HORIZON_DAYS - 1)
    return rows


def write_export(path: Path, users: int) -> Path:
    """Users 0 to `users` - 1 at CUTOFF, as the warehouse exports them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for start in range(0, users, PART):
        table = _export(start, min(PART, users - start))
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()
    return path


def _export(start: int, count: int) -> pa.Table:
    rows = eligible(count, seed=start + 3)
    features = {name: pa.array(rows[:, place], from_pandas=True) for place, name in enumerate(FEATURE_NAMES)}
    stamp = pa.array(np.full(count, np.datetime64(CUTOFF.replace(tzinfo=None), "us")))
    return pa.table({JOIN_KEY: np.arange(start, start + count), TIMESTAMP: stamp, **features})


def export_of(home: Path) -> Path:
    return home / "offline" / FEATURE_VIEW / f"{cutoff_name(CUTOFF)}.parquet"


# -- a deployment ------------------------------------------------------------------------------------------------------


def plant(home: Path, users: int, files: Files, options: Mapping[str, str] | None = None) -> Settings:
    """A deployment in development mode whose champion is version 1; `options` are settings."""
    from churn import river, wiring

    given = {"mode": "development", "clock": NOW.isoformat(), "mlflow_tracking_uri": f"sqlite:///{home / 'mlflow.db'}"}
    home.mkdir(parents=True)
    (home / "churn.toml").write_text(
        "".join(f'{name} = "{text}"\n' for name, text in {**given, **(options or {})}.items())
    )
    settings = load_settings({}, home=home)
    river.simulate(settings, users=20, days=60, seed=1, folder="")  # only for the snapshot, which knows the type of ids
    sources = {name: str(home / "shop" / f"{name}.parquet") for name in SHOP_TABLES}
    river.ingest_tables(settings, sources, [], tz="UTC", date_format="")
    wiring.online_store(settings).materialize(write_export(export_of(home), users), CUTOFF)
    stage(settings, files, "1")
    return settings


def model_files(model: Any) -> Files:
    """The two files of a served version, as training stores them."""
    asked = eligible(32, seed=2)
    golden = golden_rows(asked, model.predict_proba(asked)[:, 1])
    card = Card(FEATURE_NAMES, FEATURE_SERVICE, HORIZON_DAYS, SKLEARN_VERSION, golden, NO_PLAN)
    return {MODEL_FILE: skops.io.dumps(model), CARD_FILE: card_bytes(card)}


def stage(settings: Settings, files: Files, version: str) -> None:
    """Makes the files the champion, as the side process does."""
    from churn import wiring

    def fetch(_version: ModelVersion, folder: Path) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)

    tags = {TAG_DIGEST: digest_of(files)}
    wiring.model_cache(settings).stage(ModelVersion(MODEL_NAME, version, "run", "models:/m", tags, ()), fetch)


# -- served ------------------------------------------------------------------------------------------------------------


@contextmanager
def service(home: Path, core: int = SERVICE_CORE) -> Iterator[tuple[int, int]]:
    """Port and process id of the deployment's service, ready, on one core: one worker, without the side process."""
    with program([sys.executable, "-m", "benchmarks.planted"], "/readyz", home, {"CHURN_HOME": str(home)}, core) as it:
        yield it


@contextmanager
def program(
    command: list[str], ready: str, folder: Path, env: Mapping[str, str], core: int = SERVICE_CORE
) -> Iterator[tuple[int, int]]:
    """Port and process id of a program that takes the port as its last argument and answers `ready` once it is."""
    from tests.servers import answers, free_port, running

    port = free_port()
    # Settings of whoever measures must not leak into what is measured; an empty one counts as not set.
    settings = {name: "" for name in os.environ if name.startswith("CHURN_")}
    settings |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MLFLOW_DISABLE_TELEMETRY": "true", **env}
    settings["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `mlflow models serve` looks for uvicorn
    with running(
        on_core(core, [*command, str(port)]),
        ready=lambda: answers(f"http://127.0.0.1:{port}{ready}"),
        log=folder / f"{port}.log",
        cwd=REPOSITORY,
        env=settings,
    ) as process:
        yield port, process.pid


def main() -> None:
    from churn.jobs.serve import serve

    # `cat` ends when its pipe does, as the side process must.
    serve(
        "serving.app:create_app",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        drain_seconds=0.0,
        side_command=["cat"],
        announce=print,
    )


if __name__ == "__main__":
    main()
