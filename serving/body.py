"""Reading a body: only JSON, only so long, only for so many seconds."""

from __future__ import annotations

import asyncio
from email.message import Message as Headers
from typing import Any

from starlette.requests import Request

from serving import strict_json
from serving.dependencies import Limits
from serving.errors import Problem


async def read_json(request: Request, limits: Limits) -> Any:
    """The body as JSON; raises Problem."""
    _check_media_type(request)
    body = await read_body(request, limits)
    try:
        return strict_json.parse(body)
    except strict_json.Malformed as error:
        raise Problem("malformed_request", str(error)) from error
    except strict_json.UnusableNumber as error:
        raise Problem("invalid_request", str(error)) from error


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, however often it is asked for; raises Problem."""
    if not hasattr(request.state, "body"):
        try:
            async with asyncio.timeout(limits.body_seconds):
                request.state.body = await _read(request, limits.body_bytes)
        except TimeoutError as error:
            raise Problem("request_timeout") from error
    body: bytes = request.state.body
    return body


def _check_media_type(request: Request) -> None:
    headers = Headers()
    headers["content-type"] = request.headers.get("content-type", "none/none")
    charset = str(headers.get_param("charset", "utf-8")).lower()
    plain = request.headers.get("content-encoding", "identity").lower() == "identity"
    if headers.get_content_type() != "application/json" or charset not in ("utf-8", "utf8") or not plain:
        raise Problem("unsupported_media_type")


async def _read(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> Problem:
    return Problem("body_too_large", f"at most {limit} bytes are read")
