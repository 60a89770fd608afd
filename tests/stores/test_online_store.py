"""The online store: one suite over real SQLite and real Redis, then the faults of each."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from churn.core.scoring import ServedModel, score
from churn.domain.predictions import FeatureRow, Status
from churn.domain.schema import FEATURE_NAMES
from churn.errors import BadInput, ChurnError, NotReady, Refused
from churn.stores.online.breaker import Breaker
from churn.stores.online.packed import RowCodec, user_key
from churn.stores.online.redis_table import RedisTable, parse_address
from churn.stores.online.sqlite_table import SqliteTable
from churn.stores.online.store import OnlineStore, micros, open_table
from churn.stores.online.table import SENTINEL
from tests import servers
from tests.exports import at, feature_frame, write_export
from tests.serving.conftest import eventually

SEPTEMBER, OCTOBER, NOVEMBER = at("2011-09-10"), at("2011-10-10"), at("2011-11-10")
NOW = at("2011-11-11")
USERS = 40
DEADLINE = 0.25
SLACK = 0.35  # of a busy machine
NUMBERS = count()


def online(home: Path, address: str = "", **changes: Any) -> OnlineStore:
    return OnlineStore(open_table(home, address), now=lambda: NOW, **changes)


@pytest.fixture(params=["sqlite", "redis"])
def address(request: pytest.FixtureRequest) -> str:
    """Of a Redis in which the test is alone, or empty: SQLite."""
    if request.param == "sqlite":
        return ""
    shared: str = request.getfixturevalue("redis_address")
    return f"{shared},db={next(NUMBERS) % 14 + 2}"


@pytest.fixture
def store(address: str, tmp_path: Path) -> Iterator[OnlineStore]:
    """An empty store."""
    store = online(tmp_path, address)
    store.table.drop()
    store.table.create()
    yield store
    store.table.drop()
    store.table.close()


@pytest.fixture
def october(tmp_path: Path) -> pd.DataFrame:
    frame = feature_frame(range(1, USERS + 1), OCTOBER)
    frame.loc[2, list(FEATURE_NAMES)] = np.nan
    return frame


@pytest.fixture
def filled(store: OnlineStore, october: pd.DataFrame, tmp_path: Path) -> OnlineStore:
    """The store with October's users."""
    store.materialize(write_export(tmp_path, october), OCTOBER)
    return store


def written(store: OnlineStore, user: int, moment: datetime, value: float) -> int:
    """One row of that value throughout."""
    vector = np.full((1, len(FEATURE_NAMES)), value)
    return store.write([user_key(user)], np.array([micros(moment)], dtype=np.int64), vector)


def values(store: OnlineStore, *users: int) -> list[float | None]:
    return [row and row.vector[0] for row in store.read(list(users))]


def contents(store: OnlineStore) -> dict[bytes, bytes | None]:
    """Every user's row, byte by byte."""
    keys = [key for part in store.table.stored_keys() for key in part]
    return dict(zip(keys, store.table.get(keys), strict=True))


def reason(action: Callable[[], object]) -> str:
    """Which fault the action names."""
    with pytest.raises(ChurnError) as caught:
        action()
    assert caught.value.hint
    return str(caught.value.facts["reason"])


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F7")
def test_a_user_without_values_is_known_and_another_is_not(filled: OnlineStore) -> None:
    nulls, nobody = filled.read([3, 99])
    assert nulls is not None
    assert np.isnan(nulls.vector).all()
    assert nobody is None


def test_a_batch_larger_than_any_statement_is_read_in_order(filled: OnlineStore) -> None:
    asked = [1 + place % (USERS + 1) for place in range(25_000)]
    found = filled.read(asked)
    assert [row and row.user_id for row in found] == [user if user <= USERS else None for user in asked]


@pytest.mark.fault("F9")
def test_damaged_rows_have_no_value_are_not_scored_and_fail_nobody_else(filled: OnlineStore) -> None:
    (whole,) = filled.table.get([user_key(7)])
    assert whole is not None
    broken = [b"", b"protobuf", whole[:-1], whole[:60] + b"\xff" + whole[61:]]
    filled.table.put([(user_key(user), micros(OCTOBER), row) for user, row in enumerate(broken, 10)], replace=True)
    rows = filled.read([7, 10, 11, 12, 13])
    assert all(row is not None and np.isnan(row.vector).all() for row in rows[1:])
    model = ServedModel("1", "", "", FEATURE_NAMES, 60, lambda vectors: np.full(len(vectors), 0.5))
    answers = score(model, [7, 10, 11, 12, 13], rows, now=NOW, max_age=timedelta(days=40))
    assert [answer.status for answer in answers[1:]] == [Status.INVALID_FEATURES] * 4
    assert answers[0].status in (Status.OK, Status.NOT_ELIGIBLE)


