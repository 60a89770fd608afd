"""What the service says, and keeps, while its surroundings break."""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from churn.domain.artifacts import StagingStatus
from churn.domain.versions import CARD_FILE, MODEL_FILE
from churn.stores.prediction_log import BufferedPredictionLog, PredictionLog
from tests.models import artifact_files, version_of, with_card
from tests.serving.conftest import Site, eventually, make_site
from tests.serving.test_bad_input import check_problem

USERS = {"user_ids": [1, 2]}


# -- no model --------------------------------------------------------------------------------------------------


@pytest.mark.fault("L6")
def test_without_a_model_the_service_lives_and_says_when_to_come_back(site: Site) -> None:
    with site.client() as client:
        assert client.get("/healthz").status_code == 200
        for answer in (client.post("/v1/score", json=USERS), client.get("/v1/users/1/score"), client.get("/v1/model")):
            check_problem(answer, 503, "no_model")
            assert answer.headers["Retry-After"] == "2"
        check_problem(client.post("/v1/score/features", json={"vectors": []}), 503, "no_model")
        assert check_problem(client.get("/readyz"), 503, "not_ready") == "no model is loaded yet"
    assert site.log() == []


@pytest.mark.fault("L6")
def test_the_first_model_is_taken_up_without_a_restart(site: Site) -> None:
    with site.client() as client:
        site.promote(version="4")
        assert eventually(lambda: client.get("/readyz").status_code == 200, seconds=3)
        assert client.post("/v1/score", json=USERS).json()["model"]["version"] == "4"


# -- the online store ------------------------------------------------------------------------------------------


@pytest.mark.fault("F1", "R7")
def test_a_store_that_is_down_is_503_and_comes_back_without_a_restart(served: Site, client: httpx.Client) -> None:
    served.online.down = True
    for answer in (client.post("/v1/score", json=USERS), client.get("/v1/users/1/score")):
        check_problem(answer, 503, "feature_store_unavailable")
        assert answer.headers["Retry-After"] == "1"
    check_problem(client.get("/readyz"), 503, "not_ready")
    assert client.get("/healthz").status_code == 200
    assert served.log() == []
    served.online.down = False
    assert client.post("/v1/score", json=USERS).status_code == 200
    assert client.get("/readyz").status_code == 200


@pytest.mark.fault("R1", "R7")
def test_a_frozen_store_never_holds_health_or_models_and_is_503_at_the_deadline(served: Site) -> None:
    served.online.frozen = threading.Event()
    limits = replace(served.parts.limits, answer_seconds=1.5, ready_seconds=0.5, threads=2, pending=6)
    try:
        with served.client(limits=limits) as client, ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(client.post, "/v1/score", json=USERS) for _ in range(6)]
            started = time.monotonic()
            assert client.get("/healthz").status_code == 200
            assert client.get("/v1/model").status_code == 200
            assert time.monotonic() - started < 1.0
            for each in asked:
                check_problem(each.result(), 503, "deadline_exceeded")
            check_problem(client.post("/v1/score", json=USERS), 503, "overloaded")
            check_problem(client.get("/readyz"), 503, "not_ready")
            served.online.frozen.set()
            assert eventually(lambda: client.post("/v1/score", json=USERS).status_code == 200)
            assert client.get("/readyz").status_code == 200
    finally:
        served.online.frozen.set()


@pytest.mark.fault("L8")
def test_a_service_with_a_frozen_store_still_ends(served: Site) -> None:
    served.online.frozen = threading.Event()
    limits = replace(served.parts.limits, answer_seconds=0.1)
    with served.client(limits=limits) as client:
        check_problem(client.post("/v1/score", json=USERS), 503, "deadline_exceeded")
        started = time.monotonic()
    assert time.monotonic() - started < 5
    served.online.frozen.set()


# -- the prediction log ----------------------------------------------------------------------------------------


