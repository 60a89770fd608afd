"""One line of JSON for each answered request.

    {"schema_version":2,"predicted_at":"...", ...,"user_id":[7,8],"status":["ok","stale"],...,"crc":"1b2a..."}

What differs between the predictions of a request stands in lists of equal length. A vector is the base64 of its
float64 values, little-endian, in the order of `features`: a tenth of the time of decimal numbers, and exact. A line
ends with a checksum of what stands before it, so that a torn or damaged line is told from a record. Schema 1 had a
line for each prediction, with decimal numbers; it is still read.
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from zlib import crc32

from churn.domain.predictions import Prediction
from churn.domain.records import PredictionRecord

SCHEMA_VERSION = 2
ITEM_FIELDS = ("user_id", "status", "churn_probability", "features_as_of", "vector")
_CRC = b',"crc":"'
_CRC_1 = b', "crc": "'
_DIGITS = len('12345678"}')
_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode(record: PredictionRecord) -> bytes:
    """The record's line, newline included."""
    fields = {
        "schema_version": SCHEMA_VERSION,
        "predicted_at": _stamp(record.predicted_at),
        "request_id": record.request_id,
        "idempotency_key": record.idempotency_key,
        "source": record.source,
        "variant": record.variant,
        "flags": record.flags,
        "latency_ms": record.latency_ms,
        **_item_lists(record),
    }
    model = _model_fields(record.model_version, record.model_digest, record.feature_service, record.features)
    body = (_json(fields)[:-1] + model).encode()
    return b'%b%b%08x"}\n' % (body, _CRC, crc32(body))


def decode(line: bytes) -> dict[str, Any] | None:
    """The fields of a line without its newline, None when it is no whole record of a known schema.

    Those of schema 1 come as schema 2 has them. A vector is a sequence of float64 values, or None.
    """
    for mark, read in ((_CRC, _read), (_CRC_1, _read_1)):
        body = line[: -len(mark) - _DIGITS]
        if line[len(body) :] == b'%b%08x"}' % (mark, crc32(body)):
            return read(body + b"}")
    return None


@lru_cache(maxsize=16)
def _model_fields(version: str, digest: str, feature_service: str, features: tuple[str, ...]) -> str:
    """The same in all lines of a model, made once."""
    fields = {
        "model_version": version,
        "model_digest": digest,
        "feature_service": feature_service,
        "features": features,
    }
    return "," + _json(fields)[1:-1]


def _item_lists(record: PredictionRecord) -> dict[str, list[Any]]:
    items, pack = record.predictions, struct.Struct(f"<{len(record.features)}d").pack
    stamps = {moment: moment and _stamp(moment) for moment in {item.features_as_of for item in items}}
    return {
        "user_id": [item.user_id for item in items],
        "status": [item.status for item in items],
        "churn_probability": [item.probability for item in items],
        "features_as_of": [stamps[item.features_as_of] for item in items],
        "vector": [_packed(item, pack) for item in items],
    }


def _packed(item: Prediction, pack: Any) -> str | None:
    return None if item.vector is None else b64encode(pack(*item.vector)).decode()


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _read(text: bytes) -> dict[str, Any] | None:
    fields = _parsed(text, SCHEMA_VERSION)
    if fields is not None:
        unpack = struct.Struct(f"<{len(fields['features'])}d").unpack
        fields["vector"] = [None if packed is None else unpack(b64decode(packed)) for packed in fields["vector"]]
    return fields


def _read_1(text: bytes) -> dict[str, Any] | None:
    fields = _parsed(text, 1)
    if fields is None:
        return None
    vector = fields.pop("features")
    names = [] if vector is None else list(vector)
    fields["vector"] = None if vector is None else [_float(value) for value in vector.values()]
    items = {name: [fields[name]] for name in ITEM_FIELDS}
    return {**fields, **items, "features": names, "variant": "champion", "flags": [], "idempotency_key": None}


def _parsed(text: bytes, schema_version: int) -> dict[str, Any] | None:
    try:
        fields: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return fields if fields.get("schema_version") == schema_version else None


def _float(value: float | str | None) -> float:
    """Schema 1 wrote nan (our null) as null, and infinity as a text."""
    return float("nan") if value is None else float(value)
