"""Every boundary in time, as tables: the first column is what happened, the last what the rule says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from churn.domain.windows import (
    DAY,
    Every,
    Split,
    as_utc,
    cutoffs_between,
    eligible,
    gap,
    in_horizon,
    known,
    log_end,
    matured,
    parse_instant,
    split_cutoffs,
)
from churn.errors import BadInput, NotReady

HORIZON = timedelta(days=60)
LONDON_SUMMER = timezone(timedelta(hours=1))


def at(text: str) -> datetime:
    """`2011-10-10` or `2011-10-10 13:45` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def dates(moments: list[datetime] | tuple[datetime, ...]) -> list[str]:
    """Midnights as dates; anything else with its time."""
    return [f"{each:%Y-%m-%d}" if each.time() == datetime.min.time() else f"{each:%Y-%m-%d %H:%M}" for each in moments]


# -- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "ingested", "is_known"),
    [
        ("2011-10-09 23:59:59.999999", None, True),
        ("2011-10-10 00:00", None, False),  # AT the cutoff: belongs to the horizon
        ("2011-10-10 00:00:00.000001", None, False),
        ("2011-10-09 12:00", "2011-10-09 23:59:59.999999", True),
        ("2011-10-09 12:00", "2011-10-10 00:00", False),  # happened before, written at the cutoff
        ("2011-10-09 12:00", "2011-10-11 00:00", False),
        ("2011-10-11 12:00", "2011-10-01 00:00", False),  # a clock that ran ahead: not before the cutoff
    ],
)
def test_an_event_is_known_when_it_happened_and_was_written_before_the_cutoff(
    event: str, ingested: str | None, is_known: bool
) -> None:
    assert known(at(event), at(ingested) if ingested else None, at("2011-10-10")) is is_known


@pytest.mark.parametrize(
    ("event", "inside"),
    [
        ("2011-10-09 23:59:59.999999", False),
        ("2011-10-10 00:00", True),
        ("2011-12-08 23:59:59.999999", True),
        ("2011-12-09 00:00", False),
    ],
)
def test_the_horizon_includes_its_start_and_excludes_its_end(event: str, inside: bool) -> None:
    assert in_horizon(at(event), at("2011-10-10"), HORIZON) is inside


