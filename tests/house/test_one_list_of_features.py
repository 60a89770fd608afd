"""domain/schema.py is THE list of features; whatever repeats it must repeat it exactly."""

from __future__ import annotations

import runpy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from churn.domain.schema import (
    ENTITY,
    FEATURE_NAMES,
    FEATURE_SERVICE,
    FEATURE_VIEW,
    FEATURES,
    JOIN_KEY,
    TIMESTAMP,
    USER_SEGMENTS,
    WINDOWS_DAYS,
)
from churn.domain.windows import DAY
from churn.stores.warehouse import Warehouse
from tests.shops import day, write_snapshot
from tests.twin import Order, Shop, User, features_as_of

COLUMNS = [JOIN_KEY, "cutoff", TIMESTAMP, *FEATURE_NAMES, "user_segment"]
ONE_USER = Shop([User(1, day("2024-01-01"))], [Order("o-1", 1, day("2024-01-05"))])


@pytest.fixture(scope="module")
def documented(repository: Path) -> dict[str, dict[str, Any]]:
    """{column: its entry in the data dictionary}, in the dictionary's order."""
    text = (repository / "warehouse" / "models" / "marts" / "user_analytics.yml").read_text()
    return {column["name"]: column for column in yaml.safe_load(text)["models"][0]["columns"]}


def arguments_of(column: dict[str, Any], test: str) -> dict[str, Any] | None:
    """Arguments of a column's data test, {} when it has none, None when the column has no such test."""
    tests = [entry if isinstance(entry, dict) else {entry: {}} for entry in column.get("data_tests", [])]
    found = [entry[test] for entry in tests if test in entry]
    return found[0].get("arguments", {}) if found else None


def test_the_list_has_no_name_twice() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)


def test_the_data_dictionary_names_the_same_columns_in_the_same_order(documented: dict[str, dict[str, Any]]) -> None:
    assert list(documented) == COLUMNS


def test_the_data_dictionary_describes_and_types_every_feature(documented: dict[str, dict[str, Any]]) -> None:
    for name in FEATURE_NAMES:
        assert documented[name]["data_type"] == "double", name
        assert len(documented[name]["description"]) > 5, name


def test_dbt_tests_the_same_limits_and_the_same_nulls(documented: dict[str, dict[str, Any]]) -> None:
    for feature in FEATURES:
        column = documented[feature.name]
        limits = {"low": feature.low, "high": feature.high}
        expected = {bound: value for bound, value in limits.items() if value is not None}
        assert arguments_of(column, "within") == expected, feature.name
        assert (arguments_of(column, "not_null") is None) == feature.nullable, feature.name
        assert ("Null " in column["description"]) == feature.nullable, feature.name


def test_the_segments_are_the_same(documented: dict[str, dict[str, Any]]) -> None:
    assert arguments_of(documented["user_segment"], "accepted_values") == {"values": list(USER_SEGMENTS)}


def test_the_sql_counts_in_the_same_windows(repository: Path) -> None:
    sql = (repository / "warehouse" / "models" / "marts" / "user_analytics.sql").read_text()
    assert f"windows = {list(WINDOWS_DAYS)}" in sql


def test_the_exported_files_hold_these_columns_as_doubles(repository: Path, tmp_path: Path) -> None:
    snapshot = write_snapshot(ONE_USER, tmp_path / "snapshot")
    Warehouse(repository / "warehouse", tmp_path).build(snapshot, [day("2024-01-06")], DAY)
    schema = pq.read_schema(tmp_path / "offline" / "user_analytics" / "2024-01-06T000000Z.parquet")
    assert schema.names == COLUMNS
    assert {str(schema.field(name).type) for name in FEATURE_NAMES} == {"double"}
    assert {str(schema.field(name).type) for name in ("cutoff", TIMESTAMP)} == {"timestamp[us]"}


def test_the_twin_computes_these_features() -> None:
    assert list(features_as_of(ONE_USER, day("2024-01-06"))[1]) == list(FEATURE_NAMES)


# -- Feast -----------------------------------------------------------------------------------------------------


@pytest.fixture
def definitions(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `feast apply` finds in feature_repo/ for a deployment with integer ids."""
    import churn.stores.feature_store  # noqa: F401  (imports Feast without its side effects)

    monkeypatch.setenv("FEAST_CHURN_HOME", str(tmp_path))
    monkeypatch.setenv("FEAST_CHURN_USER_ID_TYPE", "integer")
    monkeypatch.setenv("FEAST_CHURN_TTL_DAYS", "31")
    return runpy.run_path(str(repository / "feature_repo" / "features.py"))


def test_feasts_view_holds_these_features_as_doubles(definitions: dict[str, Any]) -> None:
    view = definitions["user_analytics"]
    # Feast keeps a schema in the order of a set, so nobody may rely on it.
    found = sorted((field.name, str(field.dtype), field.description) for field in view.schema)
    assert found == sorted((feature.name, "Float64", feature.meaning) for feature in FEATURES)
    assert (view.name, view.ttl, view.online) == (FEATURE_VIEW, timedelta(days=31), True)
    assert view.batch_source.timestamp_field == TIMESTAMP
    assert view.batch_source.created_timestamp_column == ""


def test_feasts_service_serves_these_features_and_no_others(definitions: dict[str, Any]) -> None:
    service = definitions["churn_v1"]
    (projection,) = service.feature_view_projections
    assert (service.name, projection.name) == (FEATURE_SERVICE, FEATURE_VIEW)
    assert sorted(feature.name for feature in projection.features) == sorted(FEATURE_NAMES)
    assert {str(feature.dtype) for feature in projection.features} == {"Float64"}


@pytest.mark.parametrize(("user_id_type", "kind"), [("integer", "INT64"), ("string", "STRING")])
def test_feasts_entity_is_keyed_by_the_user_id_of_the_deployments_type(
    repository: Path, definitions: dict[str, Any], monkeypatch: pytest.MonkeyPatch, user_id_type: str, kind: str
) -> None:
    monkeypatch.setenv("FEAST_CHURN_USER_ID_TYPE", user_id_type)
    user = runpy.run_path(str(repository / "feature_repo" / "features.py"))["user"]
    assert (user.name, user.join_key, user.value_type.name) == (ENTITY, JOIN_KEY, kind)


def test_the_feature_repository_holds_nothing_else_that_feast_would_run(repository: Path) -> None:
    assert [path.name for path in (repository / "feature_repo").rglob("*.py")] == ["features.py"]
