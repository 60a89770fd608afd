"""The application: `create_app()` makes it of the deployment's settings, or of parts handed in. Only FastAPI here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from serving.dependencies import Dependencies, from_settings
from serving.errors import Problem, on_http_exception, on_problem
from serving.metrics import Metrics
from serving.middleware import Envelope
from serving.openapi import describe, route_options
from serving.replays import Replays
from serving.routes import ROUTES, Service
from serving.scorer import Scorer
from serving.state import ModelWatch
from serving.takeups import TakeUps
from serving.workers import Workers

API_VERSION = "1.0.0"


def create_app(dependencies: Dependencies | None = None) -> FastAPI:
    """The service as an ASGI application; raises ChurnError when the deployment's parts cannot be had."""
    service = _service(dependencies or from_settings())
    app = _api()
    app.state.service = service
    limits = service.parts.limits
    app.add_middleware(Envelope, observe=service.metrics.request, header_bytes=limits.header_bytes)
    return app


def openapi_document() -> dict[str, Any]:
    """What openapi.json must hold; needs no deployment."""
    return _api().openapi()


class _Api(FastAPI):
    """FastAPI, except that its document also holds the schemas that the table of routes refers to."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = describe(super().openapi())
        return self.openapi_schema


def _service(parts: Dependencies) -> Service:
    metrics, limits = Metrics(), parts.limits
    metrics.watch_log(parts.log.state)
    watch = ModelWatch(parts.cache, metrics, TakeUps(parts.ledger, metrics))
    return Service(
        parts=parts,
        watch=watch,
        metrics=metrics,
        scorer=Scorer(parts, watch, metrics),
        replays=Replays(),
        workers=Workers("score", threads=limits.threads, pending=limits.pending, seconds=limits.answer_seconds),
        prober=Workers("ready", threads=1, pending=4, seconds=limits.ready_seconds),
    )


def _api() -> FastAPI:
    app = _Api(
        title="churn",
        version=API_VERSION,
        description="Probability that a user goes silent within the horizon. Errors are application/problem+json.",
        lifespan=_lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    for route in ROUTES:
        app.add_api_route(route.path, route.endpoint, methods=[route.method], **route_options(route))
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.workers.start()
    service.prober.start()
    service.watch.start()
    try:
        yield
    finally:
        service.watch.stop()
        service.workers.stop()
        service.prober.stop()
        service.parts.log.close()
