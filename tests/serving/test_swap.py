"""Promotions under load: no failed request, and every answer is from one whole version."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.models import calibrated_forest
from tests.serving.conftest import Site, eventually

USERS = list(range(1, 11))


@pytest.mark.fault("L7")
def test_promotions_under_load_fail_no_request_and_mix_no_versions(served: Site) -> None:
    vectors = np.array([served.online.rows[user].vector for user in USERS])
    expected = {str(seed): calibrated_forest(seed).predict_proba(vectors)[:, 1].tolist() for seed in (1, 2, 3)}
    answers: list[dict[str, Any]] = []
    done = threading.Event()

    with served.client() as client:

        def load() -> None:
            with httpx.Client(base_url=client.base_url) as own:
                while not done.is_set():
                    answer = own.post("/v1/score", json={"user_ids": USERS})
                    assert answer.status_code == 200, answer.text
                    answers.append(answer.json())

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(load) for _ in range(4)]
            for seed in (2, 3, 1, 2, 3):
                served.promote(seed, str(seed))
                assert eventually(lambda seed=seed: client.get("/v1/model").json()["version"] == str(seed))  # type: ignore[misc]
            done.set()
            for each in running:
                each.result()

    assert len(answers) > 50
    assert {answer["model"]["version"] for answer in answers} == {"1", "2", "3"}
    for answer in answers:
        found = [each["churn_probability"] for each in answer["predictions"]]
        assert found == expected[answer["model"]["version"]]
    logged = {(record["request_id"], record["user_id"]) for record in served.log()}
    assert logged == {(answer["request_id"], user) for answer in answers for user in USERS}