def test_the_next_materialize_mends_damaged_rows(filled: OnlineStore, october: pd.DataFrame, tmp_path: Path) -> None:
    before = contents(filled)
    filled.table.put([(user_key(7), micros(OCTOBER), b"\xff" * 300)], replace=True)
    filled.materialize(write_export(tmp_path, october), OCTOBER)
    assert contents(filled) == before


@pytest.mark.fault("F3")
def test_a_store_without_its_sentinel_is_empty_and_not_ready(filled: OnlineStore) -> None:
    """Whatever rows there are: nobody is called unknown because of it."""
    filled.read([1])
    filled.table.remove([SENTINEL])
    assert reason(lambda: filled.read([1])) == "feature_store_empty"
    assert reason(filled.online_users) == "feature_store_empty"


@pytest.mark.fault("F7")
def test_a_store_of_other_features_is_not_ready(filled: OnlineStore, address: str, tmp_path: Path) -> None:
    newer = online(tmp_path, address, codec=RowCodec("user_analytics", FEATURE_NAMES[:-1]))
    with pytest.raises(NotReady):
        newer.read([1])
    assert reason(lambda: newer.read([1])) == "feature_store_schema"


@pytest.mark.fault("F7")
def test_a_row_of_other_features_is_not_ready_though_the_sentinel_still_is_ours(filled: OnlineStore) -> None:
    """A store that is being filled by newer code."""
    (row,) = RowCodec("user_analytics", ("a",)).pack(np.array([micros(OCTOBER)]), np.ones((1, 1)))
    filled.table.put([(user_key(7), micros(OCTOBER), row)])
    assert reason(lambda: filled.read([6, 7])) == "feature_store_schema"
    assert filled.read([6])[0] is not None


def test_a_damaged_sentinel_is_named_and_can_be_replaced(
    filled: OnlineStore, october: pd.DataFrame, tmp_path: Path
) -> None:
    filled.table.put([(SENTINEL, 0, b'{"rows": 1')], replace=True)
    assert reason(lambda: filled.read([1])) == "sentinel_damaged"
    filled.materialize(write_export(tmp_path, october), OCTOBER, replace=True)
    assert filled.read([1])[0] is not None


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("F10")
@given(
    events=st.dictionaries(
        st.tuples(st.integers(1, 4), st.integers(0, 6)), st.floats(-1e9, 1e9), min_size=1, max_size=12
    ),
    order=st.randoms(use_true_random=False),
    size=st.integers(1, 5),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_whatever_order_rows_come_the_newest_of_each_user_stays(
    store: OnlineStore, events: dict[tuple[int, int], float], order: Any, size: int
) -> None:
    store.table.remove([user_key(user) for user in range(5)])
    rows = [(user, SEPTEMBER + timedelta(seconds=second), value) for (user, second), value in events.items()]
    order.shuffle(rows)
    for start in range(0, len(rows), size):
        users, moments, numbers = zip(*rows[start : start + size], strict=True)
        vectors = np.repeat(np.array(numbers)[:, None], len(FEATURE_NAMES), axis=1)
        store.write([*map(user_key, users)], np.array([*map(micros, moments)], dtype=np.int64), vectors)
    newest = {user: max((moment, value) for each, moment, value in rows if each == user) for user, _, _ in rows}
    found = store.codec.unpack(store.table.get([*map(user_key, newest)]))
    assert found.vectors[:, 0].tolist() == [value for _, value in newest.values()]
    assert found.moments.tolist() == [micros(moment) for moment, _ in newest.values()]


@pytest.mark.fault("F10")
def test_a_late_row_is_left_out_and_a_correction_is_not(filled: OnlineStore) -> None:
    assert written(filled, 7, OCTOBER - timedelta(microseconds=1), 1.0) == 0
    assert values(filled, 7) != [1.0]
    assert written(filled, 7, OCTOBER, 2.0) == 1
    assert values(filled, 7) == [2.0]


@pytest.mark.fault("F10")
def test_a_row_of_the_future_is_refused_and_clocks_may_differ_by_five_minutes(filled: OnlineStore) -> None:
    """It would shut out every row that comes after it."""
    before = contents(filled)
    assert reason(lambda: written(filled, 7, NOW + timedelta(seconds=301), 1.0)) == "future_event_time"
    assert contents(filled) == before
    assert written(filled, 7, NOW + timedelta(seconds=300), 1.0) == 1


@pytest.mark.fault("F10")
def test_of_two_writers_at_once_the_newer_row_stays(store: OnlineStore, address: str, tmp_path: Path) -> None:
    moments = [SEPTEMBER + timedelta(minutes=minute) for minute in range(40)]

    def write(places: range) -> None:
        own = online(tmp_path, address)
        for place in places:
            written(own, 1, moments[place], float(place))
        own.table.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (range(0, 40, 2), range(39, 0, -2))))
    assert store.codec.unpack(store.table.get([user_key(1)])).vectors[0, 0] == 39.0


