"""Canaries: secrets and people are sent into a running service, and are found in nothing that it says of itself."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import httpx
import pytest
from pydantic import SecretStr

from churn.domain.access import Scope, key_digest
from churn.domain.predictions import FeatureRow, UserId
from churn.errors import Unavailable
from churn.stores.api_keys import KeyFile
from churn.stores.ledger import Ledger
from churn.stores.signing_key import read_or_make
from serving.errors import KINDS
from tests.serving.conftest import FakeOnline, Site

PERSON = "jane.canary@example.com"
UNKNOWN = "john.canary@example.com"
POISON = "poison.canary@example.com"
DOWN = "down.canary@example.com"
FROZEN = "frozen.canary@example.com"
TYPED = "typed-canary-password"
WEBHOOK_SECRET = "webhook-canary-of-32-characters-or-more"
CANARIES = ("canary", "jane.", "john.", "poison.")

# What needs a broken deployment to be answered; the routes and the texts are the same.
NOT_MET_HERE = {"request_timeout", "no_model", "prediction_log_unavailable", "overloaded", "webhook_not_passed_on"}


@dataclass
class TellTale(FakeOnline):
    """An online store that repeats ids in its errors, as clients of real stores do."""

    frozen_for: threading.Event = field(default_factory=threading.Event)

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        if POISON in user_ids:
            try:
                raise KeyError(POISON)
            except KeyError as error:
                raise RuntimeError(f"cannot decode the row of {POISON}") from error
        if DOWN in user_ids:
            raise Unavailable(f"no answer for {DOWN} at redis://:{TYPED}@store:6379")
        if FROZEN in user_ids:
            self.frozen_for.wait(20)
        return super().read(user_ids)


@dataclass
class Session:
    """A client with keys, and everything that it was told."""

    client: httpx.Client
    keys: dict[str, str]
    codes: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, key: str = "all", **more: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[key]}", "Cookie": TYPED, **more.pop("headers", {})}  # type: ignore[dict-item]
        answer = self.client.request(method, path, headers=headers, **more)  # type: ignore[arg-type]
        if answer.status_code >= 400:
            self.codes.add(answer.json()["code"])
            self.told.append(f"{answer.headers}\n{answer.text}")
        return answer


def all_kinds_of_requests(session: Session) -> None:
    ask = session.ask
    assert ask("POST", "/v1/score", json={"user_ids": [PERSON, UNKNOWN]}).status_code == 200
    assert ask("GET", f"/v1/users/{PERSON}/score", params={"explain": "true"}).status_code == 200
    ask("GET", f"/v1/users/{UNKNOWN}/score")
    ask("GET", f"/v1/users/{PERSON}/score", params={"explain": TYPED})
    ask("GET", f"/{PERSON}")
    ask("DELETE", f"/v1/users/{PERSON}/score")
    ask("POST", "/v1/score", json={"user_ids": [PERSON, 7], TYPED: PERSON})
    ask(
        "POST", "/v1/score", content=f'{{"user_ids": ["{PERSON}"'.encode(), headers={"Content-Type": "application/json"}
    )
    ask("POST", "/v1/score", content=PERSON.encode(), headers={"Content-Type": f"text/{TYPED}"})
    ask("POST", "/v1/score", content=PERSON.encode() * 10_000, headers={"Content-Type": "application/json"})
    ask("GET", "/v1/model", headers={"X-Long": TYPED * 1_000})
    ask("GET", "/v1/model", headers={"X-Request-ID": PERSON})
    for user in (POISON, DOWN, FROZEN):
        ask("GET", f"/v1/users/{user}/score")
        ask("POST", "/v1/score", json={"user_ids": [user]})
    ids = [{"name": "user_id", "datatype": "BYTES", "shape": [1], "data": [UNKNOWN]}]
    ask("POST", "/v2/models/churn_prediction/infer", json={"inputs": ids})
    ask("POST", f"/v2/models/{PERSON}/infer", json={"inputs": ids})
    for user in (PERSON, UNKNOWN):
        ask("POST", "/v1/score", json={"user_ids": [user]}, headers={"Idempotency-Key": TYPED})
    signed = {"X-MLflow-Delivery-Id": "1", "X-MLflow-Timestamp": str(int(time.time())), "X-MLflow-Signature": TYPED}
    ask("POST", "/v1/webhooks/mlflow", content=PERSON.encode(), headers=signed)
    for key in ("wrong", "revoked", "metrics", "slow", "slow"):
        ask("GET", f"/v1/users/{PERSON}/score", key)


@pytest.fixture
def keys(served: Site) -> dict[str, str]:
    """Keys by what they are good for; the service is not started yet."""
    file = KeyFile(served.home / "keys.json")
    scopes = frozenset({Scope.SCORE, Scope.METRICS})
    made = {
        "all": file.add("all", scopes),
        "metrics": file.add("watch", frozenset({Scope.METRICS})),
        "slow": file.add("slow", scopes, 0.001),
        "revoked": file.add("gone", scopes),
    }
    file.revoke("gone")
    return {**made, "wrong": "churn_" + TYPED}


@pytest.mark.fault("S10", "S11")
def test_no_key_no_secret_and_no_person_is_in_logs_errors_metrics_or_the_ledger(
    served: Site, keys: dict[str, str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "churn")
    caplog.set_level(logging.DEBUG, "uvicorn")
    caplog.set_level(logging.DEBUG, "asyncio")
    signing_key = read_or_make(served.home / "signing.key")
    online = TellTale()
    online.rows[PERSON] = replace(online.rows["u1"], user_id=PERSON)
    with served.client(
        keys=KeyFile(served.home / "keys.json"),
        webhook_secret=SecretStr(WEBHOOK_SECRET),
        online=online,
        user_id_type="string",
        limits=replace(served.parts.limits, answer_seconds=0.3),
    ) as client:
        session = Session(client, keys)
        all_kinds_of_requests(session)
        (served.home / "keys.json").write_text(f'{{"keys": "{TYPED}"}}')
        metrics = session.ask("GET", "/metrics", "metrics").text
        online.frozen_for.set()
    assert session.codes == set(KINDS) - NOT_MET_HERE - {"not_ready"}
    said = capfd.readouterr()
    logged = [f"{record.getMessage()} {record.exc_text or ''}" for record in caplog.records]
    ledger = json.dumps([dict(entry.facts) for entry in Ledger(served.home / "ledger.jsonl").read().entries])
    everything = "\n".join([said.out, said.err, caplog.text, *logged, metrics, ledger, *session.told])
    assert "met a bug: RuntimeError" in everything and "after KeyError" in everything, "the log says where the bug is"
    assert "test_secrets.py" in everything
    secrets = [signing_key, *keys.values(), *map(key_digest, keys.values())]
    assert [canary for canary in (*CANARIES, *secrets) if canary in everything] == []
