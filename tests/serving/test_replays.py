"""Requests that are sent again with the same Idempotency-Key: one answer, one record."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from serving.errors import Problem
from serving.replays import Replays
from tests.serving.conftest import Site, eventually
from tests.serving.test_bad_input import check_problem

USERS = {"user_ids": [1, 2]}
KEY = {"Idempotency-Key": "order-77/attempt"}


@pytest.mark.fault("A13")
def test_the_same_key_again_gets_the_same_bytes_and_leaves_one_record(served: Site, client: httpx.Client) -> None:
    first = client.post("/v1/score", json=USERS, headers=KEY)
    served.online.change(1, days_since_last_activity=400.0)
    again = client.post("/v1/score", json=USERS, headers=KEY)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert [(row["user_id"], row["idempotency_key"]) for row in served.log()] == [
        (1, "order-77/attempt"),
        (2, "order-77/attempt"),
    ]
    assert client.post("/v1/score", json=USERS).content != first.content


@pytest.mark.parametrize("path", ["/v1/users/3/score", "/v1/users/3/score?explain=true"])
def test_a_get_can_carry_a_key_too(path: str, served: Site, client: httpx.Client) -> None:
    answers = [client.get(path, headers=KEY) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert len(served.log()) == 1


@pytest.mark.fault("A13")
def test_another_question_with_the_key_is_refused(served: Site, client: httpx.Client) -> None:
    client.post("/v1/score", json=USERS, headers=KEY)
    for other in (
        client.post("/v1/score", json={"user_ids": [1]}, headers=KEY),
        client.get("/v1/users/1/score", headers=KEY),
    ):
        check_problem(other, 422, "idempotency_key_reused")
    assert len(served.log()) == 2


@pytest.mark.parametrize("key", ["", "x" * 129, "two words", "ümlaut".encode("latin-1"), "tab\tin"])
def test_a_key_that_is_no_key_is_refused(key: str | bytes, client: httpx.Client) -> None:
    answer = client.post("/v1/score", json=USERS, headers={"Idempotency-Key": key})
    assert "Idempotency-Key" in check_problem(answer, 422, "invalid_request")


def test_two_keys_are_none(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json=USERS, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    check_problem(answer, 422, "invalid_request")


@pytest.mark.fault("A13")
def test_a_question_that_failed_is_answered_when_it_comes_again(served: Site, client: httpx.Client) -> None:
    served.online.down = True
    check_problem(client.post("/v1/score", json=USERS, headers=KEY), 503, "feature_store_unavailable")
    served.online.down = False
    assert client.post("/v1/score", json=USERS, headers=KEY).status_code == 200
    assert len(served.log()) == 2


@pytest.mark.fault("A13")
def test_one_that_comes_while_the_first_is_being_answered_waits_for_its_answer(
    served: Site, client: httpx.Client
) -> None:
    served.online.frozen = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.post, "/v1/score", json=USERS, headers=KEY) for _ in range(3)]
        assert not eventually(lambda: any(each.done() for each in asked), seconds=0.3)
        served.online.frozen.set()
        bodies = {each.result().content for each in asked}
    assert len(bodies) == 1
    assert len(served.log()) == 2


def test_a_body_too_large_is_refused_with_a_key_as_without(client: httpx.Client) -> None:
    check_problem(client.post("/v1/score", content=b" " * 300_000, headers=KEY), 413, "body_too_large")


# -- what is held ----------------------------------------------------------------------------------------------


def ask(replays: Replays, key: str, body: bytes, made: list[str]) -> bytes:
    async def make() -> Response:
        made.append(key)
        return Response(body)

    return bytes(asyncio.run(replays.answer(key, b"asked", make)).body)


def test_answers_are_held_for_a_time() -> None:
    made: list[str] = []
    for seconds, wanted in ((60.0, 1), (0.0, 2)):
        replays, made = Replays(seconds=seconds), []
        for _ in range(2):
            ask(replays, "k", b"x", made)
        assert len(made) == wanted


def test_the_oldest_answers_go_when_there_are_too_many_bytes() -> None:
    replays, made = Replays(size=10_000), list[str]()
    for key in ("a", "b", "c", "a", "c"):
        ask(replays, key, bytes(3000), made)
    assert made == ["a", "b", "c", "a"]


def test_an_answer_larger_than_all_room_is_given_and_not_held() -> None:
    replays, made = Replays(size=2000), list[str]()
    assert [len(ask(replays, "k", bytes(5000), made)) for _ in range(2)] == [5000, 5000]
    assert made == ["k", "k"]


def test_a_first_that_is_given_up_does_not_hold_those_that_wait() -> None:
    async def given_up() -> list[Any]:
        replays, begun = Replays(), asyncio.Event()

        async def never() -> Response:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        async def make() -> Response:
            return Response(b"second")

        first = asyncio.create_task(replays.answer("k", b"asked", never))
        await begun.wait()
        second = asyncio.create_task(replays.answer("k", b"asked", make))
        await asyncio.sleep(0)
        with pytest.raises(Problem):
            await replays.answer("k", b"other", make)
        first.cancel()
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(given_up())
    assert isinstance(first, asyncio.CancelledError)
    assert second.body == b"second"
