"""The feature store: one suite over real SQLite and real Redis, and the offline join beside it."""

from __future__ import annotations

import math
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES, FEATURES, JOIN_KEY, TIMESTAMP
from churn.domain.windows import DAY
from churn.errors import Mismatch, NotReady, Refused, Unavailable
from churn.jobs.verify import Verified, verify
from churn.stores.feature_store import Features, FeatureStoreConfig
from churn.stores.online.store import OnlineStore, open_table
from tests import servers
from tests.exports import at, feature_frame, write_export
from tests.memory import BuiltShop

AUGUST, SEPTEMBER = at("2011-08-10"), at("2011-09-10")
OCTOBER, NOVEMBER = at("2011-10-10"), at("2011-11-10")
TTL = 31 * DAY
MICROSECOND = timedelta(microseconds=1)
USERS = 40
UNKNOWN = 10**12
NULLABLE = [feature.name for feature in FEATURES if feature.nullable]
STORES = ["sqlite", "redis"]


def odd_values() -> pd.DataFrame:
    """Rows of 1..40 in October, of which 1, 2 and 3 are as odd as a double can be."""
    frame = feature_frame(range(1, USERS + 1), OCTOBER)
    extremes = [-77183.6, 0.1 + 0.2, 1e300, 5e-324, -0.0, 2.0**53 + 2, math.pi, -1e-310, 1.7976931348623157e308]
    frame.loc[0, list(FEATURE_NAMES)] = np.resize(extremes, len(FEATURE_NAMES))
    frame.loc[1, NULLABLE] = np.nan
    frame.loc[2, list(FEATURE_NAMES)] = np.nan
    return frame


def bits(row: FeatureRow | None) -> bytes:
    """The vector as IEEE doubles, nulls alike."""
    assert row is not None
    return b"null".join(struct.pack("<d", value) if not math.isnan(value) else b"" for value in row.vector)


def wanted_bits(frame: pd.DataFrame, user_id: UserId) -> bytes:
    (vector,) = frame.loc[frame[JOIN_KEY] == user_id, list(FEATURE_NAMES)].to_numpy()
    return bits(FeatureRow(user_id, OCTOBER, tuple(vector.tolist())))


# -- stores ------------------------------------------------------------------------------------------------------------


def emptied(address: str, database: int) -> str:
    """The address of that database, in which an earlier test has left nothing."""
    host, port = address.split(":")
    with redis.Redis(host=host, port=int(port), db=database) as client:
        client.flushdb()
    return f"{address},db={database}"


@pytest.fixture(scope="module")
def config_of(repository: Path, redis_address: str) -> Callable[..., FeatureStoreConfig]:
    """Configurations of deployments; every one on Redis has a database of its own, by default one for a single test."""
    databases = cycle(range(2, 16))

    def make(
        kind: Literal["sqlite", "redis"], home: Path, user_id_type: str = "integer", database: int = 0
    ) -> FeatureStoreConfig:
        address = emptied(redis_address, database or next(databases)) if kind == "redis" else ""
        return FeatureStoreConfig(repository / "feature_repo", home, user_id_type, TTL, address, 1.0)  # type: ignore[arg-type]  # a Literal

    return make


Configure = Callable[..., FeatureStoreConfig]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment's folder with three cutoffs exported; October's columns stand in another order than the list's."""
    home = tmp_path_factory.mktemp("exported")
    write_export(home, feature_frame(range(1, USERS + 1), AUGUST, seed=8))
    write_export(home, feature_frame(range(1, USERS + 1), SEPTEMBER, seed=9))
    october = odd_values()
    write_export(home, october[[*reversed(FEATURE_NAMES), TIMESTAMP, JOIN_KEY]])
    return home


def features(config: FeatureStoreConfig) -> Features:
    """The store as wiring puts it together."""
    return Features(config, OnlineStore(open_table(config.home, config.redis_address)))


def deployed(config: FeatureStoreConfig, exported: Path) -> Features:
    """A store over a copy of the exports, with October online."""
    shutil.copytree(exported / "offline", config.home / "offline")
    store = features(config)
    store.apply()
    store.materialize(OCTOBER)
    return store


