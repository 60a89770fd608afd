"""Each part of the benchmarks in a tiny run: it measures what it says, and the rivals do the same work."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import forest, online_store, prediction_log, service, startup
from benchmarks.figures import Figure
from benchmarks.latency_plot import draw
from benchmarks.load import Plan, Run, drive
from benchmarks.planted import CUTOFF, Files, eligible, export_of, write_export
from benchmarks.planted import service as served
from benchmarks.service import Site
from churn.domain.schema import FEATURE_NAMES
from churn.domain.versions import MODEL_FILE
from tests.benchmarks.conftest import USERS


def values(figures: Any) -> dict[str, float]:
    found = list(figures)
    assert all(isinstance(figure, Figure) for figure in found)
    return {figure.name: figure.value for figure in found}


def test_the_planted_service_answers_every_plan_and_takes_up_versions(
    small_site: Site, small_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "USERS", USERS)
    monkeypatch.setattr(startup, "ASKED", 20)
    monkeypatch.setattr(startup, "RELOADS", 2)
    settings = small_site.deployment("SQLite", "sync")
    cores = os.sched_getaffinity(0)
    with served(settings.home) as (port, pid):
        for requests in (service.single("/v1/users/{}/score"), service.batches(50, service._ours_batch)):
            done = drive(Plan(port, requests, seconds=0.1, connections=2, warm_seconds=0))
            assert not done.others
            assert len(done.latencies)
        assert len(os.sched_getaffinity(pid)) == 1
        found = values(startup._memory(settings, small_files, port, pid))
    os.sched_setaffinity(0, cores)
    assert len(found) == 4
    assert 50 < found["memory of a worker with one model, before the first request"] < 1_000


def test_the_stages_are_those_of_one_request(small_site: Site) -> None:
    small_site.deployment("SQLite", "sync")
    stages = service.staged(small_site.home / "SQLite")
    assert set(stages) == {"read", "score", "log"}
    assert all(0 < milliseconds < 1_000 for milliseconds in stages.values())


def test_the_plain_rival_says_what_scikit_learn_says(
    small_site: Site, small_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import feast_rival

    repository = feast_rival.write_repository(tmp_path / "feast")
    with pytest.warns(DeprecationWarning, match="fetch_arrow_table"):
        feast_rival.materialize(repository, export_of(small_site.home / "SQLite"))
    (tmp_path / MODEL_FILE).write_bytes(small_site.files[MODEL_FILE])
    monkeypatch.setenv("PLAIN_REPOSITORY", str(repository))
    monkeypatch.setenv("PLAIN_MODEL", str(tmp_path / MODEL_FILE))
    monkeypatch.setenv("PLAIN_FEATURES", ",".join(FEATURE_NAMES))
    plain = importlib.import_module("benchmarks.plain_service")
    vectors = eligible(USERS, seed=3)
    found = [score.churn_probability for score in plain.scored([7, 3])]
    assert found == pytest.approx(small_model.predict_proba(vectors[[7, 3]])[:, 1].tolist(), abs=1e-12)


def test_materialize_is_measured_and_compared_through_feast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_store, "USERS", 200)
    write_export(export_of(tmp_path), 200)
    assert online_store.materialize(tmp_path, "") > 0
    assert online_store.differences(tmp_path, "") == 0
    from churn.stores.online.packed import user_key
    from churn.stores.online.store import OnlineStore, micros, open_table

    changed = np.zeros((1, len(FEATURE_NAMES)))
    OnlineStore(open_table(tmp_path)).write([user_key(5)], np.array([micros(CUTOFF)]), changed)
    assert online_store.differences(tmp_path, "") > 20


def test_the_log_is_measured_in_both_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "SECONDS", 0.05)
    monkeypatch.setattr(prediction_log, "COMPACTED", 700)
    monkeypatch.setattr(prediction_log, "measured", lambda step, *arguments: _Step(step(*arguments)))
    found = values(prediction_log.measure(tmp_path))
    assert found["open, write, fsync a record, 1 writer"] > 0
    assert found["sync, 8 writers"] > 0
    assert found["buffered, 1 writer"] > 0
    assert 500 < found["a record in a segment"] < 3_000


class _Step:
    """What a step in a process of its own would have told."""

    seconds, peak_gb = 1.0, 0.1

    def __init__(self, result: Any) -> None:
        self.result = result


def test_the_forest_is_measured_beside_scikit_learn(
    small_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forest, "fitted", lambda: small_model)
    monkeypatch.setattr(forest, "SIZES", {1: 2, forest.LARGEST: 1})
    found = values(forest.measure(tmp_path))
    assert found["farthest from predict_proba, nulls included"] <= 1e-9
    assert found["votes by loop over the trees, farthest from scikit-learn's where cells are null"] == 0


def test_batch_scoring_writes_a_row_a_user(small_model: Any, tmp_path: Path) -> None:
    import pickle

    from benchmarks import scoring

    write_export(export_of(tmp_path), 300)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(small_model))
    assert scoring.predict_alone(tmp_path) > 0
    assert scoring.score_to_parquet(tmp_path) > 0
    assert pq.read_metadata(tmp_path / "scores.parquet").num_rows == 300


def test_a_slope_is_the_growth_of_the_second_half_over_all() -> None:
    grows = np.concatenate([np.linspace(100, 200, 25), np.linspace(200, 224, 25)])
    assert startup.slope(grows) == pytest.approx(50.0)
    assert startup.slope(np.full(50, 300.0)) == pytest.approx(0.0, abs=1e-9)


def test_the_plot_shows_the_open_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    found = Run(np.random.default_rng(1).exponential(0.002, 2_000), 1.0, {}, 2_000, 0.1)
    draw({("ours", "SQLite open 0.5"): found, ("ours", "Redis open 0.5"): found, ("ours", "SQLite"): found})
    assert (tmp_path / "docs" / "images" / "latency.png").read_bytes()[:4] == b"\x89PNG"
