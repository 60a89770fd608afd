"""monitor: a window of the prediction log against the champion's reference -> verdict and report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from churn.core.drift import Findings, LogWindow, Reference, judge, not_drawn
from churn.core.drift_page import advice, page
from churn.core.drift_rules import DriftPolicy
from churn.domain.ports import DriftReports, Pictures, PredictionReader, ReferenceSource, Window
from churn.domain.verdicts import DriftVerdict
from churn.domain.windows import as_utc


@dataclass(frozen=True)
class MonitorStores:
    """What monitoring reads and writes."""

    log: PredictionReader
    registry: ReferenceSource
    reports: DriftReports


@dataclass(frozen=True)
class MonitorResult:
    """What one window came to, and where to read about it."""

    verdict: DriftVerdict
    html_path: Path
    json_path: Path


def recent(now: datetime, days: float) -> Window:
    """The last `days` days up to and including `now`.

    The window ends with the second that `now` lies in, not before it: under a fixed clock every prediction is made at
    this very instant.
    """
    until = as_utc(now).replace(microsecond=0) + timedelta(seconds=1)
    return Window(until - timedelta(days=days), until)


def monitor(window: Window, stores: MonitorStores, policy: DriftPolicy) -> MonitorResult:
    """Judge the window and report it; the same window gives the same verdict and replaces its report.

    Broken or missing data is the verdict's business. Raises NotReady without a champion, Unavailable when the
    registry, the log or the disk does not answer.
    """
    rows, version, intact = stores.registry.champion_reference()
    records, skipped = stores.log.read(window.since, window.until)
    findings = judge(LogWindow(records, skipped), Reference(rows, version, intact), policy)
    pictures = stores.reports.draw(findings.current, findings.reference) if findings.shifts else Pictures()
    if pictures.error:
        findings = not_drawn(findings, pictures.error)
    document = _document(window, version, findings, pictures)
    paths = stores.reports.write(window, page(window, version, findings, pictures), document, pictures)
    return MonitorResult(findings.verdict, paths.html, paths.json)


def _document(window: Window, version: str, findings: Findings, pictures: Pictures) -> dict[str, object]:
    return {
        "since": as_utc(window.since).isoformat(),
        "until": as_utc(window.until).isoformat(),
        "model_version": version,
        "what_to_do": advice(findings.verdict),
        **findings.as_dict(),
        "not_drawn": list(pictures.left_out),
    }
