"""What the service needs from outside, handed in as one value: tests hand in their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import SecretStr

from churn.core.scoring import ServedModel
from churn.domain.ports import ApiKeys, Ledger, OnlineFeatures, PredictionSink, UserIdType
from churn.domain.versions import MODEL_NAME
from churn.errors import NotReady
from churn.settings import Settings, load_settings
from churn.stores.model_cache import ModelCache

if TYPE_CHECKING:
    from serving.tracing import Tracing


@dataclass(frozen=True)
class Limits:
    """What the service takes on. `pending` counts requests that run or wait for one of `threads`.

    `explained` bounds a batch that asks for reasons: these cost milliseconds an item (docs/decisions/0016).
    """

    batch: int = 1000
    explained: int = 100
    body_bytes: int = 2_000_000
    header_bytes: int = 16_384
    body_seconds: float = 10.0
    answer_seconds: float = 5.0
    ready_seconds: float = 1.0
    threads: int = 4
    pending: int = 64


@dataclass(frozen=True)
class Dependencies:
    """`clock` says when "now" is (UTC) for the age of features and the time of predictions.

    `keys` None is development: whoever reaches the service may ask it, and it shows /docs. Without a
    `webhook_secret` there is no route for webhooks. `tracing` None: no traces.
    """

    online: OnlineFeatures
    cache: ModelCache[ServedModel]
    log: PredictionSink
    ledger: Ledger
    clock: Callable[[], datetime]
    max_feature_age: timedelta
    user_id_type: UserIdType
    keys: ApiKeys | None
    model_name: str = MODEL_NAME
    webhook_secret: SecretStr = field(default_factory=lambda: SecretStr(""))
    limits: Limits = field(default_factory=Limits)
    tracing: Tracing | None = None


def from_settings(settings: Settings | None = None) -> Dependencies:
    """The deployment's own parts; raises ChurnError when they cannot be had."""
    from churn.wiring import service_parts

    settings = settings or load_settings()
    parts = service_parts(settings)
    return Dependencies(
        online=parts.online,
        cache=parts.cache,
        log=parts.log,
        ledger=parts.ledger,
        clock=parts.clock,
        user_id_type=parts.user_id_type,
        keys=parts.keys,
        max_feature_age=settings.max_feature_age,
        model_name=settings.model_name,
        webhook_secret=settings.webhook_secret,
        limits=Limits(batch=settings.batch_limit, body_bytes=settings.body_limit_bytes),
        tracing=tracing_of(settings.otel_endpoint),
    )


def tracing_of(endpoint: str) -> Tracing | None:
    """Traces to a collector; raises NotReady when what they need is not installed. Loads nothing without one."""
    if not endpoint:
        return None
    try:
        from serving.tracing import open_tracing

        return open_tracing(endpoint)
    except ImportError as error:
        raise NotReady(
            "CHURN_OTEL_ENDPOINT is set, but what sends traces is not installed",
            hint="pip install 'churn[otel]'; or unset CHURN_OTEL_ENDPOINT.",
        ) from error