@pytest.fixture(scope="module", params=STORES)
def store(
    request: pytest.FixtureRequest, config_of: Configure, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Features:
    """A store that tests only read."""
    return deployed(config_of(request.param, tmp_path_factory.mktemp(request.param), database=1), exported)


@pytest.fixture(params=STORES)
def own_store(request: pytest.FixtureRequest, config_of: Configure, exported: Path, tmp_path: Path) -> Features:
    """A store that the test may change."""
    return deployed(config_of(request.param, tmp_path), exported)


# -- online: what is read --------------------------------------------------------------------------------------------


def test_answers_keep_the_order_and_the_duplicates_of_the_question(store: Features) -> None:
    asked = [7, 3, UNKNOWN, 7, 1, 40]
    found = [row and row.user_id for row in store.read(asked)]
    assert found == [7, 3, None, 7, 1, 40]


@pytest.mark.fault("F7")
def test_an_unknown_user_is_none_and_a_user_without_any_value_is_not(store: Features) -> None:
    assert store.read([UNKNOWN]) == [None]
    (empty,) = store.read([3])
    assert empty is not None
    assert all(map(math.isnan, empty.vector))


@pytest.mark.fault("F15")
def test_every_value_of_every_user_has_the_bits_of_the_offline_row(store: Features) -> None:
    frame = odd_values()
    for row in store.read(list(range(1, USERS + 1))):
        assert row is not None
        assert len(row.vector) == 35
        assert bits(row) == wanted_bits(frame, row.user_id), row.user_id


def test_values_are_found_by_name_though_the_export_has_another_order(store: Features) -> None:
    (row,) = store.read([2])
    assert row is not None
    offline = odd_values().set_index(JOIN_KEY).loc[2]
    assert row.vector[FEATURE_NAMES.index("total_spent")] == offline["total_spent"]
    assert math.isnan(row.vector[FEATURE_NAMES.index("mean_gap_days")])


def test_a_row_says_as_of_which_cutoff_it_is_in_utc(store: Features) -> None:
    (row,) = store.read([1])
    assert row is not None
    assert row.as_of == OCTOBER
    assert row.as_of.utcoffset() == timedelta(0)


def test_nobody_asked_for_is_nobody_answered(store: Features) -> None:
    assert store.read([]) == []


def test_a_thousand_users_are_read_in_one_go(store: Features) -> None:
    found = store.read([1 + place % USERS for place in range(1000)])
    assert [row and row.user_id for row in found] == [1 + place % USERS for place in range(1000)]


def test_another_process_over_the_same_store_reads_the_same(store: Features) -> None:
    assert list(map(bits, features(store.config).read([1, 2, 9]))) == list(map(bits, store.read([1, 2, 9])))


def test_the_online_store_verifies_against_the_offline_one(store: Features) -> None:
    assert verify(store, store, OCTOBER) == Verified(USERS, OCTOBER)


@pytest.mark.parametrize("kind", STORES)
def test_string_ids_are_read_as_they_were_written(kind: str, config_of: Configure, tmp_path: Path) -> None:
    ids = ["7b1e4c5e-0d7c-4f4e-9c55-4a1f2d7d1a10", "0042", "42", "é ü", "a" * 200]
    frame = feature_frame(sorted(ids), OCTOBER)
    write_export(tmp_path, frame)
    own = features(config_of(kind, tmp_path, "string"))
    own.apply()
    own.materialize(OCTOBER)
    found = own.read([*ids, "00042", "7B1E"])
    assert [row and row.user_id for row in found] == [*ids, None, None]
    assert [bits(row) for row in found[:5]] == [wanted_bits(frame, user_id) for user_id in ids]
    joined = own.training_frame(frame[[JOIN_KEY, TIMESTAMP]].iloc[::-1].reset_index(drop=True))
    assert joined[JOIN_KEY].tolist() == sorted(ids, reverse=True)


# -- online: what is written -----------------------------------------------------------------------------------------


def test_a_correction_at_the_same_cutoff_arrives(own_store: Features) -> None:
    corrected = feature_frame(range(1, USERS + 1), OCTOBER, total_spent=12.5)
    write_export(own_store.config.home, corrected)
    own_store.materialize(OCTOBER)
    (row,) = own_store.read([7])
    assert bits(row) == wanted_bits(corrected, 7)
    assert verify(own_store, own_store, OCTOBER).users == USERS


def test_the_next_cutoff_replaces_the_last_one_and_brings_new_users(own_store: Features) -> None:
    november = feature_frame(range(1, USERS + 11), NOVEMBER, seed=11)
    write_export(own_store.config.home, november)
    own_store.apply()
    own_store.materialize(NOVEMBER)
    found = own_store.read([1, USERS + 10])
    assert [row and row.as_of for row in found] == [NOVEMBER] * 2
    assert [bits(row) for row in found] == [wanted_bits(november, user) for user in (1, USERS + 10)]


def test_materializing_brings_no_other_cutoff_than_the_one_asked_for(own_store: Features) -> None:
    write_export(own_store.config.home, feature_frame([1, 2], at("2011-10-11"), seed=12))
    own_store.materialize(OCTOBER)
    assert [row and row.as_of for row in own_store.read([1, 2])] == [OCTOBER, OCTOBER]


def test_an_older_cutoff_is_refused_and_replaces_what_is_online_only_when_told_to(own_store: Features) -> None:
    with pytest.raises(Refused, match="the online store is as of 2011-10-10, later than 2011-08-10") as caught:
        own_store.materialize(AUGUST)
    assert "--replace-online" in caught.value.hint
    assert verify(own_store, own_store, OCTOBER).users == USERS
    own_store.materialize(AUGUST, replace=True)
    assert verify(own_store, own_store, AUGUST).users == USERS


def test_a_changed_online_row_is_found_and_named(own_store: Features) -> None:
    home = own_store.config.home
    kept = odd_values()
    other = kept.copy()
    other.loc[other[JOIN_KEY] == 9, "total_spent"] += 1e-9
    write_export(home, other)
    own_store.materialize(OCTOBER)
    write_export(home, kept)
    with pytest.raises(Mismatch, match=r"1 of 40 users differ .* at 2011-10-10: user 9: total_spent"):
        verify(own_store, own_store, OCTOBER)


@pytest.mark.fault("F13")
@pytest.mark.parametrize("content", [b"", b"\x00garbage" * 100, None], ids=["empty", "garbage", "gone"])
def test_whatever_became_of_feasts_registry_the_service_reads_on(content: bytes | None, own_store: Features) -> None:
    before = own_store.read([1, 2, UNKNOWN])
    registry = own_store.config.home / "feast" / "registry.db"
    assert registry.stat().st_size > 100
    registry.unlink() if content is None else registry.write_bytes(content)
    after = OnlineStore(open_table(own_store.config.home, own_store.config.redis_address)).read([1, 2, UNKNOWN])
    assert [row and bits(row) for row in after] == [row and bits(row) for row in before]


@pytest.mark.fault("F14")
def test_definitions_can_be_applied_again_and_reads_go_on(own_store: Features) -> None:
    before = own_store.read([1])
    own_store.apply()
    assert list(map(bits, own_store.read([1]))) == list(map(bits, before))


# -- online: who is removed ------------------------------------------------------------------------------------------


def test_users_who_left_the_export_leave_the_online_store_though_the_cutoff_is_the_same(own_store: Features) -> None:
    assert own_store.online_users() == USERS
    kept = odd_values().query("user_id not in [7, 40]")
    write_export(own_store.config.home, kept)
    own_store.materialize(OCTOBER)
    found = own_store.read([6, 7, 8, 40])
    assert [row and row.user_id for row in found] == [6, None, 8, None]
    assert own_store.online_users() == USERS - 2
    assert verify(own_store, own_store, OCTOBER).users == USERS - 2


def test_users_who_are_not_at_the_next_cutoff_leave_the_online_store(own_store: Features) -> None:
    write_export(own_store.config.home, feature_frame([3, 10, 20, 50], NOVEMBER))
    own_store.materialize(NOVEMBER)
    assert own_store.online_users() == 4
    assert [row and row.as_of for row in own_store.read([2, 3, 50])] == [None, NOVEMBER, NOVEMBER]


def test_a_user_who_is_online_only_is_found_by_verify(own_store: Features) -> None:
    write_export(own_store.config.home, odd_values().iloc[:-3])
    with pytest.raises(Mismatch, match="3 users are online but not at the cutoff 2011-10-10"):
        verify(own_store, own_store, OCTOBER)


@pytest.mark.parametrize("kind", STORES)
def test_users_with_string_ids_who_left_are_removed(kind: str, config_of: Configure, tmp_path: Path) -> None:
    own = features(config_of(kind, tmp_path, "string"))
    ids = ["0042", "42", "churn", "é*[?]", "x" * 200]
    write_export(tmp_path, feature_frame(ids, OCTOBER))
    own.apply()
    own.materialize(OCTOBER)
    write_export(tmp_path, feature_frame(["42", "é*[?]"], OCTOBER))
    own.materialize(OCTOBER)
    assert [row and row.user_id for row in own.read(ids)] == [None, "42", None, "é*[?]", None]
    assert own.online_users() == 2


def test_a_cutoff_that_was_not_exported_is_not_ready_and_removes_nobody(own_store: Features) -> None:
    with pytest.raises(NotReady, match="no features at 2012-01-01"):
        own_store.materialize(at("2012-01-01"))
    assert own_store.online_users() == USERS


def test_keys_of_others_in_the_same_redis_stay(own_redis: tuple[Features, int]) -> None:
    store, port = own_redis
    control = impatient_client(port)
    assert control.keys() == [b"churn:user_analytics"]
    control.set(b"churn:user_analytics2", "theirs")
    control.set(b"mychurn:user_analytics", "theirs")
    write_export(store.config.home, odd_values().query("user_id != 7"))
    store.materialize(OCTOBER)
    assert store.online_users() == USERS - 1
    assert sorted(control.keys()) == [b"churn:user_analytics", b"churn:user_analytics2", b"mychurn:user_analytics"]
    control.close()


@pytest.mark.fault("F11")
def test_readers_never_miss_a_user_who_stays_while_others_are_removed(
    own_store: Features, two_months: dict[datetime, pd.DataFrame]
) -> None:
    service = features(own_store.config)
    write_export(own_store.config.home, two_months[NOVEMBER].iloc[::3])
    seen = read_while(lambda: own_store.materialize(NOVEMBER), lambda: service.read([1, 700, 1498]))
    assert {row and row.as_of for row in seen} == {OCTOBER, NOVEMBER}
    assert [row and row.user_id for row in service.read([1, 2, 3, 1498])] == [1, None, None, 1498]
    assert service.online_users() == 500


@pytest.fixture
def two_months(own_store: Features) -> dict[datetime, pd.DataFrame]:
    """October and November of 1,500 users, exported; October is online."""
    users = list(range(1, 1501))
    frames = {moment: feature_frame(users, moment, seed=seed) for moment, seed in ((OCTOBER, 21), (NOVEMBER, 22))}
    for frame in frames.values():
        write_export(own_store.config.home, frame)
    own_store.materialize(OCTOBER)
    return frames


def read_while(action: Callable[[], None], read: Callable[[], list[FeatureRow | None]]) -> list[FeatureRow | None]:
    """What `read` found, again and again, from before `action` until after it."""
    seen, done = read(), threading.Event()

    def read_until_done() -> None:
        while not done.is_set():
            seen.extend(read())

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_until_done)
        action()
        done.set()
        reading.result()
    return seen + read()


