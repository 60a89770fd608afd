"""One example of every body, shown in openapi.json; a test holds them against the messages."""

from __future__ import annotations

from typing import Any

from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE, FEATURES

_ANSWER: dict[str, Any] = {
    "request_id": "b7e23ec29af22b0b4e41da31e868d572",
    "model": {"name": "churn_prediction", "version": "3"},
    "feature_service": FEATURE_SERVICE,
}
_SCORED: dict[str, Any] = {"status": "ok", "churn_probability": 0.8125, "risk_segment": "High"}
_REASONS = (
    ("recency", 1.4375, "no order for 41 days; usual gap 12"),
    ("recent_orders", 0.4375, "0 orders in 30 days, 5 in 365"),
    ("orders", -0.25, "7 orders in 400 days"),
    ("trend", 0.1875, "activity falling, last 90 days against the 90 before (-0.25)"),
    ("rhythm", 0.125, "active on 7 days; usual gap 12, longest 30"),
    ("recent_spending", 0.0625, "spent 0.00 in 30 days, 210.00 in 365"),
    ("spending", -0.03125, "spent 350.00 in all, 50.00 an order, 25.50 on the last"),
    ("tenure", -0.002412931206573, "signed up 400 days ago"),
    ("sessions", 0.0, "has had no session"),
    ("recent_sessions", 0.0, "0 sessions in 30 days, 0 in 365"),
    ("refunds", 0.0, "no refunds"),
)
_EXPLANATION: dict[str, Any] = {
    "base_margin": -0.5,
    "margin": 1.466337068793427,
    "reasons": [{"code": code, "text": text, "contribution": value} for code, value, text in _REASONS],
}
_EXPLAINED: dict[str, Any] = {"explanation": _EXPLANATION}
_AS_OF: dict[str, Any] = {"features_as_of": "2011-10-10T00:00:00Z"}
_UNKNOWN: dict[str, Any] = {
    "user_id": 404,
    "status": "not_found",
    "churn_probability": None,
    "risk_segment": None,
    "features_as_of": None,
    "reason": "no features for this user",
}

SCORE_USERS: dict[str, Any] = {"user_ids": [12347, 404], "explain": True}
SCORE_NAMED_USERS: dict[str, Any] = {"user_ids": ["0b3c9f1e-6c1f-4a39-9d0a-6d8f3f6d9a11"], "explain": False}
SCORE_VECTORS: dict[str, Any] = {
    "vectors": [{feature.name: None if feature.nullable else 1.0 for feature in FEATURES}],
    "explain": False,
}
USERS_SCORED: dict[str, Any] = {
    **_ANSWER,
    "predictions": [{"user_id": 12347, **_SCORED, **_AS_OF, **_EXPLAINED}, _UNKNOWN],
}
VECTORS_SCORED: dict[str, Any] = {**_ANSWER, "predictions": [_SCORED]}
USER_SCORED: dict[str, Any] = {**_ANSWER, "user_id": 12347, **_SCORED, **_AS_OF}
MODEL_INFO: dict[str, Any] = {
    "name": "churn_prediction",
    "version": "3",
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "aliases": ["champion"],
    "feature_service": FEATURE_SERVICE,
    "features": list(FEATURE_NAMES),
    "horizon_days": 60,
    "loaded_at": "2026-11-22T10:15:30.125000Z",
    "staging": {
        "status": "ok",
        "champion_version": "3",
        "last_look_at": "2026-11-22T10:20:00.500000Z",
        "last_success_at": "2026-11-22T10:20:00.500000Z",
        "last_failure_at": None,
        "last_failure_reason": None,
        "refused": None,
        "held_version": None,
    },
}
HEALTH: dict[str, Any] = {"status": "ok"}
WEBHOOK_TAKEN: dict[str, Any] = {"status": "taken"}
READY: dict[str, Any] = {"status": "ready", "model_version": "3", "degraded": []}
METRICS = 'churn_predictions_total{status="ok"} 42.0\n'
PROBLEM: dict[str, Any] = {
    "type": "urn:churn:problem:invalid_request",
    "title": "The request does not say what it must",
    "status": 422,
    "detail": "user_ids[0]: Input should be a valid integer",
    "code": "invalid_request",
    "request_id": "b7e23ec29af22b0b4e41da31e868d572",
}

_NAMED: dict[str, Any] = {"model_name": "churn_prediction", "model_version": "3"}
INFER_USERS: dict[str, Any] = {
    "id": "42",
    "inputs": [
        {"name": "user_id", "shape": [2], "datatype": "INT64", "data": [12347, 404]},
    ],
    "outputs": [
        {"name": "status"},
        {"name": "scored_rows"},
        {"name": "scored_probability"},
    ],
}
INFER_VECTORS: dict[str, Any] = {
    "inputs": [
        {
            "name": "features",
            "shape": [1, len(FEATURES)],
            "datatype": "FP64",
            "data": [None if feature.nullable else 1.0 for feature in FEATURES],
        },
    ],
}
INFERRED: dict[str, Any] = {
    **_NAMED,
    "id": "42",
    "outputs": [
        {"name": "status", "shape": [2], "datatype": "BYTES", "data": ["ok", "not_found"]},
        {"name": "scored_rows", "shape": [1], "datatype": "INT64", "data": [0]},
        {"name": "scored_probability", "shape": [1], "datatype": "FP64", "data": [0.8125]},
    ],
}
MODEL_METADATA: dict[str, Any] = {
    "name": "churn_prediction",
    "versions": ["3"],
    "platform": "sklearn_skops",
    "inputs": [
        {"name": "user_id", "datatype": "INT64", "shape": [-1]},
        {"name": "features", "datatype": "FP64", "shape": [-1, len(FEATURES)]},
        *({"name": name, "datatype": "FP64", "shape": [-1]} for name in FEATURE_NAMES),
    ],
    "outputs": [
        {"name": "churn_probability", "datatype": "FP64", "shape": [-1]},
        {"name": "status", "datatype": "BYTES", "shape": [-1]},
        {"name": "scored_rows", "datatype": "INT64", "shape": [-1]},
        {"name": "scored_probability", "datatype": "FP64", "shape": [-1]},
    ],
}
SERVER_METADATA: dict[str, Any] = {"name": "churn", "version": "2", "extensions": ["binary_tensor_data"]}
SERVER_LIVE: dict[str, Any] = {"live": True}
SERVER_READY: dict[str, Any] = {"ready": True}
MODEL_READY: dict[str, Any] = {"name": "churn_prediction", "ready": True}
INFERENCE_PROBLEM: dict[str, Any] = {
    **PROBLEM,
    "detail": "inputs[0]: the data must fill the shape",
    "error": "inputs[0]: the data must fill the shape",
}
