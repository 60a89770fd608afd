"""Time and memory of each step of the river on a simulated shop -> docs/benchmarks.md.

    python -m benchmarks.river     # BENCH_USERS=10000 for fewer than 100,000

Users over two years and 12 monthly cutoffs. Every step runs in a process of its own, so that its peak memory is its
own. Rivals run in the same run on the same tables.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, run, size
from benchmarks.steps import measured
from churn.domain.windows import cutoff_name
from churn.settings import Settings, load_settings

USERS = size("USERS", 100_000)
CUTOFFS = [datetime(2024 + month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in range(11, 23)]
NEWEST = CUTOFFS[-1].isoformat()  # "now" for those who read features: they are fresh
SEED_SAMPLE = 200
TRAINING_ROWS = 1_000_000
REQUESTS = 500
TABLES = {"orders": "orders", "users": "users", "user_sessions": "user_sessions"}


def measure(home: Path) -> Iterator[Figure]:
    """Every step of the river in order."""
    yield from _steps_of_build(home)
    yield from _training(home)
    yield from _serving(home)


# -- steps, each run in a process of its own ---------------------------------------------------------------------------


def settings_of(home: Path, clock: str = "snapshot") -> Settings:
    return load_settings({}, home=home, clock=clock, mlflow_tracking_uri=f"sqlite:///{home / 'mlflow.db'}")


def simulate(home: Path, users: int) -> int:
    from churn import river

    report = river.simulate(settings_of(home), users=users, days=730, seed=42, folder="").report
    return report.orders + report.user_sessions


def ingest(home: Path) -> None:
    from churn import river

    sources = {name: str(home / "shop" / f"{table}.parquet") for name, table in TABLES.items()}
    river.ingest_tables(settings_of(home), sources, [], tz="UTC", date_format="")


def build(home: Path) -> float:
    """Seconds of the warehouse alone, without the online store."""
    from churn import wiring

    settings = settings_of(home)
    started = time.monotonic()
    wiring.warehouse(settings).build(wiring.raw_tables(settings).current(), CUTOFFS, settings.horizon)
    return time.monotonic() - started


def materialize(home: Path) -> float:
    from churn import wiring

    store = wiring.features(settings_of(home))
    store.apply()
    started = time.monotonic()
    store.materialize(CUTOFFS[-1])
    return time.monotonic() - started


def seed_way(home: Path) -> float:
    """Seconds a user-cutoff the obvious way: for each user, filter the tables and aggregate, by `apply`."""
    import pandas as pd

    folder, cutoff = home / "shop", pd.Timestamp(CUTOFFS[-1]).tz_localize(None)
    users = pd.read_parquet(folder / "users.parquet")
    orders = pd.read_parquet(folder / "orders.parquet")
    sessions = pd.read_parquet(folder / "user_sessions.parquet")
    orders, sessions = orders[orders.order_date < cutoff], sessions[sessions.session_start < cutoff]
    started = time.monotonic()
    users.head(SEED_SAMPLE).apply(lambda user: seed_features(user, orders, sessions, cutoff), axis=1)
    return (time.monotonic() - started) / SEED_SAMPLE


def seed_features(user: Any, orders: Any, sessions: Any, cutoff: Any) -> dict[str, float]:
    """The eleven plain features of one user, as a first version of such a project computes them."""
    mine, visits = orders[orders.user_id == user.user_id], sessions[sessions.user_id == user.user_id]
    tenure = max((cutoff - user.created_at).days, 1)
    since_order = (cutoff - mine.order_date.max()).days if len(mine) else -1
    since_visit = (cutoff - visits.session_start.max()).days if len(visits) else -1
    spent, average = mine.order_amount.sum(), mine.order_amount.mean() if len(mine) else 0.0
    return {
        "days_since_signup": tenure,
        "total_orders": len(mine),
        "total_spent": spent,
        "avg_order_value": average,
        "days_since_last_order": since_order,
        "total_sessions": len(visits),
        "avg_session_duration": visits.session_duration_minutes.mean() if len(visits) else 0.0,
        "days_since_last_activity": min(since_order, since_visit),
        "order_frequency": len(mine) / tenure,
        "spending_velocity": spent / tenure,
        "customer_lifetime_value": average * len(mine) * 1.2,
    }


def entities(home: Path) -> Any:
    """TRAINING_ROWS rows of user and cutoff in no order; some come twice, since users sign up over the two years."""
    import numpy as np
    import pandas as pd

    names = [f"{cutoff_name(cutoff)}.parquet" for cutoff in CUTOFFS]
    parts = [
        pd.read_parquet(home / "offline" / "user_analytics" / name, columns=["user_id", "event_timestamp"])
        for name in names
    ]
    everybody = pd.concat(parts, ignore_index=True)
    chosen = np.random.default_rng(0).integers(0, len(everybody), TRAINING_ROWS)
    return everybody.iloc[chosen].reset_index(drop=True)


def training_set(home: Path) -> tuple[int, float]:
    from churn import wiring

    asked, store = entities(home), wiring.features(settings_of(home))
    store.training_frame(asked.head(10))  # imports and opens, which is not what is measured
    started = time.monotonic()
    joined = store.training_frame(asked)
    return len(joined), time.monotonic() - started


def asof_by_hand(home: Path) -> float:
    """The same rows by DuckDB's ASOF join, in input order, as a frame: with the time limit and the choice among rows of
    one instant that Feast's join has too."""
    import duckdb

    from churn.domain.schema import FEATURE_NAMES

    asked = entities(home).assign(row=lambda frame: range(len(frame)))  # noqa: F841  (read by the query)
    source = str(home / "offline" / "user_analytics" / "*.parquet")
    fresh = f"f.event_timestamp >= e.event_timestamp - interval '{settings_of(home).max_feature_age_days} day'"
    columns = ", ".join(f"case when {fresh} then f.{name} end as {name}" for name in FEATURE_NAMES)
    one = "qualify row_number() over (partition by user_id, event_timestamp) = 1"
    started = time.monotonic()
    duckdb.connect().execute(
        f"select e.*, {columns} from asked e asof left join (select * from read_parquet('{source}') {one}) f"
        " on e.user_id = f.user_id and e.event_timestamp >= f.event_timestamp order by e.row"
    ).df()
    return time.monotonic() - started