def test_reads_go_on_while_the_next_cutoff_is_materialized_and_no_row_is_a_mixture(
    own_store: Features, two_months: dict[datetime, pd.DataFrame]
) -> None:
    service = features(own_store.config)  # another process: a store object of its own

    def build() -> None:
        own_store.apply()
        own_store.materialize(NOVEMBER)

    seen = read_while(build, lambda: service.read([1, 700, 1500]))
    assert {row and row.as_of for row in seen} == {OCTOBER, NOVEMBER}
    for row in seen:
        assert row is not None
        assert bits(row) == wanted_bits(two_months[row.as_of], row.user_id)


def test_a_service_that_starts_while_a_cutoff_is_materialized_is_served_too(
    own_store: Features, two_months: dict[datetime, pd.DataFrame]
) -> None:
    def read_anew() -> list[FeatureRow | None]:
        try:
            return features(own_store.config).read([1])
        except NotReady:  # Feast rewrites its registry in place: who looks in that instant has to look again
            return []

    seen = read_while(lambda: own_store.materialize(NOVEMBER), read_anew)
    assert {row and row.as_of for row in seen} == {OCTOBER, NOVEMBER}


# -- online: when it fails -------------------------------------------------------------------------------------------


WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None
from datetime import timedelta
from pathlib import Path
from churn.errors import NotReady
from churn.stores.feature_store import Features, FeatureStoreConfig
from churn.stores.online.store import OnlineStore, open_table
config = FeatureStoreConfig(Path(sys.argv[1]), Path(sys.argv[2]), "integer", timedelta(31), "h:1")
store = Features(config, OnlineStore(open_table(config.home, config.redis_address)))
for action in (store.apply, lambda: store.read([1])):
    try:
        action()
    except NotReady as error:
        print(error.message, error.hint, sep="; ")
