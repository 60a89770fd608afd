"""serving/openapi.json is what the code says, with an example for every body, and the examples are true."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving import messages, openapi
from serving.app import ROUTES, openapi_document
from serving.errors import KINDS, PROBLEM_TYPE


def test_the_committed_document_is_current() -> None:
    assert openapi.PATH.read_text() == openapi.rendered(), "run: python -m serving.openapi"


def operations() -> list[tuple[str, dict[str, Any]]]:
    paths = openapi_document()["paths"]
    return [(f"{method.upper()} {path}", each) for path, item in paths.items() for method, each in item.items()]


def test_every_route_is_described() -> None:
    assert [name for name, _ in operations()] == [f"{route.method} {route.path}" for route in ROUTES]


@pytest.mark.parametrize(("name", "operation"), operations())
def test_every_body_has_an_example(name: str, operation: dict[str, Any]) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    for body in (*bodies, *operation["responses"].values()):
        for content in body["content"].values():
            assert "example" in content or "examples" in content


@pytest.mark.parametrize("form", openapi.FORMS)
def test_every_example_is_a_valid_message(form: type[messages.Message]) -> None:
    for example in (form.model_config.get("json_schema_extra") or {"examples": []})["examples"]:  # type: ignore[call-overload, index, union-attr]
        assert json.loads(form.model_validate_json(json.dumps(example)).model_dump_json(exclude_unset=True)) == example


def test_every_error_of_the_table_is_described_somewhere_or_belongs_to_every_route() -> None:
    described = {
        code
        for _, operation in operations()
        for answer in operation["responses"].values()
        for code in answer["content"].get(PROBLEM_TYPE, {}).get("examples", {})
    }
    assert set(KINDS) - described == {"no_such_route", "method_not_allowed", "internal_error"}


def test_every_reference_leads_somewhere() -> None:
    document = openapi_document()
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


def test_the_vector_asks_for_every_feature_in_the_one_list() -> None:
    from churn.domain.schema import FEATURE_NAMES

    schema = openapi_document()["components"]["schemas"]["Vector"]
    assert tuple(schema["properties"]) == tuple(schema["required"]) == FEATURE_NAMES
    assert schema["additionalProperties"] is False
