"""Snapshots are written once, fingerprinted and never changed; sources are read as they are."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from churn.domain.ports import Snapshot
from churn.errors import BadInput, Mismatch, NotReady, Unavailable
from churn.stores.raw_tables import SnapshotStore, read_table

STAMP = pa.timestamp("us")


def tables(*users: int) -> dict[str, pa.Table]:
    moment = datetime.fromisoformat("2011-01-01 08:26")
    return {
        "users": pa.table({"user_id": users, "created_at": pa.array([moment] * len(users), STAMP)}),
        "orders": pa.table({"order_id": [f"o{user}" for user in users], "user_id": users}),
        "user_sessions": pa.table({"session_id": pa.array([], pa.string())}),
    }


def quarantine(*reasons: str) -> dict[str, pa.Table]:
    nothing = pa.table({"row": pa.array([], pa.int64()), "reason": pa.array([], pa.string())})
    orders = pa.table({"row": list(range(1, len(reasons) + 1)), "reason": pa.array(reasons, pa.string())})
    return {"users": nothing, "orders": orders, "user_sessions": nothing}


def manifest(created_at: str = "2012-01-01T00:00:00+00:00") -> dict[str, Any]:
    return {
        "created_at": created_at,
        "user_id_type": "integer",
        "tables": {name: {"rows": 1} for name in ("users", "orders", "user_sessions")},
        "first_event": "2011-01-01T08:26:00+00:00",
        "last_event": "2011-01-01T08:26:00+00:00",
        "log_end": "2011-01-02T00:00:00+00:00",
    }


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "raw")


def written(store: SnapshotStore, *users: int, **changes: Any) -> Snapshot:
    return store.write(tables(*users), quarantine(), manifest(**changes))


# ---- snapshots ------------------------------------------------------------------------------------------------


def test_before_the_first_ingest_nothing_is_ready(store: SnapshotStore) -> None:
    with pytest.raises(NotReady, match="no raw tables were ingested yet"):
        store.current()


def test_a_snapshot_is_read_back_as_it_was_written(store: SnapshotStore) -> None:
    snapshot = store.write(tables(1, 2), quarantine("guest"), manifest())
    assert store.current() == snapshot
    assert store.get(snapshot.snapshot_id) == snapshot
    assert snapshot.user_id_type == "integer"
    assert snapshot.log_end == datetime(2011, 1, 2, tzinfo=UTC)
    assert store.read(snapshot) == tables(1, 2)
    assert pq.read_table(snapshot.folder / "quarantine" / "orders.parquet") == quarantine("guest")["orders"]


def test_users_are_labelled_by_a_column_of_theirs(store: SnapshotStore) -> None:
    users = pa.table({"user_id": [1, 2, 3], "subscription_tier": ["pro", None, "free"]})
    snapshot = store.write({**tables(1), "users": users}, quarantine(), manifest())
    assert store.user_labels(snapshot, "subscription_tier") == {1: "pro", 3: "free"}


def test_labels_out_of_a_changed_table_are_not_handed_out(store: SnapshotStore) -> None:
    snapshot = written(store, 1)
    path = snapshot.folder / "users.parquet"
    path.chmod(0o644)
    pq.write_table(pa.table({"user_id": [1], "subscription_tier": ["pro"]}), path)
    with pytest.raises(Mismatch, match=r"users of .* was changed after it was written"):
        store.user_labels(snapshot, "subscription_tier")


def test_the_id_is_the_time_and_the_fingerprint(store: SnapshotStore) -> None:
    snapshot = written(store, 1)
    fingerprint = snapshot.manifest["fingerprint"]
    assert snapshot.snapshot_id == f"20120101T000000Z-{fingerprint[:12]}"
    assert snapshot.folder.name == snapshot.snapshot_id


def test_the_manifest_has_the_digest_of_each_table(store: SnapshotStore) -> None:
    about = json.loads((written(store, 1).folder / "manifest.json").read_text())
    assert {name: len(facts["sha256"]) for name, facts in about["tables"].items()} == {
        "users": 64,
        "orders": 64,
        "user_sessions": 64,
    }
    assert about["tables"]["orders"]["rows"] == 1


def test_the_digests_are_those_of_the_files_as_they_are_now(store: SnapshotStore) -> None:
    snapshot = written(store, 1)
    promised = {name: facts["sha256"] for name, facts in snapshot.manifest["tables"].items()}
    assert store.digests(snapshot) == promised
    (snapshot.folder / "users.parquet").chmod(0o644)
    (snapshot.folder / "users.parquet").write_bytes(b"changed")
    (snapshot.folder / "orders.parquet").unlink()
    found = store.digests(snapshot)
    assert found == {"users": sha256(b"changed").hexdigest(), "user_sessions": promised["user_sessions"]}


def test_identical_content_is_the_snapshot_that_exists(store: SnapshotStore) -> None:
    first = written(store, 1)
    second = written(store, 2, created_at="2012-01-02T00:00:00+00:00")
    again = written(store, 1, created_at="2012-01-03T00:00:00+00:00")
    assert again == first != second
    assert store.current() == first


def test_other_rows_set_aside_are_another_snapshot(store: SnapshotStore) -> None:
    first = store.write(tables(1), quarantine(), manifest())
    assert store.write(tables(1), quarantine("guest"), manifest()) != first


def test_a_damaged_snapshot_is_not_handed_out_again(store: SnapshotStore) -> None:
    first = written(store, 1)
    orders = first.folder / "orders.parquet"
    orders.chmod(0o644)
    orders.write_bytes(b"damaged")
    with pytest.raises(Mismatch, match=r"orders of .* was changed after it was written"):
        store.read(first)
    with pytest.raises(Mismatch, match="exists, but not with the content it had"):
        written(store, 1)
    second = written(store, 1, created_at="2012-01-02T00:00:00+00:00")
    assert second.snapshot_id != first.snapshot_id
    assert store.read(second) == tables(1)


def test_a_manifest_that_cannot_be_read_is_told(store: SnapshotStore) -> None:
    path = written(store, 1).folder / "manifest.json"
    path.chmod(0o644)
    path.write_text("{")
    with pytest.raises(Mismatch, match=r"the manifest of snapshot .* cannot be read"):
        store.current()


def test_files_are_read_only_and_the_folder_is_its_owners(store: SnapshotStore) -> None:
    folder = written(store, 1).folder
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*.*")} == {"0o444"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_duckdb_reads_times_as_naive_timestamps(store: SnapshotStore) -> None:
    users = written(store, 1).folder / "users.parquet"
    with duckdb.connect() as connection:
        rows = connection.execute(f"select created_at, typeof(created_at) from '{users}'").fetchall()
    assert rows == [(datetime.fromisoformat("2011-01-01 08:26"), "TIMESTAMP")]


@pytest.mark.parametrize("snapshot_id", ["nothing", "../raw", ".lock", ""])
def test_an_unknown_snapshot_is_not_ready(store: SnapshotStore, snapshot_id: str) -> None:
    written(store, 1)
    with pytest.raises(NotReady, match="there is no snapshot"):
        store.get(snapshot_id)


def test_what_a_killed_writer_left_is_removed(store: SnapshotStore, tmp_path: Path) -> None:
    left = tmp_path / "raw" / ".incoming-killed"
    left.mkdir(parents=True)
    (left / "orders.parquet").write_bytes(b"half a fi")
    snapshot = written(store, 1)
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == [".lock", snapshot.snapshot_id, "CURRENT"]


def test_writers_at_the_same_time_leave_whole_snapshots(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        snapshots = list(pool.map(lambda user: written(SnapshotStore(tmp_path / "raw"), user), range(8)))
    store = SnapshotStore(tmp_path / "raw")
    assert [store.read(snapshot) == tables(user) for user, snapshot in enumerate(snapshots)] == [True] * 8
    assert store.current() in snapshots


def test_a_disk_that_refuses_changes_nothing(store: SnapshotStore, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the same call fails, with the same kind of error."""
    before = written(store, 1)
    script = f"""
import pathlib, resource, signal, sys
import pyarrow as pa
from churn.errors import Unavailable
from churn.stores.raw_tables import SnapshotStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
table = pa.table({{"a": list(range(1000))}})
three = {{name: table for name in ("users", "orders", "user_sessions")}}
try:
    SnapshotStore(pathlib.Path({str(tmp_path / "raw")!r})).write(three, three, {{}})
except Unavailable as error:
    sys.exit(0 if "cannot be written" in error.message else 1)
sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert store.current() == before
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == [".lock", before.snapshot_id, "CURRENT"]


def test_a_root_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written: Not a directory"):
        written(SnapshotStore(tmp_path / "file" / "raw"), 1)


# ---- sources --------------------------------------------------------------------------------------------------

CSV = "order_id,user_id,order_amount\n0017,9007199254740993,12.50\n,17850.0,\n"


def file(tmp_path: Path, name: str, content: bytes | str) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_column_of_csv_is_text_and_an_empty_field_is_null(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "orders.csv", CSV))
    assert read.to_pylist() == [
        {"order_id": "0017", "user_id": "9007199254740993", "order_amount": "12.50"},
        {"order_id": None, "user_id": "17850.0", "order_amount": None},
    ]
    assert set(read.schema.types) == {pa.string()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("orders.csv.gz", gzip.compress(CSV.encode())),
        ("orders.tsv", CSV.replace(",", "\t").encode()),
        ("orders.csv", CSV.replace(",", ";").encode()),
        ("ORDERS.CSV", CSV.replace(",", "|").encode()),
        ("orders.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("orders.csv", CSV.encode("utf-16")),
        ("orders.csv", CSV.replace("\n", "\r\n").encode()),
        ("orders.csv", CSV.replace("\n", "\r").encode()),
        ("orders.csv", CSV.replace(",", ", ", 2).encode()),
        ("orders.csv", b'"order_id","user_id","order_amount"\n"0017","9007199254740993","12.50"\n"","17850.0",""\n'),
    ],
    ids=[
        "gzip",
        "tab",
        "semicolon",
        "pipe",
        "byte order mark",
        "utf-16",
        "crlf",
        "cr",
        "spaces in the header",
        "quotes",
    ],
)
def test_csv_comes_in_many_forms(tmp_path: Path, name: str, content: bytes) -> None:
    assert read_table(file(tmp_path, name, content)) == read_table(file(tmp_path, "plain.csv", CSV))


def test_a_file_in_latin_1_is_read_and_says_so(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "users.csv", "user_id,city\n1,Zürich\n".encode("latin-1")))
    assert read.column("city").to_pylist() == ["Zürich"]
    assert read.schema.metadata == {b"churn.encoding": b"latin-1"}


def test_line_breaks_and_delimiters_in_quotes_are_data(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "users.csv", 'user_id,city\n1,"Stoke,\non Trent"\n'))
    assert read.to_pylist() == [{"user_id": "1", "city": "Stoke,\non Trent"}]


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    read = read_table(file(tmp_path, "orders.csv", "order_id,user_id\n"))
    assert (read.num_rows, read.column_names) == (0, ["order_id", "user_id"])


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    pq.write_table(tables(1)["users"], tmp_path / "users.parquet")
    assert read_table(tmp_path / "users.parquet") == tables(1)["users"]
    assert SnapshotStore(tmp_path).read_source(tmp_path / "users.parquet") == tables(1)["users"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("orders.xlsx", b"PK", "neither Parquet nor CSV"),
        ("orders.parquet", b"PAR1 broken", "cannot be read"),
        ("orders.csv", b"", "is empty"),
        ("orders.csv", b"\n\n", "cannot be read"),
        ("orders.csv", b"PK\x03\x04\x00\x00", "is not a text file"),
        ("orders.csv.gz", gzip.compress(CSV.encode() * 1000)[:-20], "cannot be read"),
        ("orders.csv.gz", b"not gzip", "cannot be read"),
        ("orders.csv", b'"order\nid",user_id\n1,2\n', "the header cannot be read|cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=f"{name}.*({message})"):
        read_table(file(tmp_path, name, content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"orders\.csv does not exist"):
        read_table(tmp_path / "orders.csv")
    with pytest.raises(BadInput, match="is no file"):
        read_table(tmp_path)


def test_rows_with_too_many_fields_are_counted_and_not_quoted(tmp_path: Path) -> None:
    odd = "user_id,email\n1,ann@shop.org,Leeds\n2,bob@shop.org\n3\n"
    with pytest.raises(BadInput) as caught:
        read_table(file(tmp_path, "users.csv", odd))
    assert "2 rows have another number of fields than the header: expected 2, found 3" in caught.value.message
    assert "ann" not in caught.value.message
