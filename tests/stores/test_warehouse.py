"""The warehouse as a store: what a build leaves behind, and what it leaves alone when it fails."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest

from churn.domain.ports import BuildReport, Snapshot
from churn.domain.windows import DAY
from churn.errors import BadInput, NotReady, Refused, Unavailable
from churn.stores.warehouse import CUTOFFS_PER_RUN, Warehouse
from tests.shops import day, write_snapshot
from tests.twin import Order, Session, Shop, User

HORIZON = 30 * DAY
EARLY, LATE = day("2024-02-01"), day("2024-03-15")  # the horizon of LATE ends after the log
BUILT_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SHOP = Shop(
    [User(n, day("2024-01-01") + n * DAY) for n in range(5)],
    [Order(f"o{n}", n % 5, day("2024-01-10") + n * DAY) for n in range(70)],
    [Session(f"s{n}", n % 5, day("2024-01-12") + n * DAY) for n in range(60)],
)
FEATURES, LABELS = "user_analytics", "churn_labels"
NEGATIVE = "within_user_analytics_avg_session_duration__0"

WarehouseAt = Callable[[Path], Warehouse]


@pytest.fixture(scope="module")
def at(repository: Path) -> WarehouseAt:
    return lambda home: Warehouse(repository / "warehouse", home, memory_limit_gb=1, now=lambda: BUILT_AT)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return write_snapshot(SHOP, tmp_path_factory.mktemp("raw") / "first")


@pytest.fixture(scope="module")
def first_build(
    at: WarehouseAt, snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BuildReport, list[tuple[int, int]]]:
    """The home, the report and the progress of one build of EARLY and LATE."""
    home, seen = tmp_path_factory.mktemp("built"), []
    report = at(home).build(snapshot, [LATE, EARLY, EARLY], HORIZON, lambda done, total: seen.append((done, total)))
    return home, report, seen


@pytest.fixture
def home(first_build: tuple[Path, BuildReport, list[tuple[int, int]]], tmp_path: Path) -> Path:
    """A home of one's own in which EARLY and LATE were built."""
    return Path(shutil.copytree(first_build[0], tmp_path / "home"))


