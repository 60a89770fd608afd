"""Planted artifacts: each is refused before any code runs, and what is in service stays."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import skops.io

from churn import wiring
from churn.core.artifact import Expected, digest_of, open_artifact
from churn.domain.artifacts import Artifact, Pointer
from churn.domain.versions import (
    CARD_FILE,
    CHAMPION,
    MODEL_FILE,
    REFERENCE_FILE,
    TAG_DIGEST,
    TAG_SIGNATURE,
    TAG_VERDICT,
    ModelVersion,
)
from churn.errors import ChurnError, Refused
from churn.jobs.stage import Staged, stage_champion
from churn.settings import Settings, load_settings
from churn.stores.model_cache import ModelCache
from churn.stores.model_registry import Registry
from churn.stores.skops_file import SCHEMA_LIMIT, SKLEARN_VERSION, load_skops
from tests.faults.attacks import ATTACKS, MODEL, Payload, calling, zipped
from tests.memory import following
from tests.models import FakeRegistry, artifact_files, judged, model_cache, version_of
from tests.stores.test_model_registry import Place, small_training

# What would take the test process with it, were its guard missing, is opened in a process of its own only.
FATAL = ("trees whose arrays have no rows", "trees without a state", "a tree in no forest", "an endless tree of nodes")
GENTLE = sorted(set(ATTACKS) - set(FATAL))
GOOD = dict(artifact_files())


def evil_files(attack: str, canary: Path) -> dict[str, bytes]:
    return {**GOOD, MODEL_FILE: ATTACKS[attack][0](canary)}


@dataclass(frozen=True)
class Served:
    """A cache with version 1 in service."""

    cache: ModelCache[Any]
    registry: FakeRegistry
    champion: Pointer
    canary: Path

    def look(self, files: dict[str, bytes], digest: str | None = None) -> str:
        """The alias moves to a version of `files`; the reason why it was refused. The champion stays."""
        self.registry.files["2"] = files
        self.registry.alias = version_of(files, "2", digest)
        outcome = stage_champion(following(self.registry, self.cache))
        assert outcome.kind is Staged.FAILED
        assert self.cache.champion() == self.champion
        assert self.cache.load(self.champion).version == "1"
        assert not self.canary.exists()
        return outcome.reason


@pytest.fixture
def served(tmp_path: Path) -> Served:
    cache, registry = model_cache(tmp_path / "cache"), FakeRegistry()
    return Served(cache, registry, cache.stage(registry.promote(1, "1"), registry.fetch), tmp_path / "canary")


# -- the canary sings when nobody guards ---------------------------------------------------------------------------


def test_the_payload_runs_where_pickle_reads_it(tmp_path: Path) -> None:
    model = ATTACKS["a pickle"][0](tmp_path / "canary")
    assert not (tmp_path / "canary").exists()
    pickle.loads(model).close()
    assert (tmp_path / "canary").exists()


def test_the_payload_runs_where_a_model_may_say_whom_to_trust(tmp_path: Path) -> None:
    model = calling(tmp_path / "canary")
    skops.io.loads(model, trusted=skops.io.get_untrusted_types(data=model)).wait()
    assert (tmp_path / "canary").exists()


# -- planted in the artifact store ---------------------------------------------------------------------------------


@pytest.mark.fault("L1", "S5")
@pytest.mark.parametrize("attack", ATTACKS)
def test_with_the_registered_digest_nothing_planted_is_parsed_at_all(attack: str, served: Served) -> None:
    def parse(data: bytes) -> Any:
        raise AssertionError("a file that is not the registered one was parsed")

    opened = partial(open_artifact, load_estimator=parse, expected=Expected(SKLEARN_VERSION))
    files = evil_files(attack, served.canary)
    with pytest.raises(Refused) as caught:
        opened(Artifact("2", digest_of(GOOD), files))
    assert caught.value.facts["reason"] == "digest"
    assert served.look(files, digest_of(GOOD)) == "digest"


@pytest.mark.fault("S5")
@pytest.mark.parametrize("attack", GENTLE)
def test_with_a_digest_of_the_attackers_own_it_is_refused_by_what_it_is(attack: str, served: Served) -> None:
    assert served.look(evil_files(attack, served.canary)) == ATTACKS[attack][1]


@pytest.mark.fault("L1")
def test_one_flipped_byte_is_refused_wherever_it_is(served: Served) -> None:
    rng = np.random.default_rng(0)
    opened = partial(open_artifact, load_estimator=pytest.fail, expected=Expected(SKLEARN_VERSION))
    for name in (MODEL_FILE, CARD_FILE):
        size = len(GOOD[name])
        for place in {0, 1, size - 1, *rng.integers(0, size, 100).tolist()}:
            data = bytearray(GOOD[name])
            data[place] ^= 0xFF
            with pytest.raises(Refused, match="digest differs"):
                opened(Artifact("2", digest_of(GOOD), {**GOOD, name: bytes(data)}))


def test_a_schema_that_would_fill_the_memory_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Refused, match="is larger than 67108864 bytes") as caught:
        load_skops(zipped({"schema.json": b" " * (SCHEMA_LIMIT + 1)}))
    assert caught.value.facts["reason"] == "zip"


@pytest.mark.fault("M2")
@pytest.mark.parametrize("name", [MODEL_FILE, CARD_FILE])
def test_half_an_upload_is_refused(name: str, served: Served) -> None:
    assert served.look({each: GOOD[each] for each in GOOD if each != name}, digest_of(GOOD)) == "missing_file"
    assert served.look({**GOOD, name: b""}, digest_of(GOOD)) == "digest"


def test_what_lies_beside_the_served_files_is_never_read(served: Served) -> None:
    pickled = pickle.dumps(Payload(served.canary))
    beside = {"python_model.pkl": pickled, "model.pkl": pickled, "x.pth": b"import os", "sitecustomize.py": b"1 / 0"}
    served.registry.files["2"] = {**artifact_files(2), **beside}
    served.registry.alias = version_of(artifact_files(2), "2")
    assert stage_champion(following(served.registry, served.cache)).kind is Staged.STAGED
    assert not served.canary.exists()


# -- links and pipes -----------------------------------------------------------------------------------------------


def linked(folder: Path, outside: Path) -> None:
    (folder / MODEL_FILE).symlink_to(outside)


def piped(folder: Path, outside: Path) -> None:
    os.mkfifo(folder / MODEL_FILE)


@pytest.mark.fault("S6")
@pytest.mark.parametrize("plant", [linked, piped])
def test_a_served_file_that_is_no_plain_file_is_refused_even_with_the_right_content(
    plant: Callable[[Path, Path], None], served: Served, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(MODEL)

    def fetch(version: ModelVersion, folder: Path) -> None:
        plant(folder, tmp_path / "outside")
        (folder / CARD_FILE).write_bytes(GOOD[CARD_FILE])

    with pytest.raises(Refused) as caught:
        served.cache.stage(version_of(GOOD, "2"), fetch)
    assert caught.value.facts["reason"] == "file_kind"
    staged = tmp_path / "cache" / "models" / served.champion.folder
    (staged / MODEL_FILE).unlink()
    plant(staged, tmp_path / "outside")
    with pytest.raises(Refused) as caught:
        served.cache.load(served.champion)
    assert caught.value.facts["reason"] == "file_kind"


@pytest.mark.fault("S6")
def test_a_staged_folder_that_is_a_link_is_refused_at_load(served: Served, tmp_path: Path) -> None:
    staged = tmp_path / "cache" / "models" / served.champion.folder
    staged.rename(tmp_path / "elsewhere")
    staged.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused) as caught:
        served.cache.load(served.champion)
    assert caught.value.facts["reason"] == "file_kind"


@pytest.mark.fault("S6")
def test_a_hard_link_is_copied_so_that_who_keeps_the_other_name_changes_nothing(served: Served, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(artifact_files(2)[MODEL_FILE])

    def fetch(version: ModelVersion, folder: Path) -> None:
        (folder / MODEL_FILE).hardlink_to(tmp_path / "outside")
        (folder / CARD_FILE).write_bytes(artifact_files(2)[CARD_FILE])

    pointer = served.cache.stage(version_of(artifact_files(2), "2"), fetch)
    (tmp_path / "outside").write_bytes(b"changed")
    assert served.cache.load(pointer).version == "2"


# -- what runs while they are opened -------------------------------------------------------------------------------


def audited(root: Path, attacks: list[str], canary: Path, *options: str) -> dict[str, tuple[str | None, list[str]]]:
    """Per attack, the reason and what ran; one that ended or held up the process is missing."""
    for number, attack in enumerate(attacks):
        (root / str(number)).mkdir(parents=True)
        for name, data in evil_files(attack, canary).items():
            (root / str(number) / name).write_bytes(data)
    command = [sys.executable, "-m", "tests.faults.audited", str(root), *options]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (root.parent / "told").open("w+") as told, (root.parent / "errors").open("w") as errors:
        with subprocess.Popen(command, stdout=told, stderr=errors, env=place) as process:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
        lines = (root.parent / "told").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    return {attacks[int(each["folder"])]: (each["reason"], each["events"]) for each in answers}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, list[str]]]:
    folder = tmp_path_factory.mktemp("watched")
    found = audited(folder / "planted", [*GENTLE, *FATAL], folder / "canary")
    assert not (folder / "canary").exists()
    return found


@pytest.mark.fault("S5")
@pytest.mark.parametrize("attack", [*GENTLE, *FATAL])
def test_no_code_runs_while_it_is_opened(attack: str, watched: dict[str, tuple[str | None, list[str]]]) -> None:
    assert watched.get(attack, "the process ended or hung") == (ATTACKS[attack][1], [])


def test_the_watch_sees_a_pickle_that_is_read(tmp_path: Path) -> None:
    found = audited(tmp_path / "planted", ["a pickle"], tmp_path / "canary", "--unguarded")
    assert found == {"a pickle": ("PermissionError", ["pickle.find_class"])}
    assert not (tmp_path / "canary").exists()


# -- against a real registry ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Real:
    """An MLflow on SQLite whose version 1 is staged, while the alias points at version 2, and 2's files."""

    registry: Registry
    settings: Settings
    cache: ModelCache[Any]
    champion: Pointer
    folder: Path
    canary: Path

    def retag(self) -> None:
        """The attacker has the tag's digest follow the files."""
        files = {name: (self.folder / name).read_bytes() for name in (MODEL_FILE, CARD_FILE)}
        self.registry.tag("2", TAG_DIGEST, digest_of(files))

    def refusal(self) -> str:
        """Why the side process, promote and score do not take version 2. All say the same."""
        outcome = stage_champion(following(self.registry, self.cache))
        assert outcome.kind is Staged.FAILED
        assert self.cache.champion() == self.champion
        assert self.cache.load(self.champion).version == "1"
        with pytest.raises(ChurnError) as caught:
            wiring.load_version(self.settings)(self.registry.get("2"))
        assert caught.value.message == outcome.message
        assert not self.canary.exists()
        return outcome.reason


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    folder = tmp_path_factory.mktemp("real")
    place = Place(f"sqlite:///{folder}/mlflow.db", folder)
    for _ in range(2):
        place.registry("attacked", "attacked").record(small_training())
    yield place
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture
def real(recorded: Place, tmp_path: Path) -> Iterator[Real]:
    registry, client = recorded.registry("attacked", "attacked"), recorded.client()
    version, cache = registry.get("2"), model_cache(tmp_path / "cache")
    champion = cache.stage(registry.get("1"), registry.fetch)
    location = client.get_logged_model(version.source.removeprefix("models:/")).artifact_location
    folder = Path(location.removeprefix("file://"))
    shutil.copytree(folder, tmp_path / "kept")
    registry.set_alias(CHAMPION, "2")
    variables = {"CHURN_MLFLOW_TRACKING_URI": recorded.uri, "CHURN_MODEL_NAME": "attacked"}
    yield Real(registry, load_settings(variables, home=tmp_path / "home"), cache, champion, folder, tmp_path / "canary")
    registry.tag("2", TAG_DIGEST, version.digest)
    folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


