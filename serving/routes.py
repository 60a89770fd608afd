"""The routes: HTTP in, HTTP out. What they mean is in scorer.py, how they are written down in app.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from churn.domain.access import Scope
from churn.domain.artifacts import Refusal, StagingStatus
from churn.domain.predictions import Prediction, Status, UserId, risk_segment
from churn.domain.reasons import Explanation
from churn.domain.versions import CHAMPION
from serving import messages
from serving.access import Gate
from serving.body import read_json
from serving.dependencies import Dependencies
from serving.errors import Problem
from serving.metrics import Metrics
from serving.replays import Replays, once
from serving.scorer import Answer, Question, Scorer
from serving.state import Loaded, ModelWatch
from serving.workers import Workers


@dataclass(frozen=True)
class Service:
    """What the routes share, in `app.state.service`."""

    parts: Dependencies
    gate: Gate
    watch: ModelWatch
    metrics: Metrics
    scorer: Scorer
    replays: Replays
    workers: Workers
    prober: Workers


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# -- scoring ---------------------------------------------------------------------------------------------------


@once
async def score_users(request: Request) -> Response:
    """Scores users by id, with the features of the online store.

    Each user has a status of its own: one unknown user never fails the others.
    """
    service = service_of(request)
    message = await _message(request, messages.USERS[service.parts.user_id_type])
    check_batch(service, "user_ids", message.user_ids, explain=message.explain)
    answer = await _users(request, list(message.user_ids), explain=message.explain)
    predictions = [messages.UserPrediction(**_user_fields(*each)) for each in _items(answer)]
    return reply(messages.UsersScored(**_answer_fields(request, answer), predictions=predictions))


@once
async def score_vectors(request: Request) -> Response:
    """Scores raw feature vectors; nothing is read from the feature store."""
    service = service_of(request)
    service.scorer.model()
    message = await _message(request, messages.ScoreVectors)
    check_batch(service, "vectors", message.vectors, explain=message.explain)
    question = question_of(request, to_matrix=partial(messages.matrix, message), explain=message.explain)
    answer = await answered(service, service.scorer.vectors, question, len(message.vectors))
    predictions = [messages.VectorPrediction(**_fields(*each)) for each in _items(answer)]
    return reply(messages.VectorsScored(**_answer_fields(request, answer), predictions=predictions))


@once
async def score_user(request: Request) -> Response:
    """Scores one user. An unknown user is 404; stale or not eligible is 200 without a probability."""
    service = service_of(request)
    user_id = messages.path_user_id(request.path_params["user_id"], service.parts.user_id_type)
    answer = await _users(request, [user_id], explain=messages.query_switch(request.query_params, "explain"))
    (item,) = _items(answer)
    if item[0].status is Status.NOT_FOUND:
        raise Problem("user_not_found")
    return reply(messages.UserScored(**_answer_fields(request, answer), **_user_fields(*item)))


async def _users(request: Request, user_ids: Sequence[UserId], *, explain: bool) -> Answer:
    service = service_of(request)
    question = question_of(request, user_ids=user_ids, explain=explain)
    return await answered(service, service.scorer.users, question, len(user_ids))


async def answered(
    service: Service, handle: Callable[[Sequence[Question]], list[Answer]], question: Question, items: int
) -> Answer:
    """The answer of the scorer's `handle`; questions of one item that need nothing special may share its work."""
    if items == 1 and not question.explain and question.version is None:
        return await service.workers.ask(handle, question)
    (answer,) = await service.workers.run(partial(handle, [question]))
    return answer


async def _message(request: Request, form: type[messages.Form]) -> messages.Form:
    return messages.validated(form, await read_json(request, service_of(request).parts.limits))


def check_batch(service: Service, name: str, items: Sequence[Any], *, explain: bool) -> None:
    limits = service.parts.limits
    if len(items) > limits.batch:
        raise Problem("invalid_request", f"{name}: at most {limits.batch} items in one request")
    if explain and len(items) > limits.explained:
        raise Problem("invalid_request", f"{name}: at most {limits.explained} items in one request with explain")


def question_of(request: Request, **asked: Any) -> Question:
    """What `asked` says of the question, besides what the request itself does."""
    state = request.state
    return Question(state.request_id, state.arrived, idempotency_key=state.idempotency_key, **asked)


_Item = tuple[Prediction, Explanation | None]


def _items(answer: Answer) -> list[_Item]:
    return list(zip(answer.predictions, answer.explanations, strict=True))


def _answer_fields(request: Request, answer: Answer) -> dict[str, Any]:
    name = service_of(request).parts.model_name
    return {
        "request_id": request.state.request_id,
        "model": messages.ModelName(name=name, version=answer.model.version),
        "feature_service": answer.model.feature_service,
    }


def _fields(prediction: Prediction, why: Explanation | None) -> dict[str, Any]:
    probability = prediction.probability
    return {
        "status": prediction.status,
        "churn_probability": probability,
        "risk_segment": None if probability is None else risk_segment(probability),
        "reason": prediction.reason or None,
        "explanation": None if why is None else _explanation_message(why),
    }


def _explanation_message(why: Explanation) -> messages.Explanation:
    reasons = [messages.CodedReason(code=r.code, text=r.text, contribution=r.contribution) for r in why.reasons]
    return messages.Explanation(base_margin=why.base_margin, margin=why.margin, reasons=reasons)


