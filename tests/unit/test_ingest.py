"""The job `ingest` on a real store: what it writes, what it tells, and that a broken contract changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from churn.errors import BadInput, ContractBroken
from churn.jobs.ingest import IngestReport, IngestRequest, ingest
from churn.stores.raw_tables import SnapshotStore

NOW = datetime(2012, 1, 1, 12, tzinfo=UTC)
ORDERS = """InvoiceNo,CustomerID,Total,InvoiceDate
536365,17850.0,139.12,1/12/2010 8:26
536366,17850.0,22.20,1/2/2011 8:28
C536379,17850.0,-27.50,2/2/2011 9:41
536414,,0.00,2/2/2011 11:52
536415,13047.0,5.00,3/2/2011 11:52
"""
MAPPING = ("order_id=InvoiceNo,user_id=CustomerID,order_amount=Total", "order_date=InvoiceDate")


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "raw")


def request(tmp_path: Path, orders: str = ORDERS, **changes: object) -> IngestRequest:
    path = tmp_path / "orders.csv"
    path.write_text(orders)
    options = {"mapping": MAPPING, "tz": "Europe/London", "date_format": "%d/%m/%Y %H:%M", **changes}
    return IngestRequest({"orders": path}, **options)  # type: ignore[arg-type]


def ingested(tmp_path: Path, store: SnapshotStore, **changes: object) -> IngestReport:
    return ingest(request(tmp_path, **changes), store, NOW)  # type: ignore[arg-type]


def test_a_shops_export_becomes_the_current_snapshot(tmp_path: Path, store: SnapshotStore) -> None:
    report = ingested(tmp_path, store)
    assert store.current() == report.snapshot
    assert report.is_new
    assert report.rows == {"users": 2, "orders": 4, "user_sessions": 0}
    assert report.quarantined == {"users": 0, "orders": 1, "user_sessions": 0}
    orders = store.read(report.snapshot)["orders"].to_pylist()
    assert [row["order_id"] for row in orders] == ["536415", "536365", "536366", "C536379"]
    assert {row["user_id"] for row in orders} == {13047, 17850}
    aside = pq.read_table(report.snapshot.folder / "quarantine" / "orders.parquet").to_pylist()
    assert [(row["row"], row["reason"], row["order_id"]) for row in aside] == [(4, "guest", "536414")]


def test_the_manifest_says_what_the_snapshot_is(tmp_path: Path, store: SnapshotStore) -> None:
    report = ingested(tmp_path, store)
    manifest = json.loads((report.snapshot.folder / "manifest.json").read_text())
    orders = manifest["tables"]["orders"]
    assert {name: orders[name] for name in ("rows", "quarantined", "first_event", "last_event")} == {
        "rows": 4,
        "quarantined": 1,
        "first_event": "2010-12-01T08:26:00+00:00",
        "last_event": "2011-02-03T11:52:00+00:00",
    }
    assert manifest["tables"]["users"]["first_event"] is None
    assert manifest["log_end"] == "2011-02-04T00:00:00+00:00"
    assert manifest["created_at"] == "2012-01-01T12:00:00+00:00"
    assert manifest["user_id_type"] == "integer"
    assert manifest["gap_quantiles"]["p50"] == 62.0
    assert manifest["source"] == {
        "files": {"orders": "orders.csv"},
        "mapping": list(MAPPING),
        "tz": "Europe/London",
        "date_format": "%d/%m/%Y %H:%M",
    }
    assert "guest" in {breach["rule"] for breach in manifest["breaches"]}


def test_an_ingest_during_the_last_day_ends_the_log_at_its_midnight(tmp_path: Path, store: SnapshotStore) -> None:
    orders = "order_id,user_id,order_amount,order_date\na,1,5,2011-12-30 08:00\nb,1,5,2012-01-01 09:00\n"
    at_ten = datetime(2012, 1, 1, 10, tzinfo=UTC)
    report = ingest(request(tmp_path, orders, mapping=(), tz="UTC", date_format=None), store, at_ten)
    assert report.snapshot.last_event == datetime(2012, 1, 1, 9, tzinfo=UTC)
    assert report.snapshot.log_end == datetime(2012, 1, 1, tzinfo=UTC)
    assert store.current().log_end == datetime(2012, 1, 1, tzinfo=UTC)


def test_the_report_reads_like_a_table(tmp_path: Path, store: SnapshotStore) -> None:
    report = ingested(tmp_path, store)
    assert report.breach_rows[0] == (
        "orders.user_id",
        "guest",
        "quarantined",
        "1",
        "536414",
        "no user id: counted, and belongs to nobody",
    )
    assert report.summary == [
        f"snapshot {report.snapshot.snapshot_id}: 2 users, 4 orders, 0 user_sessions",
        "log from 2010-12-01 to 2011-02-03; user ids are integers",
        "days between active days: p50 62, p75 62, p90 62, p95 62, p99 62",
        f"set aside, each with its reason: 1 rows in {report.snapshot.folder / 'quarantine'}",
    ]


def test_the_same_files_again_are_the_same_snapshot(tmp_path: Path, store: SnapshotStore) -> None:
    first = ingested(tmp_path, store)
    later = ingest(request(tmp_path), store, NOW + timedelta(days=1))
    at_once = ingested(tmp_path, store)
    assert first.snapshot == later.snapshot == at_once.snapshot
    assert (later.is_new, at_once.is_new) == (False, False)
    assert later.summary[0].startswith(f"snapshot {first.snapshot.snapshot_id} (this content was there already)")


def test_a_broken_contract_changes_nothing(tmp_path: Path, store: SnapshotStore) -> None:
    before = ingested(tmp_path, store).snapshot
    listing = sorted((tmp_path / "raw").rglob("*"))
    with pytest.raises(ContractBroken):
        ingested(tmp_path, store, date_format=None)
    assert store.current() == before
    assert sorted((tmp_path / "raw").rglob("*")) == listing


def test_a_broken_first_ingest_leaves_no_folder(tmp_path: Path, store: SnapshotStore) -> None:
    with pytest.raises(ContractBroken):
        ingested(tmp_path, store, mapping=())
    assert not (tmp_path / "raw").exists()


def test_the_type_of_user_ids_is_that_of_the_snapshot_before(tmp_path: Path, store: SnapshotStore) -> None:
    ingested(tmp_path, store)
    with pytest.raises(ContractBroken, match="user_id_type_changed"):
        ingested(tmp_path, store, orders=ORDERS.replace("13047.0", "u-13047"))


def test_text_ids_stay_text_when_only_numbers_come(tmp_path: Path, store: SnapshotStore) -> None:
    ingested(tmp_path, store, orders=ORDERS.replace("17850.0", "u-17850").replace("13047.0", "13047"))
    report = ingested(tmp_path, store, orders=ORDERS.replace("17850.0", "17850").replace("13047.0", "13047"))
    assert report.snapshot.user_id_type == "string"


def test_the_horizon_is_compared_with_the_pauses(tmp_path: Path, store: SnapshotStore) -> None:
    short = ingested(tmp_path, store, horizon=timedelta(days=30))
    long = ingested(tmp_path, store, horizon=timedelta(days=90))
    assert "horizon_too_short" in {item.rule for item in short.breaches}
    assert "horizon_too_short" not in {item.rule for item in long.breaches}


def test_a_missing_file_is_named(tmp_path: Path, store: SnapshotStore) -> None:
    with pytest.raises(BadInput, match=r"nothing\.csv does not exist"):
        ingest(IngestRequest({"orders": tmp_path / "nothing.csv"}), store, NOW)


def test_no_order_of_the_bundled_real_shop_is_set_aside(repository: Path, store: SnapshotStore) -> None:
    """Online Retail: cancellations are refunds, zero amounts are orders, and one user in ten pauses for long."""
    orders = repository / "data" / "online_retail" / "orders.parquet"
    report = ingest(IngestRequest({"orders": orders}), store, NOW)
    assert report.rows == {"users": 4372, "orders": 22_190, "user_sessions": 0}
    assert report.quarantined == {"users": 0, "orders": 0, "user_sessions": 0}
    assert {item.rule: item.count for item in report.breaches} == {
        "horizon_too_short": 1,
        "refunds": 3654,
        "zero_amounts": 4,
        "users_derived": 4372,
    }
    assert report.gap_quantiles["p90"] == 110.0
    assert report.snapshot.log_end == datetime(2011, 12, 10, tzinfo=UTC)
