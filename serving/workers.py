"""Threads for work that may block, bounded in number, in waiting and in time.

A frozen store holds some of these threads, and nothing else: the event loop stays free, waiting requests are told
503 at their deadline, further ones at once, and the process can end because the threads are daemons - which those of
the standard library's pools are not.

A thread that is free takes what waits and belongs together in one go: nobody waits for company, and when many ask at
once, the read, the walk through the trees and the write to disk are paid once for all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from threading import Condition, Thread, get_ident
from typing import Any, TypeVar

from serving.errors import Problem

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")
Together = Callable[[Sequence[Question]], Sequence[Answer | Exception]]

MOST_TOGETHER = 32
# So many threads work at the same time; the others stand in for those that a disk or a store holds for so long. More
# at once would only take the interpreter from each other, and leave less that can be answered together.
AT_WORK = 2
HELD_SECONDS = 0.02


@dataclass(eq=False)
class _Job:
    """A question that waits. Jobs whose `handle` is the same are handed to it together.

    What is logged and traced meanwhile goes under the name of the first of them: `context` is its request's.
    """

    handle: Together[Any, Any]
    question: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    context: Context = field(default_factory=copy_context)


class Workers:
    """`threads` threads; at most `pending` jobs running or waiting; each answered within `seconds`."""

    def __init__(self, name: str, *, threads: int, pending: int, seconds: float) -> None:
        self.name, self.threads, self.limit = name, threads, pending
        self._waiting: deque[_Job] = deque()
        self._since: dict[int, float] = {}  # the threads at work, and from when on
        self._stopped = False
        self._changed = Condition()  # over the three above
        self._looking = False
        self._busy = 0
        self._seconds = seconds
        self._pool = [Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        for thread in self._pool:
            thread.start()

    def stop(self) -> None:
        """Lets each thread end after its current jobs; waits for none."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def jobs(self) -> int:
        """Jobs that run or wait."""
        return self._busy

    def is_full(self) -> bool:
        """Whether the next question would be refused."""
        return self._busy >= self.limit

    async def run(self, job: Callable[[], Result]) -> Result:
        """The job's result or exception; raises Problem when too many wait or it takes too long."""
        return await self.ask(lambda _jobs: [job()], None)

    async def ask(self, handle: Together[Question, Answer], question: Question) -> Answer:
        """The outcome that `handle` has for the question, which it may get with others that wait for the same.

        An outcome that is an exception is raised, and so is whatever `handle` itself raises. Raises Problem as `run`.
        """
        if self.is_full():
            raise Problem("overloaded")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._busy += 1
        self._put(_Job(handle, question, loop, future))
        deadline = loop.call_later(self._seconds, _give_up, future)
        try:
            return await future
        finally:
            deadline.cancel()

    def _put(self, job: _Job) -> None:
        with self._changed:
            self._waiting.append(job)
            if self._may_work():
                self._changed.notify()
                return
        self._look_again(job.loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sees to it that a job does not wait for threads that are held."""
        if not self._looking:
            self._looking = True
            loop.call_later(HELD_SECONDS, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = False
        with self._changed:
            if not self._waiting:
                return
            if self._may_work():
                self._changed.notify()
        self._look_again(loop)

    def _may_work(self) -> bool:
        """Whether one more thread may go to work."""
        at_work = self._since.values()
        return len(at_work) < AT_WORK or time.monotonic() - max(at_work) > HELD_SECONDS

    # -- in the threads ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self._taken():
            outcomes = _outcomes(jobs)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                jobs[0].loop.call_soon_threadsafe(self._settle, jobs, outcomes)

    def _taken(self) -> list[_Job]:
        """The jobs to do next, none when all is over."""
        me = get_ident()
        with self._changed:
            self._since.pop(me, None)
            while not self._stopped and not (self._waiting and self._may_work()):
                self._changed.wait()
            if self._stopped:
                return []
            self._since[me] = time.monotonic()
            return self._together()

    def _together(self) -> list[_Job]:
        jobs = [self._waiting.popleft()]
        while self._waiting and self._waiting[0].handle == jobs[0].handle and len(jobs) < MOST_TOGETHER:
            jobs.append(self._waiting.popleft())
        return jobs

    # -- in the event loop ---------------------------------------------------------------------------------------

    def _settle(self, jobs: Sequence[_Job], outcomes: Sequence[Any]) -> None:
        self._busy -= len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # given up at its deadline, or by a client that went away
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(Problem("deadline_exceeded"))


def _outcomes(jobs: Sequence[_Job]) -> Sequence[Any]:
    """One outcome for each job; those that waited too long are not asked any more."""
    wanted = [job for job in jobs if not job.future.done()]
    if not wanted:
        return [None] * len(jobs)
    found = dict(zip(wanted, _asked(wanted), strict=True))
    return [found.get(job) for job in jobs]


def _asked(jobs: Sequence[_Job]) -> Sequence[Any]:
    try:
        return jobs[0].context.run(jobs[0].handle, [job.question for job in jobs])
    except Problem as problem:
        return [problem] * len(jobs)
    except Exception as error:
        # A bug that one question meets is not the others': they are asked again, each by itself.
        return [error] if len(jobs) == 1 else [outcome for job in jobs for outcome in _asked([job])]
