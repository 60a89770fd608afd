"""Compacted days: what was in the segments is in them, once, whenever it is looked at and whatever was killed."""

from __future__ import annotations

import os
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churn.domain.predictions import Prediction, Status
from churn.domain.records import CompactedDay, PredictionRecord
from churn.errors import Unavailable
from churn.stores.prediction_log import PredictionLog, compaction
from churn.stores.prediction_log.compaction import compact
from churn.stores.prediction_log.lines import decode, encode
from churn.stores.prediction_log.reading import read_predictions
from churn.stores.prediction_log.segments import taken
from churn.stores.prediction_log.tables import frame_of, table_of
from tests.stores.log_records import FIRST, LAST, NOON, logged, record, segments

DAY = date(2011, 10, 10)
NEXT = DAY + timedelta(days=1)


def write(folder: Path, *names: str, at: datetime = NOON, key: str | None = None) -> None:
    """A finished segment of that moment with one record a name, a second apart."""
    log = PredictionLog(folder, now=lambda: at)
    for place, name in enumerate(names):
        log.append([record(name, at=at + timedelta(seconds=place), key=key)])
    log.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_segments_of_a_past_day_become_one_file_that_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path, "c", at=NOON + timedelta(hours=1))
    write(tmp_path, "a", "b")
    write(tmp_path, "tomorrow", at=NOON + timedelta(days=1))
    before = read_predictions(tmp_path, FIRST, LAST)
    assert compact(tmp_path, NEXT) == [CompactedDay(DAY, predictions=3, segments=2, damaged=0)]
    after = read_predictions(tmp_path, FIRST, LAST)
    assert after[0].equals(before[0])
    assert logged(tmp_path) == (["a", "b", "c", "tomorrow"], 0)
    assert len(segments(tmp_path)) == 1 and (tmp_path / "2011-10-10.parquet").stat().st_mode & 0o777 == 0o600
    assert compact(tmp_path, NEXT) == [], "there is nothing left to do"


