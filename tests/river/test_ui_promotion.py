"""One click on an alias in the MLflow UI, by a real browser: a judged version is served, and no other one."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
import pytest
from playwright.sync_api import Page

from churn.domain.ledger import Kind
from churn.stores.ledger import Ledger
from tests.river.conftest import SECONDS_TO_SERVE, River, ask, move_champion_in_the_ui, succeeded, wait_for_version


@contextmanager
def asking(address: str, user_ids: list[int]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Asks the service without pause in the background; gives the list that fills with its answers."""
    answers: list[tuple[int, dict[str, Any]]] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            answers.append(ask(f"{address}/v1/score", {"user_ids": user_ids}))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def client(river: River) -> Iterator[mlflow.MlflowClient]:
    """A client of the river's registry; the alias champion is put back afterwards."""
    made = mlflow.MlflowClient(river.tracking_uri, river.tracking_uri)
    before = made.get_model_version_by_alias("churn_prediction", "champion").version
    yield made
    made.set_registered_model_alias("churn_prediction", "champion", before)


def champion_and_challenger(river: River, client: mlflow.MlflowClient) -> tuple[str, str]:
    """The champion's version, and that of a new one, trained alike but not judged."""
    succeeded(river.churn("train", "--n-estimators", "20"))
    return tuple(
        client.get_model_version_by_alias("churn_prediction", alias).version for alias in ("champion", "challenger")
    )  # type: ignore[return-value]


@pytest.mark.fault("L7")
def test_an_alias_moved_in_the_ui_is_served_within_five_seconds_and_no_request_fails(
    river: River, client: mlflow.MlflowClient, page: Page
) -> None:
    before, after = champion_and_challenger(river, client)
    done = succeeded(river.churn("promote", "--judge-only"))
    assert f"version {after} passed; set its alias champion to serve it" in done.stdout
    with river.service() as address, asking(address, [1, 2, 3]) as answers:
        wait_for_version(address, before)
        move_champion_in_the_ui(page, river.tracking_uri, after)
        seconds = wait_for_version(address, after)
    assert seconds < SECONDS_TO_SERVE
    assert {status for status, _ in answers} == {200}
    assert [answer["model"]["version"] for _, answer in answers][-1] == after
    assert {answer["model"]["version"] for _, answer in answers} == {before, after}


@pytest.mark.fault("M3")
def test_a_version_without_a_verdict_that_is_set_in_the_ui_stays_out_until_it_is_judged(
    river: River, client: mlflow.MlflowClient, page: Page
) -> None:
    before, after = champion_and_challenger(river, client)
    with river.service() as address, asking(address, [1, 2, 3]) as answers:
        wait_for_version(address, before)
        move_champion_in_the_ui(page, river.tracking_uri, after)
        refused = wait_for_refusal(address)
        assert refused == {"version": after, "reason": "no_verdict", "found": "it carries no verdict"}
        assert 'churn_champion_refused{reason="no_verdict"} 1.0' in metrics(address)
        assert ask(f"{address}/v1/model")[1]["version"] == before
        done = river.churn("score")
        assert (done.returncode, f"the champion, version {after}, must not serve" in done.stderr) == (5, True)

        succeeded(river.churn("promote", "--judge-only", "--version", after))
        assert wait_for_version(address, after) < SECONDS_TO_SERVE
        assert ask(f"{address}/v1/model")[1]["staging"]["refused"] is None
    assert {status for status, _ in answers} == {200}
    entries = Ledger(river.home / "ledger.jsonl").read().entries
    told = [entry.kind for entry in entries if entry.facts.get("version") == after]
    assert told == [Kind.ALIAS_SEEN, Kind.REFUSED, Kind.VERDICT, Kind.TOOK_UP]


def wait_for_refusal(address: str) -> dict[str, Any]:
    """What the service says of a champion that it refuses."""
    started = time.monotonic()
    while (refused := ask(f"{address}/v1/model")[1]["staging"]["refused"]) is None:
        assert time.monotonic() - started < 3 * SECONDS_TO_SERVE, "the service did not refuse the champion"
        time.sleep(0.05)
    return dict(refused)


def metrics(address: str) -> str:
    with urllib.request.urlopen(f"{address}/metrics", timeout=20) as answer:
        return str(answer.read().decode())
