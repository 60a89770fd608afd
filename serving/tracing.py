"""OpenTelemetry traces: a span for each scoring request, one below it for each stage. The only importer of its library.

It is loaded only where the deployment names a collector. Spans hold the route's template, the status and the request
id; neither path nor message, which name users. The ready-made instrumentation of FastAPI records the path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Stage, Timed
from serving.observing import route_of

_TRACED = ("/v1/", "/v2/models/")  # probes and scrapes would drown the rest
_EXPORT_SECONDS = 5
# An exception's message repeats data; what went wrong is told by its kind.
_QUIET: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}


def open_tracing(endpoint: str) -> Tracing:
    """Traces that go to the OTLP collector at that address; raises ImportError without the extra `otel`.

    Sampling, queue and headers follow OpenTelemetry's own variables, OTEL_TRACES_SAMPLER for one.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    os.environ.setdefault("OTEL_SERVICE_NAME", "churn")
    provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


class Tracing:
    """Makes spans. A collector that does not answer costs spans, never an answer."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("churn.serving")
        self._parents = TraceContextTextMapPropagator()

    def timed(self, timed: Timed) -> Timed:
        """The same stopwatch, with a span around."""

        @contextmanager
        def both(stage: Stage) -> Iterator[None]:
            with self._tracer.start_as_current_span(stage, **_QUIET) as span, _failing(span), timed(stage):
                yield

        return both

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Span]:
        """A span below the one that the caller names in `traceparent`, if any."""
        parent = self._parents.extract(Headers(scope=scope))
        with self._tracer.start_as_current_span(
            scope["method"], context=parent, kind=SpanKind.SERVER, **_QUIET
        ) as span:
            yield span

    def stop(self) -> None:
        """Sends what waits, for as long as one export may take."""
        self._provider.shutdown()


class Traced:
    """The application with a span around each scoring request. Plain ASGI."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        with self._tracing.request(scope) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _describe(span, scope, message["status"])
                await send(message)

            await self._app(scope, receive, noted)


def _describe(span: Span, scope: Scope, status: int) -> None:
    method, route = scope["method"], route_of(scope)
    span.update_name(f"{method} {route}")
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("churn.request_id", scope["state"]["request_id"])
    if status >= 500:
        problem = scope["state"].get("problem")
        span.set_attribute("error.type", problem.code if problem else str(status))
        span.set_status(StatusCode.ERROR)


@contextmanager
def _failing(span: Span) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(StatusCode.ERROR)
        raise
