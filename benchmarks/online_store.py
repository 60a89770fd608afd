"""Materialize into SQLite and Redis beside Feast's own stores, and what Feast reads of ours -> docs/benchmarks.md.

    python -m benchmarks.online_store     # BENCH_ONLINE_USERS=20000 for fewer than a million, BENCH_FEAST_USERS

Every feature of every user. Each run is a process of its own, so that its peak memory is its own. Feast's rate is
taken on fewer users: it does not depend on their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import feast_rival
from benchmarks.figures import REPOSITORY, Figure, at_least, at_most, run, size
from benchmarks.planted import CUTOFF, export_of, write_export
from benchmarks.steps import measured
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY

USERS = size("ONLINE_USERS", 1_000_000)
FEAST_USERS = size("FEAST_USERS", 20_000)
SAMPLE = 1_000


def measure(home: Path) -> Iterator[Figure]:
    from tests.servers import redis_server

    home = home / "ours"
    write_export(export_of(home), USERS)
    few = write_export(home / "few" / "few.parquet", FEAST_USERS)
    folders = [home / "redis-ours", home / "redis-plain"]
    for folder in folders:
        folder.mkdir()
    with redis_server(folders[0]) as ours, redis_server(folders[1]) as plain:
        for store, address, theirs in (("SQLite", "", ""), ("Redis", ours, plain)):
            repository = feast_rival.write_repository(home / f"feast-{store}", theirs)
            feast = measured(feast_rival.materialize, repository, few)
            yield from _figures(home, store, address, FEAST_USERS / feast.result)


def _figures(home: Path, store: str, address: str, feast_rate: float) -> Iterator[Figure]:
    done = measured(materialize, home, address)
    rate = USERS / done.result
    name = f"materialize {USERS:,} users x {len(FEATURE_NAMES)} features, {store}"
    rival = f"Feast's own on {FEAST_USERS:,}: {feast_rate:,.0f} rows/s"
    yield Figure(name, rate, "rows/s", rival, rate / feast_rate, at_least(10), "ratio")
    yield Figure(f"{name}, peak memory", done.peak_gb, "GB")
    again = measured(materialize, home, address)
    yield Figure(f"{name}, once more over the same rows", USERS / again.result, "rows/s")
    differing = measured(differences, home, address).result
    told = f"{min(SAMPLE, USERS):,} users by Feast's get_online_features, {store}: cells that differ from the export"
    yield Figure(told, differing, "cells", goal=at_most(0))


def materialize(home: Path, address: str) -> float:
    """Seconds from the export to a store that is ready."""
    from churn.stores.online.store import OnlineStore, open_table

    store = OnlineStore(open_table(home, address))
    started = time.monotonic()
    store.materialize(export_of(home), CUTOFF)
    return time.monotonic() - started


def differences(home: Path, address: str) -> int:
    """Cells that Feast reads of our store in another way than they were exported; a user it does not know differs."""
    from churn.stores.feature_store import Features, FeatureStoreConfig
    from churn.stores.online.store import OnlineStore, open_table

    config = FeatureStoreConfig(REPOSITORY / "feature_repo", home, "integer", timedelta(days=31), address)
    store = Features(config, OnlineStore(open_table(home, address)))
    store.apply()
    users = np.random.default_rng(0).choice(USERS, min(SAMPLE, USERS), replace=False)
    read = [None if row is None else row.vector for row in store.read_by_feast(users.tolist())]
    found = np.array([vector or [np.inf] * len(FEATURE_NAMES) for vector in read])
    table = pq.read_table(export_of(home), columns=[JOIN_KEY, *FEATURE_NAMES])
    assert (table[JOIN_KEY].to_numpy() == np.arange(USERS)).all()
    wanted = np.column_stack([table[name].to_numpy()[users] for name in FEATURE_NAMES])
    return int((~((found == wanted) | (np.isnan(found) & np.isnan(wanted)))).sum())


def main() -> None:
    run("online_store", measure)


if __name__ == "__main__":
    main()