moments = st.datetimes(datetime(1995, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
lengths = st.integers(1, 400).map(lambda days: timedelta(days=days))


@given(event=moments, cutoff=moments, horizon=lengths)
def test_no_event_is_both_known_and_in_the_horizon(event: datetime, cutoff: datetime, horizon: timedelta) -> None:
    assert not (known(event, None, cutoff) and in_horizon(event, cutoff, horizon))


@given(cutoff=moments, horizon=lengths, tick=st.sampled_from([-1, 0, 1]), edge=st.sampled_from(["start", "end"]))
def test_every_event_before_the_horizons_end_is_known_or_in_the_horizon(
    cutoff: datetime, horizon: timedelta, tick: int, edge: str
) -> None:
    event = (cutoff if edge == "start" else cutoff + horizon) + timedelta(microseconds=tick)
    assert (known(event, None, cutoff) or in_horizon(event, cutoff, horizon)) is (event < cutoff + horizon)


# -- the log's end, labels, eligibility ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_event", "end"),
    [
        ("2011-12-09 00:00", "2011-12-10"),  # day-only logs stamp the whole day 00:00
        ("2011-12-09 12:50", "2011-12-10"),
        ("2011-12-09 23:59:59.999999", "2011-12-10"),
        ("2011-12-31 08:00", "2012-01-01"),
        ("2012-02-28 08:00", "2012-02-29"),
    ],
)
def test_a_log_ends_at_the_midnight_after_its_last_event(last_event: str, end: str) -> None:
    assert log_end(at(last_event)) == at(end)


def test_a_logs_end_is_a_midnight_in_utc_whatever_the_zone_of_the_last_event() -> None:
    assert log_end(datetime(2011, 7, 1, 0, 30, tzinfo=LONDON_SUMMER)) == at("2011-07-01")


@pytest.mark.parametrize(
    ("end", "is_matured"),
    [("2011-12-08", False), ("2011-12-08 23:59:59.999999", False), ("2011-12-09", True), ("2012-01-01", True)],
)
def test_a_label_exists_once_its_whole_horizon_lies_before_the_end_of_the_log(end: str, is_matured: bool) -> None:
    assert matured(at("2011-10-10"), HORIZON, at(end)) is is_matured


@pytest.mark.parametrize(
    ("idle_days", "is_eligible"),
    [(0.0, True), (59.999, True), (60.0, True), (60.000001, False), (400.0, False), (None, False)],
)
def test_a_user_is_eligible_when_active_within_the_horizons_length_before_the_cutoff(
    idle_days: float | None, is_eligible: bool
) -> None:
    assert eligible(idle_days, HORIZON) is is_eligible


# -- reading instants ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2011-10-10", "2011-10-10 00:00"),
        ("2011-10-10T06:00:00", "2011-10-10 06:00"),
        ("2011-10-10T06:00:00Z", "2011-10-10 06:00"),
        ("2011-10-10T06:00:00+01:00", "2011-10-10 05:00"),
        ("2011-10-10T23:30:00-02:00", "2011-10-11 01:30"),
        ("20111010", "2011-10-10 00:00"),
    ],
)
def test_an_instant_is_read_as_utc_unless_it_says_otherwise(text: str, moment: str) -> None:
    assert parse_instant(text) == at(moment)
    assert parse_instant(text).tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10.10.2011", "2011-13-01", "2011-02-30", "0001-01-01T00:00:00+05:00"]
)
def test_what_is_no_instant_is_refused_with_the_text_and_an_example(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_instant(text)
    assert repr(text) in caught.value.message
    assert "2011-10-10" in caught.value.hint


def test_a_naive_time_is_taken_to_be_utc_already() -> None:
    assert as_utc(datetime(2011, 10, 10, 6)) == at("2011-10-10 06:00")


# -- cutoffs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "every", "cutoffs"),
    [
        ("2011-03-01", "2011-06-01", "month", ["2011-03-01", "2011-04-01", "2011-05-01", "2011-06-01"]),
        # The last one is always --to, on the step or not.
        ("2011-03-01", "2011-05-10", "month", ["2011-03-01", "2011-04-01", "2011-05-01", "2011-05-10"]),
        # A month keeps the day of the start, clipped to the month's length, and does not drift to the 28th.
        ("2011-01-31", "2011-05-31", "month", ["2011-01-31", "2011-02-28", "2011-03-31", "2011-04-30", "2011-05-31"]),
        ("2011-12-31", "2012-03-01", "month", ["2011-12-31", "2012-01-31", "2012-02-29", "2012-03-01"]),
        ("2011-11-15", "2012-01-15", "month", ["2011-11-15", "2011-12-15", "2012-01-15"]),
        ("2011-03-01", "2011-03-16", "week", ["2011-03-01", "2011-03-08", "2011-03-15", "2011-03-16"]),
        ("2011-02-27", "2011-03-01", "day", ["2011-02-27", "2011-02-28", "2011-03-01"]),
        ("2011-03-01", "2011-03-01", "month", ["2011-03-01"]),
        ("2011-03-01 06:00", "2011-03-02", "day", ["2011-03-01 06:00", "2011-03-02"]),
    ],
)
def test_cutoffs_go_from_the_start_in_steps_and_end_at_the_end(
    start: str, end: str, every: Every, cutoffs: list[str]
) -> None:
    assert dates(cutoffs_between(at(start), at(end), every)) == cutoffs


def test_a_range_that_ends_before_it_starts_is_refused_with_both_dates() -> None:
    with pytest.raises(BadInput, match="--to 2011-03-01 lies before --from 2011-10-10"):
        cutoffs_between(at("2011-10-10"), at("2011-03-01"), "month")


