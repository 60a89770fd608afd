"""The model registry: one suite over an embedded MLflow (SQLite) and a real MLflow server."""

from __future__ import annotations

import io
import json
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from mlflow import MlflowClient

from churn.core.artifact import Card, card_bytes, digest_of
from churn.domain.artifacts import SERVED_FILES, TRUSTED_TYPES, Artifact
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE
from churn.domain.versions import (
    CARD_FILE,
    CHALLENGER,
    CHAMPION,
    MODEL_FILE,
    REFERENCE_FILE,
    TAG_LINEAGE,
    TAG_VERDICT,
    Lineage,
    ModelVersion,
    TrainingRecord,
)
from churn.errors import NotReady, Refused, Unavailable
from churn.settings import load_settings
from churn.stores.model_registry import Registry
from churn.wiring import ChampionReference
from tests import servers
from tests.memory import MemoryRegistry
from tests.models import (
    KEY,
    OPEN_MODEL,
    FakeRegistry,
    calibrated_forest,
    card_of,
    judged,
    model_cache,
    random_vectors,
)

EXPERIMENT = MODEL = "registry-suite"
REFERENCE = b"reference rows"
LINEAGE = Lineage(
    snapshot_id="2011-12-10T000000Z-abc",
    snapshot_sha256={"orders": "a" * 64},
    feature_service=FEATURE_SERVICE,
    feature_sha256={"2011-10-10T000000Z": "f" * 64},
    dbt_sha256="d" * 64,
    train_cutoffs=("2011-08-01T00:00:00+00:00",),
    test_cutoffs=("2011-10-10T00:00:00+00:00",),
    horizon_days=60,
    parameters={"n_estimators": 15, "calibration": "sigmoid"},
    commit="c" * 40,
    lock_sha256="e" * 64,
)


def picture() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return figure


def dataset(rows: int) -> pd.DataFrame:
    frame = pd.DataFrame(random_vectors(rows, seed=3), columns=list(FEATURE_NAMES))
    return frame.assign(cutoff=np.datetime64("2011-10-10", "us"), churned=np.arange(rows) % 2 * 1.0)


def training(seed: int = 1, **changes: Any) -> TrainingRecord:
    """A whole record of a small model."""
    estimator = calibrated_forest(seed)
    card: Card = card_of(estimator)
    record = TrainingRecord(
        estimator=estimator,
        parameters={"n_estimators": 15, "calibration": "sigmoid"},
        metrics={"auc_score": 0.75, "train_size": 400.0, "lift_10": float("nan"), "cutoff.2011-10-10.ece": 0.03},
        lineage=LINEAGE,
        features=FEATURE_NAMES,
        trusted_types=TRUSTED_TYPES,
        files={CARD_FILE: card_bytes(card), REFERENCE_FILE: REFERENCE},
        figures={"roc_pr": picture(), "lift": picture()},
        tables={"comparison": {"shipped": {"auc_score": 0.75}}},
        datasets={"train": dataset(20), "test": dataset(10)},
        requirements=("scikit-learn==1.9.1", "skops==0.16.0"),
        texts={"card/model_card.md": "# Silence", "card/model_card.html": "<h1>Silence – 60 days</h1>"},
        description="ROC-AUC 0.75. The whole card: card/model_card.html",
    )
    return replace(record, **changes)


# -- registries --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An address, and where an embedded registry keeps its artifacts."""

    uri: str
    folder: Path

    def registry(self, model_name: str = MODEL, experiment: str = EXPERIMENT) -> Registry:
        """A registry as a new process would open it: MLflow keeps one address per process."""
        return Registry(self.uri, experiment, model_name, self.folder / "mlruns", digest_of)

    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("embedded")
    return Place(f"sqlite:///{folder}/mlflow.db", folder)


