"""From raw tables to a served probability and a drift report, on a small simulated shop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from churn.domain.schema import FEATURE_NAMES
from churn.stores.prediction_log.reading import read_predictions
from tests.river.conftest import River, ask, succeeded

LOG_END = "2025-06-24"  # 540 days after 2024-01-01


@pytest.fixture(scope="session")
def version(river: River) -> Any:
    client = mlflow.MlflowClient(river.tracking_uri, river.tracking_uri)
    return client.get_model_version_by_alias("churn_prediction", "champion")


@pytest.fixture(scope="session")
def scores(river: River) -> pd.DataFrame:
    succeeded(river.mlflow_run("score", out=river.home / "scores.parquet"))
    return pd.read_parquet(river.home / "scores.parquet")


@pytest.fixture(scope="session")
def answers(river: River, scores: pd.DataFrame) -> dict[str, Any]:
    """What the service said of everybody who was scored in the batch, asked in one request."""
    with river.service() as address:
        status, answer = ask(f"{address}/v1/score", {"user_ids": scores["user_id"].tolist()})
    assert status == 200
    return answer


def test_a_month_step_builds_each_first_of_a_month_and_the_end_of_the_log(river: River) -> None:
    built = json.loads((river.home / "offline" / "manifest.json").read_text())["cutoffs"]
    months = [f"2024-{month:02}-01T000000Z" for month in range(7, 13)]
    months += [f"2025-{month:02}-01T000000Z" for month in range(1, 7)]
    assert sorted(built) == [*months, f"{LOG_END}T000000Z"]
    unlabelled = sorted(name for name, entry in built.items() if not entry["labels"])
    assert unlabelled == ["2025-05-01T000000Z", "2025-06-01T000000Z", f"{LOG_END}T000000Z"]


def test_the_training_run_is_in_its_experiment_and_names_the_run_that_started_it(river: River, version: Any) -> None:
    client = mlflow.MlflowClient(river.tracking_uri)
    run = client.get_run(version.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "churn_prediction"
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["churn.training_run"] == version.run_id
    assert run.data.params["n_estimators"] == "20"
    promised = {"auc_score", "train_size", "test_size", "pr_auc", "brier", "log_loss", "ece", "lift_10"}
    assert promised <= set(run.data.metrics)


def test_the_version_carries_its_whole_lineage(river: River, version: Any) -> None:
    lineage = json.loads(version.tags["churn.lineage"])
    assert lineage["test_cutoffs"] == ["2025-04-01T00:00:00+00:00"]
    assert lineage["train_cutoffs"][-1] == "2025-01-01T00:00:00+00:00"  # its horizon ends 2025-03-02
    assert lineage["snapshot_id"] == (river.home / "raw" / "CURRENT").read_text().strip()
    assert len(lineage["feature_sha256"]) == 8
    assert all(lineage[name] for name in ("dbt_sha256", "lock_sha256", "data_sha256"))


@pytest.mark.fault("F15")
def test_online_equals_offline_for_every_user(river: River) -> None:
    done = succeeded(river.mlflow_run("verify"))
    assert "1,500 users at 2025-06-24 00:00Z: online equals offline" in done.stdout + done.stderr


def test_the_service_and_the_batch_give_the_same_numbers(scores: pd.DataFrame, answers: dict[str, Any]) -> None:
    online = pd.DataFrame(answers["predictions"])
    assert online["user_id"].tolist() == scores["user_id"].tolist()
    assert (online["status"] == "ok").all()
    assert online["churn_probability"].tolist() == scores["churn_probability"].tolist()
    assert online["risk_segment"].tolist() == scores["risk_segment"].tolist()
    assert set(scores["model_version"]) == {answers["model"]["version"]}


def test_batch_scores_are_probabilities_ordered_by_the_value_at_risk(scores: pd.DataFrame) -> None:
    assert scores["churn_probability"].between(0, 1).all()
    assert (np.diff(scores["expected_value_at_risk"]) <= 0).all()
    expected = scores["churn_probability"] * scores["customer_lifetime_value"].clip(lower=0)
    assert scores["expected_value_at_risk"].tolist() == expected.tolist()
    assert set(scores["cutoff"]) == {pd.Timestamp(LOG_END, tz="UTC")}


def test_batch_scores_say_whom_the_version_would_contact(scores: pd.DataFrame) -> None:
    chosen = scores["contact"]
    assert scores["expected_contact_value"].tolist() == (scores["churn_probability"] * 10.0 - 1.0).tolist()
    assert 0 < chosen.sum() < len(scores)
    assert scores.loc[chosen, "churn_probability"].min() > scores.loc[~chosen, "churn_probability"].max()


@pytest.mark.fault("P7")
def test_every_answer_is_in_the_prediction_log_with_its_vector(
    river: River, scores: pd.DataFrame, answers: dict[str, Any]
) -> None:
    logged, skipped = read_predictions(
        river.home / "predictions", datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    )
    mine = logged[logged["request_id"] == answers["request_id"]]
    assert skipped == 0
    assert mine["user_id"].tolist() == scores["user_id"].tolist()
    offline = pd.read_parquet(river.home / "offline" / "user_analytics" / f"{LOG_END}T000000Z.parquet")
    wanted = offline.set_index("user_id").loc[mine["user_id"], list(FEATURE_NAMES)].to_numpy(float)
    np.testing.assert_array_equal(mine[list(FEATURE_NAMES)].to_numpy(float), wanted)


def test_the_drift_report_says_what_its_exit_code_says(river: River, answers: dict[str, Any]) -> None:
    done = river.churn("monitor")
    document = json.loads(next(river.home.glob("reports/*/drift.json")).read_text())
    codes = {"ok": 0, "warn": 0, "drift": 6, "insufficient": 7, "failed": 7}
    assert done.returncode == codes[document["status"]], done.stdout + done.stderr
    assert document["rows"] == len(answers["predictions"])
    assert next(river.home.glob("reports/*/drift.html")).stat().st_size > 1_000_000  # self-contained


def test_a_window_without_predictions_is_insufficient_never_ok(river: River) -> None:
    done = river.mlflow_run("monitor", since="2024-01-01", until="2024-02-01")
    assert done.returncode != 0
    assert "insufficient" in river.said["monitor"]


def test_a_promoted_challenger_must_not_be_worse_and_the_alias_says_so(river: River, version: Any) -> None:
    verdict = json.loads(version.tags["churn.verdict"])
    assert verdict["passed"] is True
    done = river.churn("promote")
    assert done.returncode == 5
    assert "it is the champion already" in done.stdout


def test_scores_of_an_unbuilt_cutoff_are_refused_with_the_way_out(river: River) -> None:
    done = river.churn("score", "--cutoff", "2024-07-02")
    assert done.returncode == 4
    assert "no features at 2024-07-02" in done.stderr
