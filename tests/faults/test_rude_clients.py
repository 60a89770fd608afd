"""Clients that dawdle, break off, or speak no HTTP: they are got rid of, and nobody else notices."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.app import ROUTES, create_app
from serving.connections import Connection
from tests.serving.conftest import Site, eventually, make_site, serving

USERS = {"user_ids": [1, 2]}
POST = b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", ""]


class Hasty(Connection):
    """The same with bounds for tests."""

    header_seconds = 0.4


@contextmanager
def hasty(site: Site) -> Iterator[str]:
    """The address of a service that waits 0.4 s for headers and for bodies."""
    limits = replace(site.parts.limits, body_seconds=0.4)
    with serving(create_app(replace(site.parts, limits=limits)), Hasty) as address:
        yield address


def connect(address: str) -> socket.socket:
    place = urlsplit(address)
    assert place.hostname and place.port
    return socket.create_connection((place.hostname, place.port), timeout=5)


def said(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received


# -- dawdlers --------------------------------------------------------------------------------------------------


@pytest.mark.fault("A10")
@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_headers_that_do_not_come_to_an_end_close_the_connection(sent: bytes, served: Site) -> None:
    with hasty(served) as address, connect(address) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        assert said(connection) == b""
        assert 0.2 < time.monotonic() - started < 2


@pytest.mark.fault("A10")
def test_headers_a_byte_at_a_time_have_no_more_time_also_after_an_answer(served: Site) -> None:
    with hasty(served) as address, connect(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        started = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - started < 5:
                connection.sendall(b"\r")
                time.sleep(0.05)
        assert time.monotonic() - started < 2


@pytest.mark.fault("A10")
def test_a_body_a_byte_at_a_time_is_408_and_the_connection_is_closed(served: Site) -> None:
    with hasty(served) as address, connect(address) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        started = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - started < 5:
                connection.sendall(b" ")
                time.sleep(0.05)
        assert time.monotonic() - started < 2
        assert said(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.fault("A10")
def test_three_hundred_dawdlers_hinder_nobody(served: Site) -> None:
    with hasty(served) as address, ExitStack() as stack, httpx.Client(base_url=address) as client:
        for number in range(300):
            connection = stack.enter_context(connect(address))
            connection.sendall([b"", b"GET /hea", POST + b"Content-Length: 99\r\n\r\n{"][number % 3])
        seconds = []
        for _ in range(30):
            started = time.monotonic()
            assert client.post("/v1/score", json=USERS).status_code == 200
            seconds.append(time.monotonic() - started)
        assert sorted(seconds)[27] < 0.25


@pytest.mark.fault("A2", "A6")
def test_headers_without_end_are_cut_off_long_before_they_fill_the_memory(served: Site) -> None:
    with serving(create_app(served.parts)) as address, connect(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: ")
        sent = 0
        with suppress(OSError):
            while sent < 100_000_000:
                connection.sendall(b"a" * 10_000)
                sent += 10_000
        assert sent < 10_000_000  # what lies in the kernel's buffers counts too


@pytest.mark.fault("A6")
def test_the_rest_of_a_body_that_was_refused_unread_is_thrown_away_and_the_connection_goes_on(served: Site) -> None:
    with serving(create_app(served.parts)) as address, connect(address) as connection:
        head = b"POST /v1/nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b" " * 1_000_000 + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert said(connection).startswith(b"HTTP/1.1 200 ")


# -- those who leave -------------------------------------------------------------------------------------------


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def leave_after(address: str, sent: bytes) -> None:
    """Sends, waits for nothing and resets the connection."""
    with connect(address) as connection:
        connection.sendall(sent)
        time.sleep(0.01)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.fault("A11")
def test_clients_that_go_away_leak_nothing_and_are_no_error(served: Site, caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"user_ids": [1, 2, 3]}'
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    limits = replace(served.parts.limits, pending=6, answer_seconds=5.0)
    with serving(create_app(replace(served.parts, limits=limits))) as address, httpx.Client(base_url=address) as client:
        assert client.post("/v1/score", json=USERS).status_code == 200
        files, threads = open_files(), threading.active_count()
        served.online.frozen = threading.Event()
        for sent in (whole[:20], whole[:-5], whole, whole, whole + whole):
            leave_after(address, sent)
        served.online.frozen.set()
        assert eventually(lambda: open_files() <= files, seconds=2)
        served.online.frozen = None
        for _ in range(30):
            leave_after(address, whole)
        assert eventually(lambda: open_files() <= files and threading.active_count() <= threads, seconds=2)
        answers = [client.post("/v1/score", json=USERS).status_code for _ in range(6)]
        assert answers == [200] * 6, "no place in the queue is lost"
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


# -- no HTTP ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    site = make_site(tmp_path_factory.mktemp("rude"))
    site.promote()
    with hasty(site) as address:
        yield address


def answer_to(address: str, sent: bytes) -> bytes:
    """What comes back; the sending side is closed at once."""
    with connect(address) as connection:
        with suppress(OSError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        return said(connection)


def is_sound(answer: bytes) -> bool:
    """Nothing, or answers of which none is a bug."""
    return answer == b"" or (answer.startswith(b"HTTP/1.") and b" 500 " not in answer and b"Traceback" not in answer)


LINES = st.sampled_from(
    [
        b"GET /healthz HTTP/1.1\r\n", b"POST /v1/score HTTP/1.1\r\n", b"GET /v1/users/1/score HTTP/1.0\r\n",
        b"Host: a\r\n", b"Content-Type: application/json\r\n", b"Content-Length: 17\r\n", b"Content-Length: +17\r\n",
        b"Expect: 100-continue\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n",
        b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"X: a\rb\r\n", b"X: a\n b\r\n", b"\r\n",
        b'{"user_ids": [1]}', b'5\r\n{"a":\r\n', b"0\r\n\r\n",
    ]
)  # fmt: skip


@pytest.mark.fault("A2")
@given(st.lists(LINES | st.binary(max_size=30), max_size=12).map(b"".join))
@settings(max_examples=150)
def test_whatever_bytes_come_are_refused_or_answered_and_the_next_request_is_answered(
    address: str, sent: bytes
) -> None:
    assert is_sound(answer_to(address, sent))
    assert answer_to(address, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.fault("A2", "A9")
def test_every_verb_on_every_path_has_an_answer_that_is_no_bug(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    statuses: set[bytes] = set()
    for route in ROUTES:
        path = route.path.format(user_id="1", model="churn_prediction", version="1")
        for verb in VERBS:
            answer = answer_to(address, f"{verb} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            assert is_sound(answer)
            statuses.add(answer[9:12])
    assert statuses <= {b"", b"200", b"400", b"404", b"405", b"415"}
    assert "Traceback" not in capfd.readouterr().err