def fit(home: Path) -> tuple[int, float]:
    """Rows and seconds of the forest with its calibration, on the training cutoffs of the split."""
    from churn import wiring
    from churn.core.model import ForestParameters
    from churn.core.model import fit as fit_forest
    from churn.core.training_rows import load_rows
    from churn.domain.windows import split_cutoffs
    from churn.jobs.train import TrainingStores

    settings = settings_of(home)
    labels = wiring.warehouse(settings)
    stores = TrainingStores(wiring.raw_tables(settings), labels, wiring.features(settings), wiring.registry(settings))
    snapshot_id = wiring.raw_tables(settings).current().snapshot_id
    split = split_cutoffs(labels.labelled_cutoffs(settings.horizon, snapshot_id), settings.horizon)
    rows = load_rows(stores, split, settings.horizon)
    started = time.monotonic()
    fit_forest(rows.train, ForestParameters(), settings.horizon)
    return len(rows.train), time.monotonic() - started


def train_and_promote(home: Path) -> None:
    from churn import river
    from churn.core.model import ForestParameters

    settings = settings_of(home)
    river.train_model(settings, ForestParameters(), 1, lambda text: None)
    river.promote_version(settings, "")


def score(home: Path) -> tuple[int, float]:
    from churn import river

    started = time.monotonic()
    scored = river.score_all(settings_of(home, NEWEST), "", lambda done, total: None)
    return len(scored.table), time.monotonic() - started