@pytest.fixture(scope="module", params=["embedded", "server"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    if request.param == "embedded":
        return request.getfixturevalue("embedded")  # type: ignore[no-any-return]  # a fixture's value
    return Place(request.getfixturevalue("mlflow_uri"), tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def recorded(place: Place) -> ModelVersion:
    """The version of one training, which tests only look at."""
    return place.registry().record(training())


@pytest.fixture
def registry(place: Place, recorded: ModelVersion) -> Registry:
    return place.registry()


@pytest.fixture(autouse=True, scope="module")
def _mlflow_as_it_was() -> Iterator[None]:
    """MLflow's address is the process's; other tests must not inherit ours."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def fetched(registry: Registry, version: ModelVersion, folder: Path) -> dict[str, bytes]:
    registry.fetch(version, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what a training leaves ------------------------------------------------------------------------------------------


def test_a_recorded_training_is_a_version_with_alias_challenger(registry: Registry, recorded: ModelVersion) -> None:
    found = registry.by_alias(CHALLENGER)
    assert found == registry.get(recorded.version)
    assert (recorded.name, recorded.aliases, recorded.feature_service) == (MODEL, (CHALLENGER,), FEATURE_SERVICE)


def test_the_digest_tag_is_that_of_the_files_that_are_stored(
    registry: Registry, recorded: ModelVersion, tmp_path: Path
) -> None:
    assert len(recorded.digest) == 64
    assert digest_of(fetched(registry, recorded, tmp_path)) == recorded.digest


def test_the_lineage_can_be_read_off_the_version(recorded: ModelVersion) -> None:
    assert json.loads(recorded.tags[TAG_LINEAGE]) == json.loads(json.dumps(asdict(LINEAGE)))


def test_exactly_the_served_files_and_the_reference_are_fetched(
    registry: Registry, recorded: ModelVersion, tmp_path: Path
) -> None:
    files = fetched(registry, recorded, tmp_path)
    assert set(files) == {MODEL_FILE, CARD_FILE, REFERENCE_FILE}
    assert files[REFERENCE_FILE] == REFERENCE


def test_a_fetched_version_opens_under_the_services_guards_and_answers_as_it_did_in_training(
    registry: Registry, recorded: ModelVersion, tmp_path: Path
) -> None:
    model = OPEN_MODEL(Artifact(recorded.version, recorded.digest, fetched(registry, recorded, tmp_path)))
    vectors = random_vectors(50, seed=5)
    assert np.abs(model.predict(vectors) - calibrated_forest().predict_proba(vectors)[:, 1]).max() <= 1e-9


def test_the_run_holds_parameters_and_every_finite_metric(place: Place, recorded: ModelVersion) -> None:
    run = place.client().get_run(recorded.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"n_estimators": "15", "calibration": "sigmoid"}
    assert run.data.metrics == {"auc_score": 0.75, "train_size": 400.0, "cutoff.2011-10-10.ece": 0.03}
    assert run.data.tags["churn.digest"] == recorded.digest
    assert place.client().get_experiment(run.info.experiment_id).name == EXPERIMENT


def test_the_run_holds_plots_and_tables(place: Place, recorded: ModelVersion) -> None:
    client = place.client()
    listed = {file.path for folder in ("plots", "tables") for file in client.list_artifacts(recorded.run_id, folder)}
    assert listed == {"plots/roc_pr.png", "plots/lift.png", "tables/comparison.json"}


def test_the_run_holds_the_model_card_and_the_version_tells_its_summary(place: Place, recorded: ModelVersion) -> None:
    mlflow.set_tracking_uri(place.uri)
    card = mlflow.artifacts.load_text(f"runs:/{recorded.run_id}/card/model_card.html")
    assert card == "<h1>Silence – 60 days</h1>"
    listed = {file.path for file in place.client().list_artifacts(recorded.run_id, "card")}
    assert listed == {"card/model_card.md", "card/model_card.html"}
    told = place.client().get_model_version(MODEL, recorded.version).description
    assert told == "ROC-AUC 0.75. The whole card: card/model_card.html"


def test_the_run_names_its_datasets_with_their_digests(place: Place, recorded: ModelVersion) -> None:
    inputs = place.client().get_run(recorded.run_id).inputs.dataset_inputs
    found = {tag.value: each.dataset for each in inputs for tag in each.tags if tag.key == "mlflow.data.context"}
    assert {context: each.name for context, each in found.items()} == {"train": "train_set", "test": "test_set"}
    assert len({each.digest for each in found.values()}) == 2
    assert json.loads(found["train"].profile)["num_rows"] == 20


def whole_model(place: Place, recorded: ModelVersion, folder: Path) -> Path:
    """All files that MLflow keeps of the version's model."""
    mlflow.set_tracking_uri(place.uri)
    model = place.client().get_logged_model(recorded.source.removeprefix("models:/"))
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=model.artifact_location, dst_path=str(folder)))


def is_pickle(name: str, content: bytes) -> bool:
    """By name, or by the opcode that every pickle of protocol 2 and later starts with."""
    return name.endswith((".pkl", ".pickle", ".joblib")) or (
        content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05"
    )


def test_no_file_of_the_model_is_or_holds_a_pickle(place: Place, recorded: ModelVersion, tmp_path: Path) -> None:
    folder = whole_model(place, recorded, tmp_path)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {*SERVED_FILES, REFERENCE_FILE, "MLmodel", "requirements.txt"} <= set(files)
    with zipfile.ZipFile(folder / MODEL_FILE) as archive:
        files |= {f"{MODEL_FILE}/{name}": archive.read(name) for name in archive.namelist()}
    assert [name for name, content in files.items() if is_pickle(name, content)] == []


def test_the_model_has_a_signature_an_example_and_pinned_requirements(
    place: Place, recorded: ModelVersion, tmp_path: Path
) -> None:
    folder = whole_model(place, recorded, tmp_path)
    described = yaml.safe_load((folder / "MLmodel").read_text())
    inputs = json.loads(described["signature"]["inputs"])
    assert [(column["name"], column["type"]) for column in inputs] == [(name, "double") for name in FEATURE_NAMES]
    assert described["flavors"]["sklearn"]["serialization_format"] == "skops"
    assert described["saved_input_example_info"]["artifact_path"] == "input_example.json"
    mlflow_itself, *ours = (folder / "requirements.txt").read_text().split()
    assert mlflow_itself == f"mlflow=={mlflow.__version__}"
    assert ours == ["scikit-learn==1.9.1", "skops==0.16.0"]


def test_the_next_training_takes_the_alias_challenger(place: Place) -> None:
    registry = place.registry(model_name="two-trainings")
    first, second = (
        registry.record(training(figures={}, datasets={})),
        registry.record(training(2, figures={}, datasets={})),
    )
    assert (first.version, second.version) == ("1", "2")
    assert second.aliases == (CHALLENGER,)
    assert registry.get("1").aliases == ()
    assert first.digest != second.digest


# -- versions and aliases ----------------------------------------------------------------------------------------------

Aliases = Registry | MemoryRegistry


@pytest.fixture(params=["mlflow", "memory"])
def aliases(request: pytest.FixtureRequest, embedded: Place) -> Aliases:
    """A registry that knows versions 1 and 2 and no alias but challenger, on 2."""
    if request.param == "memory":
        memory = MemoryRegistry()
        memory.add("1", {})
        memory.add("2", {}, CHALLENGER)
        return memory
    client, name = embedded.client(), f"aliases-{request.node.name}"
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, "s3://never-read/model")
    client.set_registered_model_alias(name, CHALLENGER, "2")
    return embedded.registry(model_name=name)


