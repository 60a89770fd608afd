"""The Open Inference Protocol by hand: what is taken, and what is refused with the problem and the member `error`."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from churn.domain.schema import FEATURE_NAMES, FEATURES
from serving.app import create_app
from serving.errors import Problem
from serving.scorer import Question
from tests.serving.conftest import Site, eventually
from tests.serving.test_bad_input import JSON, PROBLEM_KEYS

MODEL = "/v2/models/churn_prediction"
INFER = f"{MODEL}/infer"
WIDTH = len(FEATURE_NAMES)
ROW = [1.0] * WIDTH
LENGTH = "Inference-Header-Content-Length"


def check_inference_problem(answer: httpx.Response, status: int, code: str) -> str:
    """The answer's `error`, once everything else about it is as documented."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body = answer.json()
    assert set(body) == PROBLEM_KEYS | {"error"}
    assert (body["status"], body["code"], body["error"]) == (status, code, body["detail"])
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return str(body["error"])


def users(data: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "user_id", "shape": [2], "datatype": "INT64", "data": data, **changes}


def features(data: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "features", "shape": [1, WIDTH], "datatype": "FP64", "data": data, **changes}


def named(**changes: Any) -> list[dict[str, Any]]:
    columns = {name: {"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]} for name in FEATURE_NAMES}
    return [{**column, **changes.get(name, {})} for name, column in columns.items()]


# -- what is taken ---------------------------------------------------------------------------------------------

TAKEN = [
    {"inputs": [users([7, 8])]},
    {"inputs": [users([7, 8], shape=[2, 1])]},
    {"inputs": [users([[7], [8]], shape=[2, 1])]},
    {"inputs": [users([7, 8], parameters={"content_type": "np", "priority": 1})]},
    {"inputs": [users([7, 8])], "parameters": {"timeout": 5, "binary_data_output": True}, "outputs": []},
    {"inputs": [users([7, 8], parameters=None)], "parameters": None, "outputs": None, "id": None},
    {"inputs": [features(ROW)]},
    {"inputs": [features([ROW])]},
    {"inputs": [features([1] * WIDTH, datatype="FP32")]},
    {"inputs": named()},
    {"inputs": named(total_spent={"shape": [1, 1], "data": [[2]]}, avg_order_value={"data": [None]})},
]


@pytest.mark.parametrize("body", TAKEN, ids=lambda body: json.dumps(body)[:60])
def test_every_form_of_the_protocol_is_taken(body: dict[str, Any], shared: httpx.Client) -> None:
    answer = shared.post(INFER, json=body)
    assert answer.status_code == 200, answer.text
    assert [each["name"] for each in answer.json()["outputs"]] == [
        "churn_probability",
        "status",
        "scored_rows",
        "scored_probability",
    ]


def test_v2_answers_with_the_numbers_of_v1(shared: httpx.Client) -> None:
    by_v1 = [
        each["churn_probability"] for each in shared.post("/v1/score", json={"user_ids": [7, 8]}).json()["predictions"]
    ]
    answer = shared.post(INFER, json={"id": "mine", "inputs": [users([7, 8])]})
    assert answer.json() == {
        "model_name": "churn_prediction",
        "model_version": "1",
        "id": "mine",
        "outputs": [
            {"name": "churn_probability", "shape": [2], "datatype": "FP64", "data": by_v1},
            {"name": "status", "shape": [2], "datatype": "BYTES", "data": ["ok", "ok"]},
            {"name": "scored_rows", "shape": [2], "datatype": "INT64", "data": [0, 1]},
            {"name": "scored_probability", "shape": [2], "datatype": "FP64", "data": by_v1},
        ],
    }


def test_without_an_id_the_request_id_is_given(shared: httpx.Client) -> None:
    answer = shared.post(INFER, json={"inputs": [users([7, 8])]}, headers={"X-Request-ID": "mine.2"})
    assert answer.json()["id"] == "mine.2"


def test_nothing_but_the_outputs_asked_for_is_answered_in_their_order(shared: httpx.Client) -> None:
    wanted = ["scored_probability", "status"]
    body = {"inputs": [users([404, 405])], "outputs": [{"name": name} for name in wanted]}
    assert shared.post(INFER, json=body).json()["outputs"] == [
        {"name": "scored_probability", "shape": [0], "datatype": "FP64", "data": []},
        {"name": "status", "shape": [2], "datatype": "BYTES", "data": ["not_found", "not_found"]},
    ]


def test_a_request_without_a_media_type_is_taken_as_the_protocols_clients_send_it(shared: httpx.Client) -> None:
    assert shared.post(INFER, content=json.dumps(TAKEN[0]).encode()).status_code == 200
    answer = shared.post(INFER, content=json.dumps(TAKEN[0]).encode(), headers={"Content-Type": "text/plain"})
    check_inference_problem(answer, 415, "unsupported_media_type")


# -- what is refused -------------------------------------------------------------------------------------------

FILL = "inputs[0]: the data must fill the shape"
ONE_OF = "inputs[0]: must have either data or the parameter binary_data_size"
LITERALS = "Input should be 'INT64', 'BYTES', 'FP32' or 'FP64'"
NO_NUMBER = "Input should be a valid number"
NO_INTEGER = "Input should be a valid integer"
MISSING = f"{FEATURE_NAMES[1]}: Field required"

REFUSED: list[tuple[Any, str]] = [
    ([], "body: Input should be a valid dictionary or instance of InferRequest"),
    ({}, "inputs: Field required"),
    ({"inputs": []}, "inputs: List should have at least 1 item after validation, not 0"),
    ({"inputs": [users([7, 8])], "secret": 1}, "body: unknown field"),
    ({"inputs": [users([7, 8], secret=1)]}, "inputs[0]: unknown field"),
    ({"inputs": [users([7, 8])], "id": 42}, "id: Input should be a valid string"),
    ({"inputs": [users([7, 8])], "id": "a\nb"}, "id: Value error, control and invisible characters are not allowed"),
    ({"inputs": [users([7, 8])], "outputs": [{"name": "status"}] * 2}, "outputs: a name is there twice"),
    ({"inputs": [users([7, 8])] * 2}, "inputs: a name is there twice"),
    ({"inputs": [users([7, 8], datatype="INT32")]}, f"inputs[0].datatype: {LITERALS}"),
    ({"inputs": [users([7, 8], shape=[])]},
     "inputs[0].shape: List should have at least 1 item after validation, not 0"),
    ({"inputs": [users([7, 8], shape=[2, 1, 1])]},
     "inputs[0].shape: List should have at most 2 items after validation, not 3"),
    ({"inputs": [users([], shape=[0])]}, "inputs[0].shape[0]: Input should be greater than or equal to 1"),
    ({"inputs": [users([7, 8], shape=[-1])]}, "inputs[0].shape[0]: Input should be greater than or equal to 1"),
    ({"inputs": [users([7, 8], shape=["2"])]}, f"inputs[0].shape[0]: {NO_INTEGER}"),
    ({"inputs": [users([7, 8], shape=[True])]}, f"inputs[0].shape[0]: {NO_INTEGER}"),
    ({"inputs": [users([7])]}, FILL),
    ({"inputs": [users([7, 8, 9])]}, FILL),
    ({"inputs": [users([7, 8], shape=[10**18, 10**18])]}, FILL),
    ({"inputs": [users([[7, 8]])]}, FILL),
    ({"inputs": [users([[7], 8], shape=[2, 1])]}, FILL),
    ({"inputs": [users([[7, 8], []], shape=[2, 1])]}, FILL),
    ({"inputs": [users(None)]}, ONE_OF),
    ({"inputs": [users([7, 8], parameters={"binary_data_size": 16})]}, ONE_OF),
    ({"inputs": [users(None, parameters={"binary_data_size": 16})]},
     "inputs: there are fewer bytes behind the JSON than the tensors say"),
    ({"inputs": [users([7, 8], shape=[1, 2])]}, "inputs: the shape must be [n, 1] or [n] here"),
    ({"inputs": [users(["7", "8"])]}, f"user_id[0]: {NO_INTEGER}; user_id[1]: {NO_INTEGER}"),
    ({"inputs": [users([7, 8.5])]}, f"user_id[1]: {NO_INTEGER}"),
    ({"inputs": [users([7, None])]}, f"user_id[1]: {NO_INTEGER}"),
    ({"inputs": [users([7, -1])]}, "user_id[1]: Input should be greater than or equal to 0"),
    ({"inputs": [users(["7", "8"], datatype="BYTES")]}, "inputs: the datatype must be INT64 here"),
    ({"inputs": [users([7] * 101, shape=[101])]}, "inputs: at most 100 items in one request"),
    ({"inputs": [features(ROW * 101, shape=[101, WIDTH])]}, "inputs: at most 100 items in one request"),
    ({"inputs": [features(ROW, datatype="INT64")]}, "inputs: the datatype must be FP32 or FP64 here"),
    ({"inputs": [features(ROW[1:], shape=[1, WIDTH - 1])]}, f"inputs: the shape must be [n, {WIDTH}] here"),
    ({"inputs": [features(ROW, shape=[WIDTH])]}, f"inputs: the shape must be [n, {WIDTH}] here"),
    ({"inputs": [features(["1", *ROW[1:]])]}, f"{FEATURE_NAMES[0]}[0]: {NO_NUMBER}"),
    ({"inputs": [features([None, *ROW[1:]])]}, f"{FEATURE_NAMES[0]}[0]: {NO_NUMBER}"),
    ({"inputs": named()[:1] + named()[2:]}, MISSING),
    ({"inputs": [*named(), {**named()[0], "name": "secret"}]}, "body: unknown field"),
    ({"inputs": [*named(), users([7], shape=[1])]}, "inputs: the datatype must be FP32 or FP64 here"),
    ({"inputs": named(total_spent={"shape": [2], "data": [1.0, 1.0]})},
     "inputs: all must have the same number of rows"),
    ({"inputs": named(total_spent={"data": ["1"]})}, f"total_spent[0]: {NO_NUMBER}"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "error"), REFUSED, ids=[f"{n}-{error[:50]}" for n, (_, error) in enumerate(REFUSED)])
def test_what_is_not_as_the_protocol_says_is_refused(body: Any, error: str, shared: httpx.Client) -> None:
    assert check_inference_problem(shared.post(INFER, json=body), 422, "invalid_request") == error


@pytest.mark.fault("A3")
@pytest.mark.parametrize("data", ["true", "{}", "[[7]]", '"secret"', "[true]", "NaN", "Infinity", "1e999"])
def test_what_no_tensor_can_hold_is_refused_and_never_repeated(data: str, shared: httpx.Client) -> None:
    content = f'{{"inputs": [{{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [{data}]}}]}}'
    answer = shared.post(INFER, content=content.encode(), headers=JSON)
    check_inference_problem(answer, 422, "invalid_request")
    assert "secret" not in answer.text


@pytest.mark.fault("A5")
def test_a_refused_request_reads_and_logs_nothing(served: Site, client: httpx.Client) -> None:
    for body, _ in REFUSED:
        assert client.post(INFER, json=body).status_code == 422
    assert (served.online.asked, served.log()) == ([], [])


@pytest.mark.parametrize(
    ("feature", "value", "status"),
    [("total_spent", 1e39, "invalid_features"), ("days_since_last_activity", 1e6, "not_eligible")],
)
def test_a_row_without_a_probability_is_told_by_its_place(
    feature: str, value: float, status: str, shared: httpx.Client
) -> None:
    changed = [value if name == feature else 1.0 for name in FEATURE_NAMES]
    answer = shared.post(INFER, json={"inputs": [features([*ROW, *changed], shape=[2, WIDTH])]})
    error = check_inference_problem(answer, 422, "no_probability")
    assert error == f"row 1 is {status}; ask for status, scored_rows and scored_probability instead"


# -- binary tensors --------------------------------------------------------------------------------------------


def binary(tensor: dict[str, Any], content: bytes, **changes: Any) -> dict[str, Any]:
    """Arguments of a request whose one tensor follows the JSON."""
    described = {key: value for key, value in tensor.items() if key != "data"}
    head = json.dumps({"inputs": [{**described, "parameters": {"binary_data_size": len(content), **changes}}]}).encode()
    return {"content": head + content, "headers": {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}}


def test_a_binary_tensor_is_read(shared: httpx.Client) -> None:
    answer = shared.post(INFER, **binary(users(None), struct.pack("<qq", 7, 8)))
    assert answer.json()["outputs"] == shared.post(INFER, json=TAKEN[0]).json()["outputs"]


@pytest.mark.parametrize(
    ("tensor", "content", "error"),
    [
        (users(None), struct.pack("<q", 7), FILL),
        (users(None), struct.pack("<qq", 7, 8) + b"\0", FILL),
        (users(None), struct.pack("<qq", 7, -1), "user_id[1]: Input should be greater than or equal to 0"),
        (users(None, datatype="BYTES"), b"\x01\0\0\0a\xff\xff\xff\xffb", FILL),
        (users(None, datatype="BYTES"), b"\x01\0\0\0\xff\x01\0\0\0b", FILL),
        (users(None, datatype="BYTES"), b"\x01\0\0\0a\0", FILL),
        (features(None), struct.pack(f"<{WIDTH}d", float("nan"), *ROW[1:]), f"{FEATURE_NAMES[0]}[0]: {NO_NUMBER}"),
        (features(None), struct.pack(f"<{WIDTH}d", float("inf"), *ROW[1:]),
         f"{FEATURE_NAMES[0]}[0]: Input should be a finite number"),
    ],
)  # fmt: skip
def test_a_binary_tensor_that_is_not_what_it_says_is_refused(
    tensor: dict[str, Any], content: bytes, error: str, shared: httpx.Client
) -> None:
    assert check_inference_problem(shared.post(INFER, **binary(tensor, content)), 422, "invalid_request") == error


def test_bytes_that_belong_to_no_tensor_are_refused(shared: httpx.Client) -> None:
    sixteen = struct.pack("<qq", 7, 8)
    more = shared.post(INFER, **binary(users(None), sixteen + b"\0", binary_data_size=16))
    assert check_inference_problem(more, 422, "invalid_request").startswith("inputs: there are more bytes")
    fewer = shared.post(INFER, **binary(users(None), sixteen, binary_data_size=17))
    assert check_inference_problem(fewer, 422, "invalid_request").startswith("inputs: there are fewer bytes")


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "", "99999", "9" * 5_000, "\u0661".encode().decode("latin-1")])
def test_a_length_of_the_json_that_cannot_be_is_400(length: str, shared: httpx.Client) -> None:
    headers = [(b"Content-Type", b"application/json"), (LENGTH.encode(), length.encode("latin-1"))]
    answer = shared.post(INFER, content=json.dumps(TAKEN[0]).encode(), headers=headers)
    check_inference_problem(answer, 400, "malformed_request")


