"""What the options of the verbs mean, before any store is touched."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from churn import wiring
from churn.core.model import CALIBRATIONS, ForestParameters
from churn.demo import demo_settings
from churn.domain.ports import Snapshot
from churn.domain.windows import EVERY
from churn.errors import BadInput, NotReady
from churn.jobs.score import Scored
from churn.river import find_version, forest_parameters, monitor_window, step, wanted_cutoffs, write_scores
from churn.settings import load_settings
from tests.exports import at
from tests.memory import MemoryRegistry

SNAPSHOT = Snapshot("snapshot-1", Path("raw"), "integer", at("2010-12-01"), at("2011-12-09 12:50"), at("2011-12-10"))


@pytest.mark.parametrize(
    ("cutoff", "start", "end", "cutoffs"),
    [
        ("", "", "", ["2011-12-10"]),  # the latest possible: the end of the log
        ("2011-10-10", "", "", ["2011-10-10"]),
        ("", "2011-08-01", "2011-10-10", ["2011-08-01", "2011-09-01", "2011-10-01", "2011-10-10"]),
        ("", "2011-10-20", "", ["2011-10-20", "2011-11-20", "2011-12-10"]),
    ],
)
def test_the_options_say_which_cutoffs_are_wanted(cutoff: str, start: str, end: str, cutoffs: list[str]) -> None:
    found = wanted_cutoffs(cutoff, start, end, "month")(SNAPSHOT)
    assert [f"{moment:%Y-%m-%d}" for moment in found] == cutoffs


@pytest.mark.parametrize(
    ("cutoff", "start", "end", "sentence"),
    [
        ("2011-10-10", "2011-03-01", "", "--cutoff and --from/--to exclude each other"),
        ("2011-10-10", "", "2011-11-01", "--cutoff and --from/--to exclude each other"),
        ("", "", "2011-10-10", "--to needs --from"),
        ("tomorrow", "", "", "'tomorrow' is not a date"),
        ("", "2011-10-10", "2011-03-01", "lies before --from"),
    ],
)
def test_options_that_contradict_each_other_are_refused(cutoff: str, start: str, end: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        wanted_cutoffs(cutoff, start, end, "month")(SNAPSHOT)


def test_a_step_is_a_day_a_week_or_a_month() -> None:
    assert [step(every) for every in EVERY] == ["day", "week", "month"]
    with pytest.raises(BadInput, match="--every Month is not known"):
        step("Month")


def test_the_forests_parameters_are_taken_as_given() -> None:
    found = forest_parameters(calibration="isotonic", shape="sharp", n_estimators=7, random_state=1)
    assert found == ForestParameters(n_estimators=7, random_state=1, calibration="isotonic", shape="sharp")


def test_an_unknown_calibration_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput) as caught:
        forest_parameters(calibration="platt", shape="auto")
    assert all(known in caught.value.hint for known in CALIBRATIONS)


def test_an_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="--shape round is not known") as caught:
        forest_parameters(calibration="temperature", shape="round")
    assert caught.value.hint == "Choose one of auto, smooth, sharp, free."


def test_a_version_is_named_by_its_number_or_by_an_alias() -> None:
    registry = MemoryRegistry()
    registry.add("7", {}, "champion")
    registry.add("8", {}, "challenger")
    names = {"7": "7", "8": "8", "champion": "7", "@champion": "7", "": "7", "@challenger": "8"}
    assert {text: find_version(registry, text).version for text in names} == names
    for text, sentence in (("9", "does not know version 9"), ("@nobody", "no version carries the alias nobody")):
        with pytest.raises(NotReady, match=sentence):
            find_version(registry, text)


def test_a_window_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    settings = load_settings({"CHURN_CLOCK": "2011-12-10"}, home=tmp_path)
    for since, until in (("2011-12-01", "2011-11-01"), ("2011-12-01", "2011-12-01"), ("2011-12-11", "")):
        with pytest.raises(BadInput, match="before it starts"):
            monitor_window(settings, since, until)


def test_scores_are_put_in_place_whole_in_a_folder_that_need_not_exist(tmp_path: Path) -> None:
    table = pd.DataFrame({"user_id": [1, 2], "churn_probability": [0.25, 0.5]})
    target = tmp_path / "new" / "scores.parquet"
    for _ in range(2):  # the second time it replaces the first
        write_scores(Scored(table, at("2011-10-10"), {}), target)
    assert pd.read_parquet(target).equals(table)
    assert [path.name for path in target.parent.iterdir()] == ["scores.parquet"]


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_a_fixed_clock_always_says_the_same(tmp_path: Path) -> None:
    now = wiring.clock(load_settings({"CHURN_CLOCK": "2011-12-10T06:00:00+01:00"}, home=tmp_path))
    assert now() == now() == at("2011-12-10 05:00")


def test_the_systems_clock_goes_on(tmp_path: Path) -> None:
    now = wiring.clock(load_settings({}, home=tmp_path))
    assert abs(now() - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_snapshots_clock_needs_a_snapshot(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no raw tables were ingested yet"):
        wiring.clock(load_settings({"CHURN_CLOCK": "snapshot"}, home=tmp_path))


def test_the_demo_reaches_no_store_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "demo"))
    monkeypatch.setenv("CHURN_ONLINE_STORE", "redis")
    monkeypatch.setenv("CHURN_MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    settings = demo_settings("simulated")
    assert (settings.home, settings.online_store, settings.clock) == (tmp_path / "demo", "sqlite", "snapshot")
    assert settings.tracking_uri == f"sqlite:///{tmp_path / 'demo' / 'mlflow.db'}"
    assert settings.mode == "development"


def test_the_demo_keeps_out_of_a_home_that_holds_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    with pytest.raises(BadInput, match="holds something else than this demo"):
        demo_settings("simulated")


def test_a_range_that_ends_after_the_log_is_refused() -> None:
    with pytest.raises(BadInput, match="--to 9999-12-31 lies after the end of the log, 2011-12-10"):
        wanted_cutoffs("", "2011-03-01", "9999-12-31", "month")(SNAPSHOT)


class MovingLog:
    """Raw tables whose log grows by a day at every look."""

    def __init__(self) -> None:
        self.days = 0

    def current(self) -> Snapshot:
        self.days += 1
        return replace(SNAPSHOT, log_end=at("2011-12-10") + timedelta(days=self.days))


def test_the_snapshot_clock_follows_a_newer_ingest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "CLOCK_SECONDS", -1.0)
    clock = wiring.SnapshotClock(MovingLog())
    assert [f"{clock():%m-%d}" for _ in range(3)] == ["12-12", "12-13", "12-14"]
