"""A raw table while it is checked, and the terms it is checked on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from churn.core.raw_types import Mask, Parsed, Times
from churn.domain.ports import UserIdType
from churn.domain.schema import RAW_EVENT_TIMES, RAW_KEYS
from churn.domain.windows import as_utc

NUMBERS = {"orders": "order_amount", "user_sessions": "session_duration_minutes"}
CLOCK_SLACK = timedelta(minutes=5)


@dataclass(frozen=True)
class Terms:
    """What a log is checked against. `now` is the only clock; `zone` is what times without a zone are local to."""

    now: datetime
    zone: str = "UTC"
    date_format: str | None = None
    known_user_id_type: UserIdType | None = None
    horizon: timedelta = timedelta(days=60)

    @property
    def future(self) -> np.datetime64:
        return instant(self.now + CLOCK_SLACK)


def instant(moment: datetime) -> np.datetime64:
    return np.datetime64(as_utc(moment).replace(tzinfo=None), "us")


@dataclass
class Work:
    """One raw table while it is checked: columns as they came and as parsed, which rows are alive, and whether a
    fatal rule was broken.
    """

    name: str
    rows: int
    source: pa.Table
    parsed: dict[str, Parsed]
    terms: Terms
    reasons: npt.NDArray[np.object_] = field(init=False)
    alive: Mask = field(init=False)
    stopped: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.reasons = np.full(self.rows, None, dtype=object)
        self.alive = np.ones(self.rows, dtype=bool)

    def column_of(self, role: str) -> str:
        """The column behind `key`, `time` or `number`; any other role is a column's own name."""
        roles = {
            "key": RAW_KEYS[self.name],
            "time": RAW_EVENT_TIMES.get(self.name, ""),
            "number": NUMBERS.get(self.name, ""),
        }
        return roles.get(role, role)

    def column(self, role: str) -> Parsed:
        return self.parsed.get(self.column_of(role)) or Parsed(pa.nulls(self.rows), self.rows)

    def times(self, role: str) -> Times:
        """Instants; NaT throughout when the column is missing."""
        values = self.column(role).values
        return values if isinstance(values, np.ndarray) else np.full(self.rows, np.datetime64("NaT", "us"))

    @cached_property
    def key_codes(self) -> npt.NDArray[np.int64]:
        """The same number for the same key, -1 for none."""
        values = self.column("key").values
        codes = values.dictionary_encode().indices.fill_null(-1) if len(values) else pa.array([], pa.int64())
        return np.asarray(codes.to_numpy(zero_copy_only=False), dtype=np.int64)

    def set_aside(self, rule: str, mask: Mask) -> None:
        self.reasons[mask] = rule
        self.alive &= ~mask

    def keys(self, mask: Mask) -> Iterator[str]:
        """Keys of the rows, as they came; `row 17` where there is none."""
        keys = self.source.column(self.column_of("key")) if self.column_of("key") in self.source.column_names else None
        for row in np.flatnonzero(mask):
            value = None if keys is None else keys[int(row)].as_py()
            yield f"row {row + 1}" if value is None or not str(value).strip() else str(value)
