"""What goes in and out over HTTP. Strict: no field more or less, no text for a number, no rounding."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.datastructures import QueryParams

from churn.domain.ports import UserIdType
from churn.domain.predictions import Status, UserId
from churn.domain.reasons import ReasonCode
from churn.domain.schema import FEATURES, Feature
from serving import examples
from serving.errors import Problem

_LARGEST_ID = 2**63 - 1
_REFUSED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, invisible, half a character, line and paragraph ends
_REPLACEMENT = "\ufffd"  # what decoding puts in the place of bytes that are no text
_TOLD_AT_MOST = 3
_PATH_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")


def plain_text(value: str) -> str:
    if _REPLACEMENT in value or any(unicodedata.category(letter) in _REFUSED_CATEGORIES for letter in value):
        raise ValueError("control and invisible characters are not allowed")
    return value


IntegerId = Annotated[int, Field(ge=0, le=_LARGEST_ID)]
StringId = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(plain_text)]


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Explain = Annotated[bool, Field(description="Whether to tell why; for a batch of at most 100 items")]

# -- in --------------------------------------------------------------------------------------------------------


class ScoreUsers(Message):
    """Users by integer id. Order and duplicates are kept in the answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SCORE_USERS]})
    user_ids: list[IntegerId] = Field(min_length=1, description="Users to score, at most the deployment's batch limit")
    explain: Explain = False


class ScoreNamedUsers(Message):
    """The same for a deployment whose user ids are strings."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SCORE_NAMED_USERS]})
    user_ids: list[StringId] = Field(min_length=1, description="Users to score, at most the deployment's batch limit")
    explain: Explain = False


USERS: dict[UserIdType, type[ScoreUsers] | type[ScoreNamedUsers]] = {"integer": ScoreUsers, "string": ScoreNamedUsers}


def _field(feature: Feature) -> Any:
    meaning = f"{feature.meaning}; null when {feature.null_means}" if feature.nullable else feature.meaning
    return (float | None if feature.nullable else float, Field(description=meaning))


Vector = create_model("Vector", __base__=Message, **{feature.name: _field(feature) for feature in FEATURES})
Vector.__doc__ = "Every feature by name. A value outside the feature's range gives the status invalid_features."


class ScoreVectors(Message):
    """Raw feature vectors. Order is kept in the answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SCORE_VECTORS]})
    vectors: list[Vector] = Field(min_length=1, description="Vectors to score, at most the batch limit")
    explain: Explain = False


def matrix(message: ScoreVectors, features: Sequence[str]) -> NDArray[np.float64]:
    """(n, f) values in the order of `features`, null as nan."""
    rows = [[vector.__dict__[name] for name in features] for vector in message.vectors]
    return np.array(rows, dtype=np.float64)


# -- out -------------------------------------------------------------------------------------------------------

Reason = Annotated[str | None, Field(exclude_if=lambda value: value is None, description="Why there is no probability")]
Probability = Annotated[
    float | None, Field(ge=0, le=1, description="Of going silent within the horizon; null unless ok")
]
Segment = Annotated[Literal["Low", "Medium", "High"] | None, Field(description="Low below 0.3, High from 0.7")]
AsOf = Annotated[datetime | None, Field(description="The cutoff that the features are as of")]


class CodedReason(Message):
    """What one family of features has to do with the probability."""

    code: ReasonCode
    text: str = Field(description="The family's values in words; the same values give the same words")
    contribution: float = Field(description="What it adds to the log-odds; below 0 it lowers the probability")


class Explanation(Message):
    """Why a probability is what it is: `base_margin` and all contributions add up to `margin`."""

    base_margin: float = Field(description="Log-odds where all users start from")
    margin: float = Field(description="Log-odds of the probability, 0 and 1 taken as 1e-12 and 1 - 1e-12")
    reasons: list[CodedReason] = Field(description="One for each code, the largest contribution of either sign first")


Why = Annotated[
    Explanation | None,
    Field(exclude_if=lambda value: value is None, description="When asked for, and there is a probability"),
]


class ModelName(Message):
    """Which model answered."""

    name: str
    version: str


class UserPrediction(Message):
    """The answer for one user."""

    user_id: int | str
    status: Status
    churn_probability: Probability
    risk_segment: Segment
    features_as_of: AsOf
    reason: Reason = None
    explanation: Why = None


class VectorPrediction(Message):
    """The answer for one vector."""

    status: Status
    churn_probability: Probability
    risk_segment: Segment
    reason: Reason = None
    explanation: Why = None