def test_a_version_that_nobody_touched_is_taken(real: Real) -> None:
    assert stage_champion(following(real.registry, real.cache)).kind is Staged.STAGED
    assert wiring.load_version(real.settings)(real.registry.get("2")).version == "2"


@pytest.mark.fault("L1", "S5")
@pytest.mark.parametrize("attack", ["a pickle", "a joblib file", "a process to start", "a bomb", "a truncated model"])
def test_a_model_exchanged_in_the_artifact_store_is_refused(attack: str, real: Real) -> None:
    (real.folder / MODEL_FILE).write_bytes(ATTACKS[attack][0](real.canary))
    assert real.refusal() == "digest"
    real.retag()
    assert real.refusal() == ATTACKS[attack][1]


def rewritten(real: Real) -> None:
    """The MLmodel says that the model is a pickle, and whom to trust."""
    text = (real.folder / "MLmodel").read_text().replace("serialization_format: skops", "serialization_format: pickle")
    (real.folder / "MLmodel").write_text(
        text.replace("skops_trusted_types:", "skops_trusted_types: [os.system]\n    x:")
    )


@pytest.mark.fault("S5")
def test_a_rewritten_mlmodel_is_not_read_and_the_pickle_it_names_is_refused(real: Real) -> None:
    rewritten(real)
    (real.folder / MODEL_FILE).write_bytes(pickle.dumps(Payload(real.canary)))
    assert real.refusal() == "digest"
    real.retag()
    assert real.refusal() == "not_skops"
    mlflow.sklearn.load_model(str(real.folder)).close()  # whereas MLflow itself runs it
    assert real.canary.exists()


