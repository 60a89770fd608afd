"""The application: `create_app()` makes it of the deployment's settings, or of parts handed in. Only FastAPI here."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving import routes, v2, webhooks
from serving.access import Gate
from serving.dependencies import Dependencies, from_settings
from serving.errors import Problem, on_http_exception, on_problem
from serving.metrics import Metrics
from serving.middleware import Envelope
from serving.observing import Observer
from serving.openapi import describe, route_options
from serving.replays import Replays
from serving.routes import Route, Service, service_of
from serving.scorer import Scorer
from serving.shedding import Shedding
from serving.state import ModelWatch
from serving.takeups import TakeUps
from serving.workers import Workers

API_VERSION = "1.0.0"
_DOCUMENT = "/openapi.json"
# The page is a script of its own and files from a CDN: one more reason to show it in development only.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net;"
    " style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com;"
    " connect-src 'self'; frame-ancestors 'none'"
)
_ALWAYS = (*routes.ROUTES, *v2.ROUTES)
ROUTES = (*_ALWAYS, *webhooks.ROUTES)


def create_app(dependencies: Dependencies | None = None) -> FastAPI:
    """The service as an ASGI application; raises ChurnError when the deployment's parts cannot be had."""
    service = _service(dependencies or from_settings())
    app = _api(ROUTES if service.parts.webhook_secret else _ALWAYS)
    app.state.service = service
    if service.parts.keys is None:
        _add_docs(app)
    limits = service.parts.limits
    app.add_middleware(Envelope, observe=Observer(service.metrics), header_bytes=limits.header_bytes)
    if service.parts.tracing is not None:
        from serving.tracing import Traced

        app.add_middleware(Traced, tracing=service.parts.tracing)
    waiting = [route.path for route in ROUTES if "overloaded" in route.problems]
    app.add_middleware(Shedding, paths=waiting, is_full=service.workers.is_full, observe=service.metrics.shed)
    return app


def openapi_document() -> dict[str, Any]:
    """What openapi.json must hold; needs no deployment."""
    return _api(ROUTES).openapi()


class _Api(FastAPI):
    """FastAPI, except that its document also holds the schemas that the table of routes refers to."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = describe(super().openapi())
        return self.openapi_schema


class _Plain(APIRoute):
    """A route whose endpoint takes the request and gives the response: FastAPI has nothing to work out each time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def _service(parts: Dependencies) -> Service:
    metrics, limits = Metrics(), parts.limits
    watch = ModelWatch(parts.cache, metrics, TakeUps(parts.ledger, metrics))
    timed = parts.tracing.timed(metrics.timed) if parts.tracing else metrics.timed
    service = Service(
        parts=parts,
        gate=Gate(parts.keys, metrics),
        watch=watch,
        metrics=metrics,
        scorer=Scorer(parts, watch, metrics, timed=timed),
        replays=Replays(),
        workers=Workers("score", threads=limits.threads, pending=limits.pending, seconds=limits.answer_seconds),
        prober=Workers("ready", threads=1, pending=4, seconds=limits.ready_seconds),
    )
    _watch(service)
    return service


def _watch(service: Service) -> None:
    """What is asked of the parts at each scrape."""
    parts, metrics = service.parts, service.metrics
    metrics.watch_log(parts.log.state)
    metrics.watch_workers(service.workers, service.prober)
    metrics.watch_model(service.watch.in_service, parts.clock)
    metrics.feature_age_limit(parts.max_feature_age)


def _api(table: Sequence[Route]) -> FastAPI:
    app = _Api(
        title="churn",
        version=API_VERSION,
        description="Probability that a user goes silent within the horizon. Errors are application/problem+json.",
        lifespan=_lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.router.route_class = _Plain
    for route in table:
        app.add_api_route(route.path, _guarded(route), methods=[route.method], **route_options(route))
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    return app


def _guarded(route: Route) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """The route's endpoint behind the gate: before anything of the request is read but its headers."""

    async def endpoint(request: Request) -> Response:
        request.state.caller = service_of(request).gate.check(request.headers, route.scope)
        answer: Response = await route.endpoint(request)
        return answer

    endpoint.__doc__ = route.endpoint.__doc__  # openapi.json shows it
    return endpoint


def _add_docs(app: FastAPI) -> None:
    async def document(_request: Request) -> Response:
        return JSONResponse(app.openapi())

    async def docs(_request: Request) -> Response:
        page = get_swagger_ui_html(openapi_url=_DOCUMENT, title="churn")
        page.headers["Content-Security-Policy"] = _DOCS_POLICY
        return page

    app.add_route(_DOCUMENT, document)
    app.add_route("/docs", docs)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.workers.start()
    service.prober.start()
    service.gate.start()
    service.watch.start()
    # What is loaded by now stays: a full collection that looks at all of it stops everything for 0.1 s.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        service.watch.stop()
        service.gate.stop()
        service.workers.stop()
        service.prober.stop()
        service.parts.log.close()
        if service.parts.tracing is not None:
            service.parts.tracing.stop()
