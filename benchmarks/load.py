"""A load generator: prebuilt HTTP/1.1 requests over kept connections, in a process on a core of its own.

Closed loop: a connection sends when its answer is there. Open loop: requests are due at times drawn beforehand
(Poisson), and an answer's latency counts from when its request was due, whether or not a connection was free by then:
a service that stalls is charged for everybody who would have come meanwhile (no coordinated omission).
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.steps import LOAD_CORE, measured

PATIENCE_SECONDS = 30.0
BUCKETS_A_DECADE = 10
LOWEST_MS = 0.1
Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """`requests` are sent in turn to `port` of the loopback. `rate` (a second) makes it an open loop."""

    port: int
    requests: Sequence[bytes]
    seconds: float
    connections: int = 8
    warm_seconds: float = 1.0
    rate: float | None = None


@dataclass(frozen=True)
class Run:
    """Latencies of answers with status 200 in seconds, and how often what else came back.

    `answers` counts those of the warm-up too; `busy` is the generator's share of its core.
    """

    latencies: Seconds
    seconds: float
    others: Mapping[int, int]
    answers: int
    busy: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def ms(self, share: float) -> float:
        """A quantile of the latency."""
        return float(np.quantile(self.latencies, share)) * 1000

    def histogram(self) -> list[tuple[float, int]]:
        """(upper bound in ms, answers) of logarithmic buckets, empty ends left out."""
        places = np.ceil(BUCKETS_A_DECADE * np.log10(self.latencies * 1000 / LOWEST_MS)).astype(int)
        counts = Counter(np.maximum(places, 0).tolist())
        bounds = range(min(counts), max(counts) + 1)
        return [(round(LOWEST_MS * 10 ** (place / BUCKETS_A_DECADE), 4), counts[place]) for place in bounds]


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def asked(plan: Plan) -> Run:
    """Carries out the plan on the generator's core. Raises AssertionError when nothing good came back."""
    done: Run = measured(drive, plan, core=LOAD_CORE).result
    assert len(done.latencies), f"no good answer; others by status: {dict(done.others)}"
    return done


@dataclass
class _Line:
    """One connection; `due` is when the request under way had to be sent."""

    socket: socket.socket
    due: float = 0.0
    received: bytearray = field(default_factory=bytearray)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.sendall(request)

    def answer(self) -> int | None:
        """The status, once the whole answer is there. Raises ConnectionError when the other end has closed."""
        part = self.socket.recv(2**18)
        if not part:
            raise ConnectionError("the service closed the connection")
        self.received += part
        head = self.received.find(b"\r\n\r\n")
        if head < 0 or len(self.received) < head + 4 + _length(bytes(self.received[:head])):
            return None
        status = int(self.received[9:12])
        self.received.clear()
        return status


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    if not found:
        raise ConnectionError(f"an answer without Content-Length: {head[:200]!r}")
    return int(rest.split(b"\r\n", 1)[0])


def drive(plan: Plan) -> Run:
    """Sends and receives in this process."""
    addressed = ("127.0.0.1", plan.port)
    lines = [_Line(socket.create_connection(addressed, PATIENCE_SECONDS)) for _ in range(plan.connections)]
    for line in lines:
        line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    processor, started = time.process_time(), time.perf_counter()
    answers = list(_answers(plan, lines, started))
    busy = (time.process_time() - processor) / (time.perf_counter() - started)
    for line in lines:
        line.socket.close()
    first = started + plan.warm_seconds
    counted = [(status, taken) for due, status, taken in answers if first <= due < first + plan.seconds]
    good = np.array([taken for status, taken in counted if status == 200])
    others = Counter(status for status, _ in counted if status != 200)
    return Run(good, plan.seconds, others, len(answers), busy)


def _answers(plan: Plan, lines: Sequence[_Line], started: float) -> Iterator[tuple[float, int, float]]:
    """(when due, status, latency) of every request that was due before the end."""
    end = started + plan.warm_seconds + plan.seconds
    dues = None if plan.rate is None else _schedule(plan.rate, started, end)
    requests = itertools.cycle(plan.requests)
    # Taken in turn: a connection that stays idle for seconds is closed by the service.
    free, busy = deque(lines), {}
    due = next(dues, end) if dues else started
    while busy or due < end:
        now = time.perf_counter()
        assert now < end + PATIENCE_SECONDS, "the service cannot keep up with the plan"
        due = due if dues else min(now, end)
        while free and due <= now and due < end:
            line = free.popleft()
            line.send(next(requests), due)
            busy[line.socket.fileno()] = line
            due = next(dues, end) if dues else now
        wait = due - now if due < end and free else PATIENCE_SECONDS * bool(busy)
        for number in select.select(list(busy), [], [], max(wait, 0.0))[0]:
            status = busy[number].answer()
            if status is not None:
                line = busy.pop(number)
                yield line.due, status, time.perf_counter() - line.due
                free.append(line)


def _schedule(rate: float, started: float, end: float) -> Iterator[float]:
    """When requests are due: a Poisson process, the same in every run."""
    draw = np.random.default_rng(1)
    moment = started + draw.exponential(1 / rate)
    while moment < end:
        yield moment
        moment += draw.exponential(1 / rate)