def test_a_rewritten_mlmodel_beside_an_untouched_model_changes_nothing(real: Real) -> None:
    rewritten(real)
    assert stage_champion(following(real.registry, real.cache)).kind is Staged.STAGED


@pytest.mark.fault("M2")
@pytest.mark.parametrize("name", [MODEL_FILE, CARD_FILE, REFERENCE_FILE])
def test_half_an_upload_in_the_artifact_store_is_not_taken(name: str, real: Real) -> None:
    (real.folder / name).unlink()
    assert real.refusal() == "unavailable"


@pytest.mark.fault("S6")
def test_a_link_in_the_artifact_store_is_refused_though_it_leads_to_the_right_content(
    real: Real, tmp_path: Path
) -> None:
    (real.folder / MODEL_FILE).rename(tmp_path / "outside")
    (real.folder / MODEL_FILE).symlink_to(tmp_path / "outside")
    assert real.refusal() == "file_kind"


@pytest.mark.fault("S6")
def test_a_folder_of_the_artifact_store_that_is_a_link_is_refused(real: Real, tmp_path: Path) -> None:
    real.folder.rename(tmp_path / "outside")
    real.folder.symlink_to(tmp_path / "outside")
    assert real.refusal() == "file_kind"


@pytest.mark.fault("S6")
def test_a_pipe_in_the_artifact_store_is_refused_instead_of_waited_for(real: Real) -> None:
    (real.folder / MODEL_FILE).unlink()
    os.mkfifo(real.folder / MODEL_FILE)
    assert real.refusal() == "file_kind"


def test_a_reference_exchanged_in_the_artifact_store_is_not_parsed(real: Real) -> None:
    sealed = judged(real.registry.get("2"), key=wiring.signing_key(real.settings))
    for name in (TAG_VERDICT, TAG_SIGNATURE):
        real.registry.tag("2", name, sealed.tags[name])
    (real.folder / REFERENCE_FILE).write_bytes(pickle.dumps(Payload(real.canary)))
    rows, version, intact = wiring.ChampionReference(real.settings).champion_reference()
    assert (len(rows), version, intact) == (0, "2", False)
    assert not real.canary.exists()
