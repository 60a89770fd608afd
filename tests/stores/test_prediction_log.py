"""The prediction log: what was acknowledged is there, what is damaged is told."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import threading
from base64 import b64decode
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn.domain.predictions import Prediction, Status
from churn.domain.schema import FEATURE_NAMES
from churn.errors import Unavailable
from churn.stores.prediction_log import PredictionLog
from churn.stores.prediction_log.lines import decode, encode
from churn.stores.prediction_log.reading import read_predictions
from tests.stores.log_records import FIRST, LAST, NOON, VECTOR, logged, record, segments

# -- what is kept ----------------------------------------------------------------------------------------------


@pytest.mark.fault("P7")
def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    log.append([record()])
    frame, skipped = read_predictions(tmp_path, NOON, NOON + timedelta(seconds=1))
    assert skipped == 0
    (row,) = frame.to_dict("records")
    assert {name: row[name] for name in row if name not in FEATURE_NAMES} == {
        "request_id": "r1",
        "source": "id",
        "status": "ok",
        "model_version": "3",
        "model_digest": "d" * 64,
        "feature_service": "churn_v1",
        "variant": "champion",
        "flags": "explained staging_failing",
        "idempotency_key": None,
        "user_id": 7,
        "predicted_at": NOON,
        "features_as_of": NOON - timedelta(days=1),
        "churn_probability": 0.30000000000000004,
        "latency_ms": 1.25,
    }
    assert tuple(row[name] for name in FEATURE_NAMES) == VECTOR
    log.close()


def test_users_keep_their_type(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    log.append([record("a", 12), record("b", "12"), record("c", None), record("d", 2**63 - 1), record("e", "ÄÖ\u4e2d")])
    frame, _ = read_predictions(tmp_path, FIRST, LAST)
    assert frame["user_id"].tolist() == [12, "12", None, 2**63 - 1, "ÄÖ\u4e2d"]
    assert [type(value) for value in frame["user_id"]] == [int, str, type(None), int, str]
    log.close()


def test_nulls_and_infinities_of_a_vector_survive(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    vector = (math.nan, math.inf, -math.inf, -0.0, 5e-324, *VECTOR[5:])
    log.append([replace(record(), predictions=[Prediction(7, Status.INVALID_FEATURES, vector=vector)])])
    frame, _ = read_predictions(tmp_path, FIRST, LAST)
    assert str(frame[list(FEATURE_NAMES)].to_numpy()[0].tolist()) == str(list(vector))
    assert math.isnan(frame.loc[0, "churn_probability"])
    log.close()


def test_an_unknown_user_has_no_vector_and_no_probability(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    unknown = replace(record(), predictions=[Prediction(1, Status.NOT_FOUND)])
    log.append([unknown])
    frame, skipped = read_predictions(tmp_path, FIRST, LAST)
    assert skipped == 0
    assert frame[["features_as_of", "churn_probability", *FEATURE_NAMES]].isna().all(axis=None)
    log.close()


def test_columns_have_their_types_also_when_nothing_is_there(tmp_path: Path) -> None:
    frame, skipped = read_predictions(tmp_path / "absent", FIRST, LAST)
    assert (len(frame), skipped) == (0, 0)
    assert str(frame["predicted_at"].dtype) == str(frame["features_as_of"].dtype) == "datetime64[ns, UTC]"
    assert {str(frame[name].dtype) for name in ("churn_probability", "latency_ms", *FEATURE_NAMES)} == {"float64"}


def test_the_window_is_closed_on_the_left_and_open_on_the_right(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    second = timedelta(seconds=1)
    log.append([record(str(shift), at=NOON + shift * second) for shift in (2, 0, -1, 1)])
    frame, _ = read_predictions(tmp_path, NOON, NOON + 2 * second)
    assert frame["request_id"].tolist() == ["0", "1"]
    log.close()


# -- damage ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("P8")
def test_a_log_cut_at_any_byte_of_its_last_record_loses_that_record_alone_and_says_so(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    log.append([record("first"), record("last")])
    log.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for size in range(start, len(whole)):
        assert decode(whole[start : size - 1]) is None
        if size % 50 in (0, 49) or size > len(whole) - 4:  # the whole way costs milliseconds
            path.write_bytes(whole[:size])
            assert logged(tmp_path) == (["first"], 0 if size == start else 1)
    path.write_bytes(whole)
    assert logged(tmp_path) == (["first", "last"], 0)


@pytest.mark.fault("P8")
@given(st.binary(max_size=200).filter(lambda line: b"\n" not in line and line != b""))
def test_any_garbage_line_is_skipped_and_counted(garbage: bytes) -> None:
    assert decode(garbage) is None


@pytest.mark.fault("P8")
@given(st.integers(0, len(encode(record())) - 2), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    line = bytearray(encode(record())[:-1])
    line[place] ^= change
    assert decode(bytes(line)) is None


@pytest.mark.fault("P8")
def test_garbage_between_records_costs_only_itself(tmp_path: Path) -> None:
    good = [encode(record(name)) for name in ("a", "b", "c")]
    (tmp_path / "x.jsonl").write_bytes(good[0] + b"\x00\xff{]\n\n" + good[1] + b'{"schema_version": 1}\n' + good[2])
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert logged(tmp_path) == (["a", "b", "c"], 2)


@pytest.mark.fault("P8")
def test_a_record_of_a_newer_schema_is_skipped_and_counted(tmp_path: Path) -> None:
    body = encode(record())[:-1].replace(b'"schema_version":2', b'"schema_version":3')
    head = body[: body.index(b',"crc"')]
    (tmp_path / "x.jsonl").write_bytes(head + b',"crc":"%08x"}\n' % crc32(head))
    assert logged(tmp_path) == ([], 1)


def test_every_line_is_plain_json_and_its_vectors_are_base64() -> None:
    fields = json.loads(encode(record()))
    assert fields["schema_version"] == 2
    assert (fields["user_id"], fields["churn_probability"]) == ([7], [0.30000000000000004])
    assert fields["features"] == list(FEATURE_NAMES)
    assert np.frombuffer(b64decode(fields["vector"][0])).tolist() == list(VECTOR)


def test_a_line_of_schema_1_is_still_read(tmp_path: Path) -> None:
    fields = {
        "schema_version": 1,
        "request_id": "old",
        "predicted_at": "2011-10-10T12:00:00+00:00",
        "source": "id",
        "user_id": "u7",
        "status": "invalid_features",
        "churn_probability": None,
        "model_version": "3",
        "model_digest": "d",
        "feature_service": "churn_v1",
        "features_as_of": "2011-10-09T12:00:00+00:00",
        "latency_ms": 1.5,
        "features": {"days_since_signup": "inf", "total_spent": None, "total_orders": 2.0},
    }
    body = json.dumps(fields).encode()[:-1]
    (tmp_path / "x.jsonl").write_bytes(body + b', "crc": "%08x"}\n' % crc32(body) + encode(record("new")))
    frame, skipped = read_predictions(tmp_path, FIRST, LAST)
    assert (frame["request_id"].tolist(), skipped) == (["old", "new"], 0)
    old = frame.loc[0]
    assert (old["user_id"], old["days_since_signup"], old["latency_ms"], old["variant"]) == (
        "u7",
        math.inf,
        1.5,
        "champion",
    )
    assert math.isnan(old["total_spent"]) and frame.loc[1, "total_spent"] == VECTOR[FEATURE_NAMES.index("total_spent")]


# -- durability ------------------------------------------------------------------------------------------------


@pytest.mark.fault("P3")
def test_a_full_disk_refuses_the_request_keeps_old_records_and_recovers(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stops a write in the middle, as a full disk does."""
    script = """
import resource, signal, sys
from pathlib import Path
from churn.errors import Unavailable
from churn.stores.prediction_log import PredictionLog
from tests.stores.log_records import record
folder, size = Path(sys.argv[1]), int(sys.argv[2])
log = PredictionLog(folder)
log.append([record("before")])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for attempt in range(3):
    try:
        log.append([record("during")] * 4)
    except Unavailable as error:
        print(error.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append([record("after")])
"""
    size = int(2.5 * len(encode(record("before"))))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(size)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.count("the prediction log cannot be used") == 3
    assert logged(tmp_path) == (["before", "after"], 0)
    assert len(segments(tmp_path)) == 2


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="prediction log"):
        PredictionLog(tmp_path / "file").append([record()])