@pytest.mark.fault("P3")
def test_what_cannot_be_logged_is_not_answered(served: Site, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    with served.client(log=PredictionLog(tmp_path / "blocked")) as client:
        answer = client.post("/v1/score", json=USERS)
        check_problem(answer, 503, "prediction_log_unavailable")
        assert answer.headers["Retry-After"] == "5"
        assert "probability" not in answer.text
        (tmp_path / "blocked").unlink()
        assert client.post("/v1/score", json=USERS).status_code == 200


def log_counts(client: httpx.Client) -> dict[str, float]:
    """churn_prediction_log_… by the rest of the name."""
    lines = [line.split(" ") for line in client.get("/metrics").text.splitlines()]
    start = "churn_prediction_log_"
    return {line[0].removeprefix(start): float(line[1]) for line in lines if line[0].startswith(start)}


@pytest.mark.fault("P4")
def test_the_metrics_say_how_the_log_fares(served: Site, tmp_path: Path) -> None:
    log = BufferedPredictionLog(tmp_path / "log")
    with served.client(log=log) as client:
        assert client.post("/v1/score", json=USERS).status_code == 200
        assert log_counts(client)["waiting"] == 2.0
        assert eventually(lambda: log_counts(client)["written_total"] == 2.0)
        assert log_counts(client) == {
            "waiting": 0.0,
            "oldest_seconds": 0.0,
            "written_total": 2.0,
            "refused_total": 0.0,
            "failures_total": 0.0,
        }


@pytest.mark.fault("L8", "P1")
def test_a_service_that_ends_writes_what_its_buffered_log_holds(served: Site, tmp_path: Path) -> None:
    with served.client(log=BufferedPredictionLog(served.home / "predictions")) as client:
        assert client.post("/v1/score", json=USERS).status_code == 200
    assert [row["flags"] for row in served.log()] == ["", ""]


@pytest.mark.fault("P7")
def test_the_log_says_how_a_question_was_answered(served: Site, client: httpx.Client) -> None:
    client.get("/v1/users/1/score?explain=true")
    now = datetime.now(UTC)
    served.cache.record_status(StagingStatus(now, now, "1", last_failure_at=now, failing=True))
    assert eventually(lambda: client.get("/readyz").json()["degraded"] == ["staging_failing"])
    client.get("/v1/users/1/score")
    assert [(row["variant"], row["flags"]) for row in served.log()] == [
        ("champion", "explained"),
        ("champion", "staging_failing"),
    ]


@pytest.mark.fault("S10")
def test_a_bug_is_a_problem_without_a_traceback(served: Site, caplog: pytest.LogCaptureFixture) -> None:
    def broken_clock() -> datetime:
        raise RuntimeError("secret")

    with served.client(clock=broken_clock) as client:
        answer = client.post("/v1/score", json=USERS)
        check_problem(answer, 500, "internal_error")
        assert "secret" not in answer.text
    assert "met a bug" in caplog.text


# -- taking up a champion --------------------------------------------------------------------------------------


def failures(client: httpx.Client) -> dict[str, float]:
    """churn_model_reload_failures_total by reason."""
    lines = client.get("/metrics").text.splitlines()
    found = [
        line.split('reason="')[1].split('"} ')
        for line in lines
        if line.startswith("churn_model_reload_failures_total{")
    ]
    return {reason: float(count) for reason, count in found}


def damage(site: Site, name: str) -> None:
    pointer = site.cache.champion()
    assert pointer is not None
    (site.home / "cache" / "models" / pointer.folder / name).write_bytes(b"damaged")


@pytest.mark.fault("L7")
def test_a_promotion_is_served_within_seconds_and_the_status_says_so(served: Site, client: httpx.Client) -> None:
    served.promote(seed=2, version="2")
    now = datetime.now(UTC)
    served.cache.record_status(StagingStatus(now, now, champion_version="2"))
    assert eventually(lambda: client.get("/v1/model").json()["version"] == "2", seconds=4)
    body = client.get("/v1/model").json()
    assert (body["aliases"], body["staging"]["status"], body["staging"]["champion_version"]) == (
        ["champion"],
        "ok",
        "2",
    )


@pytest.mark.fault("L1")
@pytest.mark.parametrize("name", [MODEL_FILE, CARD_FILE])
def test_a_champion_damaged_in_the_cache_leaves_the_old_one_in_service(
    name: str, served: Site, client: httpx.Client, tmp_path: Path
) -> None:
    other = make_site(tmp_path / "other")
    other.promote(seed=2, version="2")
    damage(other, name)
    for part in ("models", "champion.json"):
        subprocess.run(["cp", "-r", other.home / "cache" / part, served.home / "cache"], check=True)
    assert eventually(lambda: failures(client) == {"digest": 1.0})
    time.sleep(0.6)
    assert failures(client) == {"digest": 1.0}, "it is not tried again at every look"
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/score", json=USERS).json()["model"]["version"] == "1"


@pytest.mark.fault("L1")
def test_a_garbled_pointer_leaves_the_old_one_in_service(served: Site, client: httpx.Client) -> None:
    (served.home / "cache" / "champion.json").write_text("{")
    assert eventually(lambda: failures(client) == {"pointer": 1.0})
    assert client.post("/v1/score", json=USERS).status_code == 200


@pytest.mark.fault("L4")
def test_a_lost_pointer_leaves_the_old_one_in_service(served: Site, client: httpx.Client) -> None:
    (served.home / "cache" / "champion.json").unlink()
    time.sleep(0.6)
    assert client.post("/v1/score", json=USERS).json()["model"]["version"] == "1"


@pytest.mark.fault("L6")
def test_a_cold_start_with_a_damaged_champion_serves_the_version_before(served: Site) -> None:
    served.promote(seed=2, version="2")
    damage(served, MODEL_FILE)
    with served.client() as client:
        assert client.get("/readyz").json()["model_version"] == "1"
        assert failures(client) == {"digest": 1.0}


@pytest.mark.fault("L6")
def test_a_cold_start_with_nothing_but_damage_waits_for_a_model(served: Site) -> None:
    damage(served, MODEL_FILE)
    with served.client() as client:
        check_problem(client.get("/readyz"), 503, "not_ready")
        assert failures(client) == {"digest": 1.0}
        served.promote(seed=2, version="2")
        assert eventually(lambda: client.get("/readyz").status_code == 200)


@pytest.mark.fault("L5")
def test_a_failing_side_process_is_told_and_does_not_hinder(served: Site, client: httpx.Client) -> None:
    now = datetime.now(UTC)
    served.cache.record_status(
        StagingStatus(now, now, "1", last_failure_at=now, last_failure_reason="digest", failures=3, failing=True)
    )
    assert eventually(lambda: client.get("/readyz").json()["degraded"] == ["staging_failing"])
    staging = client.get("/v1/model").json()["staging"]
    assert (staging["status"], staging["last_failure_reason"]) == ("failing", "digest")
    assert "churn_staging_failures_total 3.0" in client.get("/metrics").text


@pytest.mark.fault("L2")
def test_the_cache_of_a_model_for_another_feature_service_is_refused_at_load(site: Site) -> None:
    """As after an upgrade of the service: what was staged for the old one does not fit."""
    files = with_card(artifact_files(), feature_service="churn_v0")
    version = version_of(files)
    pointer_of_good = site.cache.stage(version_of(artifact_files()), lambda _, folder: write(artifact_files(), folder))
    folder = site.home / "cache" / "models" / f"1-{version.digest[:12]}"
    folder.mkdir()
    write(files, folder)
    pointer = (site.home / "cache" / "champion.json").read_text()
    text = pointer.replace(pointer_of_good.digest, version.digest).replace(pointer_of_good.folder, folder.name)
    (site.home / "cache" / "champion.json").write_text(text)
    with site.client() as client:
        assert failures(client) == {"feature_service": 1.0}
        check_problem(client.get("/readyz"), 503, "not_ready")


def write(files: dict[str, bytes] | object, folder: Path) -> None:
    assert hasattr(files, "items")
    for name, data in files.items():
        (folder / name).write_bytes(data)
