"""What /metrics tells: each stage, each kind of error, how old things are, how busy the threads are."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from churn.core.artifact import parse_card
from churn.domain.artifacts import Refusal, StagingStatus
from churn.domain.versions import CARD_FILE
from serving.errors import KINDS
from serving.metrics import Metrics
from serving.observing import LINES_A_SECOND, Observer, route_of
from tests import servers
from tests.models import artifact_files, version_of, with_card
from tests.serving.conftest import CUTOFF, NOW, Site, eventually

USERS = {"user_ids": [1, 2, 3]}


def scraped(client: httpx.Client) -> dict[str, float]:
    """Every sample by its name and labels, as Prometheus reads them."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {_series(s.name, s.labels): s.value for family in families for s in family.samples}


def _series(name: str, labels: Mapping[str, str]) -> str:
    told = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
    return f"{name}{{{told}}}" if told else name


def test_each_stage_of_an_answer_is_timed(client: httpx.Client) -> None:
    client.post("/v1/score", json=USERS)
    client.get("/v1/users/1/score")
    found = scraped(client)
    counts = {stage: found[f"churn_stage_seconds_count{{stage={stage}}}"] for stage in ("read", "score", "log")}
    assert counts == {"read": 2, "score": 2, "log": 2}
    parts = sum(found[f"churn_stage_seconds_sum{{stage={stage}}}"] for stage in counts)
    assert 0 < parts < sum(value for name, value in found.items() if name.startswith("churn_request_seconds_sum"))


def test_a_stage_that_fails_is_timed_too(served: Site, client: httpx.Client) -> None:
    served.online.down = True
    client.post("/v1/score", json=USERS)
    assert scraped(client)["churn_stage_seconds_count{stage=read}"] == 1


def test_errors_are_counted_by_code_from_the_first_on(served: Site, client: httpx.Client) -> None:
    before = scraped(client)
    assert [before[f"churn_problems_total{{code={code}}}"] for code in KINDS] == [0] * len(KINDS)
    served.online.down = True
    client.post("/v1/score", json=USERS)
    client.get("/nowhere")
    after = scraped(client)
    risen = {code for code in KINDS if after[f"churn_problems_total{{code={code}}}"] == 1}
    assert risen == {"feature_store_unavailable", "no_such_route"}


def test_the_age_of_features_is_that_of_the_oldest_behind_each_answer(served: Site, client: httpx.Client) -> None:
    served.online.rows[2] = replace(served.online.rows[2], as_of=CUTOFF - timedelta(days=2))
    client.post("/v1/score", json=USERS)
    client.post("/v1/score", json={"user_ids": [1, 3]})
    client.get("/v1/users/999/score")
    found = scraped(client)
    assert found["churn_feature_age_seconds_count"] == 2
    assert found["churn_feature_age_seconds_sum"] == 2 * (NOW - CUTOFF).total_seconds() + 2 * 86400
    assert found["churn_feature_age_seconds_bucket{le=172800.0}"] == 1
    assert found["churn_feature_age_seconds_bucket{le=604800.0}"] == 2
    assert found["churn_feature_age_limit_seconds"] == 31 * 86400


def test_an_answer_given_while_something_is_amiss_is_counted_by_what_it_is(served: Site, client: httpx.Client) -> None:
    client.get("/v1/users/1/score", params={"explain": "true"})
    assert scraped(client)["churn_degraded_answers_total{kind=staging_failing}"] == 0
    now = datetime.now(UTC)
    served.cache.record_status(StagingStatus(now, now, "1", last_failure_at=now, failing=True))
    assert eventually(lambda: client.get("/readyz").json()["degraded"] == ["staging_failing"])
    client.post("/v1/score", json=USERS)
    found = scraped(client)
    assert found["churn_degraded_answers_total{kind=staging_failing}"] == 1
    assert not [name for name in found if "explained" in name]


# -- the model -------------------------------------------------------------------------------------------------


def test_the_age_of_the_model_is_that_of_its_newest_label(site: Site) -> None:
    files = with_card(artifact_files(), newest_label=NOW - timedelta(days=10))
    assert parse_card(files[CARD_FILE]).newest_label == NOW - timedelta(days=10)

    def fetch(_: object, folder: object) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)  # type: ignore[operator]

    with site.client() as client:
        assert "churn_model_age_seconds" not in scraped(client)
        assert scraped(client)["churn_model_loaded_timestamp_seconds"] == 0
        site.cache.stage(version_of(files), fetch)
        assert eventually(lambda: "churn_model_age_seconds" in scraped(client))
        assert scraped(client)["churn_model_age_seconds"] == 10 * 86400


