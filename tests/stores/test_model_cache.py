"""The model cache: what it takes in, what it refuses, and what survives."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from churn.core.artifact import CARD_FORMAT, Golden, card_bytes, parse_card
from churn.core.forest import forest_predictor
from churn.domain.artifacts import MODEL_NODES, TRUSTED_TYPES, Pointer
from churn.domain.versions import CARD_FILE, MODEL_FILE, ModelVersion
from churn.errors import Refused, Unavailable
from churn.stores.model_cache import ModelCache
from tests.models import (
    CONTACT_PLAN,
    FakeRegistry,
    artifact_files,
    calibrated_forest,
    card_of,
    model_cache,
    nodes_of,
    random_vectors,
    served_model,
    version_of,
    with_card,
)

Files = Mapping[str, bytes]


def fetching(files: Files) -> Callable[[ModelVersion, Path], None]:
    def fetch(version: ModelVersion, folder: Path) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)

    return fetch


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as caught:
        action()
    return str(caught.value.facts["reason"])


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# -- taking in -------------------------------------------------------------------------------------------------


def test_a_staged_version_is_found_loaded_and_scores_as_scikit_learn_does(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    version = registry.promote(seed=1, version="7")
    pointer = cache.stage(version, registry.fetch)
    assert cache.champion() == pointer
    assert (pointer.version, pointer.digest, pointer.folder) == ("7", version.digest, f"7-{version.digest[:12]}")
    assert listing(tmp_path) == sorted(
        [
            "champion.json",
            "models",
            f"models/{pointer.folder}",
            f"models/{pointer.folder}/{MODEL_FILE}",
            f"models/{pointer.folder}/{CARD_FILE}",
        ]
    )
    model, vectors = cache.load(pointer), random_vectors(50, seed=5)
    assert np.array_equal(model.predict(vectors), calibrated_forest(1).predict_proba(vectors)[:, 1])
    assert (model.version, model.digest, model.horizon_days) == ("7", version.digest, 60)


def test_a_model_knows_the_size_of_its_served_files() -> None:
    files = artifact_files()
    assert served_model().size_bytes == len(files[MODEL_FILE]) + len(files[CARD_FILE])


def test_an_empty_cache_has_no_champion(tmp_path: Path) -> None:
    assert model_cache(tmp_path / "absent").champion() is None
    assert model_cache(tmp_path / "absent").status() is None


def test_a_staged_version_is_not_fetched_again(tmp_path: Path) -> None:
    registry = FakeRegistry()
    version = registry.promote(seed=1, version="1")
    first = model_cache(tmp_path).stage(version, registry.fetch)
    cache = model_cache(tmp_path)
    assert cache.stage(version, registry.fetch) == first
    assert cache.stage(version, registry.fetch) == first
    assert registry.fetches == 1


@pytest.mark.fault("L9")
def test_the_previous_version_is_kept_and_can_come_back_without_the_registry(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    old = cache.stage(registry.promote(seed=1, version="1"), registry.fetch)
    new = cache.stage(registry.promote(seed=2, version="2"), registry.fetch)
    assert new.previous == old
    back = cache.stage(version_of(artifact_files(1), "1"), fetching({}))
    assert (back.key, back.previous) == (old.key, new.alone())


def test_only_champion_and_previous_are_kept(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    pointers = [cache.stage(registry.promote(seed, str(seed)), registry.fetch) for seed in (1, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(
        [pointers[1].folder, pointers[2].folder]
    )


def test_files_that_are_not_served_are_left_behind_unread(tmp_path: Path) -> None:
    cache, files = model_cache(tmp_path), {**artifact_files(), "MLmodel": b"x", "reference.parquet": b"PAR1"}
    pointer = cache.stage(version_of(files), fetching(files))
    assert sorted(path.name for path in (tmp_path / "models" / pointer.folder).iterdir()) == [CARD_FILE, MODEL_FILE]


@pytest.mark.fault("L1")
def test_a_damaged_copy_is_fetched_again_when_the_stager_starts_anew(tmp_path: Path) -> None:
    registry = FakeRegistry()
    version = registry.promote(seed=1, version="1")
    pointer = model_cache(tmp_path).stage(version, registry.fetch)
    (tmp_path / "models" / pointer.folder / MODEL_FILE).write_bytes(b"rot")
    cache = model_cache(tmp_path)
    assert refusal(lambda: cache.load(pointer)) == "digest"
    assert cache.stage(version, registry.fetch) == pointer
    assert cache.load(pointer).version == "1"


def test_a_lost_copy_is_fetched_again(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    version = registry.promote(seed=1, version="1")
    pointer = cache.stage(version, registry.fetch)
    (tmp_path / "models" / pointer.folder / CARD_FILE).unlink()
    cache.stage(version, registry.fetch)
    assert (cache.load(pointer).version, registry.fetches) == ("1", 2)


def test_a_garbled_pointer_is_refused_and_written_anew_by_staging(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    version = registry.promote(seed=1, version="1")
    cache.stage(version, registry.fetch)
    (tmp_path / "champion.json").write_text('{"version": "1", "dig')
    assert refusal(cache.champion) == "pointer"
    assert cache.stage(version, registry.fetch) == cache.champion()


# -- rolling back ----------------------------------------------------------------------------------------------


def cache_with_two(root: Path) -> tuple[ModelCache[Any], FakeRegistry]:
    """Version 1, then 2 in service."""
    cache, registry = model_cache(root), FakeRegistry()
    for seed in (1, 2):
        cache.stage(registry.promote(seed, str(seed)), registry.fetch)
    return cache, registry


@pytest.mark.fault("L9")
def test_a_rollback_points_at_the_version_before_and_holds_the_one_it_left(tmp_path: Path) -> None:
    cache, registry = cache_with_two(tmp_path)
    left, now = cache.roll_back()
    assert (left.version, now.version, now.held, now.previous) == ("2", "1", left.key, None)
    assert cache.champion() == now
    assert cache.load(now).version == "1"
    assert registry.alias is not None
    assert cache.stage(registry.alias, fetching({})) == now, "the alias still points at 2: nothing moves"


def test_a_held_version_is_not_fetched_even_when_its_copy_is_gone(tmp_path: Path) -> None:
    cache, registry = cache_with_two(tmp_path)
    left, now = cache.roll_back()
    shutil.rmtree(tmp_path / "models" / left.folder)
    assert registry.alias is not None
    assert cache.stage(registry.alias, registry.fetch) == now
    assert registry.fetches == 2


def test_a_hold_ends_once_another_version_is_staged(tmp_path: Path) -> None:
    cache, registry = cache_with_two(tmp_path)
    second = registry.alias
    assert second is not None
    cache.roll_back()
    back = cache.stage(version_of(artifact_files(1), "1"), registry.fetch)
    assert (back.version, back.held) == ("1", None)
    forward = cache.stage(second, registry.fetch)
    assert (forward.version, forward.held, forward.previous) == ("2", None, back)


def test_a_third_version_ends_the_hold_and_remembers_the_one_rolled_back_to(tmp_path: Path) -> None:
    cache, registry = cache_with_two(tmp_path)
    _, now = cache.roll_back()
    third = cache.stage(registry.promote(3, "3"), registry.fetch)
    assert (third.held, third.previous) == (None, now.alone())


@pytest.mark.fault("L9", "M1")
def test_a_rollback_that_comes_while_a_version_is_fetched_wins(tmp_path: Path) -> None:
    cache, registry = cache_with_two(tmp_path)
    second = registry.alias
    assert second is not None
    shutil.rmtree(tmp_path / "models" / f"2-{second.digest[:12]}")

    def fetch(version: ModelVersion, folder: Path) -> None:
        model_cache(tmp_path).roll_back()
        registry.fetch(version, folder)

    assert cache.stage(second, fetch).version == "1"
    champion = cache.champion()
    assert champion is not None and champion.version == "1"


@pytest.mark.fault("L9")
def test_a_version_before_that_is_damaged_is_not_rolled_back_to(tmp_path: Path) -> None:
    cache, _ = cache_with_two(tmp_path)
    before = cache.champion()
    assert before is not None and before.previous is not None
    (tmp_path / "models" / before.previous.folder / MODEL_FILE).write_bytes(b"rot")
    assert refusal(cache.roll_back) == "digest"
    assert cache.champion() == before


def test_a_pointer_of_an_older_release_is_read(tmp_path: Path) -> None:
    cache, _ = cache_with_two(tmp_path)
    path = tmp_path / "champion.json"
    fields = json.loads(path.read_text())
    del fields["held"], fields["previous"]["held"]
    pointer = cache.champion()
    path.write_text(json.dumps(fields))
    assert cache.champion() == pointer


# -- refusing --------------------------------------------------------------------------------------------------


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


GOOD_DIGEST = version_of(artifact_files()).digest

DAMAGED: dict[str, Callable[[Files], Files]] = {
    "truncated": lambda files: {**files, MODEL_FILE: files[MODEL_FILE][:-100]},
    "empty": lambda files: {**files, MODEL_FILE: b""},
    "one bit of the model flipped": lambda files: {**files, MODEL_FILE: flipped(files[MODEL_FILE])},
    "one bit of the card flipped": lambda files: {**files, CARD_FILE: flipped(files[CARD_FILE])},
    "another model's files": lambda files: artifact_files(2),
}


@pytest.mark.fault("L1", "M2")
@pytest.mark.parametrize("damage", DAMAGED)
def test_files_that_do_not_have_the_registered_digest_are_refused(damage: str, tmp_path: Path) -> None:
    files = DAMAGED[damage](artifact_files())
    version = version_of(artifact_files(), digest=GOOD_DIGEST)
    assert refusal(lambda: model_cache(tmp_path).stage(version, fetching(files))) == "digest"
    assert listing(tmp_path) == ["models"]


@pytest.mark.fault("S6")
@pytest.mark.parametrize("digest", ["", "abc", "../../etc", GOOD_DIGEST.upper(), GOOD_DIGEST + "\n"])
def test_a_version_without_a_proper_digest_tag_is_refused_before_the_download(digest: str, tmp_path: Path) -> None:
    registry = FakeRegistry()
    version = version_of(artifact_files(), digest=digest)
    assert refusal(lambda: model_cache(tmp_path).stage(version, registry.fetch)) == "digest"
    assert registry.fetches == 0


@pytest.mark.fault("S6")
@pytest.mark.parametrize("name", ["", "..", "1/2", "/etc", "1\x00", "a" * 65])
def test_a_version_whose_name_could_shape_a_path_is_refused(name: str, tmp_path: Path) -> None:
    version = version_of(artifact_files(), version=name)
    assert refusal(lambda: model_cache(tmp_path).stage(version, fetching(artifact_files()))) == "version"


def model_with(estimator: Any) -> Files:
    return {**artifact_files(), MODEL_FILE: skops.io.dumps(estimator)}


class Canary:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.fault("S5")
def test_a_pickle_named_as_the_model_never_runs_even_with_the_right_digest(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    files = {**artifact_files(), MODEL_FILE: pickle.dumps(Canary(canary)), "model.pkl": pickle.dumps(Canary(canary))}
    cache = model_cache(tmp_path / "cache")
    assert refusal(lambda: cache.stage(version_of(files), fetching(files))) == "not_skops"
    assert not canary.exists()


@pytest.mark.fault("S5")
def test_a_type_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    files = model_with(make_pipeline(FunctionTransformer(os.system), LogisticRegression()))
    assert refusal(lambda: model_cache(tmp_path).stage(version_of(files), fetching(files))) == "untrusted_type"


def one_class_forest() -> Any:
    return RandomForestClassifier(3).fit(random_vectors(20, seed=1), np.ones(20))


def forest_of_other_width() -> Any:
    return RandomForestClassifier(3).fit(random_vectors(20, seed=1)[:, :5], np.arange(20) % 2)


def forest_that_says_nan() -> Any:
    model = CalibratedClassifierCV(RandomForestClassifier(3), cv=2)
    model.fit(random_vectors(40, seed=1), np.arange(40) % 2)
    for member in model.calibrated_classifiers_:
        member.calibrators[0].a_ = np.float64("nan")
    return model


STRANGE: dict[str, Callable[[], Files]] = {
    "another model than the card's": lambda: model_with(calibrated_forest(2)),
    "one class": lambda: model_with(one_class_forest()),
    "other width": lambda: model_with(forest_of_other_width()),
    "nan": lambda: model_with(forest_that_says_nan()),
    "not fitted": lambda: model_with(RandomForestClassifier()),
    "no classifier": lambda: model_with({"a": 1}),
    "no golden rows": lambda: with_card(artifact_files(), golden=Golden((), ())),
    "probability off by 1e-8": lambda: with_card(artifact_files(), golden=nudged()),
}


def nudged() -> Golden:
    golden = card_of(calibrated_forest()).golden
    return Golden(golden.vectors, (golden.probabilities[0] + 1e-8, *golden.probabilities[1:]))


@pytest.mark.fault("L3")
@pytest.mark.parametrize("case", STRANGE)
def test_a_model_that_does_not_pass_its_golden_rows_is_refused(case: str, tmp_path: Path) -> None:
    files = STRANGE[case]()
    assert refusal(lambda: model_cache(tmp_path).stage(version_of(files), fetching(files))) == "golden"
    assert not (tmp_path / "champion.json").exists()


@pytest.mark.fault("L3")
@pytest.mark.parametrize("wrong", [1, 20])
def test_golden_rows_judge_the_path_of_one_row_and_that_of_many(
    wrong: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = forest_predictor(calibrated_forest())
    monkeypatch.setattr(
        "churn.core.artifact.forest_predictor",
        lambda estimator: lambda vectors: right(vectors) + (1e-8 if len(vectors) == wrong else 0.0),
    )
    files = artifact_files()
    assert refusal(lambda: model_cache(tmp_path).stage(version_of(files), fetching(files))) == "golden"


def test_a_model_whose_reasons_would_not_add_up_is_refused(tmp_path: Path) -> None:
    estimator = deepcopy(calibrated_forest())
    tree = estimator.calibrated_classifiers_[0].estimator.estimator.estimators_[0].tree_
    state = tree.__getstate__()
    state["nodes"]["weighted_n_node_samples"][1] *= 2
    tree.__setstate__(state)
    files = {MODEL_FILE: skops.io.dumps(estimator), CARD_FILE: card_bytes(card_of(estimator))}
    assert refusal(lambda: model_cache(tmp_path).stage(version_of(files), fetching(files))) == "golden"


FEATURES = card_of(calibrated_forest()).features


@pytest.mark.fault("L2", "L10")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"feature_service": "churn_v2"}, "feature_service"),
        ({"features": FEATURES[1:]}, "features"),
        ({"features": (FEATURES[1], FEATURES[0], *FEATURES[2:])}, "features"),
        ({"sklearn_version": "1.4.0"}, "sklearn_version"),
        ({"format": CARD_FORMAT + 1}, "card"),
    ],
)
def test_a_model_made_for_something_else_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    files = with_card(artifact_files(), **changes)
    assert refusal(lambda: model_cache(tmp_path).stage(version_of(files), fetching(files))) == reason


@pytest.mark.fault("L1")
@pytest.mark.parametrize("card", [b"", b"null", b"[]", b'{"format": 2}', b"\xff", b'{"features": ["a"'])
def test_a_card_that_is_none_is_refused(card: bytes, tmp_path: Path) -> None:
    files = {**artifact_files(), CARD_FILE: card}
    assert refusal(lambda: model_cache(tmp_path).stage(version_of(files), fetching(files))) == "card"


def test_a_card_of_an_earlier_release_is_refused_by_its_format() -> None:
    earlier = json.loads(artifact_files()[CARD_FILE]) | {"format": 1}
    del earlier["contact"]
    with pytest.raises(Refused, match="has format 1, this release reads 2"):
        parse_card(json.dumps(earlier).encode())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    files = {MODEL_FILE: artifact_files()[MODEL_FILE]}
    version = version_of(artifact_files())
    assert refusal(lambda: model_cache(tmp_path).stage(version, fetching(files))) == "missing_file"


@pytest.mark.fault("S6")
def test_a_symbolic_link_is_refused_wherever_it_lies(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(artifact_files()[MODEL_FILE])

    def as_the_model(version: ModelVersion, folder: Path) -> None:
        (folder / MODEL_FILE).symlink_to(outside)
        (folder / CARD_FILE).write_bytes(artifact_files()[CARD_FILE])

    def below(version: ModelVersion, folder: Path) -> None:
        fetching(artifact_files())(version, folder)
        (folder / "extra").mkdir()
        (folder / "extra" / "link").symlink_to("/")

    cache = model_cache(tmp_path / "cache")
    for fetch in (as_the_model, below):
        assert refusal(lambda fetch=fetch: cache.stage(version_of(artifact_files()), fetch)) == "file_kind"  # type: ignore[misc]


@pytest.mark.fault("S6")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    def fetch(version: ModelVersion, folder: Path) -> None:
        os.mkfifo(folder / MODEL_FILE)

    assert refusal(lambda: model_cache(tmp_path).stage(version_of(artifact_files()), fetch)) == "file_kind"


def test_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    cache = model_cache(tmp_path, size_limit=1_000)
    assert refusal(lambda: cache.stage(version_of(artifact_files()), fetching(artifact_files()))) == "size"


@pytest.mark.fault("S6")
def test_a_model_swapped_for_a_link_inside_the_cache_is_refused_at_load(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    pointer = cache.stage(registry.promote(seed=1, version="1"), registry.fetch)
    path = tmp_path / "models" / pointer.folder / MODEL_FILE
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert refusal(lambda: cache.load(pointer)) == "file_kind"


@pytest.mark.fault("S6")
def test_a_pointer_cannot_lead_out_of_the_cache(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path / "cache"), FakeRegistry()
    pointer = cache.stage(registry.promote(seed=1, version="1"), registry.fetch)
    written = json.loads((tmp_path / "cache" / "champion.json").read_text())
    (tmp_path / "cache" / "champion.json").write_text(json.dumps({**written, "version": "../1"}))
    crafted = cache.champion()
    assert isinstance(crafted, Pointer)
    assert refusal(lambda: cache.load(crafted)) == "version"
    assert cache.load(pointer).version == "1"


# -- surviving -------------------------------------------------------------------------------------------------


@pytest.mark.fault("L3")
def test_a_refused_version_leaves_the_champion_and_nothing_else(tmp_path: Path) -> None:
    cache, registry = model_cache(tmp_path), FakeRegistry()
    champion = cache.stage(registry.promote(seed=1, version="1"), registry.fetch)
    before = listing(tmp_path)
    files = model_with(calibrated_forest(2))
    refusal(lambda: cache.stage(version_of(files, "2"), fetching(files)))
    assert (cache.champion(), listing(tmp_path)) == (champion, before)


@pytest.mark.fault("L12")
def test_a_download_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    def fetch(version: ModelVersion, folder: Path) -> None:
        (folder / MODEL_FILE).write_bytes(b"half")
        raise Unavailable("the connection was cut")

    with pytest.raises(Unavailable):
        model_cache(tmp_path).stage(version_of(artifact_files()), fetch)
    assert listing(tmp_path) == ["models"]


@pytest.mark.fault("L12")
def test_what_a_killed_stager_left_is_cleared_after_an_hour(tmp_path: Path) -> None:
    for name, age in (("incoming-old", 3_700), ("incoming-new", 0)):
        (tmp_path / name).mkdir()
        moment = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (moment, moment))
    registry = FakeRegistry()
    model_cache(tmp_path).stage(registry.promote(seed=1, version="1"), registry.fetch)
    assert [path.name for path in tmp_path.glob("incoming-*")] == ["incoming-new"]


@pytest.mark.fault("L12")
def test_a_disk_that_takes_nothing_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="model cache"):
        model_cache(tmp_path / "file").stage(version_of(artifact_files()), fetching(artifact_files()))


# -- the trusted list ------------------------------------------------------------------------------------------


@pytest.mark.fault("S5")
def test_the_trusted_list_is_what_our_models_need_and_no_more() -> None:
    found: dict[str, frozenset[str]] = {}
    for method in ("sigmoid", "isotonic", "temperature"):
        for loader, types in nodes_of(skops.io.dumps(calibrated_forest(1, method))).items():
            found[loader] = found.get(loader, frozenset()) | types
    assert found == MODEL_NODES


def test_skops_is_told_of_nothing_but_what_a_model_may_be_made_of() -> None:
    untrusted = skops.io.get_untrusted_types(data=artifact_files()[MODEL_FILE])
    assert set(untrusted) < set(TRUSTED_TYPES) == MODEL_NODES["ObjectNode"] | MODEL_NODES["TreeNode"]


def test_the_card_is_read_as_it_was_written() -> None:
    card = card_of(calibrated_forest())
    assert parse_card(card_bytes(card)) == card


def test_a_served_model_carries_the_plan_of_contacts_that_its_card_promises() -> None:
    assert served_model().contact == CONTACT_PLAN
