"""Who may ask: keys, scopes and rates; what every answer says to browsers; what stands open in development only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from churn.domain.access import Scope
from churn.stores.api_keys import KeyFile
from serving.app import ROUTES, create_app
from serving.routes import Route
from tests.serving.conftest import Site, eventually, make_site, serving
from tests.serving.test_bad_input import check_problem

ONE = {"user_ids": [1]}


@dataclass
class Guarded:
    """A served deployment in production mode, and a key for each scope."""

    keys: KeyFile
    client: httpx.Client
    of: dict[Scope, str]

    def ask(self, route: Route, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.client.request(route.method, filled(route.path), json=ONE if route.body else None, headers=headers)

    def score(self, authorization: str) -> httpx.Response:
        return self.client.post("/v1/score", json=ONE, headers={"Authorization": authorization})


def filled(path: str) -> str:
    return path.format(user_id="1", model="churn_prediction", version="1")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    site = make_site(tmp_path_factory.mktemp("guarded"))
    site.promote()
    keys = KeyFile(site.home / "keys.json")
    made = {scope: keys.add(f"only-{scope}", frozenset({scope})) for scope in Scope}
    with site.client(keys=keys) as client:
        yield Guarded(keys, client, made)


def key_file(site: Site) -> KeyFile:
    return KeyFile(site.home / "keys.json")


# -- keys and scopes -------------------------------------------------------------------------------------------

OPEN = {
    "/healthz",
    "/readyz",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{model}/ready",
    "/v2/models/{model}/versions/{version}/ready",
}
SIGNED = {"/v1/webhooks/mlflow"}  # there only with a secret, see test_webhooks.py
BY_PATH = {f"{route.method} {route.path}": route for route in ROUTES if route.path not in SIGNED}


def test_only_the_two_probes_and_what_is_signed_need_no_key() -> None:
    assert {route.path for route in ROUTES if route.scope is None} == OPEN | SIGNED


@pytest.mark.fault("S2")
def test_a_route_that_does_not_say_who_may_pass_cannot_be() -> None:
    with pytest.raises(TypeError, match="scope"):
        Route("GET", "/v1/new", ROUTES[0].endpoint, None)  # type: ignore[call-arg]


@pytest.mark.fault("S2")
@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("name", BY_PATH)
def test_a_key_opens_the_routes_of_its_scope_and_no_other(name: str, scope: Scope, guarded: Guarded) -> None:
    route = BY_PATH[name]
    answer = guarded.ask(route, bearer(guarded.of[scope]))
    if route.scope in (None, scope):
        assert answer.status_code not in {401, 403}
    else:
        check_problem(answer, 403, "forbidden")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="churn", error="insufficient_scope"'


@pytest.mark.fault("S1", "S15")
def test_of_all_routes_that_the_application_has_only_the_probes_open_without_a_key(served: Site) -> None:
    keys = key_file(served)
    app = create_app(replace(served.parts, keys=keys))
    with serving(app) as address, httpx.Client(base_url=address) as client:
        paths = {route.path: route.methods for route in app.routes}  # type: ignore[attr-defined]
        assert set(paths) == {route.path for route in BY_PATH.values()}, (
            "in production there is no /docs and no /openapi.json"
        )
        for path, methods in paths.items():
            for method in methods:
                status = client.request(method, filled(path)).status_code
                assert status == (200 if path in OPEN else 401), (method, path)
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
            check_problem(client.get(path), 404, "no_such_route")


WRONG = [
    "",
    "Bearer",
    "Bearer churn_",
    "Bearer churn_" + "A" * 43,
    "Basic {key}",
    "Token {key}",
    "{key}",
    "Bearer {key}x",
    "Bearer {cut}",
    "Bearer Bearer {key}",
    "Bearer {key},{key}",
    "Bearer {digest}",
    "Bearer " + "k" * 10_000,
]


@pytest.mark.fault("S1")
@pytest.mark.parametrize("form", WRONG, ids=lambda form: form[:25])
def test_what_is_not_a_key_that_holds_is_401_always_in_the_same_words(form: str, guarded: Guarded) -> None:
    key = guarded.of[Scope.SCORE]
    digest = next(each.digest for each in guarded.keys.read() if each.name == "only-score")
    answer = guarded.score(form.format(key=key, cut=key[:-1], digest=digest))
    assert check_problem(answer, 401, "unauthenticated") == "A valid API key is needed"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="churn"'


def test_bytes_that_are_no_text_are_401(guarded: Guarded) -> None:
    answer = guarded.client.post("/v1/score", json=ONE, headers=[(b"Authorization", b"Bearer \xff\xfe\xe9")])
    check_problem(answer, 401, "unauthenticated")


def test_two_keys_at_once_are_none(guarded: Guarded) -> None:
    header = (b"Authorization", f"Bearer {guarded.of[Scope.SCORE]}".encode())
    check_problem(guarded.client.post("/v1/score", json=ONE, headers=[header, header]), 401, "unauthenticated")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_schemes_name_may_be_written_in_any_case(scheme: str, guarded: Guarded) -> None:
    assert guarded.score(f"{scheme} {guarded.of[Scope.SCORE]}").status_code == 200


def test_a_key_anywhere_but_in_its_header_opens_nothing(guarded: Guarded) -> None:
    key = guarded.of[Scope.SCORE]
    asked = {"params": {"access_token": key, "key": key}, "headers": {"X-Api-Key": key, "Cookie": f"key={key}"}}
    check_problem(guarded.client.get("/v1/model", **asked), 401, "unauthenticated")  # type: ignore[arg-type]


@pytest.mark.fault("S1")
def test_nothing_is_read_or_logged_for_who_has_no_key(served: Site) -> None:
    with served.client(keys=key_file(served)) as client:
        check_problem(client.post("/v1/score", content=b"x" * 1_000_000), 401, "unauthenticated")
        check_problem(client.get("/v1/users/1/score"), 401, "unauthenticated")
    assert (served.online.asked, served.log()) == ([], [])


# -- rotation --------------------------------------------------------------------------------------------------


@pytest.mark.fault("S1")
def test_keys_are_made_and_revoked_without_a_restart(served: Site) -> None:
    keys = key_file(served)
    with served.client(keys=keys) as client:

        def status(key: str) -> int:
            return client.post("/v1/score", json=ONE, headers=bearer(key)).status_code

        old = keys.add("shop", frozenset({Scope.SCORE}))
        assert eventually(lambda: status(old) == 200)
        new = keys.add("shop-2", frozenset({Scope.SCORE}))
        assert eventually(lambda: (status(old), status(new)) == (200, 200))
        keys.revoke("shop")
        assert eventually(lambda: (status(old), status(new)) == (401, 200))
        (served.home / "keys.json").unlink()
        assert eventually(lambda: status(new) == 401)


@pytest.mark.fault("S1")
def test_keys_hold_while_their_file_cannot_be_read_and_that_is_counted(
    served: Site, caplog: pytest.LogCaptureFixture
) -> None:
    keys, path = key_file(served), served.home / "keys.json"
    key = keys.add("all", frozenset({Scope.SCORE, Scope.METRICS}))
    with served.client(keys=keys) as client:
        good = path.read_bytes()
        path.write_text('{"keys": [')
        assert eventually(
            lambda: "churn_api_key_failures_total 2.0" in client.get("/metrics", headers=bearer(key)).text
        )
        assert client.post("/v1/score", json=ONE, headers=bearer(key)).status_code == 200
        path.write_bytes(good)
        keys.revoke("all")
        assert eventually(lambda: client.get("/v1/model", headers=bearer(key)).status_code == 401)
    told = [record.message for record in caplog.records if "API keys known so far" in record.message]
    assert len(told) == 1, "once for each time of trouble, not once a second"


# -- rate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(served: Site) -> Iterator[tuple[httpx.Client, dict[str, str], KeyFile]]:
    """A key for three requests at once and then one every 10,000 s, and one without a bound."""
    keys = key_file(served)
    made = {"slow": keys.add("slow", frozenset({Scope.SCORE}), 0.0001)}
    made |= {
        "free": keys.add("free", frozenset({Scope.SCORE})),
        "three": keys.add("three", frozenset({Scope.SCORE}), 3),
    }
    with served.client(keys=keys) as client:
        yield client, made, keys


Limited = tuple[httpx.Client, dict[str, str], KeyFile]


@pytest.mark.fault("S3", "S4")
def test_above_its_rate_a_key_is_429_with_the_time_to_wait_and_others_are_not(limited: Limited) -> None:
    client, made, _ = limited
    assert client.get("/v1/model", headers=bearer(made["slow"])).status_code == 200
    answer = client.get("/v1/model", headers=bearer(made["slow"]))
    check_problem(answer, 429, "rate_limited")
    assert 9_990 <= int(answer.headers["Retry-After"]) <= 10_000
    assert {client.get("/v1/model", headers=bearer(made["free"])).status_code for _ in range(30)} == {200}
    burst = [client.get("/v1/model", headers=bearer(made["three"])).status_code for _ in range(5)]
    assert burst[:3] == [200, 200, 200] and 429 in burst


@pytest.mark.fault("S3")
def test_the_rate_is_the_keys_whatever_the_caller_says_of_where_it_comes_from(limited: Limited) -> None:
    client, made, _ = limited
    names = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP")
    asked = [
        client.get("/v1/model", headers={**bearer(made["slow"]), **dict.fromkeys(names, f"10.0.0.{number}")})
        for number in range(5)
    ]
    assert [answer.status_code for answer in asked] == [200, 429, 429, 429, 429]


@pytest.mark.fault("S3")
def test_a_change_of_other_keys_gives_nobody_a_fresh_rate(limited: Limited) -> None:
    client, made, keys = limited
    assert client.get("/v1/model", headers=bearer(made["slow"])).status_code == 200
    new = keys.add("new", frozenset({Scope.SCORE}))
    assert eventually(lambda: client.get("/v1/model", headers=bearer(new)).status_code == 200)
    check_problem(client.get("/v1/model", headers=bearer(made["slow"])), 429, "rate_limited")


@pytest.mark.fault("S10")
def test_refused_requests_are_counted_by_route_and_status_and_no_key_is_named(limited: Limited) -> None:
    client, made, keys = limited
    watcher = keys.add("watcher", frozenset({Scope.METRICS}))
    for key in (made["slow"], made["slow"], "churn_wrong"):
        client.get("/v1/model", headers=bearer(key))
    assert eventually(lambda: client.get("/metrics", headers=bearer(watcher)).status_code == 200)
    text = client.get("/metrics", headers=bearer(watcher)).text
    for status in ("200", "401", "429"):
        assert f'churn_request_seconds_count{{route="/v1/model",status="{status}"}} 1.0' in text
    assert "slow" not in text and "churn_wrong" not in text


# -- headers ---------------------------------------------------------------------------------------------------

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


@pytest.mark.fault("S15")
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/healthz", {}, 200),
        ("/v1/model", {}, 401),
        ("/nowhere", {}, 404),
        ("/v1/score", {}, 405),
        ("/healthz", {"X-Long": "a" * 20_000}, 431),
    ],
)
def test_every_answer_says_that_it_is_data_for_the_caller_alone(
    path: str, headers: dict[str, str], status: int, guarded: Guarded
) -> None:
    answer = guarded.client.get(path, headers={"Origin": "https://elsewhere.example", **headers})
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in ALWAYS} == ALWAYS
    assert not [name for name in answer.headers if name.startswith("access-control-")], "no other site may read it"


@pytest.mark.fault("S15")
def test_a_browser_that_asks_whether_another_site_may_is_told_nothing(guarded: Guarded) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    check_problem(guarded.client.options("/v1/score", headers=asked), 405, "method_not_allowed")


# -- development -----------------------------------------------------------------------------------------------


def test_in_development_nobody_is_asked_for_a_key_and_the_docs_are_shown(client: httpx.Client) -> None:
    assert client.post("/v1/score", json=ONE).status_code == 200
    assert client.post("/v1/score", json=ONE, headers=bearer("wrong")).status_code == 200
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html") and "/openapi.json" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "/docs" not in client.get("/openapi.json").json()["paths"]


def test_the_description_names_the_scope_of_each_route(client: httpx.Client) -> None:
    document: dict[str, Any] = client.get("/openapi.json").json()
    told = {
        f"{method.upper()} {path}": operation.get("security")
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert told == {
        name: None if route.scope is None else [{"api_key": [route.scope.value]}] for name, route in BY_PATH.items()
    }
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"


@pytest.mark.fault("S1")
def test_a_deployment_without_any_key_lets_nobody_in(served: Site, tmp_path: Path) -> None:
    with served.client(keys=KeyFile(tmp_path / "none.json")) as client:
        check_problem(client.post("/v1/score", json=ONE, headers=bearer("x")), 401, "unauthenticated")
        assert client.get("/healthz").status_code == 200
