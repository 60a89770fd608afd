"""Ten times the load that can be carried: what can be answered still is, the rest is refused at once, probes pass."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from churn.domain.access import Scope
from churn.stores.api_keys import KeyFile
from serving.app import ROUTES
from tests.serving import open_loop
from tests.serving.conftest import Site
from tests.serving.open_loop import Outcome
from tests.serving.test_bad_input import check_problem
from tests.serving.test_processes import serve_command

# A refusal costs 0.05 to 0.1 ms, mostly the web server's. It has to be little beside an answer: what is ten times as
# much as one user's answers at 0.4 ms each cannot be refused by the process that gives them.
BATCH = 500
TIMES = 10
CLIENTS = 64  # as many as the service lets wait


def asked(users: int) -> dict[str, list[int]]:
    return {"user_ids": [1 + number % 50 for number in range(users)]}


@dataclass
class Phase:
    """What came of the requests of a phase, and the seconds of CPU that the service had meanwhile."""

    outcome: Outcome
    cpu_seconds: float

    @property
    def answers_per_cpu_second(self) -> float:
        """How much of what the service gets goes to answers, whatever else the machine does."""
        return self.outcome.rate(200) * self.outcome.seconds / self.cpu_seconds


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def phase(pid: int, load: Awaitable[Outcome]) -> Phase:
    before = cpu_seconds(pid)
    outcome = await load
    return Phase(outcome, cpu_seconds(pid) - before)


async def overload(pid: int, port: int, users: int) -> tuple[list[Phase], list[tuple[int, float]]]:
    """What it can carry, ten times that, and what it can carry right after; and the probes meanwhile."""
    request = open_loop.request_bytes("/v1/score", json.dumps(asked(users)).encode())
    await open_loop.closed_loop(port, request, clients=CLIENTS, seconds=0.5)
    before = await phase(pid, open_loop.closed_loop(port, request, clients=CLIENTS, seconds=1.5))
    flood = open_loop.open_loop(port, request, rate=TIMES * before.outcome.rate(200), seconds=2.5)
    flooded, probed = await asyncio.gather(
        phase(pid, flood), open_loop.probes(port, ["/healthz", "/readyz"], seconds=2.5)
    )
    after = await phase(pid, open_loop.closed_loop(port, request, clients=CLIENTS, seconds=1.5))
    return [before, flooded, after], probed


@pytest.mark.fault("R1", "R7")
def test_ten_times_the_load_leaves_the_work_done_and_refuses_the_rest_at_once(served: Site) -> None:
    """Rows R1 and R7. How soon depends on what else the machine does, generator included: benchmarks/overload.py
    tells that; how much of the service's own time is left for answers does not."""
    with serve_command(served, BATCH_LIMIT=str(BATCH)) as (process, _):
        phases, probed = asyncio.run(overload(process.pid, int(process.args[-1]), BATCH))  # type: ignore[index]
    capacity, flooded, after = (each.answers_per_cpu_second for each in phases)
    assert flooded >= 0.6 * capacity
    assert after >= 0.7 * capacity, "it is over at once"
    calm, flood, calm_again = (each.outcome for each in phases)
    assert [each.statuses() for each in (calm, flood, calm_again)] == [{200}, {200, 503}, {200}]
    assert flood.retry_after == sum(status == 503 for status, _ in flood.answers) > 0
    assert {status for status, _ in probed} == {200}
    answered = sum(status == 200 for each in phases for status, _ in each.outcome.answers)
    assert len(served.log()) >= BATCH * answered, "what was answered was logged"


# -- one refusal -----------------------------------------------------------------------------------------------


@pytest.fixture
def full(served: Site) -> Site:
    """A service that takes nothing on."""
    return replace(served, parts=replace(served.parts, limits=replace(served.parts.limits, pending=0)))


WAITING = [
    route for route in ROUTES if "overloaded" in route.problems and route.path.startswith(("/v1/s", "/v1/u", "/v2"))
]


def filled(path: str) -> str:
    return path.format(user_id="1", model="churn_prediction", version="1") if "{" in path else path


@pytest.mark.parametrize("route", WAITING, ids=lambda route: route.path)
def test_every_route_that_waits_for_a_worker_is_refused_with_the_whole_problem(route: object, full: Site) -> None:
    path = filled(route.path)  # type: ignore[attr-defined]
    with full.client() as client:
        answer = client.request(route.method, path, headers={"X-Request-ID": "mine"}, content=b"not even JSON")  # type: ignore[attr-defined]
        check_problem(answer, 503, "overloaded")
        assert (answer.headers["Retry-After"], answer.json()["request_id"]) == ("1", "mine")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        one, other = (client.request(route.method, path).json()["request_id"] for _ in range(2))  # type: ignore[attr-defined]
        assert one != other
        assert 'churn_request_seconds_count{route="shed",status="503"} 3.0' in client.get("/metrics").text


def test_a_refusal_waits_for_nothing(full: Site) -> None:
    """Row R1: within 50 ms, here of the quickest of twenty, for the machine may be busy."""
    seconds = []
    with full.client() as client:
        for _ in range(20):
            started = time.monotonic()
            check_problem(client.post("/v1/score", json=asked(1)), 503, "overloaded")
            seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.05


def test_what_waits_for_nobody_passes_a_full_service(full: Site) -> None:
    with full.client() as client:
        found = {path: client.get(path).status_code for path in ("/healthz", "/readyz", "/v1/model", "/v1/score/x")}
    assert found == {"/healthz": 200, "/readyz": 200, "/v1/model": 200, "/v1/score/x": 404}


def test_a_full_service_does_not_look_at_keys(full: Site) -> None:
    keys = KeyFile(full.home / "keys.json")
    keys.add("a", frozenset({Scope.SCORE}))
    with full.client(keys=keys) as client:
        check_problem(client.post("/v1/score", json=asked(1)), 503, "overloaded")
        check_problem(client.get("/v1/model"), 401, "unauthenticated")


def test_a_refused_body_is_not_taken_for_the_next_request(full: Site) -> None:
    with full.client() as client:
        for _ in range(3):
            check_problem(client.post("/v1/score", content=b"GET / HTTP/1.1\r\n\r\n" * 1000), 503, "overloaded")
            assert client.get("/healthz").status_code == 200
