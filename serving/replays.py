"""Requests that are sent again: the same Idempotency-Key gets the same answer, byte for byte, and no second record.

Answers are held in the memory of one worker. A key that meets another worker, or a new one, is answered anew; its
second record carries the key too, and readers of the prediction log keep the first.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from hashlib import sha256
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from serving.body import JSON_LENGTH, read_body
from serving.errors import Problem

if TYPE_CHECKING:
    from serving.routes import Service

HEADER = "Idempotency-Key"
PATTERN = r"[\x21-\x7e]{1,128}"
HELD_SECONDS = 600.0
HELD_BYTES = 32 * 2**20
_OVERHEAD = 1024  # what an answer costs besides its body, roughly
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass
class _Held:
    """One question under its key, and its answer once `settled`; None when it failed."""

    asked: bytes
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytes | None = None
    since: float = 0.0

    @property
    def size(self) -> int:
        return _OVERHEAD + len(self.body or b"")


class Replays:
    """Answers by key, the oldest forgotten first: after `seconds`, or when they take more than `size` bytes."""

    def __init__(self, *, seconds: float = HELD_SECONDS, size: int = HELD_BYTES) -> None:
        self._pending: dict[str, _Held] = {}
        self._answered: OrderedDict[str, _Held] = OrderedDict()
        self._seconds = seconds
        self._limit = size
        self._size = 0

    async def answer(self, key: str, asked: bytes, make: Callable[[], Awaitable[Response]]) -> Response:
        """What `make` answered to the first of equal questions; one that failed is made again.

        A question that comes while its first is being answered waits for it. Raises Problem when the key was given to
        another question.
        """
        while (held := self._known(key)) is not None:
            if held.asked != asked:
                raise Problem("idempotency_key_reused")
            await held.settled.wait()
            if held.body is not None:
                return Response(held.body, media_type="application/json")
        return await self._first(key, _Held(asked), make)

    async def _first(self, key: str, held: _Held, make: Callable[[], Awaitable[Response]]) -> Response:
        self._pending[key] = held
        try:
            response = await make()
            held.body = bytes(response.body)
            self._hold(key, held)
            return response
        finally:
            del self._pending[key]
            held.settled.set()

    def _known(self, key: str) -> _Held | None:
        while self._answered and time.monotonic() - self._oldest().since > self._seconds:
            self._forget_oldest()
        return self._pending.get(key) or self._answered.get(key)

    def _hold(self, key: str, held: _Held) -> None:
        held.since = time.monotonic()
        self._answered[key] = held
        self._size += held.size
        while self._size > self._limit:
            self._forget_oldest()

    def _oldest(self) -> _Held:
        return next(iter(self._answered.values()))

    def _forget_oldest(self) -> None:
        self._size -= self._answered.popitem(last=False)[1].size


def once(endpoint: Endpoint) -> Endpoint:
    """The endpoint, except that a request with a key that was answered before gets that answer."""

    @wraps(endpoint)
    async def answered(request: Request) -> Response:
        key = request.state.idempotency_key = _key(request)
        if key is None:
            return await endpoint(request)
        service: Service = request.app.state.service
        split = request.headers.get(JSON_LENGTH, "")
        asked = sha256(f"{request.method} {request.url.path}?{request.url.query}\n{split}\n".encode())
        asked.update(await read_body(request, service.parts.limits))
        return await service.replays.answer(key, asked.digest(), lambda: endpoint(request))

    return answered


def _key(request: Request) -> str | None:
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch(PATTERN, given[0]):
        raise Problem("invalid_request", f"{HEADER}: once, with 1 to 128 printable ASCII characters and no space")
    # Two callers that choose the same key must neither see each other's answers nor hide each other's records.
    return f"{request.state.caller} {given[0]}".lstrip()
