"""Reading a body: only JSON, with or without binary tensors behind it, only so long, only for so many seconds."""

from __future__ import annotations

import asyncio
import re
from email.message import Message as Headers
from typing import Any

from starlette.requests import Request

from serving import strict_json
from serving.dependencies import Limits
from serving.errors import Problem

JSON_LENGTH = "Inference-Header-Content-Length"
_LENGTH = re.compile("[0-9]{1,9}")
_ANY_BYTES = "application/octet-stream"
_UNNAMED = "none/none"


async def read_json(request: Request, limits: Limits) -> Any:
    """The body as JSON; raises Problem."""
    _check_media_type(request, "application/json")
    return _parse(await read_body(request, limits))


async def read_inference(request: Request, limits: Limits) -> tuple[Any, bytes]:
    """The body's JSON and what follows it, by the binary tensor extension; raises Problem.

    The extension's header says how long the JSON is. Its clients name no media type, or that of plain bytes.
    """
    length = request.headers.get(JSON_LENGTH)
    _check_media_type(request, "application/json", _UNNAMED if length is None else _ANY_BYTES, _UNNAMED)
    body = await read_body(request, limits)
    if length is None:
        return _parse(body), b""
    if not _LENGTH.fullmatch(length) or int(length) > len(body):
        raise Problem("malformed_request", f"{JSON_LENGTH} must be a number within the body's length")
    return _parse(body[: int(length)]), body[int(length) :]


def _parse(body: bytes) -> Any:
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


def _check_media_type(request: Request, *taken: str) -> None:
    headers = Headers()
    headers["content-type"] = request.headers.get("content-type", _UNNAMED)
    charset = str(headers.get_param("charset", "utf-8")).lower()
    plain = request.headers.get("content-encoding", "identity").lower() == "identity"
    if headers.get_content_type() not in taken or charset not in ("utf-8", "utf8") or not plain:
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
