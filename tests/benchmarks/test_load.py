"""The load generator against a service whose delays are known."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from benchmarks.load import Plan, Run, drive, get, post

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def service(answer: Callable[[int], bytes]) -> Iterator[int]:
    """Port of a service with one thread a connection; `answer` says what the n-th request gets, and may wait."""
    numbers = iter(range(10**9))

    def talk(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while connection.recv(65536):
                connection.sendall(answer(next(numbers)))

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def waits(seconds: float) -> Callable[[int], bytes]:
    def answer(_number: int) -> bytes:
        time.sleep(seconds)
        return OK

    return answer


def test_a_closed_loop_sends_when_its_answer_is_there() -> None:
    with service(waits(0.02)) as port:
        found = drive(Plan(port, [get("/")], seconds=0.4, connections=2, warm_seconds=0.1))
    assert found.latencies.min() >= 0.02
    assert 20 <= len(found.latencies) <= 40  # two connections, 20 ms each, 0.4 s
    assert found.answers > len(found.latencies)


def test_what_is_not_200_is_counted_apart() -> None:
    with service(lambda number: OK if number % 2 else BUSY) as port:
        found = drive(Plan(port, [get("/")], seconds=0.1, connections=1, warm_seconds=0))
    assert set(found.others) == {503}
    assert abs(found.others[503] - len(found.latencies)) <= 1


def test_an_answer_in_two_pieces_counts_once() -> None:
    body = b"x" * 400_000
    with service(lambda number: b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + body) as port:
        found = drive(Plan(port, [get("/")], seconds=0.1, connections=1, warm_seconds=0))
    assert len(found.latencies) == found.answers > 1


def test_an_open_loop_charges_a_stall_for_everybody_who_was_due_meanwhile() -> None:
    def stalls_once(number: int) -> bytes:
        if number == 5:
            time.sleep(0.3)
        return OK

    with service(stalls_once) as port:
        found = drive(Plan(port, [get("/")], seconds=0.6, connections=1, warm_seconds=0, rate=200))
    assert 80 <= len(found.latencies) <= 160
    # 0.3 s at 200 a second: about 60 requests were due in it. A closed loop would show a single slow one.
    assert 30 <= (found.latencies > 0.05).sum() <= 90


def test_an_open_loop_keeps_its_rate() -> None:
    with service(waits(0.001)) as port:
        found = drive(Plan(port, [get("/")], seconds=0.5, connections=8, warm_seconds=0.1, rate=300))
    assert found.rate == pytest.approx(300, rel=0.3)


def test_a_histogram_has_every_answer_in_the_bucket_below_its_bound() -> None:
    found = Run(np.array([0.00005, 0.001, 0.001, 0.0101]), 1.0, {}, 4, 0.1)
    buckets = found.histogram()
    assert buckets[0] == (0.1, 1)
    assert (1.0, 2) in buckets
    assert buckets[-1] == (12.5893, 1)
    assert sum(count for _, count in buckets) == 4


def test_a_posted_request_is_one_that_http_takes() -> None:
    assert post("/score", {"user_ids": [1]}) == (
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 17\r\n\r\n{"user_ids": [1]}'
    )
