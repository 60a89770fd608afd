"""Answers 503 at once while too many requests wait already, at a fraction of what the refusal costs further in.

What is spent on those who must be refused is taken from those who could be answered: at ten times the load that can be
carried, nine in ten are refused. So a refusal comes before the key is looked at, before a route is looked for and
before the body is read. Health, metrics and the like pass.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import KINDS, PROBLEM_TYPE, Problem, problem_body
from serving.middleware import ALWAYS, given_id, request_ids

_CODE = "overloaded"
_ID = "-- the request's id --"
_STATUS = KINDS[_CODE].status
_HEADERS = {"Content-Type": PROBLEM_TYPE, "Retry-After": str(KINDS[_CODE].retry_after_seconds), **ALWAYS}


class Shedding:
    """While `is_full` says so, requests for one of `paths` (templates) are refused; `observe` hears their seconds."""

    def __init__(
        self, app: ASGIApp, *, paths: Iterable[str], is_full: Callable[[], bool], observe: Callable[[float], None]
    ) -> None:
        self._app = app
        self._is_full = is_full
        self._observe = observe
        patterns = [compile_path(path)[0].pattern for path in paths]
        self._matches = re.compile("|".join(re.sub(r"\?P<\w+>", "?:", pattern) for pattern in patterns)).match
        self._headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
        self._ids = request_ids()
        self._bodies = {below: _around_the_id(below) for below in ("/v1/", "/v2/")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_full() and scope["type"] == "http" and self._matches(scope["path"]):
            await self._refuse(scope, send)
        else:
            await self._app(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        since = time.perf_counter()
        request_id = given_id(scope) or next(self._ids)
        before, after = self._bodies[scope["path"][:4]]
        body = before + request_id.encode() + after
        own = [(b"content-length", b"%d" % len(body)), (b"x-request-id", request_id.encode())]
        await send({"type": "http.response.start", "status": _STATUS, "headers": [*self._headers, *own]})
        await send({"type": "http.response.body", "body": body})
        self._observe(time.perf_counter() - since)


def _around_the_id(below: str) -> tuple[bytes, bytes]:
    """The body for paths below that one, but for the request's id."""
    before, after = json.dumps(problem_body(Problem(_CODE), below, _ID)).split(_ID)
    return before.encode(), after.encode()
