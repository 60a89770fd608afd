"""What the service answers when all is well, and what it says of users it cannot score."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from churn.domain.predictions import risk_segment
from churn.domain.schema import FEATURE_NAMES, FEATURES
from serving import openapi
from tests.models import HORIZON_DAYS, calibrated_forest, random_vectors, served_model
from tests.serving.conftest import CUTOFF, KNOWN, NOW, Site


def expected_probability(site: Site, user_id: int) -> float:
    return float(calibrated_forest().predict_proba(np.array([site.online.rows[user_id].vector]))[0, 1])


def as_vector(row: Any) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in zip(FEATURE_NAMES, row, strict=True)}


def test_a_known_user_gets_scikit_learns_probability_unrounded(served: Site, client: httpx.Client) -> None:
    answer = client.post("/v1/score", json={"user_ids": [7]}, headers={"X-Request-ID": "my-id.1"})
    probability = expected_probability(served, 7)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["X-Request-ID"] == "my-id.1"
    assert answer.json() == {
        "request_id": "my-id.1",
        "model": {"name": "churn_prediction", "version": "1"},
        "feature_service": "churn_v1",
        "predictions": [
            {
                "user_id": 7,
                "status": "ok",
                "churn_probability": probability,
                "risk_segment": risk_segment(probability),
                "features_as_of": "2011-10-10T00:00:00Z",
            }
        ],
    }


@pytest.mark.fault("P7")
def test_what_was_answered_can_be_computed_again_from_its_record_bit_by_bit(served: Site, client: httpx.Client) -> None:
    told = client.post("/v1/score", json={"user_ids": list(range(1, 21))}).json()["predictions"]
    scored = [(row, item) for row, item in zip(served.log(), told, strict=True) if item["status"] == "ok"]
    assert len(scored) > 5
    for row, item in scored:
        model = served_model(1, row["model_version"])
        again = model.predict(np.array([[row[name] for name in model.features]]))[0]
        assert (row["user_id"], again, row["model_digest"]) == (
            item["user_id"],
            item["churn_probability"],
            model.digest,
        )


@pytest.mark.fault("P7")
def test_every_answered_item_is_in_the_prediction_log(served: Site, client: httpx.Client) -> None:
    served.online.change(2, days_since_last_activity=HORIZON_DAYS + 1)
    answer = client.post("/v1/score", json={"user_ids": [1, 2, 999]}).json()
    records = served.log()
    assert [(r["user_id"], r["status"], r["source"]) for r in records] == [
        (1, "ok", "id"),
        (2, "not_eligible", "id"),
        (999, "not_found", "id"),
    ]
    first = records[0]
    assert first["churn_probability"] == answer["predictions"][0]["churn_probability"]
    assert {r["request_id"] for r in records} == {answer["request_id"]}
    assert (first["model_version"], first["model_digest"]) == ("1", served_model().digest)
    assert (first["predicted_at"], first["features_as_of"]) == (NOW, CUTOFF)
    assert first["latency_ms"] > 0
    assert math.isnan(records[2]["churn_probability"])
    logged = np.array([first[name] for name in FEATURE_NAMES])
    assert np.array_equal(logged, np.array(served.online.rows[1].vector), equal_nan=True)


@pytest.mark.fault("A8", "F7", "F8", "F9")
def test_one_user_who_cannot_be_scored_never_fails_the_others(served: Site, client: httpx.Client) -> None:
    old = served.online.rows[3]
    served.online.rows[3] = replace(old, as_of=NOW - timedelta(days=31, seconds=1))
    served.online.change(4, total_orders=float("inf"))
    served.online.change(5, total_orders=float("nan"))
    served.online.change(6, refund_share=1.5)
    served.online.change(7, days_since_last_activity=float("nan"))
    served.online.change(8, total_spent=1e39)
    answer = client.post("/v1/score", json={"user_ids": [1, 2_000, 3, 4, 5, 6, 7, 8]})
    assert answer.status_code == 200
    by_user = {each["user_id"]: each for each in answer.json()["predictions"]}
    assert {user: each["status"] for user, each in by_user.items()} == {
        1: "ok",
        2_000: "not_found",
        3: "stale",
        4: "invalid_features",
        5: "invalid_features",
        6: "invalid_features",
        7: "not_eligible",
        8: "invalid_features",
    }
    for user, each in by_user.items():
        if user != 1:
            assert (each["churn_probability"], each["risk_segment"]) == (None, None)
            assert each["reason"]


@pytest.mark.fault("F8")
def test_features_exactly_at_the_age_limit_are_fresh(served: Site, client: httpx.Client) -> None:
    served.online.rows[3] = replace(served.online.rows[3], as_of=NOW - timedelta(days=31))
    assert client.get("/v1/users/3/score").json()["status"] == "ok"


@pytest.mark.fault("A8")
def test_order_and_duplicates_are_kept(served: Site, client: httpx.Client) -> None:
    asked = [5, 1, 5, 777, 1, 5]
    answer = client.post("/v1/score", json={"user_ids": asked}).json()
    assert [each["user_id"] for each in answer["predictions"]] == asked
    assert len(served.log()) == len(asked)


def test_a_batch_scores_as_its_users_do_one_by_one(served: Site, client: httpx.Client) -> None:
    users = list(range(1, KNOWN + 1))
    batch = client.post("/v1/score", json={"user_ids": users}).json()["predictions"]
    single = [client.get(f"/v1/users/{user}/score").json()["churn_probability"] for user in users]
    assert [each["churn_probability"] for each in batch] == single


def test_one_user_by_path(served: Site, client: httpx.Client) -> None:
    answer = client.get("/v1/users/9/score")
    body = answer.json()
    assert body == {
        "request_id": answer.headers["X-Request-ID"],
        "model": {"name": "churn_prediction", "version": "1"},
        "feature_service": "churn_v1",
        "user_id": 9,
        "status": "ok",
        "churn_probability": expected_probability(served, 9),
        "risk_segment": risk_segment(expected_probability(served, 9)),
        "features_as_of": "2011-10-10T00:00:00Z",
    }


@pytest.mark.fault("F7")
def test_an_unknown_user_by_path_is_404_and_logged(served: Site, client: httpx.Client) -> None:
    answer = client.get("/v1/users/12345/score")
    assert (answer.status_code, answer.json()["code"]) == (404, "user_not_found")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "12345" not in answer.text
    assert [(r["user_id"], r["status"]) for r in served.log()] == [(12345, "not_found")]


def test_vectors_score_as_users_with_the_same_features_do(served: Site, client: httpx.Client) -> None:
    vectors = [as_vector(served.online.rows[user].vector) for user in (1, 2, 3)]
    answer = client.post("/v1/score/features", json={"vectors": vectors})
    by_id = client.post("/v1/score", json={"user_ids": [1, 2, 3]}).json()["predictions"]
    predictions = answer.json()["predictions"]
    assert [each["churn_probability"] for each in predictions] == [each["churn_probability"] for each in by_id]
    assert set(predictions[0]) == {"status", "churn_probability", "risk_segment"}
    assert [r["source"] for r in served.log()] == ["vector"] * 3 + ["id"] * 3
    assert served.log()[0]["user_id"] is None


def test_the_order_of_names_in_a_vector_does_not_matter(client: httpx.Client) -> None:
    vector = as_vector(random_vectors(1, seed=4)[0])
    backwards = dict(reversed(vector.items()))
    answer = client.post("/v1/score/features", json={"vectors": [vector, backwards]}).json()["predictions"]
    assert answer[0] == answer[1]


@pytest.mark.fault("F9")
def test_a_vector_out_of_range_is_an_item_of_its_own(client: httpx.Client) -> None:
    good = as_vector(random_vectors(1, seed=4)[0])
    bad = {**good, "refund_share": 1.01}
    answer = client.post("/v1/score/features", json={"vectors": [bad, good, {**good, "total_spent": 1e39}]})
    assert [each["status"] for each in answer.json()["predictions"]] == ["invalid_features", "ok", "invalid_features"]


@pytest.mark.parametrize("feature", [feature.name for feature in FEATURES if feature.nullable])
def test_null_is_allowed_where_the_schema_gives_it_a_meaning(feature: str, shared: httpx.Client) -> None:
    vector = {**as_vector(random_vectors(1, seed=4)[0]), feature: None}
    assert shared.post("/v1/score/features", json={"vectors": [vector]}).status_code == 200


def test_users_with_string_ids(served: Site) -> None:
    with served.client(user_id_type="string") as client:
        answer = client.post("/v1/score", json={"user_ids": ["u7", "ÄÖ 中文-1", "7"]}).json()
        assert [(each["user_id"], each["status"]) for each in answer["predictions"]] == [
            ("u7", "ok"),
            ("ÄÖ 中文-1", "not_found"),
            ("7", "not_found"),
        ]
        assert client.get("/v1/users/u7/score").json()["user_id"] == "u7"
        assert client.get("/v1/users/%C3%84%20b/score").status_code == 404
    assert [r["user_id"] for r in served.log()] == ["u7", "ÄÖ 中文-1", "7", "u7", "Ä b"]


def test_the_model_in_service_is_told(served: Site, client: httpx.Client) -> None:
    body = client.get("/v1/model").json()
    assert {name: body[name] for name in ("name", "version", "digest", "feature_service", "horizon_days")} == {
        "name": "churn_prediction",
        "version": "1",
        "digest": served_model().digest,
        "feature_service": "churn_v1",
        "horizon_days": HORIZON_DAYS,
    }
    assert body["features"] == list(FEATURE_NAMES)
    assert body["loaded_at"].endswith("Z")
    assert (body["staging"]["status"], body["aliases"]) == ("unknown", [])


def test_healthy_and_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "model_version": "1", "degraded": []}


@pytest.mark.fault("S11")
def test_metrics_count_answers_without_naming_users(client: httpx.Client) -> None:
    client.post("/v1/score", json={"user_ids": [1, 2, 987654321]})
    client.get("/v1/users/1/score")
    client.get("/v1/users/987654321/score")
    client.get("/987654321")
    text = client.get("/metrics").text
    assert 'churn_predictions_total{status="ok"} 3.0' in text
    assert 'churn_predictions_total{status="not_found"} 2.0' in text
    assert 'churn_request_seconds_count{route="/v1/users/{user_id}/score",status="404"} 1.0' in text
    assert 'churn_request_seconds_count{route="unmatched",status="404"} 1.0' in text
    assert f'churn_model_info{{digest="{served_model().digest}",version="1"}} 1.0' in text
    assert "987654321" not in text


def test_the_served_description_is_the_committed_one(served: Site) -> None:
    with served.client(webhook_secret=SecretStr("s" * 32)) as client:  # else there is no route for webhooks
        assert client.get("/openapi.json").json() == json.loads(openapi.PATH.read_text())