def test_an_alias_that_nobody_carries_is_none(aliases: Aliases) -> None:
    assert aliases.by_alias(CHAMPION) is None


def test_an_alias_moves_from_one_version_to_another_and_back(aliases: Aliases) -> None:
    for version in ("1", "2", "1"):
        aliases.set_alias(CHAMPION, version)
        found = aliases.by_alias(CHAMPION)
        assert found is not None
        assert found.version == version
    assert sorted(aliases.get("2").aliases) == [CHALLENGER]
    assert sorted(aliases.get("1").aliases) == [CHAMPION]


def test_a_version_can_carry_both_aliases(aliases: Aliases) -> None:
    aliases.set_alias(CHAMPION, "2")
    assert sorted(aliases.get("2").aliases) == [CHALLENGER, CHAMPION]


def test_a_tag_is_kept_and_may_be_long(aliases: Aliases) -> None:
    aliases.tag("1", "churn.verdict", "x" * 20_000)
    assert aliases.get("1").tags["churn.verdict"] == "x" * 20_000


@pytest.mark.parametrize("version", ["99", "3"])
def test_a_version_that_the_registry_does_not_know_is_not_ready(aliases: Aliases, version: str) -> None:
    for action in (
        lambda: aliases.get(version),
        lambda: aliases.set_alias(CHAMPION, version),
        lambda: aliases.tag(version, "key", "value"),
    ):
        with pytest.raises(NotReady, match=f"version {version}"):
            action()
    assert aliases.by_alias(CHAMPION) is None


def test_a_registry_without_any_model_has_no_alias(place: Place) -> None:
    empty = place.registry(model_name="never-trained")
    assert empty.by_alias(CHALLENGER) is None
    assert empty.champion() is None


def test_what_is_no_version_number_is_not_ready(registry: Registry) -> None:
    with pytest.raises(NotReady, match="version latest"):
        registry.get("latest")


