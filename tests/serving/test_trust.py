"""What the service tells of who may serve, and what it writes down of who did."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime

import httpx
import pytest

from churn.domain.artifacts import Refusal, StagingStatus
from churn.domain.ledger import Entry
from churn.stores.ledger import Ledger
from tests.serving.conftest import Site, eventually
from tests.serving.test_processes import uvicorn

USERS = {"user_ids": [1]}


def entries(site: Site) -> list[Entry]:
    history = Ledger(site.home / "ledger.jsonl").read()
    assert (history.torn, history.breaks) == (0, ())
    return list(history.entries)


def told(site: Site) -> list[tuple[str, str]]:
    return [(entry.kind.value, entry.facts.get("version", "")) for entry in entries(site)]


# -- a refused champion ----------------------------------------------------------------------------------------


def refused_status(refusal: Refusal | None) -> StagingStatus:
    now = datetime.now(UTC)
    return StagingStatus(now, now, champion_version="2", failing=refusal is not None, refused=refusal)


@pytest.mark.fault("M3")
def test_a_refused_champion_is_told_by_the_model_route_and_a_metric_until_it_is_gone(
    served: Site, client: httpx.Client
) -> None:
    served.cache.record_status(refused_status(Refusal("2", "no_verdict", "it carries no verdict")))
    metric = 'churn_champion_refused{reason="no_verdict"}'
    assert eventually(lambda: f"{metric} 1.0" in client.get("/metrics").text)
    body = client.get("/v1/model").json()
    assert (body["version"], body["aliases"]) == ("1", [])
    assert body["staging"]["refused"] == {"version": "2", "reason": "no_verdict", "found": "it carries no verdict"}
    assert client.post("/v1/score", json=USERS).json()["model"]["version"] == "1"
    served.cache.record_status(refused_status(None))
    assert eventually(lambda: client.get("/v1/model").json()["staging"]["refused"] is None)
    assert f"{metric} 0.0" in client.get("/metrics").text


@pytest.mark.fault("L9")
def test_a_rollback_is_served_without_a_restart_and_the_held_version_is_told(
    served: Site, client: httpx.Client
) -> None:
    served.promote(seed=2, version="2")
    assert eventually(lambda: client.get("/v1/model").json()["version"] == "2")
    served.cache.roll_back()
    now = datetime.now(UTC)
    served.cache.record_status(StagingStatus(now, now, champion_version="2", held_version="2"))
    assert eventually(lambda: client.get("/v1/model").json()["version"] == "1")
    assert eventually(lambda: client.get("/v1/model").json()["staging"]["held_version"] == "2")


# -- the ledger ------------------------------------------------------------------------------------------------


@pytest.mark.fault("M1", "M5")
def test_each_take_up_and_the_end_are_in_the_ledger(served: Site) -> None:
    with served.client() as client:
        assert client.post("/v1/score", json=USERS).status_code == 200
        served.promote(seed=2, version="2")
        assert eventually(lambda: client.get("/v1/model").json()["version"] == "2")
    assert told(served) == [("took_up", "1"), ("took_up", "2"), ("service_stopped", "")]
    first, second, last = entries(served)
    assert first.facts["pid"] == os.getpid()
    assert first.facts["service"] == second.facts["service"] == last.facts["service"]
    assert second.facts["digest"] == served.registry.alias.digest  # type: ignore[union-attr]


def test_a_service_that_never_had_a_model_leaves_no_entry(site: Site) -> None:
    with site.client():
        pass
    assert told(site) == []


@pytest.mark.fault("M5")
def test_a_ledger_that_takes_nothing_hinders_no_answer_and_is_counted(served: Site) -> None:
    (served.home / "ledger.jsonl").mkdir()
    with served.client() as client:
        assert client.post("/v1/score", json=USERS).status_code == 200
        served.promote(seed=2, version="2")
        assert eventually(lambda: client.get("/v1/model").json()["version"] == "2")
        assert eventually(lambda: "churn_ledger_failures_total 3.0" in client.get("/metrics").text)


@pytest.mark.fault("M5")
@pytest.mark.parametrize(("how", "killed"), [(signal.SIGTERM, False), (signal.SIGKILL, True)])
def test_the_end_of_a_killed_service_is_written_down_by_the_next_one(
    how: signal.Signals, killed: bool, served: Site
) -> None:
    with uvicorn(served) as (process, _):  # type: ignore[attr-defined]
        process.send_signal(how)
        process.wait()
    stopped = [("took_up", "1"), ("service_stopped", "")]
    assert told(served) == stopped[: 1 if killed else 2]
    with uvicorn(served):  # type: ignore[attr-defined]
        assert told(served) == [*stopped, ("took_up", "1")]
    first, end, *_ = entries(served)
    assert end.facts["service"] == first.facts["service"]
    assert end.facts.get("killed", False) is killed


def test_a_service_that_lives_is_not_taken_for_a_killed_one(served: Site) -> None:
    with uvicorn(served), served.client():  # type: ignore[attr-defined]
        assert told(served) == [("took_up", "1"), ("took_up", "1")]
