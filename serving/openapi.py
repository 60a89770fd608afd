"""openapi.json: written from the table of routes, committed, and compared by tests/house/test_openapi_is_current.py.

`python -m serving.openapi` writes it anew.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from serving import examples, messages, v2_messages
from serving.body import JSON_LENGTH
from serving.errors import KINDS, PROBLEM_TYPE, Problem, is_inference, problem_body
from serving.replays import HEADER, PATTERN

if TYPE_CHECKING:
    from serving.routes import Route

PATH = Path(__file__).with_name("openapi.json")
_SCHEMAS = "#/components/schemas/"
_USER_ID = {
    "name": "user_id",
    "in": "path",
    "required": True,
    "description": "The user: an integer from 0 to 2^63-1 or a text, as the deployment has it",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[^\x00-\x1f\x7f/]+$"},
    "example": "12347",
}
_MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The deployment's model name",
    "schema": {"type": "string"},
    "example": "churn_prediction",
}
_VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "The version in service; any other is not found",
    "schema": {"type": "string"},
    "example": "3",
}
_JSON_LENGTH = {
    "name": JSON_LENGTH,
    "in": "header",
    "required": False,
    "description": "How many bytes of the body are JSON, when binary tensors follow it",
    "schema": {"type": "integer", "minimum": 0},
}
_EXPLAIN = {
    "name": "explain",
    "in": "query",
    "required": False,
    "description": "Whether to tell why",
    "schema": {"type": "boolean", "default": False},
}
_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Kept when it is 1 to 64 letters, digits, dots, dashes or underscores; else a new one is made",
    "schema": {"type": "string"},
}
_KEY = "api_key"
_KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made by `churn keys add`. Each route names the scope that the key needs",
}
_OF_KEYS = ("unauthenticated", "forbidden", "rate_limited")
_OF_PATH = {"user_id": [_USER_ID, _EXPLAIN], "model": [_MODEL], "version": [_VERSION]}
_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "The same key again gets the same answer, byte for byte, for ten minutes; a different request with"
    " it is refused. Held by each worker for itself",
    "schema": {"type": "string", "pattern": f"^{PATTERN}$"},
}


def route_options(route: Route) -> dict[str, Any]:
    """What FastAPI is told of a route besides path and method."""
    answer = _json(_ref(route.answer.__name__), _example(route.answer)) if route.answer else _TEXT
    extra: dict[str, Any] = {"parameters": _parameters(route)}
    if route.body:
        extra["requestBody"] = {"required": True, "content": _body(route.body)}
    if route.scope:
        extra["security"] = [{_KEY: [route.scope.value]}]
    return {
        "response_class": Response,
        "responses": {200: {"description": "The answer", "content": answer}, **_problems(route)},
        "openapi_extra": extra,
        "operation_id": route.endpoint.__name__ + ("_of_version" if "{version}" in route.path else ""),
        "name": route.endpoint.__name__,
    }


def _parameters(route: Route) -> list[dict[str, Any]]:
    """Those of the path, each with what comes with it, and the headers."""
    own = [each for name, given in _OF_PATH.items() if f"{{{name}}}" in route.path for each in given]
    once = [_IDEMPOTENCY_KEY] if "idempotency_key_reused" in route.problems else []
    return [*own, *once, _REQUEST_ID, *([_JSON_LENGTH] if route.path.endswith("/infer") else [])]


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with the schemas that the routes refer to."""
    _, definitions = models_json_schema(
        [(form, "validation") for form in FORMS], ref_template=_SCHEMAS + "{model}", title=None
    )
    document["components"] = {
        "schemas": dict(sorted(definitions["$defs"].items())),
        "securitySchemes": {_KEY: _KEY_SCHEME},
    }
    return document


def _is_form(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, messages.Message) and value is not messages.Message


FORMS = [form for module in (messages, v2_messages) for form in vars(module).values() if _is_form(form)]
_TEXT = {"text/plain": {"schema": {"type": "string"}, "example": examples.METRICS}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _SCHEMAS + name}


def _json(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": example}}


def _body(forms: Sequence[type[messages.Message]]) -> dict[str, Any]:
    refs = [_ref(form.__name__) for form in forms]
    return _json(refs[0] if len(refs) == 1 else {"anyOf": refs}, _example(forms[0]))


def _example(form: type[messages.Message]) -> Any:
    extra = form.model_config["json_schema_extra"]
    assert isinstance(extra, dict) and isinstance(extra["examples"], list)
    return extra["examples"][0]


def _problems(route: Route) -> dict[int | str, dict[str, Any]]:
    """One entry for each status, with an example for each of its codes."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in (*(_OF_KEYS if route.scope else ()), *route.problems, "headers_too_large"):
        by_status[KINDS[code].status].append(code)
    return {status: _problem(by_status[status], route.path) for status in sorted(by_status)}


def _problem(codes: Sequence[str], path: str) -> dict[str, Any]:
    shown = {code: {"value": problem_body(Problem(code), path, "b7e23ec2")} for code in codes}
    form = v2_messages.InferenceProblem if is_inference(path) else messages.ProblemMessage
    described: dict[str, Any] = {
        "description": "; ".join(KINDS[code].title for code in codes),
        "content": {PROBLEM_TYPE: {"schema": _ref(form.__name__), "examples": shown}},
    }
    headers = {}
    if any(KINDS[code].retry_after_seconds for code in codes):
        headers["Retry-After"] = {"description": "Seconds to wait", "schema": {"type": "integer"}}
    if any(KINDS[code].challenge for code in codes):
        headers["WWW-Authenticate"] = {"description": "Which credentials would help", "schema": {"type": "string"}}
    return {**described, "headers": headers} if headers else described


def rendered() -> str:
    """The text of openapi.json."""
    from serving.app import openapi_document

    return json.dumps(openapi_document(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(rendered())
