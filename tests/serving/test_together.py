"""Questions that wait are answered together: fewer reads, the same answers, and nobody pays for another's fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from churn.domain.predictions import FeatureRow, UserId
from serving.errors import Problem
from serving.workers import AT_WORK, MOST_TOGETHER, Workers
from tests.serving.conftest import FakeOnline, Site, eventually
from tests.serving.test_scoring import expected_probability


@dataclass
class Gated(FakeOnline):
    """An online store whose first reads wait at the gate; `reads` remembers each, and user 13 is a bug."""

    gate: threading.Event = field(default_factory=threading.Event)
    reads: list[list[UserId]] = field(default_factory=list)

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        self.reads.append(list(user_ids))
        self.gate.wait(5)
        if 13 in user_ids:
            raise RuntimeError("cannot decode the row")
        return super().read(user_ids)


def asked_at_once(client: httpx.Client, online: Gated, users: Sequence[int]) -> list[httpx.Response]:
    """Asks for `users` while the threads at work are held by users 1 and 2, then opens the gate."""
    with ThreadPoolExecutor(len(users) + AT_WORK) as pool:
        holding = []
        for user in range(1, AT_WORK + 1):
            holding.append(pool.submit(client.get, f"/v1/users/{user}/score"))
            assert eventually(lambda: len(online.reads) == len(holding))
        waiting = [pool.submit(client.get, f"/v1/users/{user}/score") for user in users]
        assert eventually(lambda: sum(map(len, online.reads)) == AT_WORK + len(users))
        online.gate.set()
        assert all(each.result().status_code == 200 for each in holding)
        return [each.result() for each in waiting]


def test_those_who_wait_share_a_read_and_get_their_own_answers(served: Site) -> None:
    online, users = Gated(), list(range(3, 13))
    with served.client(online=online) as client:
        answers = asked_at_once(client, online, users)
    assert [answer.json()["user_id"] for answer in answers] == users
    expected = [expected_probability(served, user) for user in users]
    assert [answer.json()["churn_probability"] for answer in answers] == expected
    assert len(online.reads) < AT_WORK + len(users), "somebody shared a read"
    logged = {record["request_id"]: record["user_id"] for record in served.log()}
    assert len(logged) == AT_WORK + len(users)
    assert [logged[answer.json()["request_id"]] for answer in answers] == users


def test_a_bug_that_one_meets_is_not_the_others(served: Site) -> None:
    online = Gated()
    with served.client(online=online) as client:
        answers = asked_at_once(client, online, [3, 13, 4, 5])
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
    assert sorted(record["user_id"] for record in served.log()) == [1, 2, 3, 4, 5], "each is in the log once"


# -- the threads alone -----------------------------------------------------------------------------------------

Handle = Callable[[Sequence[Any]], Sequence[Any]]


@contextmanager
def working(**changes: Any) -> Iterator[Workers]:
    workers = Workers("test", **{"threads": 4, "pending": 64, "seconds": 5.0, **changes})
    workers.start()
    try:
        yield workers
    finally:
        workers.stop()


class Counting:
    """A handle that says how many it got at a time; while `held`, it holds those who call it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.held = threading.Event()

    def __call__(self, questions: Sequence[Any]) -> Sequence[Any]:
        self.sizes.append(len(questions))
        self.held.wait(5)
        return [f"answer to {question}" for question in questions]


def test_what_waits_is_taken_in_one_go_in_the_order_of_asking() -> None:
    async def ask(workers: Workers, handle: Counting) -> list[str]:
        asking = [asyncio.create_task(workers.ask(handle, number)) for number in range(40)]
        await asyncio.sleep(0)
        handle.held.set()
        return await asyncio.gather(*asking)

    with working(threads=1) as workers:
        handle = Counting()
        assert asyncio.run(ask(workers, handle)) == [f"answer to {number}" for number in range(40)]
    assert sum(handle.sizes) == 40
    assert len(handle.sizes) <= 3, "one by one would be 40"
    assert max(handle.sizes) <= MOST_TOGETHER


def test_only_questions_of_one_kind_are_taken_together() -> None:
    async def ask(workers: Workers, first: Counting, second: Counting) -> list[str]:
        asking = [asyncio.create_task(workers.ask(handle, "x")) for handle in (first, second, first, second)]
        await asyncio.sleep(0)
        first.held.set()
        second.held.set()
        return await asyncio.gather(*asking)

    first, second = Counting(), Counting()
    with working(threads=1) as workers:
        assert asyncio.run(ask(workers, first, second)) == 4 * ["answer to x"]
    assert (first.sizes, second.sizes) == ([1, 1], [1, 1])


def test_threads_that_are_held_are_stood_in_for() -> None:
    """Two are at work as a rule; when a store holds both, a question to something else is answered all the same."""

    async def ask(workers: Workers, frozen: Counting) -> int:
        held = []
        for number in range(AT_WORK):
            held.append(asyncio.create_task(workers.run(lambda: frozen([number]))))  # noqa: B023
            await asyncio.sleep(0.01)
        assert frozen.sizes == [1] * AT_WORK
        answer = await workers.run(lambda: 7)
        assert not frozen.held.is_set()
        frozen.held.set()
        await asyncio.gather(*held)
        return answer

    with working() as workers:
        assert asyncio.run(asyncio.wait_for(ask(workers, Counting()), 4)) == 7


def test_a_refusal_is_for_all_who_asked_together() -> None:
    def refuses(_questions: Sequence[Any]) -> Sequence[Any]:
        raise Problem("no_model")

    async def ask(workers: Workers) -> list[Any]:
        return await asyncio.gather(*(workers.ask(refuses, number) for number in range(5)), return_exceptions=True)

    with working() as workers:
        assert [getattr(outcome, "code", None) for outcome in asyncio.run(ask(workers))] == 5 * ["no_model"]


def test_more_than_may_wait_are_refused_at_once() -> None:
    async def ask(workers: Workers, handle: Counting) -> list[Any]:
        asking = [asyncio.create_task(workers.ask(handle, number)) for number in range(6)]
        await asyncio.sleep(0.01)
        assert [task.done() for task in asking] == 4 * [False] + 2 * [True]
        handle.held.set()
        return await asyncio.gather(*asking, return_exceptions=True)

    with working(pending=4) as workers:
        outcomes = asyncio.run(ask(workers, Counting()))
    assert [getattr(outcome, "code", "answered") for outcome in outcomes] == 4 * ["answered"] + 2 * ["overloaded"]


def test_who_gave_up_is_not_asked_any_more() -> None:
    async def ask(workers: Workers, handle: Counting) -> None:
        first = asyncio.create_task(workers.ask(handle, "first"))
        await asyncio.sleep(0.01)
        with pytest.raises(Problem, match="deadline_exceeded"):
            await workers.ask(handle, "late")
        with pytest.raises(Problem, match="deadline_exceeded"):
            await first
        handle.held.set()

    handle = Counting()
    with working(threads=1, seconds=0.1) as workers:
        asyncio.run(ask(workers, handle))
        assert eventually(lambda: not workers._waiting)
    assert handle.sizes == [1]
