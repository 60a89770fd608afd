"""The bytes of the online store: a user's key, and a user's row of features in one value.

A row is 20 bytes of head and foot around f doubles, all little-endian:

    format (1) | schema (7) | event time, µs since 1970 (8) | f x float64, null is nan | crc32 of all before (4)

Whole tables are packed and whole answers unpacked as numpy arrays. Bytes that are cut short, flipped or written by
somebody else are told apart from a row of null values and from no row at all: none of them ever reads as a number.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from churn.domain.predictions import UserId
from churn.domain.schema import JOIN_KEY

FORMAT = 1
TIME_OFFSET = 8
FOOT = 4
_INT64, _STRING = 4, 2  # Feast's numbers of the types (feast.protos.feast.types.Value_pb2.ValueType)

Floats = NDArray[np.float64]
Moments = NDArray[np.int64]


def _prefix(kind: int) -> bytes:
    name = JOIN_KEY.encode()
    return struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<I", kind)


_OF_INTEGER = _prefix(_INT64) + struct.pack("<I", 8)
_OF_STRING = _prefix(_STRING)


def user_key(user_id: UserId) -> bytes:
    """The user's key: what Feast's `serialize_entity_key` (version 3) makes of it, without Feast."""
    if isinstance(user_id, int):
        return _OF_INTEGER + struct.pack("<q", user_id)
    text = user_id.encode()
    return _OF_STRING + struct.pack("<I", len(text)) + text


@dataclass(frozen=True)
class Unpacked:
    """n rows as read: which are `known`, `damaged` or of `other` definitions (all (n,) bool; neither: no such user).

    `moments` (n,) are event times in µs and `vectors` (n, f) features, 0 and nan wherever a row is not known.
    """

    known: NDArray[np.bool_]
    damaged: NDArray[np.bool_]
    other: NDArray[np.bool_]
    moments: Moments
    vectors: Floats


class RowCodec:
    """Packs and unpacks rows of one feature view: its name and its features in their order are the schema."""

    def __init__(self, view: str, features: Sequence[str]) -> None:
        self.schema = sha256("\n".join((view, *features)).encode()).digest()[:7]
        self.features = tuple(features)
        layout = [("head", "S8"), ("moment", "<i8"), ("vector", "<f8", (len(features),)), ("crc", "<u4")]
        self._layout = np.dtype(layout)
        self._head = bytes([FORMAT]) + self.schema

    @property
    def row_bytes(self) -> int:
        return self._layout.itemsize

    def pack(self, moments: Moments, vectors: Floats) -> list[bytes]:
        """(n,) event times in µs and (n, f) features as n rows."""
        table = np.zeros(len(vectors), self._layout)
        table["head"], table["moment"] = self._head, moments
        table["vector"] = np.where(np.isnan(vectors), np.nan, vectors)  # one kind of nan: equal rows are equal bytes
        packed, size = memoryview(table.tobytes()), self.row_bytes
        bodies = (packed[start : start + size - FOOT] for start in range(0, len(packed), size))
        return [b"".join((body, crc32(body).to_bytes(FOOT, "little"))) for body in bodies]

    def unpack(self, rows: Sequence[bytes | None]) -> Unpacked:
        """n rows, None where there is none."""
        found = np.array([row is not None for row in rows], dtype=bool)
        sound = np.array([row is not None and self._is_sound(row) for row in rows], dtype=bool)
        ours = np.array([row is not None and row[:TIME_OFFSET] == self._head for row in rows], dtype=bool)
        known = sound & ours
        moments = np.zeros(len(rows), np.int64)
        vectors = np.full((len(rows), len(self.features)), np.nan)
        kept = [row for row, good in zip(rows, known, strict=True) if row is not None and good]
        table = np.frombuffer(b"".join(kept), self._layout)
        moments[known], vectors[known] = table["moment"], table["vector"]
        return Unpacked(known, found & ~sound, sound & ~ours, moments, vectors)

    def _is_sound(self, row: bytes) -> bool:
        """Whether the row is whole: as long as its definitions say, or as those of another schema would have it."""
        if len(row) < TIME_OFFSET + FOOT or crc32(row[:-FOOT]) != int.from_bytes(row[-FOOT:], "little"):
            return False
        return len(row) == self.row_bytes or row[:TIME_OFFSET] != self._head
