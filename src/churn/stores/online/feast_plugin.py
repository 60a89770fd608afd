"""Feast's view of the online store: `online_store.type: churn.stores.online.feast_plugin.ChurnOnlineStore`.

With it Feast's own get_online_features, push and materialize read and write the packed rows under the same guard of
event times. A view's features are float64: that is what a packed row holds. Nothing of churn imports this module;
Feast does, by its name in feature_store.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore as FeastOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import Float64

from churn.domain.schema import FEATURE_NAMES, FEATURE_VIEW
from churn.errors import BadInput, Mismatch
from churn.stores.online.packed import RowCodec
from churn.stores.online.store import EPOCH, OnlineStore, micros, open_table

KEY_VERSION = 3
_Rows = list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]]
_Found = list[tuple[datetime | None, dict[str, Value] | None]]


class ChurnOnlineStoreConfig(FeastConfigBaseModel):
    """`home` is the deployment's folder; `redis_address`, when given, is where the rows are instead."""

    type: Literal["churn.stores.online.feast_plugin.ChurnOnlineStore"] = (
        "churn.stores.online.feast_plugin.ChurnOnlineStore"
    )
    home: str
    redis_address: str = ""


class ChurnOnlineStore(FeastOnlineStore):
    """One packed row a user and view."""

    def __init__(self) -> None:
        self._stores: dict[str, OnlineStore] = {}

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> _Found:
        """(event time, values by name) for each key, (None, None) for an unknown one. Raises Mismatch on damage."""
        store = self._store(config, table)
        found = store.codec.unpack(store.table.get(_keys(entity_keys)))
        if found.damaged.any() or found.other.any():
            raise Mismatch("the online store holds rows that cannot be read", hint="churn build-features")
        names = [name for name in store.codec.features if requested_features is None or name in requested_features]
        columns = [store.codec.features.index(name) for name in names]
        values = zip(found.known.tolist(), found.moments.tolist(), found.vectors[:, columns].tolist(), strict=True)
        return [
            (EPOCH + timedelta(microseconds=moment), dict(zip(names, map(_value, vector), strict=True)))
            if known
            else (None, None)
            for known, moment, vector in values
        ]

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: _Rows, progress: Callable[[int], Any] | None
    ) -> None:
        """Writes rows; one that is older than what is there is left out, one of the future raises Refused."""
        if not data:
            return
        store = self._store(config, table)
        moments = np.array([micros(_utc(moment)) for _, _, moment, _ in data], dtype=np.int64)
        vectors = np.array([_vector(values, store.codec.features) for _, values, _, _ in data], dtype=np.float64)
        store.table.create()
        store.write(_keys([key for key, _, _, _ in data]), moments, vectors)
        if progress:
            progress(len(data))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        *_entities: object,
        **_partial: object,
    ) -> None:
        """Makes and drops tables. Raises BadInput on a view with anything but float64."""
        for view in tables_to_keep:
            if others := [each.name for each in view.features if each.dtype != Float64]:
                raise BadInput(
                    f"feature view {view.name}: {', '.join(others)} cannot be packed",
                    hint="Features of the online store are Float64; set online=False for views of other types.",
                )
            self._store(config, view).table.create()
        self.teardown(config, tables_to_delete, ())

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[object]) -> None:  # noqa: ARG002
        """Drops the tables of the views."""
        for view in tables:
            self._store(config, view).table.drop()

    def _store(self, config: RepoConfig, view: FeatureView) -> OnlineStore:
        if view.name not in self._stores:
            options = config.online_store
            rows = open_table(Path(options.home), options.redis_address, view.name)
            self._stores[view.name] = OnlineStore(rows, RowCodec(view.name, _in_order(view)))
        return self._stores[view.name]


def _in_order(view: FeatureView) -> Sequence[str]:
    """The view's features as they stand in a row: ours in the order of THE list, others by name.

    Feast keeps a schema in the order of a set, which differs between processes.
    """
    names = sorted(each.name for each in view.features)
    return FEATURE_NAMES if view.name == FEATURE_VIEW and names == sorted(FEATURE_NAMES) else names


def _keys(keys: Sequence[EntityKey]) -> list[bytes]:
    return [serialize_entity_key(key, entity_key_serialization_version=KEY_VERSION) for key in keys]


def _utc(moment: datetime) -> datetime:
    """Feast: a naive time is in UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _vector(values: dict[str, Value], features: Sequence[str]) -> list[float]:
    """All features in order, null as nan. Raises BadInput when one is missing: a row is written whole."""
    if missing := [name for name in features if name not in values]:
        raise BadInput(f"features are missing: {', '.join(missing)}", hint="Write all features of the view at once.")
    return [_number(values[name]) for name in features]


def _number(value: Value) -> float:
    kind = value.WhichOneof("val")
    return float("nan") if kind is None or kind == "null_val" else float(getattr(value, kind))


def _value(number: float) -> Value:
    return Value() if number != number else Value(double_val=number)  # noqa: PLR0124  (nan alone differs from itself)