# -- routes, versions, faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["/v2/models/another", f"{MODEL}/versions/2", f"{MODEL}/versions/01"])
def test_another_model_or_version_is_404_on_every_route(of: str, shared: httpx.Client) -> None:
    for answer in (shared.get(of), shared.get(f"{of}/ready"), shared.post(f"{of}/infer", json=TAKEN[0])):
        check_inference_problem(answer, 404, "no_such_model")


@pytest.mark.parametrize("path", ["/v2/", "/v2/models", f"{MODEL}/", f"{MODEL}/versions", "/v2/score"])
def test_an_unknown_route_is_404_with_an_error(path: str, shared: httpx.Client) -> None:
    check_inference_problem(shared.get(path), 404, "no_such_route")


def test_what_the_envelope_refuses_has_an_error_too(shared: httpx.Client) -> None:
    answer = shared.get("/v2", headers={"X-Long": "a" * 20_000})
    check_inference_problem(answer, 431, "headers_too_large")


def test_a_version_ends_with_its_service(served: Site, client: httpx.Client) -> None:
    assert client.post(f"{MODEL}/versions/1/infer", json=TAKEN[0]).json()["model_version"] == "1"
    served.promote(seed=2, version="2")
    assert eventually(lambda: client.get(MODEL).json()["versions"] == ["2"])
    check_inference_problem(client.post(f"{MODEL}/versions/1/infer", json=TAKEN[0]), 404, "no_such_model")
    assert client.post(f"{MODEL}/versions/2/infer", json=TAKEN[0]).json()["model_version"] == "2"


