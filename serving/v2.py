"""The Open Inference Protocol, version 2, beside /v1: the same scorer, limits, log and errors in KServe's words."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from churn.domain.access import Scope
from serving import messages, tensors, v2_messages
from serving.body import read_inference
from serving.errors import Problem
from serving.replays import once
from serving.routes import BODY, READ, Route, answered, check_batch, loaded_and_ready, question_of, reply, service_of
from serving.scorer import Answer

API_VERSION = "2"
_PLATFORM = "sklearn_skops"
_BINARY = "binary_tensor_data"


async def server_metadata(_request: Request) -> Response:
    """What answers, and which extensions of the protocol it knows. Binary tensors are read; answers are JSON."""
    return reply(v2_messages.ServerMetadata(name="churn", version=API_VERSION, extensions=[_BINARY]))


async def server_live(_request: Request) -> Response:
    """Whether the process answers; depends on nothing outside it."""
    return reply(v2_messages.ServerLive())


async def server_ready(request: Request) -> Response:
    """Whether requests can be answered: a model is loaded, the feature store answers."""
    await loaded_and_ready(request)
    return reply(v2_messages.ServerReady())


async def model_metadata(request: Request) -> Response:
    """The tensors that the model takes and gives. A version is known only while it is in service."""
    service = service_of(request)
    model = service.scorer.model(_version(request))
    described = v2_messages.ModelMetadata(
        name=service.parts.model_name,
        versions=[model.version],
        platform=_PLATFORM,
        inputs=tensors.described_inputs(service.parts.user_id_type, model.features),
        outputs=tensors.described_outputs(),
    )
    return reply(described)


async def model_ready(request: Request) -> Response:
    """Whether the model, in this version if one is named, answers requests."""
    service = service_of(request)
    version = _version(request)
    loaded = await loaded_and_ready(request)
    if version not in (None, loaded.model.version):
        raise Problem("no_such_model")
    return reply(v2_messages.ModelReady(name=service.parts.model_name))


@once
async def infer(request: Request) -> Response:
    """Scores users by id, or raw features; without `outputs` the answer holds every output.

    `churn_probability` has one number for each row: if a row has none (an unknown user, say), the request is refused
    with `no_probability`. `status`, `scored_rows` and `scored_probability` are answered whatever the rows are.
    """
    service = service_of(request)
    service.scorer.model(_version(request))
    content, binary = await read_inference(request, service.parts.limits)
    message = messages.validated(v2_messages.InferRequest, content)
    wanted = _wanted(message)
    answer = await _answer(request, tensors.read(message, binary))
    inferred = v2_messages.Inferred(
        model_name=service.parts.model_name,
        model_version=answer.model.version,
        id=message.id or request.state.request_id,
        outputs=tensors.outputs(answer.predictions, wanted),
    )
    return reply(inferred)


def _version(request: Request) -> str | None:
    """The version that the path names, if any; raises Problem when it names another model."""
    if request.path_params["model"] != service_of(request).parts.model_name:
        raise Problem("no_such_model")
    version: str | None = request.path_params.get("version")
    return version


def _wanted(message: v2_messages.InferRequest) -> list[v2_messages.OutputName]:
    names = [output.name for output in message.outputs or ()]
    if len(set(names)) != len(names):
        raise Problem("invalid_request", "outputs: a name is there twice")
    return names or list(tensors.OUTPUTS)


async def _answer(request: Request, given: dict[str, tensors.Tensor]) -> Answer:
    service = service_of(request)
    check_batch(service, "inputs", range(tensors.rows(given)), explain=False)
    question = partial(question_of, request, version=_version(request))
    if set(given) == {tensors.USER_ID}:
        user_ids = tensors.user_ids(given[tensors.USER_ID], service.parts.user_id_type)
        return await answered(service, service.scorer.users, question(user_ids=user_ids), len(user_ids))
    by_row = question(to_matrix=partial(tensors.matrix, given))
    return await answered(service, service.scorer.vectors, by_row, tensors.rows(given))


_MODEL = ("no_such_model", "no_model")
_INFER = ("no_such_model", "no_probability", *BODY, *READ)
_OF_MODEL = "/v2/models/{model}"
_OF_VERSION = _OF_MODEL + "/versions/{version}"
_ROWS = (v2_messages.InferRequest,)


def _routes(path: str) -> tuple[Route, ...]:
    ready = ("no_such_model", "not_ready")
    return (
        Route("GET", path, model_metadata, v2_messages.ModelMetadata, problems=_MODEL, scope=Scope.SCORE),
        Route("GET", path + "/ready", model_ready, v2_messages.ModelReady, problems=ready, scope=None),
        Route("POST", path + "/infer", infer, v2_messages.Inferred, _ROWS, _INFER, scope=Scope.SCORE),
    )


ROUTES = (
    Route("GET", "/v2", server_metadata, v2_messages.ServerMetadata, scope=Scope.SCORE),
    Route("GET", "/v2/health/live", server_live, v2_messages.ServerLive, scope=None),
    Route("GET", "/v2/health/ready", server_ready, v2_messages.ServerReady, problems=("not_ready",), scope=None),
    *(route for path in (_OF_MODEL, _OF_VERSION) for route in _routes(path)),
)
