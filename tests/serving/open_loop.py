"""Load that does not wait: requests leave at their time, whatever became of those before them.

A generator that waits for answers slows down together with the service and so hides its delays. Latency is counted
from the moment at which a request was due.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Outcome:
    """What came of the requests: (status, seconds since it was due), status 0 for a broken connection."""

    seconds: float
    answers: list[tuple[int, float]] = field(default_factory=list)
    retry_after: int = 0

    def rate(self, status: int) -> float:
        """Answers of that status a second."""
        return sum(each == status for each, _ in self.answers) / self.seconds

    def percentile(self, status: int, percent: float) -> float:
        """Seconds; raises when there was no such answer."""
        return float(np.percentile([seconds for each, seconds in self.answers if each == status], percent))

    def statuses(self) -> set[int]:
        return {status for status, _ in self.answers}


def request_bytes(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connections:
    """Kept connections, as many as are needed at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> tuple[int, bool]:
        """The status, and whether Retry-After came with it."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        self._idle.append((reader, writer))
        return int(head[9:12]), b"\r\nretry-after: " in head

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def closed_loop(port: int, request: bytes, *, clients: int, seconds: float) -> Outcome:
    """What the service can do: each client asks again once it has its answer."""
    outcome, connections = Outcome(seconds), _Connections(port)
    end = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            await _timed(connections, request, time.monotonic(), outcome)

    await asyncio.gather(*(client() for _ in range(clients)))
    connections.close()
    return outcome


async def open_loop(port: int, request: bytes, *, rate: float, seconds: float) -> Outcome:
    """`rate` requests a second for `seconds`; then waits for what is still on its way."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each request that waits holds a connection
    outcome, connections = Outcome(seconds), _Connections(port)
    start, tasks = time.monotonic(), []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (ahead := due - time.monotonic()) > 0.001:
            await asyncio.sleep(ahead)
        elif number % 16 == 0:
            await asyncio.sleep(0)
        tasks.append(asyncio.create_task(_timed(connections, request, due, outcome)))
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    connections.close()
    return outcome


async def _timed(connections: _Connections, request: bytes, due: float, outcome: Outcome) -> None:
    try:
        status, has_retry_after = await connections.ask(request)
    except (OSError, asyncio.IncompleteReadError):
        status, has_retry_after = 0, False
    outcome.answers.append((status, time.monotonic() - due))
    outcome.retry_after += has_retry_after


async def probes(port: int, paths: Sequence[str], *, seconds: float) -> list[tuple[int, float]]:
    """Status and seconds of a GET of each path in turn, ten times a second, each over a connection of its own."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        for path in paths:
            since = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            found.append((int(answer[9:12]), time.monotonic() - since))
        await asyncio.sleep(0.1)
    return found
