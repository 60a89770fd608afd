"""Feast over the packed rows: its own reads give the same values, its own writes keep to the order of event times."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, FEATURE_VIEW, JOIN_KEY
from churn.errors import BadInput, Mismatch, NotReady, Refused
from churn.stores.feature_store import Features, FeatureStore, FeatureStoreConfig
from churn.stores.online.feast_plugin import ChurnOnlineStore
from churn.stores.online.packed import user_key
from churn.stores.online.store import OnlineStore, micros, open_table
from tests.exports import at, feature_frame, write_export

OCTOBER, NOVEMBER = at("2011-10-10"), at("2011-11-10")
EXTREMES = [-0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, -1e-310]
IDS: dict[str, list[UserId]] = {"integer": [-7, 0, 1, 2**62], "string": ["7", "é ü", "0042", "a" * 200]}


@pytest.fixture(params=["sqlite", "redis"])
def address(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "sqlite" else f"{request.getfixturevalue('redis_address')},db=1"


@pytest.fixture(params=["integer", "string"])
def store(request: pytest.FixtureRequest, address: str, repository: Path, tmp_path: Path) -> Iterator[Features]:
    """October of four users of whom the second has only nulls, and the last the oddest doubles."""
    config = FeatureStoreConfig(
        repository / "feature_repo", tmp_path, request.param, timedelta(days=31), address, memory_limit_gb=1.0
    )
    table = open_table(tmp_path, address)
    store = Features(config, OnlineStore(table))
    frame = feature_frame(IDS[request.param], OCTOBER)
    frame.loc[1, list(FEATURE_NAMES)] = np.nan
    frame.loc[3, list(FEATURE_NAMES)] = np.resize(EXTREMES, len(FEATURE_NAMES))
    write_export(tmp_path, frame)
    store.apply()
    store.materialize(OCTOBER)
    yield store
    table.drop()


def ids(store: Features) -> list[UserId]:
    return IDS[store.config.user_id_type]


def bits(row: FeatureRow | None) -> list[bytes]:
    assert row is not None
    return [b"null" if math.isnan(value) else struct.pack("<d", value) for value in row.vector]


def feast(store: Features) -> FeatureStore:
    return store._open()


def rows(store: Features, moment: datetime, **features: float) -> pd.DataFrame:
    """One row of each user as Feast takes it."""
    return feature_frame(ids(store), moment, seed=5, **features)


def test_feast_reads_the_very_values_that_the_service_reads(store: Features) -> None:
    asked = [*ids(store), ids(store)[0]]
    ours, theirs = store.read(asked), store.read_by_feast(asked)
    assert list(map(bits, theirs)) == list(map(bits, ours))
    assert [row and row.as_of for row in theirs] == [OCTOBER] * 5
    assert bits(theirs[1]) == [b"null"] * 35


def test_feast_finds_no_time_for_a_user_whom_nobody_knows(store: Features) -> None:
    nobody: UserId = 99 if store.config.user_id_type == "integer" else "nobody"
    answer = feast(store).get_online_features(
        features=[f"{FEATURE_VIEW}:total_spent"], entity_rows=[{JOIN_KEY: nobody}, {JOIN_KEY: ids(store)[1]}]
    )
    found = answer.to_dict(include_event_timestamps=True)
    assert found["total_spent"] == [None, None]
    assert found["total_spent__ts"] == [0, OCTOBER.timestamp()]
    assert store.read_by_feast([nobody]) == [None]


READ = """
import json, sys
from feast import FeatureStore
fs = FeatureStore(sys.argv[1])
names = sys.argv[3:]
found = fs.get_online_features([f"user_analytics:{n}" for n in names], [{"user_id": json.loads(sys.argv[2])}]).to_dict()
print(json.dumps([found[n][0] for n in names]))
"""


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_feast_in_a_process_of_its_own_reads_them_whatever_the_order_of_its_sets(
    seed: str, store: Features, repository: Path
) -> None:
    """As `feast serve` does: by feature_store.yaml alone."""
    if store.config.redis_address:
        text = (repository / "feature_repo" / "feature_store.yaml").read_text()
        folder = store.config.home / "repo"
        folder.mkdir()
        where = f'redis_address: "{store.config.redis_address}"'
        (folder / "feature_store.yaml").write_text(text.replace('redis_address: ""', where))
    else:
        folder = repository / "feature_repo"
    environ = {**os.environ, "FEAST_CHURN_HOME": str(store.config.home), "PYTHONHASHSEED": seed}
    user = ids(store)[3]
    command = [sys.executable, "-c", READ, str(folder), json.dumps(user), *FEATURE_NAMES]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    (row,) = store.read([user])
    assert row is not None
    assert json.loads(done.stdout) == list(row.vector)


@pytest.mark.fault("F10")
def test_what_feast_writes_is_read_by_the_service_and_a_late_row_is_left_out(store: Features) -> None:
    feast(store).write_to_online_store(FEATURE_VIEW, rows(store, NOVEMBER, total_spent=2.5))
    feast(store).write_to_online_store(FEATURE_VIEW, rows(store, OCTOBER, total_spent=9.5))
    for row in store.read(ids(store)):
        assert row is not None
        assert (row.as_of, row.vector[FEATURE_NAMES.index("total_spent")]) == (NOVEMBER, 2.5)
    feast(store).write_to_online_store(FEATURE_VIEW, rows(store, NOVEMBER, total_spent=3.5))
    (row, *_) = store.read(ids(store))
    assert row is not None
    assert row.vector[FEATURE_NAMES.index("total_spent")] == 3.5


@pytest.mark.fault("F10")
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # ibis 12 on DuckDB 2
def test_feasts_own_materialize_keeps_to_the_order_too(store: Features) -> None:
    write_export(store.config.home, rows(store, NOVEMBER))
    fs = feast(store)
    fs.materialize(NOVEMBER - timedelta(hours=1), NOVEMBER + timedelta(hours=1), [FEATURE_VIEW])
    fs.materialize(OCTOBER - timedelta(hours=1), OCTOBER + timedelta(hours=1), [FEATURE_VIEW])
    assert [row and row.as_of for row in store.read(ids(store))] == [NOVEMBER] * 4
    vector = rows(store, NOVEMBER)[list(FEATURE_NAMES)].to_numpy()[2]
    assert bits(store.read(ids(store))[2]) == bits(FeatureRow(0, NOVEMBER, tuple(vector)))


@pytest.mark.fault("F10")
def test_feast_cannot_write_a_row_of_the_future(store: Features) -> None:
    with pytest.raises(Refused, match="lie in the future"):
        feast(store).write_to_online_store(FEATURE_VIEW, rows(store, at("2100-01-01")))
    assert [row and row.as_of for row in store.read(ids(store))] == [OCTOBER] * 4


@pytest.mark.fault("F9")
def test_feast_does_not_read_damaged_rows_as_numbers(store: Features, tmp_path: Path) -> None:
    user = ids(store)[0]
    open_table(tmp_path, store.config.redis_address).put(
        [(user_key(user), micros(OCTOBER), b"\xff" * 300)], replace=True
    )
    with pytest.raises(Mismatch):
        store.read_by_feast([user])


def test_definitions_that_are_torn_down_take_their_rows_along(store: Features) -> None:
    feast(store).teardown()
    with pytest.raises(NotReady):
        store.read(ids(store))


def test_a_view_with_other_types_is_refused_when_it_is_applied() -> None:
    from feast.types import Float64, String  # late: Feast may only be imported by way of our store, which tames it

    fields = [SimpleNamespace(name="spent", dtype=Float64), SimpleNamespace(name="tier", dtype=String)]
    view = SimpleNamespace(name="tiers", features=fields)
    with pytest.raises(BadInput, match="feature view tiers: tier cannot be packed"):
        ChurnOnlineStore().update(None, [], [view], [], [], partial=False)  # type: ignore[arg-type]  # a stand-in


def test_a_row_that_lacks_features_is_refused() -> None:
    from feast.types import Float64

    view = SimpleNamespace(name="pair", features=[SimpleNamespace(name=name, dtype=Float64) for name in "ab"])
    config = SimpleNamespace(online_store=SimpleNamespace(home="/nowhere", redis_address=""))
    with pytest.raises(BadInput, match="features are missing: a, b"):
        ChurnOnlineStore().online_write_batch(config, view, [(None, {}, OCTOBER, None)], None)  # type: ignore[arg-type]
