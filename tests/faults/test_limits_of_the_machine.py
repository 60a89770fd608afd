"""The service as a process of its own, at the limits that the machine sets: memory, files, and a clock that jumps."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.faults.test_rude_clients import POST, USERS, connect, said
from tests.servers import faketime_library
from tests.serving.conftest import NOW, Site, eventually, make_site
from tests.serving.test_processes import program, serve_command

MEGABYTE = 1024.0


@dataclass
class Running:
    """A service that serves version 1, in a process of its own."""

    site: Site
    process: subprocess.Popen[bytes]
    address: str

    def memory(self, kind: str) -> float:
        """VmRSS or VmHWM in megabytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / MEGABYTE

    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    site = make_site(tmp_path_factory.mktemp("limits"))
    site.promote()
    with serve_command(site) as (process, address):  # type: ignore[attr-defined]
        yield Running(site, process, address)


# -- memory ----------------------------------------------------------------------------------------------------


def in_chunks(address: str, size: int, count: int) -> bytes:
    """The answer to a body in so many chunks of that size; ends early when it is refused."""
    chunk = b"%x\r\n%s\r\n" % (size, b" " * size)
    with connect(address) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        with suppress(OSError):
            for _ in range(0, count, 1000):
                connection.sendall(chunk * 1000)
            connection.sendall(b"0\r\n\r\n")
        return said(connection)


@pytest.mark.fault("A6")
def test_bodies_without_measure_do_not_lie_in_memory(running: Running) -> None:
    with httpx.Client(base_url=running.address, headers={"Content-Type": "application/json"}) as client:
        assert client.post("/v1/score", content=b" " * 199_000).status_code == 400
        before = running.memory("VmHWM")
        assert client.post("/v1/score", content=b" " * 20_000_000).status_code == 413
        bomb = gzip.compress(b" " * 50_000_000)
        assert client.post("/v1/score", content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 415
    assert in_chunks(running.address, 1, 70_000).startswith(b"HTTP/1.1 400 ")
    assert in_chunks(running.address, 1, 400_000)[:13] in (b"HTTP/1.1 413 ", b"")  # or the reset is seen first
    assert in_chunks(running.address, 10_000, 2_000)[:13] in (b"HTTP/1.1 413 ", b"")
    assert running.memory("VmHWM") - before < 10


def ask(client: httpx.Client, times: int) -> None:
    for _ in range(times):
        assert client.post("/v1/score", json=USERS).status_code == 200


def reload(running: Running, client: httpx.Client, times: int) -> None:
    for number in range(times):
        running.site.promote(seed=2 + number % 2, version=str(2 + number % 2))
        assert eventually(lambda number=number: version_of(client) == str(2 + number % 2))  # type: ignore[misc]


def version_of(client: httpx.Client) -> str:
    return str(client.get("/v1/model").json()["version"])


@pytest.mark.fault("R3")
def test_memory_grows_neither_with_requests_nor_with_reloads(running: Running) -> None:
    with httpx.Client(base_url=running.address) as client:
        ask(client, 200)
        reload(running, client, 3)
        before = running.memory("VmRSS")
        ask(client, 1000)
        reload(running, client, 8)
        ask(client, 100)
    assert running.memory("VmRSS") - before < 8


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("R4")
def test_without_file_descriptors_nothing_spins_and_all_is_well_once_some_are_free(running: Running) -> None:
    limit = running.open_files() + 10
    before = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        with ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(connect(running.address))
            assert eventually(lambda: running.open_files() >= limit - 1)
            used = running.processor_seconds()
            time.sleep(1.5)
            assert running.processor_seconds() - used < 0.5
            assert running.process.poll() is None
        assert eventually(lambda: answers(running.address), seconds=5)
    finally:
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, before)
    assert [httpx.post(f"{running.address}/v1/score", json=USERS).status_code for _ in range(5)] == [200] * 5
    told = (running.site.home / "program.log").read_text()
    assert "Traceback" not in told, told


def answers(address: str) -> bool:
    try:
        return httpx.post(f"{address}/v1/score", json=USERS, timeout=1).status_code == 200
    except httpx.TransportError:
        return False


# -- time ------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """The time of one process: a file that libfaketime reads."""

    path: Path

    def set(self, moment: datetime) -> None:
        self.path.write_text(f"{int((moment - datetime.now(UTC)).total_seconds()):+d}\n")


@contextmanager
def service_in_2011(site: Site, clock: Clock) -> Iterator[str]:
    clock.set(NOW)
    settings = [f"LD_PRELOAD={faketime_library()}", f"FAKETIME_TIMESTAMP_FILE={clock.path}"]
    env = ["env", *settings, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]
    factory = "tests.serving.program:create_by_the_systems_clock"
    with program(site, "-m", "uvicorn", "--factory", factory, "--log-level", "error", "--port", before=env) as (_, at):
        yield at


def score(client: httpx.Client, key: str = "") -> httpx.Response:
    return client.post("/v1/score", json=USERS, headers={"Idempotency-Key": key} if key else {})


@pytest.mark.fault("R8")
def test_an_hour_forward_and_back_change_no_answer_expire_nothing_and_stop_no_promotion(
    served: Site, tmp_path: Path
) -> None:
    """A clock that is faked at each look makes the process slow, so that its times are no figures."""
    clock = Clock(tmp_path / "clock")
    with service_in_2011(served, clock) as address, httpx.Client(base_url=address, timeout=20) as client:
        first = score(client, "before-the-jump")
        answers = [first.json()["predictions"]]
        for hours in (1, -1):
            clock.set(NOW + timedelta(hours=hours))
            answers.append(score(client).json()["predictions"])
            assert score(client, "before-the-jump").content == first.content, "its ten minutes are not over"
            assert client.get("/readyz").status_code == 200
        assert answers == answers[:1] * 3
        served.promote(seed=2, version="2")
        assert eventually(lambda: version_of(client) == "2", seconds=20)
    logged = [round((row["predicted_at"] - NOW).total_seconds() / 3600) for row in served.log()]
    assert sorted(logged) == [-1, -1, 0, 0, 1, 1]