@pytest.mark.fault("P3")
def test_no_file_descriptor_left_is_unavailable_and_passes(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(Unavailable):
            log.append([record("refused")])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    log.append([record("taken")])
    log.close()
    assert logged(tmp_path) == (["taken"], 0)


def test_the_record_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    log.append([record("a")])
    assert logged(tmp_path) == (["a"], 0)
    log.append([record("b")])
    assert logged(tmp_path) == (["a", "b"], 0)
    log.close()


@pytest.mark.fault("P5")
def test_segments_rotate_by_size_without_losing_a_record(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, segment_bytes=3 * len(encode(record())))
    for number in range(10):
        log.append([record(f"{number:02}", at=NOON + timedelta(seconds=number))])
    log.close()
    assert len(segments(tmp_path)) == 4
    assert logged(tmp_path) == ([f"{number:02}" for number in range(10)], 0)


def test_a_closed_log_leaves_no_empty_file_and_opens_again(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    log.close()
    assert segments(tmp_path) == []
    log.append([record("a")])
    log.close()
    log.append([record("b")])
    log.close()
    assert logged(tmp_path) == (["a", "b"], 0)


@pytest.mark.fault("P6")
def test_many_threads_write_whole_records(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)

    def write(name: str) -> None:
        for number in range(50):
            log.append([record(f"{name}{number}"), record(f"{name}{number}")])

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found, skipped = logged(tmp_path)
    assert (len(found), len(set(found)), skipped) == (400, 200, 0)


def test_only_the_owner_may_read_the_log(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    log.append([record()])
    (path,) = segments(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(os.getpid()) in path.name
    log.close()
