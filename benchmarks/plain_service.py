"""The rival: a scoring service as it is usually written on this stack. Feast, pandas, scikit-learn; nothing of churn.

PLAIN_REPOSITORY is a Feast repository, PLAIN_MODEL a skops file, PLAIN_FEATURES its features in order. Written as well
as its way allows: the store is opened and the feature service looked up once, and the array that is scored carries no
names for scikit-learn to check. One user can be asked for in both ways of FastAPI, in a thread and in the event loop:
which is faster depends on the machine, and the better one counts. It keeps no log of what it answered.
"""

from __future__ import annotations

import os
from typing import Any

import skops.io
from fastapi import FastAPI
from feast import FeatureStore
from pydantic import BaseModel

STORE = FeatureStore(repo_path=os.environ["PLAIN_REPOSITORY"])
SERVICE = STORE.get_feature_service("plain")
FEATURES = os.environ["PLAIN_FEATURES"].split(",")
MODEL: Any = skops.io.load(
    os.environ["PLAIN_MODEL"], trusted=skops.io.get_untrusted_types(file=os.environ["PLAIN_MODEL"])
)

app = FastAPI()


class Users(BaseModel):
    user_ids: list[int]


class Score(BaseModel):
    user_id: int
    churn_probability: float


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/users/{user_id}/score")
def score_user(user_id: int) -> Score:
    return scored([user_id])[0]


@app.get("/inline/users/{user_id}/score")
async def score_user_inline(user_id: int) -> Score:
    return scored([user_id])[0]


@app.post("/score")
def score_users(users: Users) -> list[Score]:
    return scored(users.user_ids)


def scored(user_ids: list[int]) -> list[Score]:
    asked = [{"user_id": user_id} for user_id in user_ids]
    frame = STORE.get_online_features(features=SERVICE, entity_rows=asked).to_df()
    probabilities = MODEL.predict_proba(frame[FEATURES].to_numpy())[:, 1]
    pairs = zip(user_ids, probabilities, strict=True)
    return [Score(user_id=user_id, churn_probability=probability) for user_id, probability in pairs]
