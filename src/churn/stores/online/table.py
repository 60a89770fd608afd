"""What SQLite and Redis have in common: keys to rows, one of which says what the others are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from churn.errors import NotReady, Unavailable

SENTINEL = b"churn:sentinel"  # no user's key: these start with a count of join keys
BUILD = "churn build-features"

Row = tuple[bytes, int, bytes]
"""Key, event time in µs, packed bytes."""


class Table(Protocol):
    """Rows by key. Every method raises Unavailable with `facts["reason"]` when the store does not do it."""

    def create(self) -> None:
        """Makes the table where it is not yet."""

    def drop(self) -> None:
        """Removes the table with all rows."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of the keys, in order, all as of one instant; None where there is none, or no table yet."""

    def put(self, rows: Sequence[Row], *, replace: bool = False) -> int:
        """Writes rows, each whole or not at all, and says how many: one older than what is there is left out.

        At equal event time the row written last stays: a correction. `replace` writes whatever the event time.
        """

    def remove(self, keys: Sequence[bytes]) -> None:
        """Removes rows; unknown keys are fine."""

    def count(self) -> int:
        """How many rows there are, the sentinel not counted."""

    def stored_keys(self) -> Iterator[Sequence[bytes]]:
        """All keys but the sentinel, in batches."""

    def close(self) -> None: ...


class Sentinel(BaseModel):
    """Written last by materialize: what the table holds. Without it the store counts as empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: int
    rows: int
    cutoff: datetime
    feature_service: str
    schema_hash: str
    written_at: datetime


def parse_sentinel(found: bytes | None) -> Sentinel | None:
    """The sentinel, None when there is none; raises Unavailable when it is not one."""
    if found is None:
        return None
    try:
        return Sentinel.model_validate_json(found)
    except ValidationError as error:
        raise unavailable("sentinel_damaged", "its sentinel is damaged", BUILD) from error


def unavailable(reason: str, found: str, hint: str) -> Unavailable:
    """The online store does not do what it should, for a reason that programs can branch on."""
    return Unavailable(f"the feature store did not answer: {found}", hint=hint, facts={"reason": reason})


def not_ready(reason: str, found: str, hint: str = BUILD) -> NotReady:
    return NotReady(found, hint=hint, facts={"reason": reason})
