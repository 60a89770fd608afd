"""Around every request: its id, its size, its time, and the last net under bugs. Plain ASGI, no extra task."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import count

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from churn.logs import REQUEST_ID, without_data
from serving.errors import Problem, problem_response

# An answer is data for the caller alone: not to be kept, framed, sniffed or run. Strict-Transport-Security is the
# business of whatever ends TLS in front: over plain HTTP it means nothing (RFC 6797, 7.2).
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOG = logging.getLogger("churn.serving")
Observe = Callable[[Scope, int, float], None]


class Envelope:
    """Gives each request an id and an arrival time in its state, and answers whatever nobody else did.

    `observe` hears scope, status and seconds of every answer, `status` 0 when there was none.
    """

    def __init__(self, app: ASGIApp, *, observe: Observe, header_bytes: int) -> None:
        self._app = app
        self._observe = observe
        self._header_bytes = header_bytes
        self._ids = request_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.perf_counter()
        exchange = _Exchange(given_id(scope) or next(self._ids), send)
        scope.setdefault("state", {}).update(request_id=exchange.request_id, arrived=arrived)
        token = REQUEST_ID.set(exchange.request_id)
        try:
            await self._answer(scope, receive, exchange)
        finally:
            self._observe(scope, exchange.status, time.perf_counter() - arrived)
            REQUEST_ID.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._header_bytes:
            await exchange.refuse(Problem("headers_too_large"), scope, receive)
            return
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:  # nobody is left to answer
            return
        except Exception as error:
            _LOG.error("a request met a bug: %s", without_data(error))
            await exchange.refuse(Problem("internal_error"), scope, receive)


class _Exchange:
    """One answer on its way: stamped with the request id, its status remembered."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            for name, value in ALWAYS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def refuse(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        if self.status == 0:  # an answer that has begun cannot be taken back
            await problem_response(problem, scope)(scope, receive, self.send)


def request_ids() -> Iterator[str]:
    """Ids that no other process gives: random, then counted. Fresh randomness for each costs a call of the system."""
    ours = secrets.token_hex(8)
    return (f"{ours}{number:016x}" for number in count())


def given_id(scope: Scope) -> str:
    """The caller's own id of the request, "" when there is none or it is not sane."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else ""
