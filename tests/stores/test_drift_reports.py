"""Evidently's pictures and the files of a report, with the real Evidently and a real browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from churn.core.drift import LogWindow, Reference, judge
from churn.core.drift_page import page as drift_page
from churn.core.drift_rules import DriftPolicy
from churn.domain.ports import Pictures, Window
from churn.errors import Unavailable
from churn.stores.drift_reports import EvidentlyReports
from tests.drift_rows import END, START, feature_rows, logged

if TYPE_CHECKING:
    from playwright.sync_api import Page

WINDOW = Window(START, END)
REFERENCE = feature_rows(1000, seed=0)
CURRENT = feature_rows(400, seed=1)


def measured(pictures: Pictures, kind: str) -> list[dict[str, Any]]:
    """Evidently's results of one kind of metric."""
    results = json.loads(pictures.json)["metric_results"].values()
    return [one for one in results if one["metric_value_location"]["metric"]["params"]["type"].endswith(f":{kind}")]


def drawn_columns(pictures: Pictures) -> list[str]:
    return [one["metric_value_location"]["metric"]["params"]["column"] for one in measured(pictures, "ValueDrift")]


@pytest.fixture
def reports(tmp_path: Path) -> EvidentlyReports:
    return EvidentlyReports(tmp_path / "reports")


def test_every_column_of_a_sound_window_is_drawn(reports: EvidentlyReports) -> None:
    pictures = reports.draw(CURRENT, REFERENCE)

    assert pictures.error == ""
    assert pictures.left_out == ()
    assert pictures.html.lstrip().startswith("<!DOCTYPE html>")
    assert drawn_columns(pictures) == list(CURRENT)
    methods = {one["metric_value_location"]["metric"]["params"]["method"] for one in measured(pictures, "ValueDrift")}
    assert methods == {"psi"}


def test_columns_on_which_evidently_gives_up_are_left_out_and_named(reports: EvidentlyReports) -> None:
    current = CURRENT.assign(orders_7d=np.nan, spent_7d=np.inf, only_here=1.0, total_orders="3")
    current = current.assign(**{"</script><script>alert(1)</script>": 1.0})
    reference = REFERENCE.assign(**{"</script><script>alert(1)</script>": 1.0})

    pictures = reports.draw(current, reference)

    assert pictures.error == ""
    assert set(pictures.left_out) == {
        "orders_7d",
        "spent_7d",
        "only_here",
        "total_orders",
        "</script><script>alert(1)</script>",
    }
    assert drawn_columns(pictures) == [
        name for name in CURRENT if name not in ("orders_7d", "spent_7d", "total_orders")
    ]
    assert "alert(1)" not in pictures.html


@pytest.mark.parametrize("rows", [0, 1, 29])
def test_next_to_no_rows_are_not_drawn(reports: EvidentlyReports, rows: int) -> None:
    assert reports.draw(CURRENT.head(rows), REFERENCE).html == ""
    assert reports.draw(CURRENT.head(rows), REFERENCE).error == ""


def test_a_constant_column_and_nullable_integers_are_drawn(reports: EvidentlyReports) -> None:
    names = ["orders_7d", "orders_30d"]
    current = CURRENT[names].assign(orders_7d=0.0, orders_30d=CURRENT["orders_30d"].astype("Int64"))

    pictures = reports.draw(current, REFERENCE[names])

    assert (pictures.error, pictures.left_out) == ("", ())
    assert pictures.html


def test_evidently_giving_up_is_told_and_raises_nothing(reports: EvidentlyReports) -> None:
    names = ["spent_7d"]
    current = CURRENT[names].copy()
    current.iloc[0], current.iloc[1] = 1e308, -1e308

    pictures = reports.draw(current, REFERENCE[names])

    assert pictures.html == ""
    assert pictures.error.startswith("ValueError: ")


def test_at_most_100_000_rows_are_drawn_and_always_the_same(reports: EvidentlyReports) -> None:
    many = pd.DataFrame({"orders_7d": np.arange(120_000) % 7 * 1.0})

    once, again = (reports.draw(many, REFERENCE[["orders_7d"]]) for _ in range(2))

    assert [one["value"] for one in measured(once, "RowCount")] == [100_000.0]
    assert [one["value"] for one in measured(once, "ValueDrift")] == [
        one["value"] for one in measured(again, "ValueDrift")
    ]


def test_a_report_is_written_whole_and_replaces_the_older_one(reports: EvidentlyReports) -> None:
    reports.write(WINDOW, "<p>old</p>", {"status": "ok"}, Pictures("<p>", '{"evidently": 1}'))
    paths = reports.write(WINDOW, "<p>new</p>", {"status": "failed"}, Pictures(error="crashed"))

    assert paths.html.read_text() == "<p>new</p>"
    assert json.loads(paths.json.read_text()) == {"status": "failed"}
    assert sorted(path.name for path in paths.html.parent.iterdir()) == ["drift.html", "drift.json"]


def test_a_number_that_json_does_not_know_leaves_the_older_report(reports: EvidentlyReports) -> None:
    paths = reports.write(WINDOW, "<p>old</p>", {"status": "ok"}, Pictures())

    with pytest.raises(ValueError, match="JSON"):
        reports.write(WINDOW, "<p>new</p>", {"status": float("nan")}, Pictures())

    assert paths.html.read_text() == "<p>old</p>"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file where the folder should be")

    with pytest.raises(Unavailable, match="cannot be written"):
        EvidentlyReports(tmp_path / "reports").write(WINDOW, "<p>", {}, Pictures())


class Addresses(HTMLParser):
    """Every address a page would load or lead to, those of the pages inside it too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster") and value:
                self.found.append(value)
            if name == "srcdoc" and value:
                self.feed_inside(value)

    def feed_inside(self, page: str) -> None:
        inside = Addresses()
        inside.feed(page)
        self.found += inside.found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a window in which one feature has moved."""
    reports = EvidentlyReports(tmp_path_factory.mktemp("drift"))
    moved = CURRENT.assign(days_since_last_activity=2 * CURRENT["days_since_last_activity"])
    findings = judge(LogWindow(logged(moved)), Reference(REFERENCE, "3"), DriftPolicy())
    pictures = reports.draw(findings.current, findings.reference)
    return reports.write(WINDOW, drift_page(WINDOW, "3", findings, pictures), findings.as_dict(), pictures).html


def test_the_page_loads_nothing_from_outside(written: Path) -> None:
    addresses = Addresses()
    addresses.feed(written.read_text())

    assert [address for address in addresses.found if not address.startswith(("data:", "#"))] == []


def test_a_browser_shows_verdict_and_pictures_offline(written: Path, page: Page) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)

    page.goto(written.as_uri())

    assert page.locator("h1").inner_text() == "Drift"
    assert page.get_by_text("Important features have moved").is_visible()
    assert page.locator("tr.drifted").first.get_by_text("days_since_last_activity").is_visible()
    page.frame_locator("iframe").get_by_text("Drift in column 'days_since_last_activity'").wait_for()
    assert {address.split(":")[0] for address in asked} <= {"file", "data", "blob", "about"}
    assert complaints == []
