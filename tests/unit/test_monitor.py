"""The monitor job: what it asks for, what it writes, and what it does when Evidently gives up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from churn.core.drift_rules import DriftPolicy
from churn.domain.ports import Window
from churn.domain.predictions import Prediction, Status
from churn.domain.records import PredictionRecord
from churn.domain.schema import FEATURE_NAMES
from churn.errors import NotReady
from churn.jobs.monitor import MonitorResult, MonitorStores, monitor, recent
from churn.stores.drift_reports import EvidentlyReports
from churn.stores.prediction_log import PredictionLog
from churn.wiring import LoggedPredictions
from tests.drift_rows import END, START, feature_rows, logged

WINDOW = Window(START, END)
POLICY = DriftPolicy()


@dataclass
class Log:
    """A prediction log in memory."""

    records: pd.DataFrame
    skipped: int = 0

    def read(self, since: datetime, until: datetime) -> tuple[pd.DataFrame, int]:
        inside = (self.records["predicted_at"] >= since) & (self.records["predicted_at"] < until)
        return self.records[inside], self.skipped


@dataclass
class Registry:
    """A champion with a reference; without rows there is no champion."""

    rows: pd.DataFrame | None
    intact: bool = True

    def champion_reference(self) -> tuple[pd.DataFrame, str, bool]:
        if self.rows is None:
            raise NotReady("there is no champion", hint="Run `churn promote`.")
        return self.rows, "3", self.intact


def stores(folder: Path, records: pd.DataFrame, registry: Registry | None = None) -> MonitorStores:
    return MonitorStores(Log(records), registry or Registry(feature_rows(2000, seed=0)), EvidentlyReports(folder))


def document(result: MonitorResult) -> dict[str, object]:
    found = json.loads(result.json_path.read_text())
    assert isinstance(found, dict)
    return found


def test_a_sound_window_is_judged_and_reported(tmp_path: Path) -> None:
    result = monitor(WINDOW, stores(tmp_path, logged(feature_rows(500, seed=1))), POLICY)
    page, facts = result.html_path.read_text(), document(result)

    assert result.verdict.status == "ok"
    assert result.html_path == tmp_path / "2026-03-01T000000Z--2026-03-08T000000Z" / "drift.html"
    assert "<h1>No drift</h1>" in page
    assert "Evidently report" in page
    assert facts["status"] == "ok"
    assert (facts["since"], facts["until"]) == ("2026-03-01T00:00:00+00:00", "2026-03-08T00:00:00+00:00")
    assert facts["model_version"] == "3"
    assert facts["what_to_do"] == ["Nothing to do."]
    assert facts["rows"] == 500
    columns = facts["columns"]
    assert isinstance(columns, list)
    assert {column["name"] for column in columns} == {"churn_probability", *FEATURE_NAMES}


def test_a_drifted_window_says_what_moved_and_what_to_do(tmp_path: Path) -> None:
    rows = feature_rows(500, seed=1)
    moved = rows.assign(days_since_last_activity=2 * rows["days_since_last_activity"])

    result = monitor(WINDOW, stores(tmp_path, logged(moved)), POLICY)
    page = result.html_path.read_text()

    assert result.verdict.status == "drift"
    assert "<h1>Drift</h1>" in page
    assert "Important features have moved" in page
    assert "<code>churn train</code>" in page


def test_only_the_window_is_looked_at(tmp_path: Path) -> None:
    result = monitor(
        Window(START, START + timedelta(days=1)), stores(tmp_path, logged(feature_rows(700, seed=1))), POLICY
    )

    assert result.verdict.status == "insufficient"
    assert result.verdict.rows == 100


def test_a_small_window_has_a_report_of_its_own_without_pictures(tmp_path: Path) -> None:
    result = monitor(WINDOW, stores(tmp_path, logged(feature_rows(50, seed=1))), POLICY)

    assert result.verdict.status == "insufficient"
    assert "<h1>Too little data</h1>" in result.html_path.read_text()
    assert "No drift" not in result.html_path.read_text()
    assert not (result.html_path.parent / "evidently.json").exists()


def test_when_evidently_gives_up_the_verdict_is_failed_and_still_written(tmp_path: Path) -> None:
    rows = feature_rows(500, seed=1)
    rows.loc[0, "spent_30d"], rows.loc[1, "spent_30d"] = 1e308, -1e308  # finite, yet no histogram survives it

    result = monitor(WINDOW, stores(tmp_path, logged(rows)), POLICY)
    page = result.html_path.read_text()

    assert result.verdict.status == "failed"
    assert result.verdict.reasons[0].rule == "the pictures could be drawn"
    assert "ValueError" in result.verdict.reasons[0].found
    assert document(result)["status"] == "failed"
    assert "The pictures could not be drawn" in page
    assert "days_since_last_activity" in page


def test_a_reference_that_is_not_the_one_stored_is_refused(tmp_path: Path) -> None:
    registry = Registry(feature_rows(2000, seed=0), intact=False)

    result = monitor(WINDOW, stores(tmp_path, logged(feature_rows(500, seed=1)), registry), POLICY)

    assert result.verdict.status == "failed"
    assert "The reference has changed" in result.html_path.read_text()


def test_without_a_champion_there_is_nothing_to_monitor(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no champion"):
        monitor(WINDOW, stores(tmp_path, logged(feature_rows(500, seed=1)), Registry(None)), POLICY)


def test_the_same_window_twice_gives_the_same_verdict_and_one_report(tmp_path: Path) -> None:
    parts = stores(tmp_path, logged(feature_rows(500, seed=1)))

    first = monitor(WINDOW, parts, POLICY)
    written = first.json_path.read_bytes()
    second = monitor(WINDOW, parts, POLICY)

    assert second.verdict == first.verdict
    assert second.json_path.read_bytes() == written
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["drift.html", "drift.json", "evidently.json"]


@pytest.mark.fault("S16")
def test_whatever_stands_in_the_log_is_escaped(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    records = logged(feature_rows(500, seed=1)).assign(**{nasty: 1.0})
    records.loc[0, "status"] = nasty

    result = monitor(WINDOW, stores(tmp_path, records), POLICY)

    assert result.verdict.status == "failed"
    assert nasty not in result.html_path.read_text()
    assert "&lt;img src=x onerror=alert(1)&gt; is new in the log" in result.html_path.read_text()


def test_records_of_the_real_log_are_understood(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "predictions")
    log.append([record(place, row) for place, row in enumerate(feature_rows(300, seed=1).to_dict("records"))])
    log.close()
    logged_predictions = LoggedPredictions(tmp_path / "predictions")
    parts = MonitorStores(
        logged_predictions, Registry(feature_rows(2000, seed=0)), EvidentlyReports(tmp_path / "reports")
    )

    result = monitor(WINDOW, parts, POLICY)

    assert result.verdict.status == "ok"
    assert result.verdict.rows == 299
    assert "not_found 1" in {reason.found.split(", ")[-1] for reason in result.verdict.reasons}


def record(place: int, row: dict[str, float]) -> PredictionRecord:
    """The answer for one user; the first one is unknown."""
    known = place > 0
    vector = tuple(row[name] for name in FEATURE_NAMES)
    answer = Prediction(place, Status.OK, row["churn_probability"], START, vector)
    return PredictionRecord(
        request_id=f"r{place}",
        predicted_at=START + timedelta(seconds=place),
        source="id",
        predictions=[answer if known else Prediction(place, Status.NOT_FOUND)],
        model_version="3",
        model_digest="d" * 64,
        feature_service="churn_v1",
        features=FEATURE_NAMES,
        latency_ms=2.0,
    )


@pytest.mark.parametrize(
    ("now", "days", "name"),
    [
        (datetime(2026, 3, 8, tzinfo=UTC), 7, "2026-03-01T000001Z--2026-03-08T000001Z"),
        (datetime(2026, 3, 8, 12, 30, 59, 999_999, tzinfo=UTC), 1, "2026-03-07T123100Z--2026-03-08T123100Z"),
    ],
)
def test_recent_days_end_with_the_second_that_now_lies_in(now: datetime, days: int, name: str) -> None:
    window = recent(now, days)

    assert window.since < now < window.until
    assert window.name == name