class UsersScored(Message):
    """One prediction for each user id, in order, all by one model version."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.USERS_SCORED]})
    request_id: str
    model: ModelName
    feature_service: str
    predictions: list[UserPrediction]


class VectorsScored(Message):
    """One prediction for each vector, in order, all by one model version."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.VECTORS_SCORED]})
    request_id: str
    model: ModelName
    feature_service: str
    predictions: list[VectorPrediction]


class UserScored(Message):
    """The prediction for one user."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.USER_SCORED]})
    request_id: str
    model: ModelName
    feature_service: str
    user_id: int | str
    status: Status
    churn_probability: Probability
    risk_segment: Segment
    features_as_of: AsOf
    reason: Reason = None
    explanation: Why = None


class RefusedVersion(Message):
    """A version that carries the alias champion and must not serve, so that the one before still does."""

    version: str
    reason: str = Field(description="A short word, the same as in the metric churn_champion_refused")
    found: str


class Staging(Message):
    """How the side process fares that brings models here."""

    status: Literal["ok", "failing", "unknown"]
    champion_version: str | None = Field(description="Version behind the alias when the registry last answered")
    last_look_at: datetime | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_failure_reason: str | None
    refused: RefusedVersion | None
    held_version: str | None = Field(description="Version behind the alias that was rolled back from on this host")


class ModelInfo(Message):
    """The model in service. Times are the machine's."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MODEL_INFO]})
    name: str
    version: str
    digest: str
    aliases: list[str] = Field(description="`champion` unless the registry has moved on, or could not be asked")
    feature_service: str
    features: list[str]
    horizon_days: int
    loaded_at: datetime
    staging: Staging


class Health(Message):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.HEALTH]})
    status: Literal["ok"] = "ok"


class WebhookTaken(Message):
    """The call was genuine: the registry is being looked at."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.WEBHOOK_TAKEN]})
    status: Literal["taken"] = "taken"


class Ready(Message):
    """A model is loaded and the feature store answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.READY]})
    status: Literal["ready"] = "ready"
    model_version: str
    degraded: list[str] = Field(description="What is out of order without hindering answers")


class ProblemMessage(Message):
    """Every error (RFC 9457). Programs branch on `code`; `detail` is for people and never repeats the input."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.PROBLEM]})
    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


# -- checks ----------------------------------------------------------------------------------------------------


Form = TypeVar("Form", bound=Message)


def validated(form: type[Form], value: Any) -> Form:
    """`value` as a message; raises Problem."""
    try:
        return form.model_validate(value)
    except ValidationError as error:
        raise Problem("invalid_request", told(form, error)) from error


def path_user_id(text: str, kind: UserIdType) -> UserId:
    """A user id from a path, where everything is text: `7`, but not `07`, `+7`, `7_0`, ` 7` or other digits."""
    value: Any = text
    if kind == "integer":
        if not _PATH_INTEGER.fullmatch(text):
            raise Problem("invalid_request", "user_id: must be an integer from 0 to 2^63-1 in plain digits")
        value = int(text)
    ids: list[UserId] = list(validated(USERS[kind], {"user_ids": [value]}).user_ids)
    return ids[0]


def query_switch(parameters: QueryParams, name: str) -> bool:
    """A switch of the query, off when absent; raises Problem unless it is `true` or `false`, once."""
    given = parameters.getlist(name)
    if given not in ([], ["true"], ["false"]):
        raise Problem("invalid_request", f"{name}: must be true or false, once")
    return given == ["true"]


def told(form: type[Message], error: ValidationError) -> str:
    """What is wrong, by our own names and numbers only: a refused key or value is never repeated."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    lines = [f"{_place(form, problem['loc'])}: {_message(problem['type'], problem['msg'])}" for problem in problems]
    more = f" (and {len(lines) - _TOLD_AT_MOST} more)" if len(lines) > _TOLD_AT_MOST else ""
    return "; ".join(lines[:_TOLD_AT_MOST]) + more


def _place(form: type[Message], location: tuple[int | str, ...]) -> str:
    known = _own_names(form)
    steps = [
        f"[{step}]" if isinstance(step, int) else f".{step}"
        for step in location
        if step in known or isinstance(step, int)
    ]
    return "".join(steps).lstrip(".") or "body"


@cache
def _own_names(form: type[Message]) -> frozenset[str]:
    inner = [each for field in form.model_fields.values() for each in _forms_in(field.annotation)]
    return frozenset(form.model_fields).union(*map(_own_names, inner))


def _forms_in(annotation: Any) -> Iterator[type[Message]]:
    if isinstance(annotation, type) and issubclass(annotation, Message):
        yield annotation
    for part in get_args(annotation):
        yield from _forms_in(part)


def _message(kind: str, message: str) -> str:
    return "unknown field" if kind == "extra_forbidden" else message
