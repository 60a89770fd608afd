"""The bytes of the online store: keys as Feast has them, rows that read back bit by bit, and what damage becomes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from churn.domain.schema import FEATURE_NAMES, FEATURE_VIEW, JOIN_KEY
from churn.stores.online.packed import RowCodec, user_key

CODEC = RowCodec("v", ("a", "b", "c"))
MOMENT = 1_318_204_800_000_000


def row(*values: float, moment: int = MOMENT, codec: RowCodec = CODEC) -> bytes:
    (packed,) = codec.pack(np.array([moment], dtype=np.int64), np.array([values], dtype=np.float64))
    return packed


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integers_key_is_that_of_feast(user_id: int) -> None:
    key = EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(int64_val=user_id)])
    assert user_key(user_id) == serialize_entity_key(key, entity_key_serialization_version=3)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_strings_key_is_that_of_feast(user_id: str) -> None:
    key = EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(string_val=user_id)])
    assert user_key(user_id) == serialize_entity_key(key, entity_key_serialization_version=3)


def test_a_row_is_twenty_bytes_around_its_doubles() -> None:
    assert len(row(1.0, 2.0, 3.0)) == 20 + 3 * 8
    assert RowCodec(FEATURE_VIEW, FEATURE_NAMES).row_bytes == 300
    assert row(1.0, 2.0, 3.0)[8:16] == MOMENT.to_bytes(8, "little")


@given(st.lists(st.tuples(st.floats(), st.floats(), st.floats()), min_size=1, max_size=20))
def test_what_is_packed_is_unpacked_bit_by_bit_whatever_the_doubles(vectors: list[tuple[float, ...]]) -> None:
    moments = np.arange(len(vectors), dtype=np.int64) - 5
    found = CODEC.unpack([*CODEC.pack(moments, np.array(vectors)), None])
    assert found.known.tolist() == [True] * len(vectors) + [False]
    assert found.moments[:-1].tolist() == moments.tolist()
    for got, given_ in zip(found.vectors.tolist(), vectors, strict=False):
        assert all(a.hex() == b.hex() or (math.isnan(a) and math.isnan(b)) for a, b in zip(got, given_, strict=True))


def test_all_nulls_are_known_and_no_row_is_not() -> None:
    found = CODEC.unpack([row(math.nan, math.nan, math.nan), None])
    assert found.known.tolist() == [True, False]
    assert not found.damaged.any()


def test_rows_of_equal_values_are_equal_bytes_though_their_nans_differ() -> None:
    assert row(-math.nan, 1.0, 2.0) == row(math.nan, 1.0, 2.0)


@given(st.integers(0, 43), st.integers(1, 255))
def test_any_changed_byte_is_damage_and_never_a_number(place: int, change: int) -> None:
    whole = bytearray(row(1.0, 2.0, 3.0))
    whole[place] ^= change
    found = CODEC.unpack([bytes(whole)])
    assert (found.known[0], found.damaged[0]) == (False, True)
    assert np.isnan(found.vectors).all()


@given(st.integers(0, 43))
def test_a_row_cut_short_is_damage(length: int) -> None:
    assert CODEC.unpack([row(1.0, 2.0, 3.0)[:length]]).damaged.tolist() == [True]


@given(st.binary(max_size=100))
def test_bytes_of_somebody_else_are_damage(found: bytes) -> None:
    assert CODEC.unpack([found]).damaged.tolist() == [True]


@pytest.mark.parametrize(
    "other",
    [RowCodec("v", ("a", "c", "b")), RowCodec("w", ("a", "b", "c")), RowCodec("v", ("a", "b", "c", "d"))],
    ids=["order", "view", "more"],
)
def test_a_whole_row_of_other_definitions_is_told_apart_from_damage(other: RowCodec) -> None:
    found = CODEC.unpack([row(*range(len(other.features)), codec=other), row(1.0, 2.0, 3.0)])
    assert found.other.tolist() == [True, False]
    assert found.known.tolist() == [False, True]
    assert not found.damaged.any()
