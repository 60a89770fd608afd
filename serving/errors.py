"""The one table of errors: code -> status, title, and when to come back. Every error answer is made here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """One row of the table. `challenge`: which credentials would help (RFC 6750)."""

    status: int
    title: str
    retry_after_seconds: int | None = None
    challenge: str = ""


KINDS: dict[str, Kind] = {
    "malformed_request": Kind(400, "The request cannot be read"),
    "unauthenticated": Kind(401, "A valid API key is needed", challenge='Bearer realm="churn"'),
    "forbidden": Kind(
        403, "The API key does not open this route", challenge='Bearer realm="churn", error="insufficient_scope"'
    ),
    "webhook_refused": Kind(403, "The webhook does not carry a fresh signature made with the deployment's secret"),
    "no_such_route": Kind(404, "There is no such route"),
    "user_not_found": Kind(404, "There are no features for this user"),
    "no_such_model": Kind(404, "There is no such model, or not in this version"),
    "method_not_allowed": Kind(405, "The route does not take this method"),
    "request_timeout": Kind(408, "The body did not arrive in time"),
    "body_too_large": Kind(413, "The body is larger than allowed"),
    "unsupported_media_type": Kind(415, "The body must be application/json in UTF-8, not compressed"),
    "invalid_request": Kind(422, "The request does not say what it must"),
    "no_probability": Kind(422, "A row has no probability, so the tensor cannot be filled"),
    "idempotency_key_reused": Kind(422, "The Idempotency-Key was given to another request before"),
    "rate_limited": Kind(429, "The API key has asked too often", 1),
    "headers_too_large": Kind(431, "The headers are larger than allowed"),
    "internal_error": Kind(500, "The service has a bug; it has been logged"),
    "no_model": Kind(503, "No model is loaded yet", 2),
    "feature_store_unavailable": Kind(503, "The feature store does not answer", 1),
    "prediction_log_unavailable": Kind(503, "Predictions cannot be recorded, so none are given", 5),
    "overloaded": Kind(503, "Too many requests are waiting", 1),
    "deadline_exceeded": Kind(503, "The answer took too long", 1),
    "webhook_not_passed_on": Kind(503, "The side process cannot be told", 1),
    "not_ready": Kind(503, "The service is not ready", 2),
}
_CODE_OF_STATUS = {400: "malformed_request", 404: "no_such_route", 405: "method_not_allowed"}


class Problem(Exception):
    """An answer that is an error. `detail` never repeats what the caller sent.

    `retry_after_seconds` stands in for the table's where it is known better.
    """

    def __init__(self, code: str, detail: str = "", *, retry_after_seconds: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail or KINDS[code].title
        self.retry_after_seconds = retry_after_seconds or KINDS[code].retry_after_seconds


def problem_body(problem: Problem, path: str, request_id: str) -> dict[str, str | int]:
    """RFC 9457's members, the code that programs branch on, and the id that finds the request in the logs.

    Below /v2 also `error`, which is what clients of the Open Inference Protocol show.
    """
    kind = KINDS[problem.code]
    return {
        "type": f"urn:churn:problem:{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
        **({"error": problem.detail} if is_inference(path) else {}),
    }


def is_inference(path: str) -> bool:
    """Whether a path belongs to the Open Inference Protocol."""
    return f"{path}/".startswith("/v2/")


def problem_response(problem: Problem, scope: Scope, headers: Mapping[str, str] | None = None) -> Response:
    kind = KINDS[problem.code]
    scope["state"]["problem"] = problem  # for those who count and log
    retry = "" if problem.retry_after_seconds is None else str(problem.retry_after_seconds)
    own = {"Retry-After": retry, "WWW-Authenticate": kind.challenge}
    return Response(
        json.dumps(problem_body(problem, scope["path"], scope["state"]["request_id"])),
        status_code=kind.status,
        headers={**{name: value for name, value in own.items() if value}, **(headers or {})},
        media_type=PROBLEM_TYPE,
    )


async def on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    # What is left of a refused body would be taken for the next request.
    headers = {"Connection": "close"} if KINDS[error.code].status in (HTTPStatus.REQUEST_TIMEOUT, 413) else {}
    return problem_response(error, request.scope, headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code, "internal_error")
    return problem_response(Problem(code), request.scope, error.headers)
