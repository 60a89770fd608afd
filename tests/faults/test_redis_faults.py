"""Redis behind a network that delays, cuts and garbles, as the store and as callers of the service see it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from churn.errors import ChurnError
from churn.stores.online.store import OnlineStore
from tests import servers
from tests.exports import feature_frame, write_export
from tests.faults.proxy import Proxy, Toxic, proxy_to
from tests.serving.conftest import Site, eventually
from tests.serving.test_bad_input import check_problem
from tests.stores.test_online_store import DEADLINE, NOVEMBER, NOW, OCTOBER, SLACK, online, reason, seconds_of

USERS = {"user_ids": [1, 2]}
TOXICS = {
    "a second late": (Toxic(latency=1.0), "redis_timeout"),
    "silent": (Toxic(silent=True), "redis_timeout"),
    "reset": (Toxic(reset=True), "redis_down"),
    "half an answer": (Toxic(limit=3), "redis_down"),
    "nothing and closed": (Toxic(limit=0), "redis_down"),
    "garbage": (Toxic(garbage=b"\x00\xff no Redis at all\r\n"), "redis_failed"),
    "a web page": (Toxic(garbage=b"HTTP/1.1 400 Bad Request\r\n\r\n<html>"), "redis_failed"),
}


@dataclass
class Far:
    """A Redis with October online, read through a proxy; `port` is its own."""

    port: int
    proxy: Proxy
    folder: Path

    def store(self) -> OnlineStore:
        return online(self.folder, f"127.0.0.1:{self.proxy.port}")


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    with servers.redis_server(tmp_path) as address:
        port = int(address.rsplit(":", 1)[1])
        fill(tmp_path, port)
        with proxy_to(port) as proxy:
            yield Far(port, proxy, tmp_path)


def fill(folder: Path, port: int, *, seed: int = 1) -> None:
    writer = online(folder, f"127.0.0.1:{port}")
    writer.materialize(write_export(folder, feature_frame(range(1, 41), OCTOBER, seed=seed)), OCTOBER)
    writer.table.close()


def recovery(store: OnlineStore) -> float:
    """Seconds until user 1 is read again."""
    started = time.monotonic()
    assert eventually(lambda: can_read(store), seconds=5)
    return time.monotonic() - started


def can_read(store: OnlineStore) -> bool:
    try:
        return store.read([1])[0] is not None
    except ChurnError:
        return False


# -- the store -------------------------------------------------------------------------------------------------


@pytest.mark.fault("F2")
@pytest.mark.parametrize("toxic", TOXICS)
def test_whatever_the_network_does_the_deadline_is_kept_the_breaker_opens_and_reads_come_back(
    toxic: str, far: Far
) -> None:
    store, (what, name) = far.store(), TOXICS[toxic]
    assert can_read(store)
    far.proxy.toxic = what
    names: list[str] = []
    seconds = [seconds_of(lambda: names.append(reason(lambda: store.read([1])))) for _ in range(5)]
    assert names == [name] * 3 + ["breaker_open"] * 2
    assert max(seconds[:3]) < DEADLINE + SLACK
    assert max(seconds[3:]) < 0.05
    before = far.proxy.connections
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: reason(lambda: store.read([1])), range(40))) <= {name, "breaker_open"}
    assert far.proxy.connections - before <= 2, "while the breaker is open hardly anybody knocks"
    far.proxy.toxic = Toxic()
    assert recovery(store) < 2.0


@pytest.mark.fault("F2")
def test_an_answer_that_comes_late_but_in_time_is_taken(far: Far) -> None:
    store = far.store()
    assert can_read(store)
    far.proxy.toxic = Toxic(latency=0.05)
    assert [can_read(store) for _ in range(5)] == [True] * 5


@pytest.mark.fault("F4")
def test_a_redis_full_of_clients_is_named_and_read_again_when_they_leave(far: Far) -> None:
    import redis

    with redis.Redis(port=far.port) as admin:
        admin.config_set("maxclients", 1)
        store = far.store()
        assert reason(lambda: store.read([1])) in ("redis_failed", "redis_down")  # whether its last words arrive
        admin.config_set("maxclients", 1000)
        assert recovery(store) < 2.0


@pytest.mark.fault("S12")
def test_a_user_of_redis_who_may_do_no_more_than_read_one_key_is_enough_and_can_break_nothing(far: Far) -> None:
    import redis

    with redis.Redis(port=far.port) as admin:
        allowed = ["+hmget", "+hlen", "+hexists", "+info"]
        admin.execute_command("ACL", "SETUSER", "service", "on", ">s3cret", "~churn:user_analytics", *allowed)
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", "off")
    store = online(far.folder, f"127.0.0.1:{far.port},username=service,password=s3cret")
    assert can_read(store) and store.online_users() == 40
    assert reason(store.table.drop) == "redis_no_permission"
    assert reason(lambda: store.erase(1)) == "redis_no_permission"
    with redis.Redis(port=far.port, username="service", password="s3cret") as service:
        for command in (("FLUSHALL",), ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), ("HGETALL", "other")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                service.execute_command(*command)
    assert can_read(store)


@pytest.mark.fault("F16", "F8")
def test_after_a_failover_to_a_replica_that_lags_its_rows_are_read_with_their_age(
    far: Far, served: Site, tmp_path: Path
) -> None:
    import redis

    (tmp_path / "replica").mkdir()
    with servers.redis_server(tmp_path / "replica") as address:
        replica_port = int(address.rsplit(":", 1)[1])
        with redis.Redis(port=replica_port) as replica, redis.Redis(port=far.port) as primary:
            primary.config_set("repl-diskless-sync-delay", 0)
            replica.replicaof("127.0.0.1", str(far.port))
            assert eventually(lambda: replica.hlen("churn:user_analytics") == 41)
            replica.replicaof("no", "one")  # from here on it lags
            newer = online(tmp_path, f"127.0.0.1:{far.port}")
            newer.materialize(write_export(tmp_path, feature_frame(range(1, 41), NOVEMBER)), NOVEMBER)
            with served.client(online=far.store(), clock=lambda: NOW, max_feature_age=timedelta(days=2)) as client:
                assert statuses(client) == ["ok_or_not_eligible"] * 2
                primary.execute_command("CLIENT", "PAUSE", "10000")
                far.proxy.upstream = replica_port
                assert eventually(lambda: client.post("/v1/score", json=USERS).status_code == 200, seconds=2)
                assert statuses(client) == ["stale"] * 2
                again = online(tmp_path, f"127.0.0.1:{replica_port}")
                again.materialize(write_export(tmp_path, feature_frame(range(1, 41), NOVEMBER)), NOVEMBER)
                assert statuses(client) == ["ok_or_not_eligible"] * 2


def statuses(client: httpx.Client) -> list[str]:
    """What became of each user; whether a fresh user is eligible is the frame's business, not this test's."""
    found = [each["status"] for each in client.post("/v1/score", json=USERS).json()["predictions"]]
    return ["ok_or_not_eligible" if each in ("ok", "not_eligible") else each for each in found]


# -- the service -----------------------------------------------------------------------------------------------


@pytest.mark.fault("F2", "R7")
@pytest.mark.parametrize("toxic", ["a second late", "silent", "reset", "half an answer", "garbage"])
def test_the_service_names_the_fault_in_time_lives_on_and_answers_again_within_two_seconds(
    toxic: str, far: Far, served: Site
) -> None:
    what, name = TOXICS[toxic]
    limits = replace(served.parts.limits, threads=2)
    with served.client(online=far.store(), clock=lambda: NOW, limits=limits) as client:
        assert client.post("/v1/score", json=USERS).status_code == 200
        far.proxy.toxic = what
        with ThreadPoolExecutor(8) as pool:
            started = time.monotonic()
            answers = list(pool.map(lambda _: client.post("/v1/score", json=USERS), range(24)))
            seconds = time.monotonic() - started
        details = {check_problem(answer, 503, "feature_store_unavailable") for answer in answers}
        assert details <= {f"The feature store does not answer: {each}" for each in (name, "breaker_open")}
        assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
        assert seconds < 2 * DEADLINE + 2 * SLACK, "two threads wait once or twice, the rest are told at once"
        assert client.get("/healthz").status_code == 200
        check_problem(client.get("/readyz"), 503, "not_ready")
        far.proxy.toxic = Toxic()
        assert eventually(lambda: client.post("/v1/score", json=USERS).status_code == 200, seconds=2)
        assert client.get("/readyz").status_code == 200


@pytest.mark.fault("F2")
def test_of_answers_that_trickle_in_nobody_waits_longer_than_the_services_own_deadline(far: Far, served: Site) -> None:
    limits = replace(served.parts.limits, threads=1, answer_seconds=0.5)
    with served.client(online=far.store(), clock=lambda: NOW, limits=limits) as client:
        assert client.post("/v1/score", json=USERS).status_code == 200
        far.proxy.toxic = Toxic(trickle=0.003)
        started = time.monotonic()
        check_problem(client.post("/v1/score", json=USERS), 503, "deadline_exceeded")
        assert time.monotonic() - started < 0.5 + SLACK
        far.proxy.toxic = Toxic()
        assert eventually(lambda: client.post("/v1/score", json=USERS).status_code == 200)