def test_a_day_is_a_plain_parquet_file_in_the_order_of_time(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    compact(tmp_path, NEXT)
    rows = pq.read_table(tmp_path / "2011-10-10.parquet").to_pylist()
    assert [row["request_id"] for row in rows] == ["a", "b"]
    assert (rows[0]["user_id_integer"], rows[0]["user_id_string"], rows[0]["item"]) == (7, None, 0)
    assert (rows[0]["days_since_signup"], rows[0]["flags"]) == (0.0, "explained staging_failing")


def test_only_the_window_is_read_of_a_day(tmp_path: Path) -> None:
    write(tmp_path, "a", "b", "c")
    compact(tmp_path, NEXT)
    frame, _ = read_predictions(tmp_path, NOON + timedelta(seconds=1), NOON + timedelta(seconds=2))
    assert frame["request_id"].tolist() == ["b"]


@pytest.mark.fault("P5")
def test_a_segment_that_its_writer_still_holds_is_left_and_taken_the_next_time(tmp_path: Path) -> None:
    write(tmp_path, "finished")
    log = PredictionLog(tmp_path, now=lambda: NOON)
    log.append([record("open")])
    assert compact(tmp_path, NEXT) == [CompactedDay(DAY, 1, 1, 0)]
    assert logged(tmp_path) == (["finished", "open"], 0)
    log.append([record("later")])
    log.close()
    assert compact(tmp_path, NEXT) == [CompactedDay(DAY, 3, 1, 0)]
    assert logged(tmp_path) == (["finished", "open", "later"], 0)
    assert names_in(tmp_path) == ["2011-10-10.parquet"]


def test_two_compactions_do_not_run_at_once(tmp_path: Path) -> None:
    with taken(tmp_path) as alone:
        assert alone
        with pytest.raises(Unavailable, match="already"):
            compact(tmp_path, NEXT)


def test_where_nothing_was_logged_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert compact(tmp_path / "absent", NEXT) == []
    abandoned = tmp_path / "20111010T120000.000000-1-abcdef01.new"  # its writer was killed as it opened it
    abandoned.write_bytes(b"")
    os.utime(abandoned, (0, 0))
    (tmp_path / "20111010T120000.000000-1-abcdef02.jsonl").write_bytes(b"")
    assert compact(tmp_path, NEXT) == []
    assert names_in(tmp_path) == []


def test_a_segment_that_is_being_opened_is_left_whatever_its_day(tmp_path: Path) -> None:
    opening = tmp_path / "20111010T120000.000000-1-abcdef01.new"
    opening.write_bytes(b"")
    assert compact(tmp_path, NEXT) == []
    assert names_in(tmp_path) == [opening.name]


def test_files_that_we_did_not_name_are_read_and_left(tmp_path: Path) -> None:
    (tmp_path / "by-hand.jsonl").write_bytes(encode(record("kept")))
    assert compact(tmp_path, NEXT) == []
    assert logged(tmp_path) == (["kept"], 0)


# -- damage ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("P8")
def test_damage_is_counted_on_and_the_damaged_segment_is_kept_aside(tmp_path: Path) -> None:
    good = encode(record("good"))
    (tmp_path / "20111010T120000.000000-1-abcdef01.jsonl").write_bytes(b"garbage\n" + good)
    (tmp_path / "20111010T120000.000000-1-abcdef02.jsonl").write_bytes(good + good[:100])
    assert compact(tmp_path, NEXT) == [CompactedDay(DAY, predictions=2, segments=2, damaged=2)]
    assert logged(tmp_path) == (["good", "good"], 2)
    assert names_in(tmp_path) == ["2011-10-10.parquet", "20111010T120000.000000-1-abcdef01.damaged"]
    assert read_predictions(tmp_path, NOON + timedelta(days=5), LAST)[1] == 0, "another day's window is sound"


@pytest.mark.fault("P8")
def test_a_damaged_day_is_named_never_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "a")
    compact(tmp_path, NEXT)
    path = tmp_path / "2011-10-10.parquet"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-5], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(Unavailable, match=r"2011-10-10\.parquet is damaged"):
            logged(tmp_path)


# -- killed on the way -----------------------------------------------------------------------------------------


@pytest.mark.fault("P5")
@pytest.mark.parametrize("removed_before", [0, 1, 2])
def test_killed_between_the_day_and_the_removal_nothing_is_there_twice(
    removed_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, name, at=NOON + timedelta(minutes=ord(name)))
    left = [removed_before]

    def die_later(segment: Path, part: object) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        segment.unlink()

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(compaction, "_retire", die_later)
        compact(tmp_path, NEXT)
    assert len(segments(tmp_path)) == 3 - removed_before
    assert logged(tmp_path) == (["a", "b", "c"], 0)
    assert compact(tmp_path, NEXT) == []
    assert names_in(tmp_path) == ["2011-10-10.parquet"]
    assert logged(tmp_path) == (["a", "b", "c"], 0)


@pytest.mark.fault("P5")
def test_a_reader_beside_rotation_and_compaction_finds_every_record_once(tmp_path: Path) -> None:
    """Each append rotates, each compaction takes what is finished: hundreds of changes while the log is read."""
    acknowledged: list[str] = []
    done = threading.Event()

    def compact_on() -> None:
        while not done.is_set():
            compact(tmp_path, NEXT + timedelta(days=5))

    threads = [
        threading.Thread(target=append_300, args=(tmp_path, acknowledged, done)),
        threading.Thread(target=compact_on),
    ]
    for thread in threads:
        thread.start()
    reads = 0
    while not done.is_set():
        sure = list(acknowledged)
        found, skipped = logged(tmp_path)
        assert (found[: len(sure)], skipped) == (sure, 0)
        assert len(found) == len(set(found))
        reads += 1
    for thread in threads:
        thread.join()
    assert reads > 0
    assert logged(tmp_path) == (acknowledged, 0)