@given(start=moments, days=st.integers(0, 900), every=st.sampled_from(["day", "week", "month"]))
def test_cutoffs_rise_strictly_from_the_start_to_the_end(start: datetime, days: int, every: Every) -> None:
    end = start + days * DAY
    cutoffs = cutoffs_between(start, end, every)
    assert (cutoffs[0], cutoffs[-1]) == (start, end)
    steps = [later - earlier for earlier, later in pairwise(cutoffs)]
    assert all(timedelta(0) < step <= 31 * DAY for step in steps)


# -- the split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_train", "first_test", "days"),
    [("2011-08-11", "2011-10-10", 0), ("2011-08-10", "2011-10-10", 1), ("2011-08-12", "2011-10-10", -1)],
)
def test_the_gap_goes_from_the_end_of_the_last_training_horizon_to_the_first_test_cutoff(
    last_train: str, first_test: str, days: int
) -> None:
    assert gap(at(last_train), HORIZON, at(first_test)) == timedelta(days=days)


def test_a_training_horizon_may_end_at_the_first_test_cutoff_and_not_a_day_later() -> None:
    cutoffs = [at("2011-07-01"), at("2011-08-11"), at("2011-08-12"), at("2011-10-10")]
    assert split_cutoffs(cutoffs, HORIZON) == Split(
        train=(at("2011-07-01"), at("2011-08-11")), test=(at("2011-10-10"),), dropped=(at("2011-08-12"),)
    )


def test_the_newest_cutoffs_test_and_the_first_of_them_bounds_the_training() -> None:
    cutoffs = [at(f"2011-{month:02}-01") for month in range(1, 9)]
    split = split_cutoffs(cutoffs, HORIZON, test_cutoffs=2)
    assert dates(split.test) == ["2011-07-01", "2011-08-01"]
    assert dates(split.dropped) == ["2011-06-01"]
    assert dates(split.train) == ["2011-01-01", "2011-02-01", "2011-03-01", "2011-04-01", "2011-05-01"]


def test_the_order_in_which_cutoffs_are_given_plays_no_part() -> None:
    cutoffs = [at("2011-10-10"), at("2011-07-01"), at("2011-08-11")]
    assert split_cutoffs(cutoffs, HORIZON) == split_cutoffs(sorted(cutoffs), HORIZON)


@pytest.mark.parametrize(
    ("cutoffs", "test_cutoffs", "sentence"),
    [
        ([], 1, "no matured cutoff to test on"),
        (["2011-10-10"], 0, "no matured cutoff to test on"),
        (["2011-10-10"], 1, "no training cutoff ends its 60-day horizon before the first test cutoff 2011-10-10"),
        (["2011-08-12", "2011-10-10"], 1, "no training cutoff ends its 60-day horizon"),
        (["2011-07-01", "2011-10-10"], 2, "no training cutoff ends its 60-day horizon before .* 2011-07-01"),
        (["2011-07-01", "2011-10-10"], 9, "no training cutoff ends its 60-day horizon before .* 2011-07-01"),
    ],
)
def test_a_split_that_leaves_nothing_to_train_or_test_on_is_refused(
    cutoffs: list[str], test_cutoffs: int, sentence: str
) -> None:
    with pytest.raises(NotReady, match=sentence):
        split_cutoffs([at(each) for each in cutoffs], HORIZON, test_cutoffs)


@given(cutoffs=st.lists(moments, min_size=2, max_size=20, unique=True), horizon=lengths, test_cutoffs=st.integers(1, 4))
def test_no_training_horizon_reaches_beyond_the_first_test_cutoff_and_no_cutoff_is_lost(
    cutoffs: list[datetime], horizon: timedelta, test_cutoffs: int
) -> None:
    assume(min(cutoffs) + horizon <= sorted(cutoffs)[-min(test_cutoffs, len(cutoffs))])
    assume(len(cutoffs) > test_cutoffs)
    split = split_cutoffs(cutoffs, horizon, test_cutoffs)
    assert split.train
    assert len(split.test) == test_cutoffs
    assert all(not in_horizon(split.test[0], moment, horizon) for moment in split.train)
    assert all(in_horizon(split.test[0], moment, horizon) for moment in split.dropped)
    assert sorted((*split.train, *split.dropped, *split.test)) == sorted(cutoffs)
    assert max(split.train) < min(split.test)
