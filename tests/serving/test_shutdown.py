"""Ends and accidents under load: what was accepted is answered, what was answered is logged, and others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests import servers
from tests.models import calibrated_forest
from tests.serving.conftest import Site, eventually
from tests.serving.test_bad_input import check_problem
from tests.serving.test_processes import is_running, serve_command

ROUNDS = int(os.environ.get("SHUTDOWN_ROUNDS", "1"))
DRAIN_SECONDS = 2.0


def client_of(address: str) -> httpx.Client:
    """A client that is made at once: it reads no certificates."""
    return httpx.Client(base_url=address, timeout=30, verify=False)


@dataclass
class Load:
    """What came of the requests of some clients. A refused connection was never accepted: such a client goes away."""

    address: str
    answered: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    versions: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, name: str, *, anew: bool) -> None:
        """One question after the other, over one connection or each over one of its own."""
        client = client_of(self.address)
        number = 0
        while not self.stop.is_set():
            number += 1
            if anew:
                client.close()
                client = client_of(self.address)
            try:
                self._note(f"{name}-{number}", client)
            except httpx.ConnectError:
                break
            except httpx.TransportError as error:
                self.lost.append(f"{name}-{number}: {type(error).__name__} {error}")
                client.close()
                client = client_of(self.address)
        client.close()

    def _note(self, request_id: str, client: httpx.Client) -> None:
        answer = client.post("/v1/score", json={"user_ids": [1, 2]}, headers={"X-Request-ID": request_id})
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            self.answered.add(request_id)
            self.versions.append(answer.json()["model"]["version"])


@contextmanager
def load(address: str, name: str = "r") -> Iterator[Load]:
    """Two clients that keep their connections and two that do not, until the block is left."""
    made = Load(address)
    threads = [threading.Thread(target=made.ask, args=(f"{name}-{n}",), kwargs={"anew": n % 2 == 1}) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: len(made.answered) > 20, seconds=60)
        yield made
    finally:
        made.stop.set()
        for thread in threads:
            thread.join()


def logged(site: Site) -> set[str]:
    return {row["request_id"] for row in site.log()}


def is_not_ready(address: str) -> bool:
    with client_of(address) as client:
        return client.get("/readyz").status_code == 503


def is_reset_of_a_new_connection(lost: str) -> bool:
    """Whether it is of a client that makes a connection for each request (see `load`), and was reset."""
    client = int(lost.split("-")[1])
    return client % 2 == 1 and "reset by peer" in lost


# -- SIGTERM ---------------------------------------------------------------------------------------------------


def end_under_load(site: Site, workers: int, name: str) -> set[str]:
    """Sends SIGTERM to a loaded service and checks the order of its end; the ids of what was answered."""
    with serve_command(site, DRAIN_SECONDS=str(DRAIN_SECONDS), WORKERS=str(workers)) as (process, address):
        with load(address, name) as asked:
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            # Each connection may meet another worker, and these hear of the end one after the other.
            assert eventually(lambda: all(is_not_ready(address) for _ in range(4 * workers)), seconds=2)
            with client_of(address) as client:
                told = client.get("/readyz")
                assert check_problem(told, 503, "not_ready") == "the service is stopping"
                assert client.get("/v2/health/ready").status_code == 503
                assert client.get("/healthz").status_code == 200
                late = client.post("/v1/score", json={"user_ids": [1]})
            assert (late.status_code, late.headers["connection"]) == (200, "close"), "who asks is still answered"
            assert process.wait(timeout=10) == 0
            took = time.monotonic() - started
        assert DRAIN_SECONDS < took < DRAIN_SECONDS + 4
    # Seen once with two workers: a connection made for one request was reset before an answer, as the system does with
    # one that nobody had accepted when the last listener left. On a connection that had been accepted nothing is lost.
    assert [each for each in asked.lost if not is_reset_of_a_new_connection(each)] == []
    assert len(asked.lost) <= workers - 1, asked.lost
    assert set(asked.statuses) == {200}
    return asked.answered


@pytest.mark.fault("R5")
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_turns_ready_off_first_and_loses_no_accepted_request(workers: int, served: Site) -> None:
    """Row R5; SHUTDOWN_ROUNDS=20 repeats it."""
    answered = set[str]()
    for number in range(ROUNDS):
        answered |= end_under_load(served, workers, f"r{number}")
    assert answered - logged(served) == set()


def test_ctrl_c_does_not_make_a_person_wait(served: Site) -> None:
    with serve_command(served, DRAIN_SECONDS="30") as (process, address), load(address) as asked:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=8) == 0
    assert set(asked.statuses) == {200}


@pytest.mark.fault("L8")
def test_sigterm_while_models_are_loaded_ends_as_soon(served: Site) -> None:
    """Row L8."""
    with serve_command(served) as (process, address), load(address) as asked:
        for seed in (2, 3, 1, 2):
            served.promote(seed, str(seed))
            time.sleep(0.13)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=8) == 0
    assert asked.lost == []


# -- several workers -------------------------------------------------------------------------------------------


def own_addresses(process: subprocess.Popen[bytes]) -> list[str]:
    """Where each of the two workers listens by itself: the ports after the common one."""
    port = int(process.args[-1])  # type: ignore[index]
    addresses = [f"http://127.0.0.1:{port + n}" for n in (1, 2)]
    for address in addresses:
        assert eventually(lambda address=address: servers.answers(f"{address}/readyz"), seconds=60)  # type: ignore[misc]
    return addresses


def version_at(address: str) -> str:
    with client_of(address) as client:
        return str(client.get("/v1/model").json()["version"])


def words_of(pid: str) -> list[str]:
    """The command line of a process, nothing once it is gone."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    return []


