"""Reasons on request: they add up to the log-odds of the very probability beside them, and cost nothing unasked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from churn.domain.reasons import ReasonCode
from serving import examples
from serving.dependencies import Limits
from tests.models import HORIZON_DAYS
from tests.serving.conftest import KNOWN, Site, make_site
from tests.serving.test_scoring import as_vector


def adds_up(item: dict[str, Any]) -> bool:
    why, probability = item["explanation"], item["churn_probability"]
    total = why["base_margin"] + sum(reason["contribution"] for reason in why["reasons"])
    log_odds = math.log(probability / (1 - probability))
    return abs(total - why["margin"]) <= 1e-9 and abs(why["margin"] - log_odds) <= 1e-9


def test_reasons_of_users_add_up_to_the_log_odds_of_their_probabilities(client: httpx.Client) -> None:
    users = list(range(1, KNOWN + 1))
    answer = client.post("/v1/score", json={"user_ids": users, "explain": True})
    predictions = answer.json()["predictions"]
    scored = [each for each in predictions if each["status"] == "ok"]
    assert (answer.status_code, len(predictions)) == (200, KNOWN)
    assert len(scored) > 40
    for each in scored:
        assert adds_up(each)
        assert {reason["code"] for reason in each["explanation"]["reasons"]} == {code.value for code in ReasonCode}


def test_a_user_by_path_and_a_vector_get_the_reasons_of_the_batch(served: Site, client: httpx.Client) -> None:
    (by_id,) = client.post("/v1/score", json={"user_ids": [9], "explain": True}).json()["predictions"]
    by_path = client.get("/v1/users/9/score?explain=true").json()
    vectors = {"vectors": [as_vector(served.online.rows[9].vector)], "explain": True}
    (by_vector,) = client.post("/v1/score/features", json=vectors).json()["predictions"]
    assert by_id["explanation"] == by_path["explanation"] == by_vector["explanation"]
    assert by_id["explanation"]["reasons"][0]["code"] == "recency"


def test_a_text_tells_the_users_own_values(served: Site, client: httpx.Client) -> None:
    served.online.change(9, days_since_last_order=41.0, days_since_last_activity=41.0, mean_gap_days=12.0)
    reasons = client.get("/v1/users/9/score?explain=true").json()["explanation"]["reasons"]
    texts = {reason["code"]: reason["text"] for reason in reasons}
    assert texts["recency"] == "no order for 41 days; usual gap 12"


def test_reasons_change_nothing_else_in_the_answer_or_the_log(served: Site, client: httpx.Client) -> None:
    asked: dict[str, Any] = {"user_ids": [1, 2, 404]}
    plain = client.post("/v1/score", json=asked).json()["predictions"]
    explained = client.post("/v1/score", json={**asked, "explain": True}).json()["predictions"]
    assert plain == client.post("/v1/score", json={**asked, "explain": False}).json()["predictions"]
    assert plain == [{name: value for name, value in each.items() if name != "explanation"} for each in explained]
    unasked, asked_for = served.log()[:3], served.log()[3:6]
    varying = {"request_id", "latency_ms", "flags"}
    assert [each["flags"] for each in (*unasked, *asked_for)] == 3 * [""] + 3 * ["explained"]
    for before, after in zip(unasked, asked_for, strict=True):
        assert repr({**before, **dict.fromkeys(varying)}) == repr({**after, **dict.fromkeys(varying)})


def test_who_has_no_probability_has_no_explanation(served: Site, client: httpx.Client) -> None:
    served.online.change(2, days_since_last_activity=HORIZON_DAYS + 1)
    answer = client.post("/v1/score", json={"user_ids": [1, 2, 404], "explain": True})
    predictions = answer.json()["predictions"]
    assert [each["status"] for each in predictions] == ["ok", "not_eligible", "not_found"]
    assert ["explanation" in each for each in predictions] == [True, False, False]
    assert client.get("/v1/users/404/score?explain=true").status_code == 404


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A deployment that explains at most three items."""
    site = make_site(tmp_path_factory.mktemp("few"))
    site.promote()
    with site.client(limits=replace(Limits(), batch=5, explained=3)) as client:
        yield client


@pytest.mark.parametrize(("count", "explain", "status"), [(3, True, 200), (4, True, 422), (4, False, 200)])
def test_a_batch_with_reasons_is_smaller(few: httpx.Client, count: int, explain: bool, status: int) -> None:
    answer = few.post("/v1/score", json={"user_ids": [1] * count, "explain": explain})
    assert answer.status_code == status
    if status == 422:
        assert answer.json()["detail"] == "user_ids: at most 3 items in one request with explain"


@pytest.mark.parametrize("value", [1, 0, "true", None, [True], 1.0])
def test_explain_in_a_body_is_true_or_false(few: httpx.Client, value: Any) -> None:
    answer = few.post("/v1/score", json={"user_ids": [1], "explain": value})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith("explain: ")


@pytest.mark.parametrize("query", ["1", "", "True", "yes", "true&explain=true", "true&explain=false", "%00"])
def test_explain_in_a_query_is_true_or_false_once(few: httpx.Client, query: str) -> None:
    answer = few.get(f"/v1/users/1/score?explain={query}")
    assert (answer.status_code, answer.json()["detail"]) == (422, "explain: must be true or false, once")


def test_explain_false_in_a_query_is_as_none(few: httpx.Client) -> None:
    without, unasked = few.get("/v1/users/1/score?explain=false").json(), few.get("/v1/users/1/score").json()
    assert "explanation" not in without
    assert without.keys() == unasked.keys()


def test_the_example_adds_up() -> None:
    assert adds_up(examples.USERS_SCORED["predictions"][0])
