"""Tensors of the Open Inference Protocol: to user ids or a matrix, and from predictions. Knows no HTTP."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import create_model

from churn.domain.ports import UserIdType
from churn.domain.predictions import Prediction, Status, UserId
from churn.domain.schema import FEATURES
from serving.errors import Problem
from serving.messages import IntegerId, Message, StringId, validated
from serving.v2_messages import Datatype, InferRequest, InputTensor, OutputName, OutputTensor, TensorMetadata

USER_ID = "user_id"
MATRIX = "features"
ID_DATATYPES: dict[UserIdType, Datatype] = {"integer": "INT64", "string": "BYTES"}
OUTPUTS: dict[OutputName, Datatype] = {
    "churn_probability": "FP64",
    "status": "BYTES",
    "scored_rows": "INT64",
    "scored_probability": "FP64",
}
_NUMPY = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}
_NULLABLE = {feature.name: feature.nullable for feature in FEATURES}


@dataclass(frozen=True)
class Tensor:
    """An input with its cells in row-major order, not yet checked one by one; a feature's null is None."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    cells: list[Any]


# -- in --------------------------------------------------------------------------------------------------------


def read(request: InferRequest, binary: bytes) -> dict[str, Tensor]:
    """The inputs by name, `binary` being what followed the JSON; raises Problem unless each has its cells."""
    rest = _Rest(binary)
    tensors = {given.name: _tensor(given, rest, f"inputs[{place}]") for place, given in enumerate(request.inputs)}
    if len(tensors) != len(request.inputs):
        raise _refused("inputs: a name is there twice")
    if rest.left:
        raise _refused("inputs: there are more bytes behind the JSON than the tensors say")
    return tensors


def rows(tensors: dict[str, Tensor]) -> int:
    """How many rows the tensors have; raises Problem when they differ."""
    lengths = {tensor.shape[0] for tensor in tensors.values()}
    if len(lengths) > 1:
        raise _refused("inputs: all must have the same number of rows")
    return lengths.pop()


class _UserIds(Message):
    user_id: list[IntegerId]


class _UserNames(Message):
    user_id: list[StringId]


_ID_FORMS: dict[UserIdType, type[_UserIds] | type[_UserNames]] = {"integer": _UserIds, "string": _UserNames}


def user_ids(tensor: Tensor, kind: UserIdType) -> list[UserId]:
    """The ids in `tensor`; raises Problem."""
    _check_form(tensor, ID_DATATYPES[kind])
    return list(validated(_ID_FORMS[kind], {USER_ID: tensor.cells}).user_id)


def matrix(tensors: dict[str, Tensor], features: Sequence[str]) -> NDArray[np.float64]:
    """(n, f) values in the order of `features`, null as nan; raises Problem."""
    columns = _columns(tensors, features)
    checked = validated(_form_of(tuple(features)), columns)
    return np.array([checked.__dict__[name] for name in features], dtype=np.float64).T


def _columns(tensors: dict[str, Tensor], features: Sequence[str]) -> dict[str, list[Any]]:
    whole = tensors.get(MATRIX)
    if whole is None or len(tensors) > 1:
        for tensor in tensors.values():
            _check_form(tensor, "FP32", "FP64")
        return {name: tensor.cells for name, tensor in tensors.items()}
    _check_form(whole, "FP32", "FP64", width=len(features))
    return {name: whole.cells[column :: len(features)] for column, name in enumerate(features)}


@cache
def _form_of(features: tuple[str, ...]) -> type[Message]:
    columns: dict[str, Any] = {name: (list[float | None] if _NULLABLE[name] else list[float], ...) for name in features}
    return create_model("Columns", __base__=Message, **columns)


def _check_form(tensor: Tensor, *datatypes: Datatype, width: int = 1) -> None:
    if tensor.datatype not in datatypes:
        raise _refused(f"inputs: the datatype must be {' or '.join(datatypes)} here")
    if tensor.shape[1:] != (width,) and (width > 1 or tensor.shape[1:]):
        raise _refused(f"inputs: the shape must be [n, {width}]" + (" or [n] here" if width == 1 else " here"))


