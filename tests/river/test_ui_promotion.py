"""One click on an alias in the MLflow UI, by a real browser, and the service answers with the new version."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
from playwright.sync_api import Page, expect

from tests.river.conftest import River, ask, succeeded

SECONDS = 5.0


def move_champion_in_the_ui(page: Page, tracking_uri: str, version: str) -> None:
    """What a person does: open the model, edit the aliases of a version, type champion, save."""
    page.goto(f"{tracking_uri}/#/models/churn_prediction")
    row = page.get_by_role("row").filter(has_text=f"Version {version}")
    row.locator("[data-component-id*='modelversiontablealiasescell']").last.click()
    dialog = page.get_by_role("dialog").last
    dialog.get_by_role("combobox").click()
    dialog.get_by_role("combobox").type("champion")
    dialog.get_by_role("combobox").press("Enter")
    with page.expect_response(lambda response: "registered-models/alias" in response.url) as saved:
        dialog.get_by_role("button", name="Save aliases").click()
    assert saved.value.ok
    expect(dialog).not_to_be_visible()


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


def wait_for_version(address: str, version: str) -> float:
    """Seconds until the service says it serves `version`."""
    started = time.monotonic()
    while ask(f"{address}/v1/model")[1].get("version") != version:
        assert time.monotonic() - started < 3 * SECONDS, "the service did not take the champion up"
        time.sleep(0.05)
    return time.monotonic() - started


def test_an_alias_moved_in_the_ui_is_served_within_five_seconds_and_no_request_fails(river: River, page: Page) -> None:
    client = mlflow.MlflowClient(river.tracking_uri, river.tracking_uri)
    before = client.get_model_version_by_alias("churn_prediction", "champion").version
    succeeded(river.churn("train", "--n-estimators", "10", "--random-state", "1"))
    after = client.get_model_version_by_alias("churn_prediction", "challenger").version
    try:
        with river.service() as address, asking(address, [1, 2, 3]) as answers:
            wait_for_version(address, before)
            move_champion_in_the_ui(page, river.tracking_uri, after)
            seconds = wait_for_version(address, after)
        assert seconds < SECONDS
        assert {status for status, _ in answers} == {200}
        assert [answer["model"]["version"] for _, answer in answers][-1] == after
        assert {answer["model"]["version"] for _, answer in answers} == {before, after}
    finally:
        client.set_registered_model_alias("churn_prediction", "champion", before)