def test_one_user_can_be_erased(filled: OnlineStore) -> None:
    filled.erase(7)
    assert [row and row.user_id for row in filled.read([6, 7, 8])] == [6, None, 8]
    assert filled.online_users() == USERS - 1


def test_the_sentinel_says_what_the_store_holds(filled: OnlineStore, october: pd.DataFrame, tmp_path: Path) -> None:
    filled.materialize(write_export(tmp_path, october.iloc[:30]), OCTOBER)
    found = filled.sentinel()
    assert found is not None
    assert (found.generation, found.rows, found.cutoff, found.written_at) == (2, 30, OCTOBER, NOW)
    assert (found.feature_service, found.schema_hash) == ("churn_v1", filled.codec.schema.hex())


@pytest.mark.fault("F10")
def test_a_newer_row_than_the_cutoff_stays_and_is_counted(
    filled: OnlineStore, october: pd.DataFrame, tmp_path: Path
) -> None:
    """Materialize has no other rights than any writer."""
    written(filled, 7, OCTOBER + timedelta(hours=1), 5.0)
    done = filled.materialize(write_export(tmp_path, october), OCTOBER)
    assert (done.rows, done.late, done.removed) == (USERS, 1, 0)
    assert values(filled, 7) == [5.0]


@pytest.mark.fault("F12")
def test_no_rows_and_too_few_rows_are_refused_and_the_store_stays(
    filled: OnlineStore, october: pd.DataFrame, tmp_path: Path
) -> None:
    before = contents(filled)
    few = write_export(tmp_path, october.iloc[:3])
    assert reason(lambda: filled.materialize(few, OCTOBER)) == "too_few_rows"
    pd.read_parquet(few).iloc[:0].to_parquet(tmp_path / "none.parquet")
    with pytest.raises(Refused, match="there are no users at 2011-10-10: the online store stays"):
        filled.materialize(tmp_path / "none.parquet", OCTOBER, replace=True)
    assert contents(filled) == before
    filled.materialize(few, OCTOBER, replace=True)
    assert filled.online_users() == 3


def test_a_tenth_of_the_users_is_enough(filled: OnlineStore, october: pd.DataFrame, tmp_path: Path) -> None:
    filled.materialize(write_export(tmp_path, october.iloc[:4]), OCTOBER)
    assert filled.online_users() == 4


def test_progress_is_told(store: OnlineStore, october: pd.DataFrame, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    export = write_export(tmp_path, october)
    store.materialize(export, OCTOBER, on_progress=lambda done, rows: told.append((done, rows)))
    assert told == [(USERS, USERS)]


KILLED = """
import os, signal, sys
from pathlib import Path
from churn.domain.windows import parse_instant
from churn.stores.online import store as module
module.CHUNK = 500
home, address, place = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = module.OnlineStore(module.open_table(home, address))
steps = iter(range(1000))
def dying(step):
    def run(rows, **how):
        if next(steps) == place:
            step(rows[: len(rows) // 2], **how)
            os.kill(os.getpid(), signal.SIGKILL)
        return step(rows, **how)
    return run
store.table.put, store.table.remove = dying(store.table.put), dying(store.table.remove)
store.materialize(Path(sys.argv[4]), parse_instant(sys.argv[5]))
"""


@pytest.mark.fault("F11")
@pytest.mark.parametrize("place", range(6))
def test_a_materialize_killed_at_any_step_is_made_good_by_the_next_and_readers_never_miss_a_user(
    place: int, store: OnlineStore, address: str, tmp_path: Path
) -> None:
    """Three chunks of rows, two of users who left, the sentinel."""
    store.materialize(write_export(tmp_path, feature_frame(range(1, 2001), OCTOBER)), OCTOBER)
    export = write_export(tmp_path, feature_frame(range(1, 1301), NOVEMBER, seed=2))
    command = [sys.executable, "-c", KILLED, str(tmp_path), address, str(place), str(export), NOVEMBER.isoformat()]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    between = store.read([1, 650, 1300])
    assert all(row is not None and row.as_of in (OCTOBER, NOVEMBER) for row in between)
    for _ in range(2):
        store.materialize(export, NOVEMBER)
    fresh = online(tmp_path / "fresh")
    fresh.materialize(export, NOVEMBER)
    assert contents(store) == contents(fresh)
    assert store.online_users() == 1300


# -- what breaks: Redis ------------------------------------------------------------------------------------------------


@dataclass
class OwnRedis:
    """A Redis of the test's own, with October online."""

    folder: Path
    port: int
    store: OnlineStore

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))

    def signal(self, number: signal.Signals) -> None:
        os.kill(int((self.folder / "pid").read_text()), number)