def _tensor(given: InputTensor, rest: _Rest, place: str) -> Tensor:
    shape = tuple(given.shape)
    size = given.parameters.binary_data_size if given.parameters else None
    if (size is None) == (given.data is None):
        raise _refused(f"{place}: must have either data or the parameter binary_data_size")
    cells = _flat(given.data, shape) if given.data is not None else _decoded(given.datatype, rest.take(size or 0))
    if cells is None or len(cells) != math.prod(shape):
        raise _refused(f"{place}: the data must fill the shape")
    return Tensor(given.name, given.datatype, shape, cells)


def _flat(data: Sequence[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """The cells of flat data, or of data nested as `shape` is; None when it is neither."""
    inner = [each for each in data if isinstance(each, list)]
    if not inner:
        return list(data)
    if len(shape) == 1 or len(inner) != len(data) or any(len(row) != shape[1] for row in inner):
        return None
    return [cell for row in inner for cell in row]


# -- the binary tensor extension -------------------------------------------------------------------------------


class _Rest:
    """Bytes to be taken from the front."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._content) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _refused("inputs: there are fewer bytes behind the JSON than the tensors say")
        self._at += size
        return self._content[self._at - size : self._at]


def _decoded(datatype: Datatype, content: bytes) -> list[Any] | None:
    """The cells, nan as None; None when the bytes do not come out even."""
    if datatype == "BYTES":
        return _texts(content)
    if len(content) % np.dtype(_NUMPY[datatype]).itemsize:
        return None
    return [None if math.isnan(value) else value for value in np.frombuffer(content, _NUMPY[datatype]).tolist()]


def _texts(content: bytes) -> list[str] | None:
    """Each text has its length before it, in four bytes."""
    rest, texts = _Rest(content), []
    try:
        while rest.left:
            (length,) = struct.unpack("<I", rest.take(4))
            texts.append(rest.take(length).decode("utf-8"))
    except (Problem, UnicodeDecodeError):
        return None
    return texts


# -- out -------------------------------------------------------------------------------------------------------


def outputs(predictions: Sequence[Prediction], names: Sequence[OutputName]) -> list[OutputTensor]:
    """The tensors asked for; raises Problem when one has a cell for every row, and a row has nothing for it."""
    return [_output(name, _CELLS[name](predictions)) for name in names]


def described_outputs() -> list[TensorMetadata]:
    return [TensorMetadata(name=name, datatype=datatype, shape=[-1]) for name, datatype in OUTPUTS.items()]


def described_inputs(kind: UserIdType, features: Sequence[str]) -> list[TensorMetadata]:
    return [
        TensorMetadata(name=USER_ID, datatype=ID_DATATYPES[kind], shape=[-1]),
        TensorMetadata(name=MATRIX, datatype="FP64", shape=[-1, len(features)]),
        *(TensorMetadata(name=name, datatype="FP64", shape=[-1]) for name in features),
    ]


def _output(name: OutputName, cells: list[Any]) -> OutputTensor:
    return OutputTensor(name=name, shape=[len(cells)], datatype=OUTPUTS[name], data=cells)


def _probabilities(predictions: Sequence[Prediction]) -> list[float]:
    """The protocol has no null, and a nan would be a number for nothing."""
    for row, prediction in enumerate(predictions):
        if prediction.status is not Status.OK:
            found = f"row {row} is {prediction.status}"
            raise Problem("no_probability", f"{found}; ask for status, scored_rows and scored_probability instead")
    return _scored_probabilities(predictions)


def _statuses(predictions: Sequence[Prediction]) -> list[str]:
    return [prediction.status.value for prediction in predictions]


def _scored_rows(predictions: Sequence[Prediction]) -> list[int]:
    return [row for row, prediction in enumerate(predictions) if prediction.probability is not None]


def _scored_probabilities(predictions: Sequence[Prediction]) -> list[float]:
    return [prediction.probability for prediction in predictions if prediction.probability is not None]


_CELLS: dict[OutputName, Callable[[Sequence[Prediction]], list[Any]]] = {
    "churn_probability": _probabilities,
    "status": _statuses,
    "scored_rows": _scored_rows,
    "scored_probability": _scored_probabilities,
}


def _refused(detail: str) -> Problem:
    return Problem("invalid_request", detail)
