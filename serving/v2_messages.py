"""The messages of the Open Inference Protocol, version 2: tensors with a name, a shape and a datatype.

https://github.com/kserve/open-inference-protocol. As strict as messages.py, except that members which the protocol
calls optional may also be null, and that `parameters` may hold what they will: none of them changes an answer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from serving import examples
from serving.messages import Message, plain_text

Datatype = Literal["INT64", "BYTES", "FP32", "FP64"]
OutputName = Literal["churn_probability", "status", "scored_rows", "scored_probability"]
Parameters = Annotated[dict[str, bool | int | float | str] | None, Field(description="Taken, and without effect")]
Cell = int | float | str | None
Shape = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=2)]
InferenceId = Annotated[str, Field(max_length=256), AfterValidator(plain_text)]

# -- in --------------------------------------------------------------------------------------------------------


class InputParameters(Message):
    """Of the binary tensor extension; others are taken, and without effect."""

    model_config = ConfigDict(extra="allow")
    binary_data_size: int | None = Field(
        default=None, ge=0, description="Bytes behind the JSON that hold the data, little-endian, in place of `data`"
    )


class InputTensor(Message):
    """One tensor. `data` is row-major, flat or nested as the shape is; null stands for a feature's null."""

    name: str = Field(min_length=1, max_length=256)
    shape: Shape
    datatype: Datatype
    parameters: InputParameters | None = None
    data: list[Cell | list[Cell]] | None = None


class RequestedOutput(Message):
    """A tensor that the answer shall hold."""

    name: OutputName
    parameters: Parameters = None


class InferRequest(Message):
    """Rows as tensors: `user_id` [n] or [n, 1], INT64 or BYTES as the deployment's ids are; or `features` [n, f], in
    the order of the model's metadata; or each feature by its name, [n] or [n, 1]. Features are FP64 or FP32.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [examples.INFER_USERS, examples.INFER_VECTORS]})
    id: InferenceId | None = None
    parameters: Parameters = None
    inputs: list[InputTensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = Field(default=None, description="All of them when empty or absent")


# -- out -------------------------------------------------------------------------------------------------------


class OutputTensor(Message):
    """`churn_probability` FP64 [n] and `status` BYTES [n] have one value a row. `scored_probability` FP64 [k] belongs
    to the k rows that have a probability, and `scored_rows` INT64 [k] says which these are, counted from 0.
    """

    name: OutputName
    shape: list[int]
    datatype: Datatype
    data: list[int | float | str]


class Inferred(Message):
    """The answer, by one model version. `id` is the request's, or the X-Request-ID when it has none."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.INFERRED]})
    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


class TensorMetadata(Message):
    """A tensor's form; -1 stands for any number of rows."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(Message):
    """The model in service. Of the inputs one is given: `user_id`, `features`, or all that follow, in that order."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MODEL_METADATA]})
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Message):
    """What answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SERVER_METADATA]})
    name: str
    version: str
    extensions: list[str]


class ServerLive(Message):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SERVER_LIVE]})
    live: Literal[True] = True


class ServerReady(Message):
    """Requests can be answered."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SERVER_READY]})
    ready: Literal[True] = True


class ModelReady(Message):
    """This model answers requests."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MODEL_READY]})
    name: str
    ready: Literal[True] = True


class InferenceProblem(Message):
    """ProblemMessage with the member that clients of the protocol show: `error`, the same as `detail`."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.INFERENCE_PROBLEM]})
    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    error: str