def worker_pids(process: subprocess.Popen[bytes]) -> list[int]:
    """The workers' process ids in the order of their own addresses: the last word of each is its socket's number."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")  # a thread starts those that replace others
    children = [pid for task in tasks for pid in task.read_text().split()]
    commands = {int(pid): words_of(pid) for pid in children}
    workers = {int(words[-1]): pid for pid, words in commands.items() if "worker" in words}
    return [pid for _, pid in sorted(workers.items())]


@pytest.mark.fault("L11")
def test_two_workers_converge_after_a_promotion_and_answer_from_whole_versions(served: Site) -> None:
    """Row L11: within one look of each worker, and each tells its own version."""
    users = [1, 2]
    vectors = [served.online.rows[user].vector for user in users]
    expected = {str(seed): calibrated_forest(seed).predict_proba(vectors)[:, 1].tolist() for seed in (1, 2)}
    with serve_command(served, WORKERS="2") as (process, address):
        own = own_addresses(process)
        assert [version_at(each) for each in own] == ["1", "1"]
        with load(address) as asked:
            served.promote(2, "2")
            assert eventually(lambda: [version_at(each) for each in own] == ["2", "2"], seconds=2)
            after = len(asked.versions) + 4
            assert eventually(lambda: len(asked.versions) > after + 20)
            assert set(asked.versions[after:]) == {"2"}
        metrics = [httpx.get(f"{each}/metrics").text for each in own]
        assert all('churn_model_info{digest="' in text and 'version="2"} 1.0' in text for text in metrics)
    for row in served.log():
        assert row["churn_probability"] == expected[row["model_version"]][users.index(row["user_id"])]


@pytest.mark.fault("R6")
def test_a_worker_killed_by_9_is_replaced_while_the_other_answers_and_none_outlives_its_supervisor(
    served: Site,
) -> None:
    """Row R6: what is lost was in flight there, and another worker is started at once."""
    with serve_command(served, WORKERS="2") as (process, address):
        first, second = own_addresses(process)
        with load(address) as asked:
            before_it = worker_pids(process)
            os.kill(before_it[0], signal.SIGKILL)
            before = len(asked.answered)
            assert eventually(lambda: len(asked.answered) > before + 10, seconds=2), "the other one answers"
            assert servers.answers(f"{second}/readyz")
            assert eventually(lambda: len(set(worker_pids(process)) - set(before_it)) == 1, seconds=3)
            assert eventually(lambda: servers.answers(f"{first}/readyz"), seconds=60)
            assert worker_pids(process)[1:] == before_it[1:]
        workers = worker_pids(process)
        process.kill()
        process.wait()
        assert eventually(lambda: not any(map(is_running, workers)))
    assert len(asked.lost) <= 4, "each client had at most one request there"
    assert asked.answered - logged(served) == set()
