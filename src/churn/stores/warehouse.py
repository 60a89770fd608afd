"""The warehouse: dbt turns a snapshot into features and labels as of cutoffs; what passes its tests is exported.

The DuckDB file is a workbench and may be deleted at any time. What counts lies under `offline/`: one Parquet file
per cutoff, and `manifest.json`, which says from which snapshot and which models each was built. Nothing is
exported before the whole build has passed every dbt test.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import duckdb
import pandas as pd
import pyarrow.parquet as pq

from churn.domain.ports import BuildReport, Snapshot
from churn.domain.schema import FEATURE_VIEW
from churn.domain.windows import DAY, as_utc, cutoff_name, matured, parse_cutoff_name
from churn.errors import BadInput, ChurnError, NotReady, Refused, Unavailable

if TYPE_CHECKING:
    from dbt.artifacts.schemas.results import NodeResult
    from dbt.cli.main import dbtRunnerResult

LABELS = "churn_labels"
DRAFT = ".draft"  # not .parquet, so that nobody reads a folder and finds half a file
CUTOFFS_PER_RUN = 6  # bounds what one run holds in memory, and lets the caller show progress
DUCKDB_TYPES = {"integer": "bigint", "string": "varchar"}

Progress = Callable[[int, int], None]
Manifest = dict[str, Any]


def _no_progress(done: int, total: int) -> None:
    """Takes (cutoffs built, cutoffs asked for) and shows nothing."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class _Request:
    """What one build is asked for."""

    snapshot: Snapshot
    cutoffs: tuple[datetime, ...]
    horizon: timedelta

    @property
    def labelled(self) -> tuple[datetime, ...]:
        return tuple(cutoff for cutoff in self.cutoffs if matured(cutoff, self.horizon, self.snapshot.log_end))


