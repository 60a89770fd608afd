"""A signed webhook of MLflow's makes the side process look now; anything else is refused and does nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from pydantic import SecretStr

from churn.jobs.stage import StageOutcome, run
from serving import webhooks
from tests.memory import following
from tests.serving.conftest import Site, eventually
from tests.serving.test_bad_input import check_problem

SECRET = "a webhook's secret, of the tests alone"
PATH = "/v1/webhooks/mlflow"
BODY = (
    '{"entity": "model_version_alias", "action": "created", "data": {"name": "churn_prediction", "alias": "champion"}}'
)


@pytest.fixture
def hooked(served: Site) -> Iterator[httpx.Client]:
    with served.client(webhook_secret=SecretStr(SECRET)) as client:
        yield client


def headers(body: str = BODY, *, secret: str = SECRET, age: float = 0, delivery: str = "d-1") -> dict[str, str]:
    """As MLflow sends them; its own function signs."""
    at = str(int(time.time() - age))
    signature = _generate_hmac_signature(secret, delivery, at, body)
    return {webhooks.DELIVERY: delivery, webhooks.TIMESTAMP: at, webhooks.SIGNATURE: signature}


@contextmanager
def side_process(site: Site, poll_seconds: float = 60.0) -> Iterator[list[StageOutcome]]:
    """The loop of the side process, in a thread; the list fills with what it tells."""
    told: list[StageOutcome] = []
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(following(site.registry, site.cache), poll_seconds, stop, told.append))
    thread.start()
    try:
        assert eventually(lambda: bool(told))
        yield told
    finally:
        stop.set()
        thread.join()


def in_service(client: httpx.Client) -> str:
    return str(client.get("/v1/model").json()["version"])


# -- a genuine call --------------------------------------------------------------------------------------------


def test_a_webhook_signed_as_mlflow_signs_brings_the_champion_in_long_before_the_poll(
    served: Site, hooked: httpx.Client
) -> None:
    with side_process(served):
        served.registry.promote(2, "2")
        time.sleep(0.5)
        assert in_service(hooked) == "1", "nobody has looked yet"
        answer = hooked.post(PATH, content=BODY, headers=headers())
        assert (answer.status_code, answer.json()) == (200, {"status": "taken"})
        assert eventually(lambda: in_service(hooked) == "2", seconds=2)


def test_mlflows_own_server_sends_such_a_webhook_when_an_alias_moves(
    served: Site, hooked: httpx.Client, mlflow_uri: str
) -> None:
    name = {"name": "webhook_test"}
    with httpx.Client(base_url=f"{mlflow_uri}/api/2.0/mlflow/", timeout=30) as registry, side_process(served):
        registry.post("registered-models/create", json=name).raise_for_status()
        run_info = registry.post("runs/create", json={"experiment_id": "0"}).json()["run"]["info"]
        source = {"source": f"{run_info['artifact_uri']}/model", "run_id": run_info["run_id"]}
        registry.post("model-versions/create", json={**name, **source}).raise_for_status()
        alias_created = {"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}
        hook = {"url": f"{hooked.base_url}{PATH}", "events": [alias_created], "secret": SECRET}
        made = registry.post("webhooks", json={**name, **hook}).json()["webhook"]

        served.registry.promote(2, "2")
        alias = {"alias": "champion", "version": "1"}
        registry.post("registered-models/alias", json={**name, **alias}).raise_for_status()
        assert eventually(lambda: in_service(hooked) == "2", seconds=5)

        test = registry.post(f"webhooks/{made['webhook_id']}/test", json={}).json()["result"]
        assert (test["success"], test["response_status"]) == (True, 200)
        registry.delete(f"webhooks/{made['webhook_id']}").raise_for_status()


def test_a_webhook_that_comes_while_the_side_process_looks_gets_a_look_of_its_own(served: Site) -> None:
    asked: list[float] = []
    champion = served.registry.champion

    def slow_champion() -> object:
        asked.append(time.monotonic())
        if len(asked) == 1:
            served.cache.wake()
        return champion()

    served.registry.champion = slow_champion  # type: ignore[method-assign, assignment]
    with side_process(served):
        assert eventually(lambda: len(asked) == 2, seconds=2)
        time.sleep(0.5)
    assert len(asked) == 2, "one call, one look"


def test_the_same_call_again_is_harmless(served: Site, hooked: httpx.Client) -> None:
    before, once = served.cache.champion(), headers()
    with side_process(served) as told:
        for _ in range(20):
            assert hooked.post(PATH, content=BODY, headers=once).status_code == 200
        assert len(told) == 1, "nothing is news"
    assert served.cache.champion() == before
    assert served.registry.fetches == 1


# -- anything else ---------------------------------------------------------------------------------------------

WRONG = {
    "no signature": {webhooks.SIGNATURE: None},
    "another secret": {webhooks.SIGNATURE: headers(secret="x" * 32)[webhooks.SIGNATURE]},
    "another version of the scheme": {webhooks.SIGNATURE: "v2,AAAA"},
    "no base64 at all": {webhooks.SIGNATURE: "v1,é".encode("latin-1")},
    "another body": {webhooks.SIGNATURE: headers("{}")[webhooks.SIGNATURE]},
    "another delivery": {webhooks.DELIVERY: "d-2"},
    "no delivery": {webhooks.DELIVERY: None},
    "parts that could be joined in two ways": headers(delivery="d.1"),
    "no time": {webhooks.TIMESTAMP: None},
    "a time that is none": {webhooks.TIMESTAMP: "soon"},
    "a time in other digits": {webhooks.TIMESTAMP: "١٢٣".encode()},
}


@pytest.mark.fault("S7")
@pytest.mark.parametrize("case", WRONG)
def test_a_call_that_is_not_genuine_is_refused_and_wakes_nobody(case: str, served: Site, hooked: httpx.Client) -> None:
    given = {name: value for name, value in {**headers(), **WRONG[case]}.items() if value is not None}
    check_problem(hooked.post(PATH, content=BODY, headers=given), 403, "webhook_refused")
    assert served.cache.woken() == 0


@pytest.mark.parametrize(("age", "status"), [(290, 200), (310, 403), (-290, 200), (-310, 403)])
def test_a_call_holds_for_five_minutes(age: float, status: int, hooked: httpx.Client) -> None:
    assert hooked.post(PATH, content=BODY, headers=headers(age=age)).status_code == status


def test_two_signatures_are_refused(served: Site, hooked: httpx.Client) -> None:
    twice = [*headers().items(), (webhooks.SIGNATURE, "v1,AAAA")]
    check_problem(hooked.post(PATH, content=BODY, headers=twice), 403, "webhook_refused")


def test_no_more_of_a_body_is_read_than_a_webhook_needs(served: Site, hooked: httpx.Client) -> None:
    body = "x" * (webhooks.BODY_BYTES + 1)
    check_problem(hooked.post(PATH, content=body, headers=headers(body)), 413, "body_too_large")
    assert served.cache.woken() == 0


def test_without_a_secret_there_is_no_such_route(client: httpx.Client) -> None:
    check_problem(client.post(PATH, content=BODY, headers=headers(secret="")), 404, "no_such_route")


def test_a_disk_that_takes_nothing_is_told_so_that_mlflow_tries_again(served: Site, hooked: httpx.Client) -> None:
    (served.home / "cache").rename(served.home / "cache-away")
    (served.home / "cache").write_text("no folder")
    answer = hooked.post(PATH, content=BODY, headers=headers())
    check_problem(answer, 503, "webhook_not_passed_on")
    assert answer.headers["Retry-After"] == "1"
