"""Threads for work that may block, bounded in number, in waiting and in time.

A frozen store holds some of these threads, and nothing else: the event loop stays free, waiting requests are told
503 at their deadline, further ones at once, and the process can end because the threads are daemons - which those of
the standard library's pools are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from serving.errors import Problem

Result = TypeVar("Result")
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Workers:
    """`threads` threads; at most `pending` jobs running or waiting; each answered within `seconds`."""

    def __init__(self, name: str, *, threads: int, pending: int, seconds: float) -> None:
        self.name, self.threads, self.limit = name, threads, pending
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._busy = 0
        self._seconds = seconds
        self._threads = [Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets each thread end after its current job; waits for none."""
        for _ in self._threads:
            self._jobs.put(None)

    @property
    def jobs(self) -> int:
        """Jobs that run or wait."""
        return self._busy

    async def run(self, job: Callable[[], Result]) -> Result:
        """The job's result or exception; raises Problem when too many wait or it takes too long."""
        if self._busy >= self.limit:
            raise Problem("overloaded")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._busy += 1
        # The thread says and traces what it does under this request's name.
        self._jobs.put((loop, future, partial(copy_context().run, job)))
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError as error:
            raise Problem("deadline_exceeded") from error

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            loop, future, job = item
            result, error = _outcome(future, job)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle, future, result, error)

    def _settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        self._busy -= 1
        if future.done():  # given up at its deadline, or by a client that went away
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _outcome(future: asyncio.Future[Any], job: Callable[[], Any]) -> tuple[Any, Exception | None]:
    if future.cancelled():  # it waited too long for a thread
        return None, None
    try:
        return job(), None
    except Exception as error:  # handed to the request that waits for it
        return None, error