@dataclass(frozen=True)
class _Export:
    """A file that is written beside its place, and then put there whole."""

    place: Path
    rows: int

    @property
    def draft(self) -> Path:
        return self.place.with_suffix(DRAFT)

    def facts(self) -> dict[str, Any]:
        """Rows and digest of the draft, once it is safe on disk."""
        with self.draft.open("rb") as file:
            os.fsync(file.fileno())
            return {"rows": self.rows, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def put_in_place(self) -> None:
        self.draft.replace(self.place)


class Warehouse:
    """Builds features and labels with dbt, and reads what was exported.

    `project_dir` is the dbt project (`warehouse/`) and is only read; everything is written below `home`.
    """

    def __init__(
        self, project_dir: Path, home: Path, memory_limit_gb: float = 4.0, *, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._project = project_dir
        self._workbench = home / "warehouse"
        self._database = self._workbench / "churn.duckdb"
        self._spill = self._workbench / "spill"
        self._log = self._workbench / "dbt.log"
        self._offline = home / "offline"
        self._memory_limit = f"{round(memory_limit_gb * 1000)}MB"
        self._now = now
        self._building = False

    # -- building --------------------------------------------------------------------------------------------------

    def build(
        self,
        snapshot: Snapshot,
        cutoffs: Sequence[datetime],
        horizon: timedelta,
        on_progress: Progress = _no_progress,
    ) -> BuildReport:
        """Build, test and export the rows of `cutoffs`; exports of other cutoffs stay as they are.

        Labels are made where the horizon (whole days) has ended by `snapshot.log_end`; where it has not, older
        labels are removed. Raises BadInput for a cutoff at which nothing is known, Refused when a dbt test or model
        fails, Unavailable when another build runs or the database is in use: then nothing is exported.
        """
        started = time.monotonic()
        asked = _Request(snapshot, _checked(cutoffs, snapshot.log_end), _whole_days(horizon))
        if not (self._project / "dbt_project.yml").is_file():
            raise NotReady(f"{self._project} holds no dbt project", hint="CHURN_PROJECT_DIR: the folder above it.")
        with self.only_builder(), self._open_database() as database:
            tests_passed = self._run_dbt(asked, on_progress)
            rows = self._export(asked, database)
        return BuildReport(asked.cutoffs, rows, asked.labelled, time.monotonic() - started, tests_passed)

    @contextmanager
    def only_builder(self) -> Iterator[None]:
        """Hold off every other build, of this process or another; the lock ends with the process, however that ends.

        `build` takes it too; one who holds it already may build all the same, and go on with what was built before
        anybody else builds. Raises Unavailable while another object holds it.
        """
        if self._building:
            yield
            return
        with self._lock():
            self._building = True
            try:
                yield
            finally:
                self._building = False

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._workbench.mkdir(parents=True, exist_ok=True)
        with (self._workbench / "build.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _in_use(self._database) from error
            yield

    def _open_database(self) -> duckdb.DuckDBPyConnection:
        """The database, to be held open while dbt runs: else dbt opens and closes it for each of its nodes.

        DuckDB lets dbt in only if `config` is that of profiles.yml.
        """
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": 2,
            "memory_limit": self._memory_limit,
            "temp_directory": str(self._spill),
            "preserve_insertion_order": False,
        }
        try:
            return duckdb.connect(str(self._database), config=config)
        except duckdb.IOException as error:
            if "lock" in str(error):
                raise _in_use(self._database) from error
            raise Unavailable(
                f"{self._database} cannot be opened: {error}", hint="Delete it if it is damaged: it is made anew."
            ) from error

    def _run_dbt(self, asked: _Request, on_progress: Progress) -> int:
        """Run dbt over the cutoffs, some at a time; returns how many data tests passed."""
        total, passed = len(asked.cutoffs), 0
        on_progress(0, total)
        for start in range(0, total, CUTOFFS_PER_RUN):
            chunk = asked.cutoffs[start : start + CUTOFFS_PER_RUN]
            selection = ["--select", "marts"] if start else []  # staging is the same for every chunk
            passed += self._tests_passed(self._invoke([*selection, "--vars", self._variables(asked, chunk)]))
            on_progress(start + len(chunk), total)
        return passed

    def _invoke(self, arguments: Sequence[str]) -> dbtRunnerResult:
        from dbt.cli.main import dbtRunner  # costs two seconds, so only builds pay

        places = {
            "--project-dir": self._project,
            "--profiles-dir": self._project,
            "--target-path": self._workbench / "target",
            "--log-path": self._workbench / "target",  # stays empty, but dbt makes the folder
        }
        options = [text for option, path in places.items() for text in (option, str(path))]
        # The log is ours, because dbt never closes a log file that it opened itself.
        options += ["--target", "embedded", "--log-level", "none", "--log-level-file", "none"]
        with self._log.open("w") as log:
            return dbtRunner(callbacks=[partial(_write_event, log)]).invoke(["build", *options, *arguments])

    def _variables(self, asked: _Request, cutoffs: Sequence[datetime]) -> str:
        return json.dumps(
            {
                "database": str(self._database),
                "temp_directory": str(self._spill),
                "memory_limit": self._memory_limit,
                "snapshot": _in_source_location(asked.snapshot.folder),
                "user_id_type": DUCKDB_TYPES[asked.snapshot.user_id_type],
                "cutoffs": [_timestamp(cutoff) for cutoff in cutoffs],
                "horizon_days": asked.horizon // DAY,
                "log_end": _timestamp(asked.snapshot.log_end),
            }
        )

    def _tests_passed(self, outcome: dbtRunnerResult) -> int:
        results: Sequence[NodeResult] = getattr(outcome.result, "results", ())
        if not outcome.success:
            raise self._failure(results, outcome.exception)
        return sum(str(result.node.resource_type) == "test" for result in results)

    def _failure(self, results: Sequence[NodeResult], exception: BaseException | None) -> ChurnError:
        """Why dbt failed: rows that fail a test, changed columns, too little memory, or a model that does not run."""
        broken = {result.node.name: str(result.message) for result in results if result.status == "error"}
        failed = {result.node.name: result.failures for result in results if result.status == "fail"}
        if failed and not broken:
            return self._failed_tests(failed)
        story = " ".join([*broken.values(), str(exception or "")])
        if "on_schema_change" in story:
            return self._changed_definitions()
        if "Out of Memory" in story:
            return Unavailable(
                f"DuckDB needs more than the {self._memory_limit} it may take; nothing was exported",
                hint="Raise CHURN_MEMORY_LIMIT_GB.",
            )
        return Refused(
            f"dbt could not build {', '.join(broken) or 'the project'}: {story.strip()[:500]}; nothing was exported",
            hint=f"{self._log} tells the whole story.",
            facts={"broken": broken},
        )

    def _failed_tests(self, failed: Mapping[str, int | None]) -> Refused:
        found = ", ".join(f"{name} ({rows} rows)" for name, rows in failed.items())
        return Refused(
            f"dbt tests failed: {found}; nothing was exported",
            hint=f"{self._workbench / 'target' / 'compiled'} holds the query behind each; run it on {self._database}.",
            facts={"failed": dict(failed)},
        )

    def _changed_definitions(self) -> Refused:
        return Refused(
            "the models' columns are not those of the rows built before; nothing was exported",
            hint=f"Delete {self._database}, then build every cutoff anew: old and new definitions must not mix.",
        )

    # -- exporting -------------------------------------------------------------------------------------------------

    def _export(self, asked: _Request, database: duckdb.DuckDBPyConnection) -> dict[datetime, int]:
        """Put the files of the cutoffs asked for and their manifest in place; returns the number of users at each."""
        with _storage_faults(self._offline), self._drafts():
            features = {cutoff: self._draft(database, FEATURE_VIEW, cutoff) for cutoff in asked.cutoffs}
            labels = {cutoff: self._draft(database, LABELS, cutoff) for cutoff in asked.labelled}
            _refuse_empty(features, asked.snapshot)
            entries = {
                cutoff_name(cutoff): self._entry(asked, features[cutoff], labels.get(cutoff)) for cutoff in features
            }
            for export in (*features.values(), *labels.values()):
                export.put_in_place()
            self._write_manifest({**self.manifest()["cutoffs"], **entries})
            for cutoff in features.keys() - labels.keys():
                self._place(LABELS, cutoff).unlink(missing_ok=True)
        return {cutoff: export.rows for cutoff, export in features.items()}

    @contextmanager
    def _drafts(self) -> Iterator[None]:
        """Folders for the exports, without drafts of an earlier build before and of this one after."""
        folders = [self._offline / FEATURE_VIEW, self._offline / LABELS]
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                _remove_drafts(folder)
            yield
        finally:
            for folder in folders:
                _remove_drafts(folder)

    def _draft(self, database: duckdb.DuckDBPyConnection, table: str, cutoff: datetime) -> _Export:
        place = self._place(table, cutoff)
        wanted = duckdb.ColumnExpression("cutoff") == duckdb.ConstantExpression(as_utc(cutoff).replace(tzinfo=None))
        rows = database.table(table).filter(wanted).order("user_id")
        rows.write_parquet(str(place.with_suffix(DRAFT)), compression="zstd")
        return _Export(place, pq.read_metadata(place.with_suffix(DRAFT)).num_rows)

    def _entry(self, asked: _Request, features: _Export, labels: _Export | None) -> dict[str, Any]:
        return {
            "snapshot_id": asked.snapshot.snapshot_id,
            **features.facts(),
            "labels": {"horizon_days": asked.horizon // DAY, **labels.facts()} if labels else None,
            "dbt_hash": self.dbt_hash(),
            "built_at": self._now().isoformat(),
        }

    def _write_manifest(self, cutoffs: dict[str, Any]) -> None:
        place = self._manifest_path
        draft = place.with_suffix(DRAFT)
        with draft.open("w") as file:
            json.dump({"cutoffs": dict(sorted(cutoffs.items()))}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(place)

    def dbt_hash(self) -> str:
        """sha256 over the sources of the dbt project: rows of two hashes come from two definitions."""
        folders = (self._project / name for name in ("models", "macros", "tests"))
        sources = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".sql", ".yml"))
        digest = hashlib.sha256()
        for path in (self._project / "dbt_project.yml", *sources):
            digest.update(f"{path.relative_to(self._project).as_posix()}\0".encode() + path.read_bytes() + b"\0")
        return digest.hexdigest()

    # -- reading ---------------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """{"cutoffs": {"2011-10-10T000000Z": entry}}; an entry tells snapshot_id, rows, sha256, dbt_hash, built_at, and
        labels: {horizon_days, rows, sha256}, or None where the horizon had not ended."""
        path = self._manifest_path
        if not path.is_file():
            return {"cutoffs": {}}
        try:
            manifest: Manifest = json.loads(path.read_text())
        except ValueError as error:
            raise NotReady(f"{path} cannot be read", hint="Delete it, then build every cutoff anew.") from error
        return manifest

    def cutoffs(self, snapshot_id: str) -> list[datetime]:
        """Cutoffs whose export was built from that snapshot, oldest first."""
        return sorted(self._built_from(snapshot_id))

    def labelled_cutoffs(self, horizon: timedelta, snapshot_id: str) -> list[datetime]:
        """Cutoffs built from that snapshot, with labels for this horizon, oldest first."""
        return sorted(self._labelled(horizon) & self._built_from(snapshot_id))

    def _built_from(self, snapshot_id: str) -> set[datetime]:
        entries = self.manifest()["cutoffs"].items()
        return {parse_cutoff_name(name) for name, entry in entries if entry["snapshot_id"] == snapshot_id}

    def _labelled(self, horizon: timedelta) -> set[datetime]:
        days = _whole_days(horizon) // DAY
        labels = {name: entry["labels"] or {} for name, entry in self.manifest()["cutoffs"].items()}
        return {parse_cutoff_name(name) for name, facts in labels.items() if facts.get("horizon_days") == days}

    def read_labels(self, cutoffs: Sequence[datetime], horizon: timedelta) -> pd.DataFrame:
        """(user_id, cutoff, horizon_days, eligible, churned) of every user at these cutoffs, by cutoff and user.

        `cutoff` is naive UTC. Raises NotReady when a cutoff has no labels for this horizon.
        """
        wanted = sorted(map(as_utc, cutoffs))
        missing = sorted(set(wanted) - self._labelled(horizon))
        if missing or not wanted:
            raise NotReady(
                f"no labels for {horizon // DAY} days at {', '.join(map(str, missing)) or 'any cutoff'}",
                hint="Run `churn build-features` at cutoffs whose horizon has ended.",
            )
        return pd.concat([pd.read_parquet(self._place(LABELS, cutoff)) for cutoff in wanted], ignore_index=True)

    @property
    def _manifest_path(self) -> Path:
        return self._offline / "manifest.json"

    def _place(self, table: str, cutoff: datetime) -> Path:
        return self._offline / table / f"{cutoff_name(cutoff)}.parquet"


# -- helpers -------------------------------------------------------------------------------------------------------


def _write_event(log: TextIO, event: Any) -> None:
    """One line per event of dbt (a protobuf message without static types)."""
    if event.info.level != "debug":
        log.write(f"{event.info.ts.ToJsonString()} {event.info.level} {event.info.msg}\n")


def _timestamp(moment: datetime) -> str:
    """The instant as DuckDB writes a naive UTC timestamp."""
    return as_utc(moment).replace(tzinfo=None).isoformat(sep=" ")


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _in_source_location(folder: Path) -> str:
    """The folder as sources.yml wants it: inside an SQL string, inside a format string."""
    return _quoted(folder.absolute()).replace("{", "{{").replace("}", "}}")


def _checked(cutoffs: Sequence[datetime], log_end: datetime) -> tuple[datetime, ...]:
    """The cutoffs in UTC, sorted, each once; raises BadInput when one cannot be built."""
    wanted = tuple(sorted(set(map(as_utc, cutoffs))))
    if not wanted:
        raise BadInput("no cutoff was given", hint="Give --cutoff, or --from and --to.")
    if any(cutoff.microsecond for cutoff in wanted):
        raise BadInput("a cutoff must be a whole second", hint="Write 2011-10-10 or 2011-10-10T06:00:00Z.")
    if wanted[-1] > log_end:
        raise BadInput(
            f"cutoff {wanted[-1]:%Y-%m-%d %H:%M} lies after the end of the log, {log_end:%Y-%m-%d %H:%M}",
            hint="Take a cutoff up to the end of the log, or ingest newer tables: after it nothing is known.",
        )
    return wanted


def _whole_days(horizon: timedelta) -> timedelta:
    if horizon < DAY or horizon % DAY:
        raise BadInput(f"a horizon of {horizon} is not a number of whole days", hint="Set CHURN_HORIZON_DAYS.")
    return horizon


def _refuse_empty(features: Mapping[datetime, _Export], snapshot: Snapshot) -> None:
    empty = [cutoff for cutoff, export in features.items() if not export.rows]
    if empty:
        raise BadInput(
            f"no user was known at {', '.join(f'{cutoff:%Y-%m-%d %H:%M}' for cutoff in empty)}; nothing was exported",
            hint=f"Take cutoffs after the first event, {snapshot.first_event:%Y-%m-%d %H:%M}.",
        )


def _remove_drafts(folder: Path) -> None:
    for draft in folder.glob(f"*{DRAFT}"):
        draft.unlink(missing_ok=True)


@contextmanager
def _storage_faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, duckdb.IOException) as error:
        raise Unavailable(
            f"the export to {folder} failed: {error}", hint="Check space and permissions, then build again."
        ) from error


def _in_use(database: Path) -> Unavailable:
    return Unavailable(
        f"{database} is in use by another process",
        hint="Wait for the other build to end, or close the program that has the file open.",
    )