@pytest.mark.fault("L7")
def test_a_version_that_ends_between_question_and_scoring_is_not_answered_by_the_next(served: Site) -> None:
    service = create_app(served.parts).state.service
    service.watch.look()
    with pytest.raises(Problem, match="no_such_model"):
        service.scorer.users([Question("id", 0.0, user_ids=[7], version="0")])
    ones = Question("id", 0.0, to_matrix=lambda names: np.ones((1, len(names))), version="0")
    with pytest.raises(Problem, match="no_such_model"):
        service.scorer.vectors([ones])
    assert served.log() == []


@pytest.mark.fault("L6", "R7")
def test_without_a_model_the_server_lives_and_is_not_ready(site: Site) -> None:
    with site.client() as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2").status_code == 200
        check_inference_problem(client.get("/v2/health/ready"), 503, "not_ready")
        check_inference_problem(client.get(f"{MODEL}/ready"), 503, "not_ready")
        check_inference_problem(client.get(MODEL), 503, "no_model")
        check_inference_problem(client.post(INFER, json=TAKEN[0]), 503, "no_model")


@pytest.mark.fault("R7")
def test_without_the_feature_store_neither_server_nor_model_is_ready(served: Site, client: httpx.Client) -> None:
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get(f"{MODEL}/versions/1/ready").json() == {"name": "churn_prediction", "ready": True}
    served.online.down = True
    check_inference_problem(client.get("/v2/health/ready"), 503, "not_ready")
    check_inference_problem(client.get(f"{MODEL}/ready"), 503, "not_ready")
    answer = client.post(INFER, json=TAKEN[0])
    check_inference_problem(answer, 503, "feature_store_unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert client.post(INFER, json={"inputs": [features(ROW)]}).status_code == 200


def test_every_nullable_feature_may_be_null_and_no_other(shared: httpx.Client) -> None:
    for place, feature in enumerate(FEATURES):
        row = [None if at == place else value for at, value in enumerate(ROW)]
        answer = shared.post(INFER, json={"inputs": [features(row)], "outputs": [{"name": "status"}]})
        assert answer.status_code == (200 if feature.nullable else 422)