"""


def test_redis_without_its_package_is_not_ready_and_says_what_to_install(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_REDIS, str(repository / "feature_repo"), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.splitlines() == 2 * [
        "Redis is chosen as online store, but the package redis is not installed; "
        "uv sync --frozen --inexact --extra redis (or: pip install redis)"
    ], done.stderr


@pytest.mark.parametrize("missing", ["feature_store.yaml", "features.py", ""], ids=["yaml", "definitions", "folder"])
def test_a_project_folder_that_is_not_there_is_not_ready_and_named(
    missing: str, config_of: Configure, tmp_path: Path
) -> None:
    config = config_of("sqlite", tmp_path / "home")
    repo = tmp_path / "feature_repo"
    if missing:
        shutil.copytree(config.repo, repo)
        (repo / missing).unlink()
    with pytest.raises(NotReady) as caught:
        features(replace(config, repo=repo)).apply()
    assert caught.value.message == f"{repo / (missing or 'feature_store.yaml')} does not exist"
    assert "CHURN_PROJECT_DIR" in caught.value.hint


@pytest.mark.parametrize("kind", STORES)
def test_before_anything_was_built_the_store_is_not_ready(kind: str, config_of: Configure, tmp_path: Path) -> None:
    with pytest.raises(NotReady) as caught:
        features(config_of(kind, tmp_path)).read([1])
    assert caught.value.hint == "churn build-features"


def assert_unavailable_within(seconds: float, action: Callable[[], object]) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match="the feature store did not answer"):
        action()
    assert time.monotonic() - started < seconds


@pytest.fixture
def own_redis(tmp_path: Path, exported: Path, repository: Path) -> Iterator[tuple[Features, int]]:
    """A store on a Redis of its own, and its port; the server ends with the test, if not before."""
    port = servers.free_port()
    folder = tmp_path / "server"
    folder.mkdir()
    with servers.redis_server(folder, port) as address:
        config = FeatureStoreConfig(repository / "feature_repo", tmp_path / "home", "integer", TTL, address, 1.0)
        yield deployed(config, exported), port


def impatient_client(port: int) -> redis.Redis:
    """A client that does not try again for seconds once the server is gone."""
    return redis.Redis(port=port, retry=Retry(NoBackoff(), 0))


@pytest.mark.fault("F2")
def test_a_redis_that_hangs_is_unavailable_within_two_seconds_and_is_read_again_once_it_answers(
    own_redis: tuple[Features, int],
) -> None:
    store, port = own_redis
    control = impatient_client(port)
    control.client_pause(1500, all=True)
    for action in (lambda: store.read([1]), lambda: store.materialize(OCTOBER)):
        assert_unavailable_within(2, action)
    time.sleep(1.5)
    assert store.read([1])[0] is not None
    control.close()


def test_a_redis_that_is_gone_is_unavailable_within_two_seconds_and_an_empty_one_is_not_ready(
    own_redis: tuple[Features, int], tmp_path: Path
) -> None:
    store, port = own_redis
    control = impatient_client(port)
    control.shutdown(nosave=True)
    control.close()
    assert_unavailable_within(2, lambda: store.read([1]))
    assert_unavailable_within(2, lambda: features(store.config).read([1]))
    with servers.redis_server(tmp_path, port), pytest.raises(NotReady, match="the feature store is empty"):
        store.read([1, 2])


def test_a_damaged_sqlite_file_is_unavailable(config_of: Configure, exported: Path, tmp_path: Path) -> None:
    store = deployed(config_of("sqlite", tmp_path), exported)
    for name in ("online.db-wal", "online.db-shm"):
        (tmp_path / "feast" / name).unlink(missing_ok=True)
    (tmp_path / "feast" / "online.db").write_bytes(b"no database" * 1000)
    assert_unavailable_within(2, lambda: features(store.config).read([1]))


def test_the_sqlite_file_is_in_write_ahead_mode_so_that_a_writer_blocks_no_reader(offline: Features) -> None:
    with closing(sqlite3.connect(offline.config.home / "feast" / "online.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# -- offline -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offline(config_of: Configure, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Features:
    return deployed(config_of("sqlite", tmp_path_factory.mktemp("offline")), exported)


def entities(*rows: tuple[int, datetime]) -> pd.DataFrame:
    """(user, moment) rows with naive UTC microseconds, as labels have."""
    stamps = [np.datetime64(moment.replace(tzinfo=None), "us") for _, moment in rows]
    return pd.DataFrame({JOIN_KEY: [user for user, _ in rows], TIMESTAMP: np.array(stamps)})


def vectors(frame: pd.DataFrame) -> np.ndarray:
    return frame[list(FEATURE_NAMES)].to_numpy(np.float64)


def expected(seed: int, cutoff: datetime, user: int) -> np.ndarray:
    frame = feature_frame(range(1, USERS + 1), cutoff, seed=seed)
    return vectors(frame[frame[JOIN_KEY] == user])[0]


def in_memory() -> BuiltShop:
    frames = [feature_frame(range(1, USERS + 1), AUGUST, seed=8), feature_frame(range(1, USERS + 1), SEPTEMBER, seed=9)]
    return BuiltShop(pd.concat(frames, ignore_index=True))


@pytest.mark.parametrize("kind", ["feast", "memory"])
def test_a_training_frame_keeps_its_rows_their_order_duplicates_and_further_columns(
    kind: str, offline: Features
) -> None:
    asked = entities((7, SEPTEMBER), (3, AUGUST), (7, SEPTEMBER), (UNKNOWN, SEPTEMBER), (1, SEPTEMBER))
    asked = asked.assign(churned=[True, False, True, False, True])
    joined = (offline if kind == "feast" else in_memory()).training_frame(asked)
    assert list(joined.columns) == [JOIN_KEY, TIMESTAMP, "churned", *FEATURE_NAMES]
    assert joined[JOIN_KEY].tolist() == [7, 3, 7, UNKNOWN, 1]
    assert joined["churned"].tolist() == [True, False, True, False, True]
    stamps = pd.to_datetime(joined[TIMESTAMP], utc=True).dt.tz_localize(None)
    assert (stamps == asked[TIMESTAMP]).all()
    wanted = [expected(9, SEPTEMBER, 7), expected(8, AUGUST, 3), expected(9, SEPTEMBER, 7)]
    assert np.array_equal(vectors(joined)[:3], wanted, equal_nan=True)
    assert np.isnan(vectors(joined)[3]).all()
    assert not np.isnan(vectors(joined)[4]).all()


def test_joined_values_have_the_bits_of_the_export(offline: Features) -> None:
    asked = entities(*((user, OCTOBER) for user in range(1, USERS + 1)))
    joined, frame = offline.training_frame(asked), odd_values()
    for user, vector in zip(joined[JOIN_KEY], vectors(joined), strict=True):
        assert bits(FeatureRow(user, OCTOBER, tuple(vector.tolist()))) == wanted_bits(frame, user)


def test_a_row_at_the_cutoff_is_joined_and_a_microsecond_before_it_is_not(offline: Features) -> None:
    joined = offline.training_frame(
        entities((5, SEPTEMBER), (5, SEPTEMBER - MICROSECOND), (5, AUGUST), (5, AUGUST - MICROSECOND))
    )
    wanted = [expected(9, SEPTEMBER, 5), expected(8, AUGUST, 5), expected(8, AUGUST, 5)]
    assert np.array_equal(vectors(joined)[:3], wanted, equal_nan=True)
    assert np.isnan(vectors(joined)[3]).all()


def test_a_row_as_old_as_the_ttl_is_joined_and_an_older_one_is_not(offline: Features) -> None:
    last = OCTOBER + TTL
    joined = offline.training_frame(entities((5, last), (5, last + MICROSECOND), (5, last + timedelta(days=400))))
    (october,) = vectors(odd_values().query("user_id == 5"))
    assert np.array_equal(vectors(joined)[0], october, equal_nan=True)
    assert np.isnan(vectors(joined)[1:]).all()


def test_an_exported_cutoff_that_was_never_applied_is_joined_too(offline: Features) -> None:
    write_export(offline.config.home, feature_frame(range(1, USERS + 1), at("2011-07-10"), seed=7))
    joined = offline.training_frame(entities((5, at("2011-07-10"))))
    assert np.array_equal(vectors(joined)[0], expected(7, at("2011-07-10"), 5), equal_nan=True)


def test_a_hundred_rows_a_user_all_come_back(offline: Features) -> None:
    rows = [(1 + place % USERS, SEPTEMBER + (place // USERS) * DAY / 24) for place in range(100 * USERS)]
    joined = offline.training_frame(entities(*rows))
    assert joined[JOIN_KEY].tolist() == [user for user, _ in rows]


@pytest.mark.parametrize("kind", ["feast", "memory"])
def test_offline_rows_are_those_of_one_cutoff_ordered_by_user(kind: str, offline: Features) -> None:
    rows = (offline if kind == "feast" else in_memory()).offline_rows(SEPTEMBER)
    assert list(rows.columns) == [JOIN_KEY, TIMESTAMP, *FEATURE_NAMES]
    assert rows[JOIN_KEY].tolist() == list(range(1, USERS + 1))
    assert np.array_equal(vectors(rows)[4], expected(9, SEPTEMBER, 5), equal_nan=True)


@pytest.mark.parametrize("kind", ["feast", "memory"])
def test_offline_batches_are_the_same_rows_and_none_is_larger_than_asked(kind: str, offline: Features) -> None:
    store = offline if kind == "feast" else in_memory()
    batches = store.offline_batches(SEPTEMBER, 7)
    frames = list(batches.frames)
    assert batches.rows == USERS
    assert {len(frame) for frame in frames} <= set(range(1, 8))
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), store.offline_rows(SEPTEMBER))


@pytest.mark.parametrize("kind", ["feast", "memory"])
def test_offline_rows_of_a_cutoff_that_was_not_built_are_not_ready(kind: str, offline: Features) -> None:
    store = offline if kind == "feast" else in_memory()
    with pytest.raises(NotReady, match="no features at 2012-01-01"):
        store.offline_rows(at("2012-01-01"))
    with pytest.raises(NotReady, match="no features at 2012-01-01"):
        store.offline_batches(at("2012-01-01"), 7)


def test_the_ttl_is_the_deployments_own(offline: Features, tmp_path: Path) -> None:
    shutil.copytree(offline.config.home / "offline", tmp_path / "offline")
    weekly = features(replace(offline.config, home=tmp_path, ttl=7 * DAY))
    weekly.apply()
    joined = weekly.training_frame(entities((5, OCTOBER + 7 * DAY), (5, OCTOBER + 7 * DAY + MICROSECOND)))
    assert np.isnan(vectors(joined)).all(axis=1).tolist() == [False, True]