def test_a_model_that_does_not_say_its_age_is_served_without_one(client: httpx.Client) -> None:
    found = scraped(client)
    assert found["churn_model_loaded_timestamp_seconds"] > 1e9
    assert "churn_model_age_seconds" not in found


def test_what_is_over_is_told_as_nought(served: Site, client: httpx.Client) -> None:
    at = datetime(2026, 11, 24, 8, tzinfo=UTC)
    assert scraped(client)["churn_staging_last_success_timestamp_seconds"] == 0
    ill = StagingStatus(at, at, "2", failures=4, failing=True, refused=Refusal("2", "no_verdict", "it carries none"))
    served.cache.record_status(ill)
    assert eventually(lambda: scraped(client)["churn_staging_failing"] == 1)
    found = scraped(client)
    assert found["churn_champion_refused{reason=no_verdict}"] == 1
    assert found["churn_staging_failures_total"] == 4
    assert found["churn_staging_last_success_timestamp_seconds"] == at.timestamp()
    served.cache.record_status(StagingStatus(at, at, "2", failures=4, held_version="2"))
    assert eventually(lambda: scraped(client)["churn_staging_failing"] == 0)
    found = scraped(client)
    assert (found["churn_champion_refused{reason=no_verdict}"], found["churn_champion_held"]) == (0, 1)


# -- how busy it is --------------------------------------------------------------------------------------------


def test_waiting_work_is_told_while_it_waits(served: Site) -> None:
    served.online.frozen = threading.Event()
    limits = replace(served.parts.limits, threads=2, pending=5, answer_seconds=0.2)
    try:
        with served.client(limits=limits) as client:
            assert scraped(client)["churn_worker_jobs{pool=score}"] == 0
            client.post("/v1/score", json=USERS)
            found = scraped(client)
            assert found["churn_worker_jobs{pool=score}"] == 1, "given up, but its thread is not free yet"
            assert found["churn_worker_threads{pool=score}"] == 2
            assert found["churn_worker_jobs_limit{pool=score}"] == 5
            served.online.frozen.set()
            assert eventually(lambda: scraped(client)["churn_worker_jobs{pool=score}"] == 0)
    finally:
        served.online.frozen.set()


def test_the_exposition_is_as_prometheus_wants_it(client: httpx.Client) -> None:
    """promtool also knows the conventions: base units, _total, a help text for each."""
    client.post("/v1/score", json=USERS)
    text = client.get("/metrics").text
    command = [servers.promtool_program(), "check", "metrics"]
    done = subprocess.run(command, input=text, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "_created" not in text


# -- lines of the log ------------------------------------------------------------------------------------------


def test_an_answer_that_failed_leaves_a_line_with_its_id_and_one_that_did_not_leaves_none(
    served: Site, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "churn.serving")
    client.get("/v1/users/1/score")
    client.get("/v1/users/999/score")
    assert caplog.records == []
    served.online.down = True
    client.get("/v1/users/1/score", headers={"X-Request-ID": "abc-1"})
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "The feature store does not answer")
    told = record.facts  # type: ignore[attr-defined]
    assert told.pop("ms") > 0
    route = "/v1/users/{user_id}/score"
    assert told == {"method": "GET", "route": route, "status": 503, "code": "feature_store_unavailable"}


def test_a_slow_answer_leaves_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "churn.serving")
    observe = Observer(Metrics())
    scope = {"type": "http", "method": "GET", "path": "/v1/users/7/score", "state": {}}
    observe(scope, 200, 0.2)
    observe(scope, 200, 0.3)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", "slow")
    assert record.facts == {"method": "GET", "route": route_of(scope), "status": 200, "ms": 300.0}  # type: ignore[attr-defined]


def test_a_flood_of_failures_leaves_ten_lines_and_then_says_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seconds = iter([0.0] * 1001 + [1.0])
    observe = Observer(Metrics(), clock=lambda: next(seconds))
    scope = {"type": "http", "method": "GET", "path": "/v1/model", "state": {}}
    for _ in range(1001):
        observe(scope, 503, 0.001)
    assert len(caplog.records) == LINES_A_SECOND + 1
    assert caplog.records[-1].facts["left_out"] == 1000 - LINES_A_SECOND  # type: ignore[attr-defined]
