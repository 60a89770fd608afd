"""Whatever is sent: the answer is a documented problem, never a 500, never an echo, never another user's number."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from churn.domain.schema import FEATURES
from tests.models import random_vectors
from tests.serving.conftest import Site
from tests.serving.test_scoring import as_vector

JSON = {"Content-Type": "application/json"}
VECTOR = as_vector(random_vectors(1, seed=4)[0])
PROBLEM_KEYS = {"type", "title", "status", "detail", "code", "request_id"}


def check_problem(answer: httpx.Response, status: int, code: str) -> str:
    """The answer's detail, once everything else about it is as documented."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body = answer.json()
    assert set(body) - {"error"} == PROBLEM_KEYS
    assert body.get("error", body["detail"]) == body["detail"]
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:churn:problem:{code}"
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert not (set(body["detail"]) - set(map(chr, range(32, 127)))), "the detail is plain text of our own"
    return str(body["detail"])


@pytest.fixture(scope="module")
def strings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A deployment whose user ids are strings."""
    from tests.serving.conftest import make_site

    site = make_site(tmp_path_factory.mktemp("strings"))
    site.promote()
    with site.client(user_id_type="string") as client:
        yield client


# -- ids -------------------------------------------------------------------------------------------------------

NO_INTEGER_IDS = [
    '"12"', '" 7"', '"abc"', '""', "12.0", "12.5", "-0.0", "1e3", "true", "false", "null", "-1", "9223372036854775808",
    "1" + "0" * 19, "1" + "0" * 5_000, "NaN", "Infinity", "-Infinity", "1e999", "[1]", '{"id": 1}', '"\\ud800"',
    '"\u0661\u0662"', '"12\\u0000"',
]  # fmt: skip


@pytest.mark.fault("A3", "A4", "A5")
@pytest.mark.parametrize("user_id", NO_INTEGER_IDS, ids=lambda text: ascii(text)[:20])
def test_what_is_no_integer_id_is_refused_and_never_read(user_id: str, shared: httpx.Client) -> None:
    answer = shared.post("/v1/score", content=f'{{"user_ids": [1, {user_id}]}}'.encode(), headers=JSON)
    check_problem(answer, 422, "invalid_request")


@pytest.mark.fault("A5")
def test_a_refused_request_reads_and_logs_nothing(served: Site, client: httpx.Client) -> None:
    for user_id in ("12", 12.0, True, None, -1, 2**63):
        assert client.post("/v1/score", json={"user_ids": [1, user_id]}).status_code == 422
    for path in ("12.0", "true", "-1", "1_000", "007", "+7", str(2**63), "%20" + "7", "%D9%A1"):
        assert client.get(f"/v1/users/{path}/score").status_code == 422
    assert (served.online.asked, served.log()) == ([], [])


@pytest.mark.parametrize("user_id", [0, 2**63 - 1])
def test_the_smallest_and_the_largest_integer_id_are_asked_for(user_id: int, shared: httpx.Client) -> None:
    answer = shared.post("/v1/score", json={"user_ids": [user_id]}).json()
    assert answer["predictions"][0]["status"] == "not_found"
    assert shared.get(f"/v1/users/{user_id}/score").status_code == 404


NO_STRING_IDS = [
    '""', '"' + "a" * 257 + '"', '"' + "a" * 100_000 + '"', '"\\u0000"', '"a\\nb"', '"\\u007f"', '"\\ud800"',
    '"\\udfff"',
    '"\\u2028"', '"\\u2029"', '"\\u202e"', '"\\ufeff"', '"\\u200b"', '"\\ufffd"', "7", "null", "true", "1.5", "NaN",
]  # fmt: skip


@pytest.mark.fault("A4")
@pytest.mark.parametrize("user_id", NO_STRING_IDS, ids=lambda text: ascii(text)[:20])
def test_what_is_no_string_id_is_refused(user_id: str, strings: httpx.Client) -> None:
    answer = strings.post("/v1/score", content=f'{{"user_ids": ["u1", {user_id}]}}'.encode(), headers=JSON)
    check_problem(answer, 422, "invalid_request")


@pytest.mark.fault("A4")
@pytest.mark.parametrize("path", ["%00", "a%0Ab", "%E2%80%A8", "%ED%A0%80", "%FF", "a" * 257, "%E2%80%AE"])
def test_what_is_no_string_id_in_a_path_is_refused(path: str, strings: httpx.Client) -> None:
    check_problem(strings.get(f"/v1/users/{path}/score"), 422, "invalid_request")


@pytest.mark.fault("A4")
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_string_is_either_asked_for_or_refused(strings: httpx.Client, user_id: str) -> None:
    answer = strings.post("/v1/score", json={"user_ids": [user_id]})
    if answer.status_code == 200:
        assert answer.json()["predictions"][0]["user_id"] == user_id
    else:
        check_problem(answer, 422, "invalid_request")


# -- bodies ----------------------------------------------------------------------------------------------------

BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "malformed_request"),
    (b"{", 400, "malformed_request"),
    (b"not json", 400, "malformed_request"),
    (b'{"user_ids": [1]} trailing', 400, "malformed_request"),
    (b'{"user_ids": [01]}', 400, "malformed_request"),
    (b'{"user_ids": [1_000]}', 400, "malformed_request"),
    (b"{'user_ids': [1]}", 400, "malformed_request"),
    (b'{"user_ids": [1], "user_ids": [2]}', 400, "malformed_request"),
    (b'{"user_ids": [{"a": 1, "a": 2}]}', 400, "malformed_request"),
    (b'\xef\xbb\xbf{"user_ids": [1]}', 400, "malformed_request"),
    ('{"user_ids": [1]}'.encode("utf-16"), 400, "malformed_request"),
    ('{"user_ids": [1]}'.encode("utf-16-le"), 400, "malformed_request"),
    (b'{"user_ids": ["\xff"]}', 400, "malformed_request"),
    (b"[" * 50_000 + b"]" * 50_000, 400, "malformed_request"),
    (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, 400, "malformed_request"),
    (b"null", 422, "invalid_request"),
    (b"[1, 2]", 422, "invalid_request"),
    (b'"user_ids"', 422, "invalid_request"),
    (b"7", 422, "invalid_request"),
    (b"{}", 422, "invalid_request"),
    (b'{"user_ids": []}', 422, "invalid_request"),
    (b'{"user_ids": null}', 422, "invalid_request"),
    (b'{"user_ids": 7}', 422, "invalid_request"),
    (b'{"user_ids": {"0": 7}}', 422, "invalid_request"),
    (b'{"user_ids": [1], "extra": 1}', 422, "invalid_request"),
    (b'{"user_ids": [1], "\\ud800": 1}', 422, "invalid_request"),
    (b'{"USER_IDS": [1]}', 422, "invalid_request"),
    (b'{"user_ids": [1], "n": NaN}', 422, "invalid_request"),
    (b'{"user_ids": [' + b",".join([b"1"] * 101) + b"]}", 422, "invalid_request"),
]


@pytest.mark.fault("A7", "A8")
@pytest.mark.parametrize(("body", "status", "code"), BODIES, ids=lambda value: ascii(value)[:40])
def test_a_body_that_is_not_what_it_must_be_is_refused(
    body: bytes, status: int, code: str, shared: httpx.Client
) -> None:
    check_problem(shared.post("/v1/score", content=body, headers=JSON), status, code)


@pytest.mark.fault("A8")
def test_a_full_batch_is_taken_and_one_more_is_not(shared: httpx.Client) -> None:
    assert shared.post("/v1/score", json={"user_ids": [1] * 100}).status_code == 200
    detail = check_problem(shared.post("/v1/score", json={"user_ids": [1] * 101}), 422, "invalid_request")
    assert detail == "user_ids: at most 100 items in one request"
    many = shared.post("/v1/score/features", json={"vectors": [VECTOR] * 101})
    assert check_problem(many, 422, "invalid_request") == "vectors: at most 100 items in one request"


@pytest.mark.fault("S11", "S16")
def test_the_detail_says_where_and_never_what(shared: httpx.Client) -> None:
    body = {"user_ids": [1, "secret@example.com", 2.5], "secret-key": "secret-value"}
    answer = shared.post("/v1/score", json=body)
    detail = check_problem(answer, 422, "invalid_request")
    wrong = "Input should be a valid integer"
    assert detail == f"user_ids[1]: {wrong}; user_ids[2]: {wrong}; body: unknown field"
    assert "secret" not in answer.text


@pytest.mark.fault("A6")
@pytest.mark.parametrize("size", [200_001, 1_000_000])
def test_a_body_over_the_limit_is_413_by_its_announced_length(size: int, shared: httpx.Client) -> None:
    check_problem(shared.post("/v1/score", content=b" " * size, headers=JSON), 413, "body_too_large")


@pytest.mark.fault("A6")
def test_a_body_over_the_limit_is_413_also_when_its_length_is_not_announced(shared: httpx.Client) -> None:
    answer = shared.post("/v1/score", content=(b" " * 1_000 for _ in range(300)), headers=JSON)
    check_problem(answer, 413, "body_too_large")


@pytest.mark.fault("A9")
@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "multipart/form-data",
     "application/jsonp", "application", "application/vnd.api+json", "\u00ff".encode("latin-1").decode("latin-1")],
)  # fmt: skip
def test_another_media_type_is_415(content_type: str, shared: httpx.Client) -> None:
    headers = [(b"Content-Type", content_type.encode("latin-1"))]
    answer = shared.post("/v1/score", content=b'{"user_ids": [1]}', headers=headers)
    check_problem(answer, 415, "unsupported_media_type")


@pytest.mark.fault("A6")
def test_a_compressed_body_is_415(shared: httpx.Client) -> None:
    import gzip

    bomb = gzip.compress(b" " * 50_000_000)
    answer = shared.post("/v1/score", content=bomb, headers={**JSON, "Content-Encoding": "gzip"})
    check_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
)
def test_json_in_utf_8_is_taken_however_it_is_announced(content_type: str, shared: httpx.Client) -> None:
    answer = shared.post("/v1/score", content=b'{"user_ids": [1]}', headers={"Content-Type": content_type})
    assert answer.status_code == 200


# -- vectors ---------------------------------------------------------------------------------------------------


def vector_text(name: str, value: str) -> bytes:
    others = {key: item for key, item in VECTOR.items() if key != name}
    return f'{{"vectors": [{json.dumps(others)[:-1]}, "{name}": {value}}}]}}'.encode()


@pytest.mark.fault("A3")
@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", '"1"', '"nan"', "true", "[1]", "{}", "1" * 30]
)
def test_what_is_no_number_is_refused(value: str, shared: httpx.Client) -> None:
    answer = shared.post("/v1/score/features", content=vector_text("total_spent", value), headers=JSON)
    check_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize("value", ["0", "-0.0", "1e-300", "12", "99999999999999999999", "null"])
def test_numbers_in_any_notation_are_taken(value: str, shared: httpx.Client) -> None:
    answer = shared.post("/v1/score/features", content=vector_text("avg_order_value", value), headers=JSON)
    assert answer.status_code == 200


@pytest.mark.parametrize("feature", [feature.name for feature in FEATURES])
def test_a_missing_feature_is_named(feature: str, shared: httpx.Client) -> None:
    vector = {name: value for name, value in VECTOR.items() if name != feature}
    detail = check_problem(
        shared.post("/v1/score/features", json={"vectors": [VECTOR, vector]}), 422, "invalid_request"
    )
    assert detail == f"vectors[1].{feature}: Field required"


@pytest.mark.parametrize("feature", [feature.name for feature in FEATURES if not feature.nullable])
def test_null_is_refused_where_it_has_no_meaning(feature: str, shared: httpx.Client) -> None:
    answer = shared.post("/v1/score/features", json={"vectors": [{**VECTOR, feature: None}]})
    assert check_problem(answer, 422, "invalid_request") == f"vectors[0].{feature}: Input should be a valid number"


@pytest.mark.fault("S16")
def test_an_unknown_feature_is_refused_without_repeating_its_name(shared: httpx.Client) -> None:
    answer = shared.post("/v1/score/features", json={"vectors": [{**VECTOR, "secret": 1.0}]})
    assert check_problem(answer, 422, "invalid_request") == "vectors[0]: unknown field"


# -- routes, headers -------------------------------------------------------------------------------------------


@pytest.mark.fault("S6")
@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/score/", "/v3/score", "/v1/users//score", "/v1/users/a/b/score", "/%00", "/v1/../etc/passwd",
     "/v1/users/1", "//healthz"],
)  # fmt: skip
def test_an_unknown_route_is_404(path: str, shared: httpx.Client) -> None:
    check_problem(shared.get(path), 404, "no_such_route")


@pytest.mark.fault("A9")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/score", "POST"),
        ("PUT", "/v1/score", "POST"),
        ("DELETE", "/v1/users/1/score", "GET"),
        ("POST", "/healthz", "GET"),
        ("TRACE", "/v1/model", "GET"),
        ("OPTIONS", "/v1/score", "POST"),
        ("PATCH", "/v1/score", "POST"),
    ],
)
def test_another_method_is_405_and_says_which_is_allowed(
    method: str, path: str, allowed: str, shared: httpx.Client
) -> None:
    answer = shared.request(method, path)
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


@pytest.mark.fault("A12", "S16")
@pytest.mark.parametrize("given", ["", "a" * 65, "a b", "a\tb", "{}", 'a"b', "\u00e9".encode().decode("latin-1")])
def test_a_request_id_that_could_harm_a_log_is_replaced(given: str, shared: httpx.Client) -> None:
    answer = shared.get("/healthz", headers=[(b"X-Request-ID", given.encode("latin-1"))])
    assert len(answer.headers["X-Request-ID"]) == 32
    assert answer.headers["X-Request-ID"].isalnum()


@pytest.mark.fault("A12")
@pytest.mark.parametrize("given", ["a", "A.b_c-9", "z" * 64])
def test_a_sane_request_id_is_kept(given: str, shared: httpx.Client) -> None:
    assert shared.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.fault("A2")
def test_headers_over_the_limit_are_431(shared: httpx.Client) -> None:
    check_problem(shared.get("/healthz", headers={"X-Long": "a" * 20_000}), 431, "headers_too_large")


# -- bytes on the wire -----------------------------------------------------------------------------------------

GARBAGE = [
    b"\r\n\r\n",
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nBad Header: a\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    b"GET /v1/users/\xff\xfe/score HTTP/1.1\r\nHost: a\r\n\r\n",
]


def exchange(client: httpx.Client, sent: bytes) -> bytes:
    """What comes back before the connection closes or falls silent; the connection ends with a reset."""
    address = urlsplit(str(client.base_url))
    assert address.hostname and address.port
    with socket.create_connection((address.hostname, address.port), timeout=0.2) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while chunk := connection.recv(65_536):
                received += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return received


@pytest.mark.fault("A2")
@pytest.mark.parametrize("sent", GARBAGE, ids=lambda sent: ascii(sent)[:40])
def test_garbage_on_the_wire_never_meets_a_bug(sent: bytes, shared: httpx.Client) -> None:
    assert b" 500 " not in exchange(shared, sent)[:20]
    assert shared.get("/healthz").status_code == 200


@pytest.mark.fault("A10")
def test_a_slow_body_is_given_up(served: Site) -> None:
    from dataclasses import replace

    limits = replace(served.parts.limits, body_seconds=0.1)
    with served.client(limits=limits) as client:
        head = b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        address = urlsplit(str(client.base_url))
        with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=3) as connection:
            connection.sendall(head)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def no_bugs(value: Any) -> bool:
    return "internal_error" not in str(value)


@pytest.mark.fault("A7")
@given(st.binary(max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_a_body_are_refused_or_answered(shared: httpx.Client, body: bytes) -> None:
    answer = shared.post("/v1/score", content=body, headers=JSON)
    assert answer.status_code in (200, 400, 422)


@pytest.mark.fault("A7")
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_as_a_body_is_refused_or_answered(shared: httpx.Client, value: Any) -> None:
    for path, key in (("/v1/score", "user_ids"), ("/v1/score/features", "vectors")):
        for body in (value, {key: value}, {key: [value]}):
            answer = shared.post(path, content=json.dumps(body).encode(), headers=JSON)
            assert answer.status_code in (200, 422)
