"""Predictions as Arrow tables, one row each: what segments are read into and what compacted days hold.

A user id is an int or a str as it was asked for, which takes two columns. `item` is the place in the request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from churn.domain.schema import FEATURE_NAMES
from churn.stores.prediction_log.lines import decode

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = (
    "request_id",
    "idempotency_key",
    "source",
    "status",
    "model_version",
    "model_digest",
    "feature_service",
    "variant",
    "flags",
)
TIME_COLUMNS = ("predicted_at", "features_as_of")
NUMBER_COLUMNS = ("churn_probability", "latency_ms", *FEATURE_NAMES)
_SHARED = (*(name for name in TEXT_COLUMNS if name not in ("status", "flags")), "predicted_at", "latency_ms")
_UTC = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("predicted_at", _UTC),
        *((name, pa.string()) for name in TEXT_COLUMNS),
        ("item", pa.int32()),
        ("user_id_integer", pa.int64()),
        ("user_id_string", pa.string()),
        ("churn_probability", pa.float64()),
        ("features_as_of", _UTC),
        ("latency_ms", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Part:
    """Rows of one file. `damaged` counts its damaged lines, `torn` says that it ends within a line."""

    rows: pa.Table
    damaged: int = 0
    torn: bool = False


def read_segment(path: Path, *, is_open: bool = False) -> Part:
    """Every whole line; raises OSError. The end of a segment that is still being written is not torn."""
    *lines, tail = path.read_bytes().split(b"\n")
    lines = [line for line in lines if line]
    requests = [fields for fields in map(decode, lines) if fields is not None]
    return Part(table_of(requests), len(lines) - len(requests), tail != b"" and not is_open)


def table_of(requests: Sequence[dict[str, Any]]) -> pa.Table:
    """SCHEMA, then one float column for each feature that any of them names; nan becomes null."""
    counts = np.array([len(fields["user_id"]) for fields in requests], dtype=np.int64)
    columns = {name: _array(name, _repeated(requests, name, counts)) for name in _SHARED}
    columns["flags"] = _array("flags", [" ".join(f["flags"]) for f in requests for _ in f["user_id"]])
    columns["item"] = _array("item", [place for count in counts for place in range(count)])
    user_ids = _items(requests, "user_id")
    columns["user_id_integer"] = _array("user_id_integer", [i if isinstance(i, int) else None for i in user_ids])
    columns["user_id_string"] = _array("user_id_string", [i if isinstance(i, str) else None for i in user_ids])
    for name in ("status", "churn_probability", "features_as_of"):
        columns[name] = _array(name, _items(requests, name))
    table = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    for name, values in _features(requests).items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    return table


def _repeated(requests: Sequence[dict[str, Any]], name: str, counts: Any) -> list[Any]:
    return [fields[name] for fields, count in zip(requests, counts, strict=True) for _ in range(count)]


def _items(requests: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [value for fields in requests for value in fields[name]]


def _array(name: str, values: list[Any]) -> pa.Array:
    kind = SCHEMA.field(name).type
    if name in TIME_COLUMNS:
        known = {text: text and datetime.fromisoformat(text) for text in set(values)}
        values = [known[text] for text in values]
    return pa.array(values, type=kind)


def _features(requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Float64 values by feature, in the order in which the features are first named."""
    lists = {tuple(fields["features"]) for fields in requests}
    if len(lists) <= 1:
        return dict(zip(*lists, _matrix(requests).T, strict=True)) if lists else {}
    names = dict.fromkeys(name for fields in requests for name in fields["features"])
    blank = dict.fromkeys(names, math.nan)
    rows = [
        {**blank, **dict(zip(fields["features"], vector or (), strict=bool(vector)))}
        for fields in requests
        for vector in fields["vector"]
    ]
    return {name: np.array([row[name] for row in rows]) for name in names}


def _matrix(requests: Sequence[dict[str, Any]]) -> Any:
    """(n, f) for requests that all name the same f features."""
    blank = (math.nan,) * len(requests[0]["features"])
    rows = [vector or blank for vector in _items(requests, "vector")]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(blank))


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """All rows in the order of `predicted_at`; of rows with the same key and place, only the first."""
    table = pa.concat_tables([SCHEMA.empty_table(), *parts], promote_options="default")
    table = table.take(np.argsort(table["predicted_at"].to_numpy(), kind="stable"))
    keys = table.select(["idempotency_key", "item"]).to_pandas()
    again = keys["idempotency_key"].notna() & keys.duplicated()
    return table.filter(pa.array(~again)) if again.any() else table


def frame_of(table: pa.Table) -> pd.DataFrame:
    """TEXT_COLUMNS, `user_id` (objects: int or str, None for vectors), TIME_COLUMNS (UTC), NUMBER_COLUMNS (float64)."""
    import pandas as pd

    columns: dict[str, Any] = {name: table[name].to_pandas().astype(object) for name in TEXT_COLUMNS}
    ids = zip(table["user_id_integer"].to_pylist(), table["user_id_string"].to_pylist(), strict=True)
    columns["user_id"] = pd.Series([text if number is None else number for number, text in ids], dtype=object)
    for name in TIME_COLUMNS:
        columns[name] = table[name].to_pandas().astype("datetime64[ns, UTC]")
    for name in NUMBER_COLUMNS:
        known = name in table.column_names
        columns[name] = table[name].to_pandas().astype("float64") if known else np.full(len(table), np.nan)
    return pd.DataFrame(columns)