@contextmanager
def running_redis(folder: Path, port: int) -> Iterator[None]:
    with servers.redis_server(folder, port, keeps=True), closing(redis.Redis(port=port)) as client:
        (folder / "pid").write_text(str(client.info("server")["process_id"]))  # type: ignore[index]
        yield


@pytest.fixture
def own(tmp_path: Path, october: pd.DataFrame) -> Iterator[OwnRedis]:
    folder, port = tmp_path / "server", servers.free_port()
    folder.mkdir()
    with running_redis(folder, port):
        store = online(tmp_path, f"127.0.0.1:{port}")
        store.materialize(write_export(tmp_path, october), OCTOBER)
        yield OwnRedis(folder, port, store)


def seconds_of(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def recovers(store: OnlineStore) -> bool:
    """Whether user 1 is read within two seconds."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        with suppress(ChurnError):
            return store.read([1])[0] is not None
        time.sleep(0.02)
    return False


@pytest.mark.fault("F1")
def test_a_redis_that_is_killed_is_named_at_once_and_read_again_within_two_seconds_of_its_return(
    own: OwnRedis, tmp_path: Path
) -> None:
    own.store.read([1])
    own.signal(signal.SIGKILL)
    names = [reason(lambda: own.store.read([1])) for _ in range(5)]
    assert names == ["redis_down"] * 3 + ["breaker_open"] * 2
    with running_redis(own.folder, own.port):
        assert recovers(own.store)
        assert own.store.online_users() == USERS


@pytest.mark.fault("F3")
def test_a_redis_that_comes_back_empty_is_not_ready(own: OwnRedis, tmp_path: Path) -> None:
    own.signal(signal.SIGKILL)
    with servers.redis_server(tmp_path, own.port):
        # The first read may still meet the connection to the one that was killed.
        assert eventually(lambda: reason(lambda: own.store.read([1])) == "feature_store_empty")


def frozen(own: OwnRedis) -> Callable[[], None]:
    own.signal(signal.SIGSTOP)
    return lambda: own.signal(signal.SIGCONT)


def paused(own: OwnRedis) -> Callable[[], None]:
    own.client.client_pause(2500, all=True)
    return lambda: time.sleep(2.0)


@pytest.mark.fault("F2")
@pytest.mark.parametrize("fault", [frozen, paused], ids=["SIGSTOP", "CLIENT PAUSE"])
def test_a_redis_that_hangs_keeps_the_deadline_then_opens_the_breaker(
    fault: Callable[[OwnRedis], Callable[[], None]], own: OwnRedis
) -> None:
    own.store.read([1])
    mend = fault(own)
    assert max(seconds_of(lambda: reason_of_read(own.store)) for _ in range(3)) < DEADLINE + SLACK
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: reason_of_read(own.store), range(16))) <= {"breaker_open", "redis_timeout"}
    assert seconds_of(lambda: reason_of_read(own.store)) < 0.1
    mend()
    assert recovers(own.store)


def reason_of_read(store: OnlineStore) -> str:
    return reason(lambda: store.read([1]))


@pytest.mark.fault("F4")
def test_without_memory_writes_are_named_reads_go_on_and_the_job_can_be_run_again(
    own: OwnRedis, october: pd.DataFrame, tmp_path: Path
) -> None:
    own.client.config_set("maxmemory", "1")
    export = write_export(tmp_path, october.assign(total_spent=1.5))
    assert reason(lambda: own.store.materialize(export, OCTOBER)) == "redis_out_of_memory"
    assert own.store.read([1])[0] is not None
    own.client.config_set("maxmemory", "0")
    own.store.materialize(export, OCTOBER)
    assert own.store.online_users() == USERS


@pytest.mark.fault("F4", "F16")
def test_a_replica_takes_no_rows_and_its_reads_go_on(own: OwnRedis) -> None:
    own.client.replicaof("127.0.0.1", str(servers.free_port()))
    assert reason(lambda: written(own.store, 1, NOVEMBER, 1.0)) == "redis_read_only"
    assert own.store.read([1])[0] is not None
    own.client.replicaof("no", "one")
    assert written(own.store, 1, NOVEMBER, 1.0) == 1


@pytest.mark.fault("F4")
def test_a_password_that_is_missing_or_wrong_is_named(own: OwnRedis, tmp_path: Path) -> None:
    own.client.config_set("requirepass", "s3cret")
    assert reason_of_read(online(tmp_path, f"127.0.0.1:{own.port}")) == "redis_no_auth"
    assert reason_of_read(online(tmp_path, f"127.0.0.1:{own.port},password=other")) == "redis_no_auth"
    assert online(tmp_path, f"127.0.0.1:{own.port},password=s3cret").read([1])[0] is not None


@pytest.mark.fault("F4")
def test_a_redis_that_cannot_save_takes_no_rows_and_its_reads_go_on(own: OwnRedis) -> None:
    client = own.client
    client.config_set("save", "3600 1")
    shutil.rmtree(own.folder)
    client.bgsave()
    assert eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")  # type: ignore[index]
    assert reason(lambda: written(own.store, 1, NOVEMBER, 1.0)) == "redis_misconf"
    assert own.store.read([1])[0] is not None
    client.config_set("save", "")  # else it would not end: it cannot save


@pytest.mark.fault("F4")
def test_another_database_is_empty_and_a_key_of_another_kind_is_named(own: OwnRedis, tmp_path: Path) -> None:
    assert reason_of_read(online(tmp_path, f"127.0.0.1:{own.port},db=1")) == "feature_store_empty"
    own.client.rename("churn:user_analytics", "theirs")
    own.client.set("churn:user_analytics", "theirs")
    assert reason_of_read(own.store) == "redis_wrong_type"


@pytest.mark.fault("F2", "F4")
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "redis_loading"),
        (b"-ERR something new\r\n", "redis_failed"),
        (b"$100\r\nhalf of", "redis_down"),
    ],
    ids=["loading", "unknown", "half an answer"],
)
def test_what_redis_answers_instead_is_named(answer: bytes, name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_once, args=(listener, answer), daemon=True)
        thread.start()
        assert reason_of_read(online(tmp_path, f"127.0.0.1:{listener.getsockname()[1]}")) == name
        thread.join(timeout=5)


def answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        while asked := connection.recv(65536):
            commands = asked.count(b"SETINFO")
            if not commands:
                connection.sendall(answer)
                return
            connection.sendall(b"+OK\r\n" * commands)


@pytest.mark.fault("F5")
def test_a_redis_that_may_evict_users_is_refused_until_it_may_not(own: OwnRedis, tmp_path: Path) -> None:
    own.client.config_set("maxmemory-policy", "allkeys-lru")
    store = online(tmp_path, f"127.0.0.1:{own.port}")
    with pytest.raises(NotReady, match="may evict users: its maxmemory-policy is allkeys-lru"):
        store.read([1])
    assert reason(store.table.create) == "redis_evicts"
    own.client.config_set("maxmemory-policy", "noeviction")
    assert store.read([1])[0] is not None


def test_an_address_holds_options_as_feasts_did() -> None:
    found = parse_address("redis.example:6380,db=3,ssl=true,username=app,password=1234")
    wanted = {"host": "redis.example", "port": 6380, "db": 3, "ssl": True, "username": "app", "password": "1234"}
    assert found == wanted


@pytest.mark.parametrize("bad", ["", "host", "host:port", "host:1,db", ":1", "h:1,colour=blue"])
def test_an_address_that_cannot_be_used_is_bad_input(bad: str) -> None:
    with pytest.raises(BadInput, match="CHURN_REDIS_ADDRESS"):
        RedisTable(bad, "x").get([b"1"])


# -- what breaks: SQLite -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, october: pd.DataFrame) -> Path:
    """A filled file that no connection holds."""
    store = online(tmp_path)
    store.materialize(write_export(tmp_path, october), OCTOBER)
    store.table.close()
    return tmp_path / "feast" / "online.db"


@pytest.mark.fault("F6")
def test_a_locked_file_keeps_the_deadline_and_is_read_once_the_lock_is_gone(file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        store = online(tmp_path)
        assert reason_of_read(store) == "sqlite_locked"
        assert seconds_of(lambda: reason_of_read(store)) < DEADLINE + SLACK
    assert recovers(store)


@pytest.mark.fault("F6")
def test_a_writer_in_the_middle_makes_no_reader_wait(file: Path, tmp_path: Path) -> None:
    store = online(tmp_path)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM packed_user_analytics")
        assert seconds_of(lambda: store.read([1])) < SLACK
        assert store.read([1])[0] is not None


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda file: file.write_bytes(b"no database" * 1000), "sqlite_corrupt"),
        (lambda file: os.truncate(file, file.stat().st_size // 2), "sqlite_corrupt"),
        (lambda file: file.write_bytes(b""), "feature_store_empty"),
        (lambda file: file.unlink(), "feature_store_empty"),
        (lambda file: (file.unlink(), file.mkdir()), "sqlite_io"),
    ],
    ids=["garbage", "truncated", "0 bytes", "removed", "a folder"],
)
def test_a_damaged_file_is_named_and_a_good_one_in_its_place_is_read(
    damage: Callable[[Path], object], name: str, file: Path, tmp_path: Path
) -> None:
    good = tmp_path / "good.db"
    shutil.copy(file, good)
    store = online(tmp_path)
    store.read([1])
    store.table.close()
    damage(file)
    assert reason_of_read(store) == name
    if file.is_dir():
        file.rmdir()
    good.replace(file)
    assert recovers(store)


@pytest.mark.fault("F6")
def test_a_file_that_is_replaced_while_it_is_open_is_opened_anew(file: Path, tmp_path: Path) -> None:
    reader = online(tmp_path)
    reader.read([1])
    other = online(tmp_path / "other")
    export = write_export(tmp_path, feature_frame([1, 2], NOVEMBER))
    other.materialize(export, NOVEMBER)
    other.table.close()
    (tmp_path / "other" / "feast" / "online.db").replace(file)
    assert [row and row.as_of for row in reader.read([1, 3])] == [NOVEMBER, None]


def test_each_thread_reads_through_a_connection_of_its_own(file: Path, tmp_path: Path) -> None:
    store = online(tmp_path)

    def read(user: int) -> FeatureRow | None:
        return store.read([user])[0]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, [1 + place % USERS for place in range(400)]))
    assert [row and row.user_id for row in found] == [1 + place % USERS for place in range(400)]


def test_a_table_that_is_nobodys_yet_has_no_rows(tmp_path: Path) -> None:
    table = SqliteTable(tmp_path / "online.db", 'odd"name')
    assert (table.get([b"x"]), table.count(), list(table.stored_keys())) == ([None], 0, [])
    table.create()
    assert table.put([(b"x", 1, b"row")]) == 1
    assert table.get([b"x", b"y"]) == [b"row", None]
    table.close()


# -- the breaker -------------------------------------------------------------------------------------------------------


def test_a_breaker_opens_after_three_failures_tries_every_half_second_and_closes_on_success() -> None:
    now = [100.0]
    breaker = Breaker(clock=lambda: now[0])
    for _ in range(2):
        breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    now[0] += 0.5
    assert (breaker.admits(), breaker.admits()) == (True, False)
    breaker.failed()
    now[0] += 0.49
    assert not breaker.admits()
    now[0] += 0.01
    assert breaker.admits()
    breaker.succeeded()
    assert (breaker.admits(), breaker.admits()) == (True, True)
    breaker.failed()
    assert breaker.admits()


def test_an_empty_store_does_not_open_the_breaker(store: OnlineStore) -> None:
    for _ in range(5):
        assert reason_of_read(store) == "feature_store_empty"


@pytest.mark.fault("F15")
def test_ids_in_the_export_are_found_by_their_own_type(store: OnlineStore, tmp_path: Path) -> None:
    frame = feature_frame(["7", "é"], OCTOBER)
    store.materialize(write_export(tmp_path, frame), OCTOBER)
    assert [row and row.user_id for row in store.read(["7", 7, "é"])] == ["7", None, "é"]