def files(folder: Path) -> dict[str, str]:
    """{path below the folder: digest} of every file."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in found}


def test_a_build_leaves_one_file_per_cutoff_and_a_manifest(at: WarehouseAt, home: Path) -> None:
    exports, warehouse = files(home / "offline"), at(home)
    early, late = f"{FEATURES}/2024-02-01T000000Z.parquet", f"{FEATURES}/2024-03-15T000000Z.parquet"
    early_labels = f"{LABELS}/2024-02-01T000000Z.parquet"
    assert set(exports) == {early, late, early_labels, "manifest.json"}
    origin = {"snapshot_id": "first", "dbt_hash": warehouse.dbt_hash(), "built_at": "2026-01-02T03:04:05+00:00"}
    assert warehouse.manifest() == {
        "cutoffs": {
            "2024-02-01T000000Z": {
                **origin,
                "rows": 5,
                "sha256": exports[early],
                "labels": {"horizon_days": 30, "rows": 5, "sha256": exports[early_labels]},
            },
            "2024-03-15T000000Z": {**origin, "rows": 5, "sha256": exports[late], "labels": None},
        }
    }


def test_a_build_reports_what_it_did(first_build: tuple[Path, BuildReport, list[tuple[int, int]]]) -> None:
    _, report, seen = first_build
    assert report.cutoffs == (EARLY, LATE)
    assert report.rows == {EARLY: 5, LATE: 5}
    assert report.labelled == (EARLY,)
    assert report.tests_passed > 60
    assert seen == [(0, 2), (2, 2)]


def test_what_was_built_can_be_read(at: WarehouseAt, home: Path) -> None:
    warehouse = at(home)
    assert warehouse.cutoffs("first") == [EARLY, LATE]
    assert warehouse.labelled_cutoffs(HORIZON, "first") == [EARLY]
    assert warehouse.labelled_cutoffs(2 * HORIZON, "first") == []
    labels = warehouse.read_labels([EARLY], HORIZON)
    assert list(labels.columns) == ["user_id", "cutoff", "horizon_days", "eligible", "churned"]
    assert labels["user_id"].tolist() == [0, 1, 2, 3, 4]
    assert labels["cutoff"].unique().tolist() == [pd.Timestamp("2024-02-01")]
    with pytest.raises(NotReady, match="no labels for 30 days at 2024-03-15"):
        warehouse.read_labels([EARLY, LATE], HORIZON)


def test_a_rebuild_replaces_the_cutoffs_asked_for_and_no_other(
    at: WarehouseAt, snapshot: Snapshot, home: Path, tmp_path: Path
) -> None:
    warehouse, before = at(home), files(home / "offline")
    fewer = Shop(SHOP.users[1:], [o for o in SHOP.orders if o.user_id], [s for s in SHOP.sessions if s.user_id])
    warehouse.build(write_snapshot(fewer, tmp_path / "second", end=snapshot.log_end), [EARLY], 90 * DAY)

    after = files(home / "offline")
    early, late = f"{FEATURES}/2024-02-01T000000Z.parquet", f"{FEATURES}/2024-03-15T000000Z.parquet"
    assert set(after) == {early, late, "manifest.json"}  # 90 days after EARLY have not passed: its labels are gone
    assert after[late] == before[late]
    assert pd.read_parquet(home / "offline" / early)["user_id"].tolist() == [1, 2, 3, 4]
    origins = {name: entry["snapshot_id"] for name, entry in warehouse.manifest()["cutoffs"].items()}
    assert origins == {"2024-02-01T000000Z": "second", "2024-03-15T000000Z": "first"}
    assert warehouse.labelled_cutoffs(HORIZON, "first") == []
    assert warehouse.labelled_cutoffs(HORIZON, "second") == []


def test_a_cutoff_counts_for_the_snapshot_it_was_built_from_last(
    at: WarehouseAt, snapshot: Snapshot, home: Path, tmp_path: Path
) -> None:
    warehouse, between = at(home), day("2024-02-10")
    second = write_snapshot(SHOP, tmp_path / "second", end=snapshot.log_end)
    warehouse.build(second, [between], HORIZON)
    assert (warehouse.cutoffs("first"), warehouse.cutoffs("second")) == ([EARLY, LATE], [between])
    assert warehouse.labelled_cutoffs(HORIZON, "first") == [EARLY]
    assert warehouse.labelled_cutoffs(HORIZON, "second") == [between]

    warehouse.build(second, [EARLY], HORIZON)
    assert (warehouse.cutoffs("first"), warehouse.cutoffs("second")) == ([LATE], [EARLY, between])
    assert warehouse.labelled_cutoffs(HORIZON, "first") == []
    assert warehouse.labelled_cutoffs(HORIZON, "second") == [EARLY, between]
    assert warehouse.cutoffs("third") == []


def test_a_cutoff_has_the_same_bytes_whatever_else_is_built(
    at: WarehouseAt, snapshot: Snapshot, home: Path, tmp_path: Path
) -> None:
    more_than_one_run = [EARLY - n * DAY for n in range(CUTOFFS_PER_RUN + 1)]
    at(tmp_path).build(snapshot, more_than_one_run, HORIZON)
    one, other = files(home / "offline"), files(tmp_path / "offline")
    for table in (FEATURES, LABELS):
        assert one[f"{table}/2024-02-01T000000Z.parquet"] == other[f"{table}/2024-02-01T000000Z.parquet"]


def test_rows_that_fail_a_dbt_test_are_not_exported_and_older_exports_stay(
    at: WarehouseAt, home: Path, tmp_path: Path
) -> None:
    before = files(home / "offline")
    broken = replace(SHOP, sessions=[replace(session, minutes=Decimal(-5)) for session in SHOP.sessions])
    with pytest.raises(Refused, match=f"dbt tests failed: {NEGATIVE} .* nothing was exported") as refusal:
        at(home).build(write_snapshot(broken, tmp_path / "broken"), [EARLY, LATE], HORIZON)
    assert refusal.value.facts == {"failed": {NEGATIVE: 10}}  # five users at two cutoffs
    assert files(home / "offline") == before


def test_ids_of_another_type_are_refused_rather_than_mixed(at: WarehouseAt, home: Path, tmp_path: Path) -> None:
    strings = Shop([User("a", EARLY - DAY)], [Order("o", "a", EARLY - DAY)])
    with pytest.raises(Refused, match="columns are not those of the rows built before") as refusal:
        at(home).build(write_snapshot(strings, tmp_path / "strings", "string"), [EARLY], HORIZON)
    assert "build every cutoff anew" in refusal.value.hint


def test_of_rows_with_one_key_the_earliest_known_counts(at: WarehouseAt, tmp_path: Path) -> None:
    order = Order("o", 1, day("2024-01-05"), Decimal(7))
    orders = [
        replace(order, amount=Decimal(9), ingested_at=day("2024-01-20")),
        order,
        replace(order, amount=Decimal(8), at=day("2024-01-06")),
    ]
    shop = Shop([User(1, day("2024-01-01"))] * 2, orders, [Session("s", 1, day("2024-01-07"))] * 2)
    at(tmp_path).build(write_snapshot(shop, tmp_path / "first"), [day("2024-01-08")], DAY)
    row = pd.read_parquet(tmp_path / "offline" / FEATURES / "2024-01-08T000000Z.parquet").to_dict("records")[0]
    assert (row["total_orders"], row["total_spent"], row["total_sessions"]) == (1.0, 7.0, 1.0)


def test_the_project_folder_is_only_read_and_any_home_will_do(
    at: WarehouseAt, repository: Path, tmp_path: Path
) -> None:
    project = repository / "warehouse"
    before, folders = files(project), sorted(project.rglob("*/"))
    home = tmp_path / "a home with 'quotes' (and more) {x}"
    at(home).build(write_snapshot(SHOP, home / "raw"), [EARLY], HORIZON)
    assert files(project) == before
    assert sorted(project.rglob("*/")) == folders


@pytest.mark.parametrize(
    ("cutoffs", "horizon", "message"),
    [
        ([], HORIZON, "no cutoff was given"),
        ([EARLY, day("2024-03-21")], HORIZON, "cutoff 2024-03-21 00:00 lies after the end of the log, 2024-03-20"),
        ([day("2024-02-01 00:00:00.000001")], HORIZON, "whole second"),
        ([EARLY], DAY / 2, "not a number of whole days"),
    ],
    ids=["none", "after the end of the log", "a fraction of a second", "half a day"],
)
def test_what_cannot_be_built_is_said_before_anything_runs(
    at: WarehouseAt, snapshot: Snapshot, tmp_path: Path, cutoffs: list[datetime], horizon: timedelta, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        at(tmp_path / "home").build(snapshot, cutoffs, horizon)
    assert not (tmp_path / "home").exists()


def test_a_cutoff_before_every_user_is_a_mistake(at: WarehouseAt, snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no user was known at 2023-01-01 00:00; nothing was exported"):
        at(tmp_path).build(snapshot, [day("2023-01-01"), EARLY], HORIZON)
    assert files(tmp_path / "offline") == {}


def test_one_build_at_a_time(at: WarehouseAt, snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "warehouse").mkdir()
    with (tmp_path / "warehouse" / "build.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=r"churn\.duckdb is in use by another process"):
            at(tmp_path).build(snapshot, [EARLY], HORIZON)


def test_who_holds_the_warehouse_builds_and_goes_on_before_anybody_else_builds(
    at: WarehouseAt, snapshot: Snapshot, home: Path
) -> None:
    holder, other = at(home), at(home)
    with holder.only_builder():
        refused(other, snapshot)
        assert holder.build(snapshot, [EARLY], HORIZON).cutoffs == (EARLY,)
        refused(other, snapshot)  # what was built is being put online
    with other.only_builder():
        refused(holder, snapshot)


def refused(warehouse: Warehouse, snapshot: Snapshot) -> None:
    in_use = r"churn\.duckdb is in use by another process"
    with pytest.raises(Unavailable, match=in_use):
        warehouse.build(snapshot, [EARLY], HORIZON)
    with pytest.raises(Unavailable, match=in_use), warehouse.only_builder():
        pass


def test_a_failed_build_lets_the_next_one_in(at: WarehouseAt, home: Path) -> None:
    failing = at(home)
    with pytest.raises(Refused), failing.only_builder():
        raise Refused("the build failed")
    with at(home).only_builder():
        pass
    with failing.only_builder():
        pass


def test_a_database_that_another_program_holds_open_is_unavailable(
    at: WarehouseAt, snapshot: Snapshot, tmp_path: Path
) -> None:
    (tmp_path / "warehouse").mkdir()
    program = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path / "warehouse" / "churn.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(Unavailable, match="in use by another process"):
            at(tmp_path).build(snapshot, [EARLY], HORIZON)


def test_a_damaged_database_says_that_it_may_be_deleted(at: WarehouseAt, snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "warehouse").mkdir()
    (tmp_path / "warehouse" / "churn.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(Unavailable, match="cannot be opened") as trouble:
        at(tmp_path).build(snapshot, [EARLY], HORIZON)
    assert "Delete it" in trouble.value.hint


def test_too_little_memory_is_said_with_the_setting_to_raise(
    repository: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match="DuckDB needs more than the 5MB it may take") as trouble:
        Warehouse(repository / "warehouse", tmp_path, memory_limit_gb=0.005).build(snapshot, [EARLY], HORIZON)
    assert "CHURN_MEMORY_LIMIT_GB" in trouble.value.hint


def test_a_folder_without_the_dbt_project_is_named(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="holds no dbt project"):
        Warehouse(tmp_path / "nowhere", tmp_path).build(snapshot, [EARLY], HORIZON)


def test_a_manifest_that_cannot_be_read_is_named(at: WarehouseAt, tmp_path: Path) -> None:
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "manifest.json").write_text("{")
    with pytest.raises(NotReady, match=r"manifest\.json cannot be read"):
        at(tmp_path).cutoffs("first")


def test_before_the_first_build_there_are_no_cutoffs(at: WarehouseAt, tmp_path: Path) -> None:
    assert at(tmp_path).cutoffs("first") == []
    with pytest.raises(NotReady, match="no labels for 30 days at any cutoff"):
        at(tmp_path).read_labels([], HORIZON)