def one_request(home: Path) -> tuple[float, float]:
    """Median and 99th percentile of POST /v1/score for one user over one kept connection, in ms."""
    import http.client

    from churn.demo import running_service

    settings = f'mode = "development"\nclock = "{NEWEST}"\nmlflow_tracking_uri = "sqlite:///{home / "mlflow.db"}"\n'
    (home / "churn.toml").write_text(settings)
    with running_service(home) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        times = sorted(_asked(connection, user) for user in _eligible(home))
        connection.close()
    return statistics.median(times), times[int(0.99 * len(times))]


def _eligible(home: Path) -> list[int]:
    """REQUESTS users who get a probability."""
    import pandas as pd

    rows = pd.read_parquet(home / "offline" / "user_analytics" / f"{cutoff_name(CUTOFFS[-1])}.parquet")
    eligible: list[int] = rows.loc[rows["days_since_last_activity"] <= 60, "user_id"].head(REQUESTS).tolist()
    return eligible


def _asked(connection: Any, user: int) -> float:
    started = time.perf_counter()
    connection.request("POST", "/v1/score", json.dumps({"user_ids": [user]}), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    seconds = time.perf_counter() - started
    assert json.loads(answer)["predictions"][0]["status"] == "ok"
    return seconds * 1000


# -- from steps to figures ---------------------------------------------------------------------------------------------


def _steps_of_build(home: Path) -> Iterator[Figure]:
    small = home / "small"
    events_small, events = measured(simulate, small, USERS // 4).result, measured(simulate, home, USERS)
    yield Figure(f"simulate {USERS:,} users", events.seconds, "s")
    yield Figure("events", events.result, "rows")
    measured(ingest, small)
    ingested = measured(ingest, home)
    yield Figure("ingest", ingested.seconds, "s")
    yield Figure("ingest peak memory", ingested.peak_gb, "GB")
    quarter, whole = measured(build, small), measured(build, home)
    per_user = measured(seed_way, home).result
    rows = USERS * len(CUTOFFS)
    growth = (whole.result / events.result) / (quarter.result / events_small)
    slow = f"pandas apply, {SEED_SAMPLE} users measured: {per_user * rows / 3600:.1f} h for all"
    yield Figure("build-features", whole.result, "s", slow, per_user * rows / whole.result)
    yield Figure("build-features peak memory", whole.peak_gb, "GB")
    yield Figure("build-features growth", growth, "x time per event, against a quarter of the users")


def _training(home: Path) -> Iterator[Figure]:
    online = measured(materialize, home)
    (rows, ours), by_hand = measured(training_set, home).result, measured(asof_by_hand, home).result
    peak = measured(training_set, home).peak_gb
    fitted = measured(fit, home)
    yield Figure("materialize, SQLite", USERS / online.result, "users/s")
    yield Figure("materialize peak memory", online.peak_gb, "GB")
    yield Figure(
        f"training set, {rows:,} rows", ours, "s", f"DuckDB ASOF join by hand: {by_hand:.1f} s", by_hand / ours
    )
    yield Figure("training set peak memory", peak, "GB")
    yield Figure(f"fit, {fitted.result[0]:,} rows", fitted.result[1], "s")


def _serving(home: Path) -> Iterator[Figure]:
    trained = measured(train_and_promote, home)
    scored = measured(score, home)
    median, tail = measured(one_request, home).result
    yield Figure("train and promote, all of it", trained.seconds, "s")
    yield Figure("train peak memory", trained.peak_gb, "GB")
    yield Figure(f"score, {scored.result[0]:,} eligible users of {USERS:,}", scored.result[1], "s")
    yield Figure("score peak memory", scored.peak_gb, "GB")
    yield Figure("one request, median", median, "ms")
    yield Figure("one request, p99", tail, "ms")


def main() -> None:
    run("river", measure)


if __name__ == "__main__":
    main()