def append_300(folder: Path, acknowledged: list[str], done: threading.Event) -> None:
    """Three days of a hundred records, each in a segment of its own."""
    moment = [NOON]
    log = PredictionLog(folder, segment_bytes=1, now=lambda: moment[0])
    try:
        for number in range(300):
            moment[0] = NOON + timedelta(days=number // 100, seconds=number)
            log.append([record(f"{number:03}", at=moment[0])])
            acknowledged.append(f"{number:03}")
        log.close()
    finally:
        done.set()


# -- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("A13")
def test_of_two_answers_with_one_key_the_first_counts_wherever_they_lie(tmp_path: Path) -> None:
    write(tmp_path, "first", at=NOON, key="k")
    compact(tmp_path, NEXT)
    write(tmp_path, "again", at=NOON + timedelta(minutes=5), key="k")
    write(tmp_path, "other", at=NOON + timedelta(minutes=6), key="k2")
    write(tmp_path, "keyless", "keyless", at=NOON + timedelta(minutes=7))
    assert logged(tmp_path)[0] == ["first", "other", "keyless", "keyless"]
    after_the_first, _ = read_predictions(tmp_path, NOON + timedelta(minutes=1), LAST)
    assert after_the_first["request_id"].tolist() == ["other", "keyless", "keyless"]
    compact(tmp_path, NEXT)
    assert logged(tmp_path)[0] == ["first", "other", "keyless", "keyless"]


# -- any record ------------------------------------------------------------------------------------------------

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def any_records(draw: st.DrawFn) -> PredictionRecord:
    features = tuple(draw(st.lists(st.sampled_from(["total_orders", "total_spent", "f3"]), unique=True)))
    vectors = st.none() | st.tuples(*[FLOATS for _ in features])
    items = st.builds(
        Prediction,
        user_id=st.none() | st.integers(0, 2**63 - 1) | TEXTS,
        status=st.sampled_from(Status),
        probability=st.none() | st.floats(0, 1),
        features_as_of=st.none() | MOMENTS,
        vector=vectors,
    )
    return PredictionRecord(
        request_id=draw(TEXTS),
        predicted_at=draw(MOMENTS),
        source="vector",
        predictions=draw(st.lists(items, max_size=4)),
        model_version=draw(TEXTS),
        model_digest="d",
        feature_service=draw(TEXTS),
        features=features,
        latency_ms=draw(st.floats(0, 1e6)),
        flags=draw(st.sampled_from([(), ("explained",)])),
        idempotency_key=draw(st.none() | TEXTS),
    )


@given(any_records())
def test_whatever_is_encoded_is_decoded_alike(entry: PredictionRecord) -> None:
    line = encode(entry)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    fields = decode(line[:-1])
    assert fields is not None
    assert (fields["request_id"], fields["idempotency_key"]) == (entry.request_id, entry.idempotency_key)
    assert datetime.fromisoformat(fields["predicted_at"]) == entry.predicted_at
    assert fields["user_id"] == [each.user_id for each in entry.predictions]
    assert fields["churn_probability"] == [each.probability for each in entry.predictions]
    assert repr(fields["vector"]) == repr([each.vector for each in entry.predictions])


@given(st.lists(any_records(), max_size=4))
@settings(max_examples=50)
def test_tables_have_one_row_for_each_prediction_and_keep_every_value(entries: list[PredictionRecord]) -> None:
    requests = [fields for entry in entries if (fields := decode(encode(entry)[:-1])) is not None]
    frame = frame_of(table_of(requests))
    items = [(entry, each) for entry in entries for each in entry.predictions]
    assert frame["user_id"].tolist() == [each.user_id for _, each in items]
    assert frame["request_id"].tolist() == [entry.request_id for entry, _ in items]
    for name in ("total_orders", "total_spent"):
        wanted = [
            dict(zip(entry.features, each.vector, strict=True)).get(name, float("nan")) if each.vector else float("nan")
            for entry, each in items
        ]
        assert repr(frame[name].tolist()) == repr(wanted)
