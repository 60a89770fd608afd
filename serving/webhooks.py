"""A signed call of MLflow's: the registry may have news. All it does is wake the side process.

It brings no trust and no address: whatever it says, the side process looks at the registry that the settings name and
judges what it finds there as ever. So the body is not even parsed, and a call that comes twice makes for two looks.

Source of the scheme: mlflow/webhooks/delivery.py, `_generate_hmac_signature` (after standardwebhooks.com).
"""

from __future__ import annotations

import hmac
import re
import time
from base64 import b64encode
from dataclasses import dataclass, replace
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from churn.errors import Unavailable
from serving import messages
from serving.body import read_body
from serving.errors import Problem
from serving.routes import Route, reply, service_of

SIGNATURE = "X-MLflow-Signature"
TIMESTAMP = "X-MLflow-Timestamp"
DELIVERY = "X-MLflow-Delivery-Id"
FRESH_SECONDS = 300
BODY_BYTES = 65_536
_SECONDS = re.compile(r"[0-9]{1,12}")
# Without dots: what is signed joins its parts by dots, and must be read in one way only.
_DELIVERY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class _Claim:
    """What the headers of a call claim."""

    delivery_id: str
    timestamp: str
    signature: str


async def mlflow_webhook(request: Request) -> Response:
    """MLflow's registry says that something changed: the alias is looked at now, not at the next poll.

    It needs no API key, but the signature that MLflow makes with the webhook's secret, not older than five minutes.
    """
    service = service_of(request)
    claim = _claim(request.headers, time.time())
    body = await read_body(request, replace(service.parts.limits, body_bytes=BODY_BYTES))
    secret = service.parts.webhook_secret.get_secret_value()
    if not hmac.compare_digest(claim.signature.encode(), signature(secret, claim.delivery_id, claim.timestamp, body)):
        raise Problem("webhook_refused")
    try:
        await service.workers.run(service.parts.cache.wake)
    except Unavailable as error:
        raise Problem("webhook_not_passed_on") from error
    return reply(messages.WebhookTaken())


def signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> bytes:
    """What MLflow sends as X-MLflow-Signature."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return b"v1," + b64encode(hmac.digest(secret.encode(), signed, sha256))


def _claim(headers: Headers, now: float) -> _Claim:
    """The headers, in one well-formed copy each and fresh; raises Problem."""
    given = [headers.getlist(name) for name in (DELIVERY, TIMESTAMP, SIGNATURE)]
    if any(len(values) != 1 for values in given):
        raise Problem("webhook_refused")
    claim = _Claim(*(values[0] for values in given))
    if not _DELIVERY_ID.fullmatch(claim.delivery_id) or not _SECONDS.fullmatch(claim.timestamp):
        raise Problem("webhook_refused")
    if abs(now - int(claim.timestamp)) > FRESH_SECONDS:
        raise Problem("webhook_refused")
    return claim


ROUTES = (
    Route(
        "POST",
        "/v1/webhooks/mlflow",
        mlflow_webhook,
        messages.WebhookTaken,
        problems=(
            "webhook_refused",
            "request_timeout",
            "body_too_large",
            "webhook_not_passed_on",
            "overloaded",
            "deadline_exceeded",
        ),
        scope=None,
    ),
)