def _user_fields(prediction: Prediction, why: Explanation | None) -> dict[str, Any]:
    return {**_fields(prediction, why), "user_id": prediction.user_id, "features_as_of": prediction.features_as_of}


def reply(message: messages.Message) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")


# -- the model and the service itself --------------------------------------------------------------------------


async def model_info(request: Request) -> Response:
    """The model in service, and how the side process fares that brings new ones."""
    service = service_of(request)
    loaded = service.watch.loaded
    if loaded is None:
        raise Problem("no_model")
    return reply(_model_message(service.parts.model_name, loaded, service.watch.staging))


def _model_message(name: str, loaded: Loaded, staging: StagingStatus | None) -> messages.ModelInfo:
    model = loaded.model
    known = staging is not None and staging.champion_version == model.version
    return messages.ModelInfo(
        name=name,
        version=model.version,
        digest=model.digest,
        aliases=[CHAMPION] if known else [],
        feature_service=model.feature_service,
        features=list(model.features),
        horizon_days=model.horizon_days,
        loaded_at=loaded.loaded_at,
        staging=_staging_message(staging),
    )


def _staging_message(staging: StagingStatus | None) -> messages.Staging:
    return messages.Staging(
        status="unknown" if staging is None else ("failing" if staging.failing else "ok"),
        champion_version=staging.champion_version if staging else None,
        last_look_at=staging.last_look_at if staging else None,
        last_success_at=staging.last_success_at if staging else None,
        last_failure_at=staging.last_failure_at if staging else None,
        last_failure_reason=staging.last_failure_reason if staging else None,
        refused=_refused_message(staging.refused) if staging and staging.refused else None,
        held_version=staging.held_version if staging else None,
    )


def _refused_message(refusal: Refusal) -> messages.RefusedVersion:
    return messages.RefusedVersion(version=refusal.version, reason=refusal.reason, found=refusal.found)


async def healthz(_request: Request) -> Response:
    """Whether the process answers; depends on nothing outside it."""
    return reply(messages.Health())


async def readyz(request: Request) -> Response:
    """Whether requests can be answered: a model is loaded, the feature store answers."""
    loaded = await loaded_and_ready(request)
    staging = service_of(request).watch.staging
    degraded = ["staging_failing"] if staging is not None and staging.failing else []
    return reply(messages.Ready(model_version=loaded.model.version, degraded=degraded))


async def loaded_and_ready(request: Request) -> Loaded:
    """The model that can answer requests now; raises Problem."""
    if getattr(request.state, "draining", False):  # see churn.jobs.serve: who asks is still answered, for a while
        raise Problem("not_ready", "the service is stopping")
    service = service_of(request)
    loaded = service.watch.loaded
    if loaded is None:
        raise Problem("not_ready", "no model is loaded yet")
    await _probe(service)
    return loaded


async def _probe(service: Service) -> None:
    """Reads one user that need not exist, in a thread of its own: a busy service is still ready."""
    nobody: UserId = 0 if service.parts.user_id_type == "integer" else "readyz"
    try:
        await service.prober.run(partial(service.scorer.read, [nobody]))
    except Problem as problem:
        raise Problem("not_ready", problem.detail) from problem


async def metrics(request: Request) -> Response:
    """Counters and timings for Prometheus."""
    return Response(service_of(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


# -- the table of routes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """One route and what openapi.json says of it. `answer` None: plain text.

    `scope` is what a key needs to pass; None, which has to be said, lets everybody pass.
    """

    method: str
    path: str
    endpoint: Callable[[Request], Any]
    answer: type[messages.Message] | None
    body: tuple[type[messages.Message], ...] = ()
    problems: tuple[str, ...] = ()
    scope: Scope | None = field(kw_only=True)


BODY = ("malformed_request", "request_timeout", "body_too_large", "unsupported_media_type", "invalid_request")
_WORK = ("idempotency_key_reused", "no_model", "prediction_log_unavailable", "overloaded", "deadline_exceeded")
READ = ("feature_store_unavailable", *_WORK)

ROUTES = (
    Route(
        "POST",
        "/v1/score",
        score_users,
        messages.UsersScored,
        (messages.ScoreUsers, messages.ScoreNamedUsers),
        (*BODY, *READ),
        scope=Scope.SCORE,
    ),
    Route(
        "POST",
        "/v1/score/features",
        score_vectors,
        messages.VectorsScored,
        (messages.ScoreVectors,),
        (*BODY, *_WORK),
        scope=Scope.SCORE,
    ),
    Route(
        "GET",
        "/v1/users/{user_id}/score",
        score_user,
        messages.UserScored,
        problems=("user_not_found", "body_too_large", "request_timeout", "invalid_request", *READ),
        scope=Scope.SCORE,
    ),
    Route("GET", "/v1/model", model_info, messages.ModelInfo, problems=("no_model",), scope=Scope.SCORE),
    Route("GET", "/healthz", healthz, messages.Health, scope=None),
    Route("GET", "/readyz", readyz, messages.Ready, problems=("not_ready",), scope=None),
    Route("GET", "/metrics", metrics, None, scope=Scope.METRICS),
)
