"""ingest: a team's files -> contract -> a snapshot of the raw tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from churn.core.breaches import Breach, breach_rows
from churn.core.contract import Checked, check
from churn.core.contract_work import Terms
from churn.core.raw_columns import parse_mapping
from churn.domain.ports import RawTablesWriter, Snapshot
from churn.domain.windows import as_utc
from churn.errors import NotReady


@dataclass(frozen=True)
class IngestRequest:
    """What to ingest. `sources` maps users, orders, user_sessions to files; `mapping` holds canonical=Source pairs."""

    sources: Mapping[str, Path]
    mapping: Sequence[str] = ()
    tz: str = "UTC"
    date_format: str | None = None
    horizon: timedelta = timedelta(days=60)


@dataclass(frozen=True)
class IngestReport:
    """What came of it. `is_new` is False when a snapshot with this very content existed; it is current again."""

    snapshot: Snapshot
    is_new: bool
    rows: dict[str, int]
    quarantined: dict[str, int]
    gap_quantiles: dict[str, float | None]
    breaches: tuple[Breach, ...] = field(default=())

    @property
    def breach_rows(self) -> list[tuple[str, ...]]:
        """Rows (place, rule, severity, count, samples, meaning), worst first."""
        return breach_rows(self.breaches)

    @property
    def summary(self) -> list[str]:
        """What happened, line by line."""
        return _summary(self)


def ingest(request: IngestRequest, store: RawTablesWriter, now: datetime) -> IngestReport:
    """Read, check, write. Raises BadInput for files and options, ContractBroken (nothing written) for their content."""
    mapping = parse_mapping(request.mapping)
    sources = {name: store.read_source(path) for name, path in request.sources.items()}
    before = _current(store)
    known_type = before.user_id_type if before else None
    terms = Terms(now, request.tz, request.date_format or None, known_type, request.horizon)
    checked = check(sources, mapping, terms)
    manifest = _manifest(request, checked, now)
    snapshot = store.write(checked.tables, checked.quarantine, manifest)
    return IngestReport(
        snapshot=snapshot,
        is_new=snapshot != before and snapshot.manifest["created_at"] == manifest["created_at"],
        rows={name: table.num_rows for name, table in checked.tables.items()},
        quarantined={name: table.num_rows for name, table in checked.quarantine.items()},
        gap_quantiles=checked.gap_quantiles,
        breaches=checked.breaches,
    )


def _current(store: RawTablesWriter) -> Snapshot | None:
    try:
        return store.current()
    except NotReady:
        return None


def _manifest(request: IngestRequest, checked: Checked, now: datetime) -> dict[str, Any]:
    return {
        "created_at": as_utc(now).isoformat(),
        "user_id_type": checked.user_id_type,
        "tables": {name: _about(name, checked) for name in checked.tables},
        "first_event": checked.first_event.isoformat(),
        "last_event": checked.last_event.isoformat(),
        "log_end": checked.log_end.isoformat(),
        "breaches": [item.as_dict() for item in checked.breaches],
        "gap_quantiles": checked.gap_quantiles,
        "source": {
            "files": {name: path.name for name, path in request.sources.items()},
            "mapping": list(request.mapping),
            "tz": request.tz,
            "date_format": request.date_format,
        },
    }


def _about(name: str, checked: Checked) -> dict[str, Any]:
    span = checked.spans.get(name)
    ends = {"first_event": span.first, "last_event": span.last} if span else {"first_event": None, "last_event": None}
    return {
        "rows": checked.tables[name].num_rows,
        **{end: moment and moment.isoformat() for end, moment in ends.items()},
        "quarantined": checked.quarantine[name].num_rows,
    }


def _summary(report: IngestReport) -> list[str]:
    snapshot = report.snapshot
    rows = ", ".join(f"{count:,} {name}" for name, count in report.rows.items())
    lines = [
        f"snapshot {snapshot.snapshot_id}{'' if report.is_new else ' (this content was there already)'}: {rows}",
        f"log from {snapshot.first_event:%Y-%m-%d} to {snapshot.last_event:%Y-%m-%d};"
        f" user ids are {snapshot.user_id_type}s",
        f"days between active days: {_quantile_text(report.gap_quantiles)}",
    ]
    aside = sum(report.quarantined.values())
    return (
        [*lines, f"set aside, each with its reason: {aside:,} rows in {snapshot.folder / 'quarantine'}"]
        if aside
        else lines
    )


def _quantile_text(quantiles: Mapping[str, float | None]) -> str:
    known = {name: days for name, days in quantiles.items() if days is not None}
    return ", ".join(f"{name} {days:g}" for name, days in known.items()) or "no user was active on two days"