def test_a_text_can_be_kept_beside_the_run(place: Place, registry: Registry, recorded: ModelVersion) -> None:
    registry.log_artifact(recorded.run_id, "notes/verdict.json", "{}")
    assert [file.path for file in place.client().list_artifacts(recorded.run_id, "notes")] == ["notes/verdict.json"]


# -- launched by `mlflow run` ------------------------------------------------------------------------------------------


@pytest.fixture
def launched(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Starts a run as `mlflow run` does: in an experiment, parameters logged as text, its id in the environment."""

    def start(experiment: str) -> str:
        client = embedded.client()
        found = client.get_experiment_by_name(experiment)
        folder = (embedded.folder / "mlruns").as_uri()
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, folder)
        run_id = client.create_run(experiment_id).info.run_id
        client.log_param(run_id, "n_estimators", "15")
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        return str(run_id)

    return start


def small_training() -> TrainingRecord:
    return training(figures={}, datasets={})


def test_a_run_launched_in_the_same_experiment_becomes_the_training_run(
    embedded: Place, launched: Callable[[str], str]
) -> None:
    run_id = launched("launched")
    version = embedded.registry("launched-model", "launched").record(small_training())
    assert version.run_id == run_id
    run = embedded.client().get_run(run_id)
    assert run.data.params == {"n_estimators": "15", "calibration": "sigmoid"}
    assert run.data.metrics["auc_score"] == 0.75


def test_a_run_launched_in_another_experiment_becomes_the_parent_of_the_training_run(
    embedded: Place, launched: Callable[[str], str]
) -> None:
    parent = launched("somewhere-else")
    version = embedded.registry("launched-model", "launched").record(small_training())
    client = embedded.client()
    assert version.run_id != parent
    run = client.get_run(version.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert client.get_experiment(run.info.experiment_id).name == "launched"
    assert client.get_run(parent).data.tags["churn.training_run"] == version.run_id
    assert client.get_run(parent).data.metrics == {}


def test_a_run_launched_by_a_registry_elsewhere_is_left_alone(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    version = embedded.registry("launched-model", "launched").record(small_training())
    assert "mlflow.parentRunId" not in embedded.client().get_run(version.run_id).data.tags


# -- when it fails -----------------------------------------------------------------------------------------------------


def assert_unavailable_within(seconds: float, action: Callable[[], object]) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        action()
    assert time.monotonic() - started < seconds
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


@pytest.mark.fault("L5")
def test_a_server_that_does_not_exist_is_unavailable_soon(tmp_path: Path) -> None:
    nobody = Place(f"http://127.0.0.1:{servers.free_port()}", tmp_path).registry()
    assert_unavailable_within(8, nobody.champion)
    assert_unavailable_within(8, lambda: nobody.set_alias(CHAMPION, "1"))


@pytest.mark.fault("L5")
def test_a_server_that_takes_the_question_and_never_answers_is_unavailable_after_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        registry = Place(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path).registry()
        assert_unavailable_within(8, registry.champion)


class _Elsewhere(BaseHTTPRequestHandler):
    """Answers every question with JSON that MLflow would never give."""

    def do_GET(self) -> None:
        body = b'{"model_version": {"name": 1}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_server_that_speaks_json_but_is_no_mlflow_is_unavailable(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            registry = Place(f"http://127.0.0.1:{server.server_port}", tmp_path).registry()
            assert_unavailable_within(8, registry.champion)
        finally:
            server.shutdown()
            thread.join()


def test_a_database_that_is_none_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(Unavailable):
        Place(f"sqlite:///{tmp_path}/mlflow.db", tmp_path).registry().champion()


def test_a_training_that_cannot_be_recorded_whole_leaves_no_version_and_moves_no_alias(embedded: Place) -> None:
    registry = embedded.registry("half-recorded", "half-recorded")
    with pytest.raises(Unavailable, match="untrusted types"):
        registry.record(training(trusted_types=(), figures={}, datasets={}))
    assert registry.by_alias(CHALLENGER) is None
    client = embedded.client()
    assert client.search_model_versions("name = 'half-recorded'") == []
    experiment = client.get_experiment_by_name("half-recorded")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.fault("S7")
def test_a_version_that_somebody_registered_from_elsewhere_is_refused(embedded: Place, tmp_path: Path) -> None:
    client = embedded.client()
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "s3://elsewhere/model")
    registry = embedded.registry(model_name="foreign")
    with pytest.raises(Refused, match="s3://elsewhere/model"):
        registry.fetch(registry.get("1"), tmp_path)


@pytest.mark.fault("L4")
def test_a_version_whose_files_are_gone_is_unavailable(embedded: Place, tmp_path: Path) -> None:
    registry = embedded.registry("lost-files", "lost-files")
    version = registry.record(small_training())
    model = embedded.client().get_logged_model(version.source.removeprefix("models:/"))
    (Path(model.artifact_location.removeprefix("file://")) / CARD_FILE).unlink()
    with pytest.raises(Unavailable):
        registry.fetch(version, tmp_path)


# -- the champion's reference, as monitoring reads it ------------------------------------------------------------------


def reference_training() -> TrainingRecord:
    """A training whose card promises its reference rows."""
    buffer = io.BytesIO()
    pd.DataFrame({"total_spent": [1.0, 2.0], "churn_probability": [0.25, 0.5]}).to_parquet(buffer, index=False)
    promised = replace(card_of(calibrated_forest()), reference_sha256=sha256(buffer.getvalue()).hexdigest())
    return training(files={CARD_FILE: card_bytes(promised), REFERENCE_FILE: buffer.getvalue()}, figures={}, datasets={})


def champion_of(place: Place, model_name: str, home: Path) -> tuple[ChampionReference, Path]:
    """What monitoring reads, and the folder of the champion's files."""
    registry = place.registry(model_name, model_name)
    version = registry.record(reference_training())
    registry.set_alias(CHAMPION, version.version)
    for name, value in judged(version).tags.items():
        registry.tag(version.version, name, value)
    model = place.client().get_logged_model(version.source.removeprefix("models:/"))
    settings = {
        "CHURN_MLFLOW_TRACKING_URI": place.uri,
        "CHURN_MODEL_NAME": model_name,
        "CHURN_SIGNING_KEY": KEY,
    }
    return ChampionReference(load_settings(settings, home=home)), Path(model.artifact_location.removeprefix("file://"))


def test_the_champions_reference_is_read_with_its_version(embedded: Place, tmp_path: Path) -> None:
    source, _ = champion_of(embedded, "with-reference", tmp_path)
    rows, version, intact = source.champion_reference()
    assert (rows["churn_probability"].tolist(), version, intact) == ([0.25, 0.5], "1", True)


def test_a_reference_that_is_not_the_one_training_stored_is_not_read(embedded: Place, tmp_path: Path) -> None:
    source, folder = champion_of(embedded, "other-reference", tmp_path)
    (folder / REFERENCE_FILE).write_bytes(REFERENCE)
    rows, version, intact = source.champion_reference()
    assert (len(rows), version, intact) == (0, "1", False)


def test_a_card_that_is_not_the_registered_one_is_refused_before_it_is_believed(
    embedded: Place, tmp_path: Path
) -> None:
    source, folder = champion_of(embedded, "other-card", tmp_path)
    (folder / CARD_FILE).write_bytes(card_bytes(card_of(calibrated_forest())))
    with pytest.raises(Refused, match="version 1: its files are not those registered"):
        source.champion_reference()


def test_a_champion_without_a_verdict_of_ours_has_no_reference(embedded: Place, tmp_path: Path) -> None:
    source, _ = champion_of(embedded, "not-judged", tmp_path)
    embedded.registry("not-judged", "not-judged").tag("1", TAG_VERDICT, "passed")
    with pytest.raises(Refused, match="the champion, version 1, must not serve: its tag"):
        source.champion_reference()


def test_a_champion_that_was_rolled_back_from_here_has_no_reference(embedded: Place, tmp_path: Path) -> None:
    source, _ = champion_of(embedded, "held", tmp_path)
    version = embedded.registry("held", "held").get("1")
    cache, registry = model_cache(tmp_path / "cache"), FakeRegistry()
    cache.stage(registry.promote(2, "0"), registry.fetch)
    cache.stage(version, embedded.registry("held", "held").fetch)
    cache.roll_back()
    with pytest.raises(Refused, match="version 1 carries the alias champion, but was rolled back from here"):
        source.champion_reference()


def test_without_a_champion_there_is_no_reference(embedded: Place, tmp_path: Path) -> None:
    settings = load_settings({"CHURN_MLFLOW_TRACKING_URI": embedded.uri, "CHURN_MODEL_NAME": "none"}, home=tmp_path)
    with pytest.raises(NotReady, match="no version carries the alias champion"):
        ChampionReference(settings).champion_reference()
