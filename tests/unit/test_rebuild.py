"""rebuild: a version made once more, link by link; what is not as it was is named, and nothing is made in vain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from churn.core.artifact import card_bytes, digest_of, parse_card
from churn.core.lineage import Checkout, Link, parse_lineage
from churn.core.model import ForestParameters
from churn.core.value import Economics
from churn.domain.ports import BuildReport, Snapshot
from churn.domain.predictions import UserId
from churn.domain.versions import (
    CARD_FILE,
    MODEL_FILE,
    MODEL_NAME,
    TAG_DIGEST,
    TAG_LINEAGE,
    Lineage,
    ModelVersion,
    TrainingRecord,
)
from churn.errors import ChurnError, Mismatch, NotReady
from churn.jobs.rebuild import Progress, RebuildStores, Rebuilt, Workshop, rebuild
from churn.jobs.train import TrainingPlan, TrainingStores, train
from tests.exports import HORIZON, at, labelled_frame
from tests.memory import BuiltShop

CUTOFFS = [at("2011-01-01"), at("2011-03-15"), at("2011-06-01")]
COMMIT = "c" * 40
PACKAGES = {"numpy": "2.4.6", "scikit-learn": "1.9.1"}
HERE = Checkout(COMMIT, "e" * 64, "d" * 64, PACKAGES, "a" * 64)
TABLES = {"orders": "a" * 64, "users": "b" * 64}
NEEDED = ["model files", "raw snapshot", "dbt definitions", "feature definitions", "feature service"]
TOLD = ["commit", "lock file", "packages", "features", "labels", "training set"]


@dataclass
class Lakes:
    """Raw tables with one snapshot, and a workshop that holds a copy of the shop; keeps what was done, in order."""

    shop: BuiltShop
    files: Mapping[str, bytes]
    tables: Mapping[str, str] = field(default_factory=lambda: TABLES)
    done: list[str] = field(default_factory=list)

    def current(self) -> Snapshot:
        return self.get("snapshot-1")

    def get(self, snapshot_id: str) -> Snapshot:
        if snapshot_id != "snapshot-1":
            raise NotReady(f"there is no snapshot {snapshot_id!r}")
        manifest = {"tables": {name: {"sha256": digest} for name, digest in TABLES.items()}}
        return Snapshot(snapshot_id, Path("raw"), "integer", CUTOFFS[0], CUTOFFS[-1], CUTOFFS[-1] + HORIZON, manifest)

    def user_labels(self, snapshot: Snapshot, column: str) -> Mapping[UserId, str]:
        return {}

    def digests(self, snapshot: Snapshot) -> Mapping[str, str]:
        return self.tables

    @contextmanager
    def workshop(self, snapshot: Snapshot) -> Iterator[Workshop]:
        self.done.append("open")
        rows = Bench(self.shop.frame, self.shop.idle, done=self.done)
        yield Workshop(rows, rows)
        self.done.append("close")


@dataclass
class Bench(BuiltShop):
    """An empty warehouse and feature store: nothing is there before it was built and applied."""

    done: list[str] = field(default_factory=list)

    def build(
        self, snapshot: Snapshot, cutoffs: Sequence[datetime], horizon: timedelta, *, on_progress: Progress
    ) -> BuildReport:
        self.done.append(f"build {', '.join(f'{each:%m-%d}' for each in cutoffs)} for {horizon.days} days")
        on_progress(len(cutoffs), len(cutoffs))
        return BuildReport(tuple(cutoffs), {}, tuple(cutoffs), 0.0, 0)

    def apply(self) -> None:
        self.done.append("apply")


@dataclass
class Recording:
    """A registry that keeps what training hands over."""

    records: list[TrainingRecord] = field(default_factory=list)

    def record(self, training: TrainingRecord) -> ModelVersion:
        self.records.append(training)
        return ModelVersion(MODEL_NAME, "7", "run", "models:/m")


@pytest.fixture(scope="module")
def shop() -> BuiltShop:
    return BuiltShop(labelled_frame(CUTOFFS, users=200), idle=frozenset(range(1, 31)))


@pytest.fixture(scope="module")
def record(shop: BuiltShop) -> TrainingRecord:
    """What training leaves of a small forest."""
    registry = Recording()
    stores = TrainingStores(Lakes(shop, {}), shop, shop, registry)  # type: ignore[arg-type]  # it records only
    plan = TrainingPlan(
        ForestParameters(n_estimators=8),
        HORIZON,
        test_cutoffs=1,
        economics=Economics(cost=1.0, margin=10.0),
        commit=COMMIT,
        lock_sha256=HERE.lock_sha256,
        packages=PACKAGES,
        feast_sha256=HERE.feast_sha256,
    )
    train(stores, plan, lambda text: None)
    return registry.records[0]


def files_of(record: TrainingRecord) -> dict[str, bytes]:
    return {MODEL_FILE: b"model", CARD_FILE: record.files[CARD_FILE]}


def version_of(lineage: Mapping[str, Any] | str | None, files: Mapping[str, bytes]) -> ModelVersion:
    text = lineage if isinstance(lineage, str) else json.dumps(lineage)
    tags = {TAG_DIGEST: digest_of(files)} | ({} if lineage is None else {TAG_LINEAGE: text})
    return ModelVersion(MODEL_NAME, "7", "run", "models:/m", tags)


@dataclass
class Case:
    """A version as training left it, to be changed by a test and then rebuilt."""

    lineage: dict[str, Any]
    lakes: Lakes
    here: Checkout = HERE

    def rebuild(self) -> Rebuilt:
        lakes = self.lakes
        version = version_of(self.lineage, lakes.files)
        return rebuild(RebuildStores(lakes, lambda asked: lakes.files, lakes.workshop), version, self.here, self.tell)

    def refused(self, kind: type[ChurnError]) -> ChurnError:
        """The error of a rebuild that is not even begun."""
        with pytest.raises(kind) as caught:
            self.rebuild()
        assert self.lakes.done == []
        return caught.value

    def tell(self, text: str) -> None:
        self.lakes.done.append(f"say {text}") if self.lakes.done else None


@pytest.fixture
def case(shop: BuiltShop, record: TrainingRecord) -> Case:
    return Case(asdict(record.lineage), Lakes(shop, files_of(record)))


def states(links: Sequence[Link]) -> dict[str, str]:
    return {link.name: link.state for link in links}


def link(done: Rebuilt, name: str) -> Link:
    return next(each for each in done.links if each.name == name)


# -- equal -------------------------------------------------------------------------------------------------------------


def test_an_unchanged_version_comes_out_bit_equal_with_every_link_ok(case: Case) -> None:
    done = case.rebuild()
    assert (done.version, done.golden_equal, done.largest_difference, done.golden_rows) == ("7", True, 0.0, 32)
    assert states(done.links) == dict.fromkeys([*NEEDED, *TOLD], "ok")
    assert [each.name for each in done.links if each.needed] == NEEDED


def test_its_rows_are_built_anew_apart_from_the_deployment(case: Case) -> None:
    case.rebuild()
    assert case.lakes.done == [
        "open",
        "build 01-01, 03-15, 06-01 for 60 days",
        "say building features at 3/3 cutoffs",
        "apply",
        "say joining features and labels",
        "close",
        "say fitting the forest",
    ]


# -- told, and rebuilt all the same --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "name", "found", "way_out"),
    [
        ({"commit": "9" * 40}, "commit", "cccccccccccc then, 999999999999 here", f"git checkout {COMMIT}"),
        (
            {"commit": COMMIT + "+dirty"},
            "commit",
            "cccccccccccc then, cccccccccccc here and changes that are not committed",
            f"git checkout {COMMIT}",
        ),
        ({"commit": ""}, "commit", "cccccccccccc then, nothing here", f"git checkout {COMMIT}"),
        ({"lock_sha256": "0" * 64}, "lock file", "eeeeeeeeeeee then, 000000000000 here", f"git checkout {COMMIT}"),
        (
            {"packages": {"numpy": "2.5.0"}},
            "packages",
            "numpy 2.4.6 then, 2.5.0 here, scikit-learn 1.9.1 then, nothing here",
            "uv sync --frozen, at the commit above",
        ),
    ],
)
def test_other_code_is_told_with_a_way_out_and_the_bits_decide(
    case: Case, here: dict[str, Any], name: str, found: str, way_out: str
) -> None:
    case.here = replace(HERE, **here)
    done = case.rebuild()
    assert link(done, name) == Link(name, "differs", found, way_out)
    assert done.golden_equal
    assert {each.name for each in done.links if each.state != "ok"} == {name}


def test_a_version_of_uncommitted_changes_says_that_they_are_lost(case: Case) -> None:
    case.lineage["commit"] = case.here.commit + "+dirty"
    case.here = replace(HERE, commit=COMMIT + "+dirty")
    done = case.rebuild()
    assert link(done, "commit").state == "differs"
    assert link(done, "commit").found == "trained with changes to cccccccccccc that nobody committed"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("commit", "commit"),
        ("lock_sha256", "lock file"),
        ("data_sha256", "training set"),
        ("label_sha256", "labels"),
        ("packages", "packages"),
        ("feast_sha256", "feature definitions"),
    ],
)
def test_what_an_older_release_did_not_record_is_told_as_such(case: Case, key: str, name: str) -> None:
    case.lineage[key] = type(case.lineage[key])()
    done = case.rebuild()
    assert {each.name for each in done.links if each.state == "not recorded"} == {name}
    assert done.golden_equal


@pytest.mark.parametrize(("key", "name"), [("feature_sha256", "features"), ("label_sha256", "labels")])
def test_rows_of_other_bytes_are_named_by_their_cutoff(case: Case, key: str, name: str) -> None:
    case.lineage[key]["2011-03-15T000000Z"] = "0" * 64
    found = link(case.rebuild(), name)
    assert found.state == "differs"
    assert found.found.startswith("2011-03-15T000000Z 000000000000 then, ")


# -- not equal -------------------------------------------------------------------------------------------------------


def test_another_seed_is_another_forest(case: Case) -> None:
    case.lineage["parameters"]["random_state"] = 43
    done = case.rebuild()
    assert not done.golden_equal
    assert 1e-4 < done.largest_difference < 1


def test_a_probability_that_is_off_by_its_last_bit_is_not_equal(case: Case) -> None:
    card = parse_card(case.lakes.files[CARD_FILE])
    first, *others = card.golden.probabilities
    golden = replace(card.golden, probabilities=(float(np.nextafter(first, 1)), *others))
    case.lakes.files = {**case.lakes.files, CARD_FILE: card_bytes(replace(card, golden=golden))}
    done = case.rebuild()
    assert not done.golden_equal
    assert 0 < done.largest_difference < 1e-15


def test_another_training_set_is_named_and_its_forest_differs(case: Case) -> None:
    frame = case.lakes.shop.frame.copy()
    frame.loc[frame["days_since_last_activity"] < 20, "total_orders"] += 50.0
    case.lakes.shop = replace(case.lakes.shop, frame=frame)
    done = case.rebuild()
    assert link(done, "training set").state == "differs"
    assert not done.golden_equal


# -- not even begun --------------------------------------------------------------------------------------------------


def test_other_dbt_definitions_are_a_mismatch_that_names_the_commit(case: Case) -> None:
    case.here = replace(HERE, dbt_sha256="0" * 64)
    error = case.refused(Mismatch)
    assert error.message == (
        "version 7 cannot be rebuilt here: dbt definitions differs: dddddddddddd then, 000000000000 here"
    )
    assert error.hint == f"git checkout {COMMIT}"
    assert states(error.facts["links"])["dbt definitions"] == "differs"
    assert states(error.facts["links"])["raw snapshot"] == "ok"


def test_other_feature_definitions_are_a_mismatch_that_names_the_commit(case: Case) -> None:
    case.here = replace(HERE, feast_sha256="0" * 64)
    error = case.refused(Mismatch)
    assert error.message.endswith("feature definitions differs: aaaaaaaaaaaa then, 000000000000 here")
    assert error.hint == f"git checkout {COMMIT}"


def test_a_version_without_a_commit_has_no_checkout_to_name(case: Case) -> None:
    case.lineage["commit"] = ""
    case.here = replace(HERE, dbt_sha256="0" * 64)
    assert case.refused(Mismatch).hint.startswith("The version names no commit")


def test_another_feature_service_is_a_mismatch(case: Case) -> None:
    case.lineage["feature_service"] = "churn_v0"
    assert "feature service differs: churn_v0 then, churn_v1 here" in case.refused(Mismatch).message


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda names: names[:-1], "other features: refund_share"), (lambda names: names[::-1], "the same in another")],
)
def test_the_same_service_of_other_features_is_a_mismatch(case: Case, change: Any, found: str) -> None:
    card = parse_card(case.lakes.files[CARD_FILE])
    case.lakes.files = {**case.lakes.files, CARD_FILE: card_bytes(replace(card, features=change(card.features)))}
    assert found in case.refused(Mismatch).message


def test_a_snapshot_that_is_gone_is_not_ready_and_says_what_would_bring_it_back(case: Case) -> None:
    case.lineage["snapshot_id"] = "snapshot-0"
    error = case.refused(NotReady)
    assert "raw snapshot missing: there is no snapshot 'snapshot-0'" in error.message
    assert "from a backup" in error.hint
    assert states(error.facts["links"])["raw snapshot"] == "missing"


@pytest.mark.parametrize(
    ("tables", "found"),
    [
        ({**TABLES, "orders": "0" * 64}, "orders aaaaaaaaaaaa then, 000000000000 here"),
        ({"orders": "a" * 64}, "users bbbbbbbbbbbb then, nothing here"),
    ],
)
def test_a_snapshot_that_was_changed_is_a_mismatch_that_names_the_table(
    case: Case, tables: dict[str, str], found: str
) -> None:
    case.lakes.tables = tables
    assert found in case.refused(Mismatch).message


@pytest.mark.parametrize("name", [MODEL_FILE, CARD_FILE])
def test_model_files_that_are_not_those_registered_are_a_mismatch_and_are_not_read(case: Case, name: str) -> None:
    version = version_of(case.lineage, case.lakes.files)
    changed = {**case.lakes.files, name: b"no card"}
    stores = RebuildStores(case.lakes, lambda asked: changed, case.lakes.workshop)
    with pytest.raises(Mismatch, match="model files differs"):
        rebuild(stores, version, HERE, case.tell)
    assert case.lakes.done == []


def test_a_card_without_golden_rows_has_nothing_to_compare(case: Case) -> None:
    card = parse_card(case.lakes.files[CARD_FILE])
    golden = replace(card.golden, vectors=(), probabilities=())
    case.lakes.files = {**case.lakes.files, CARD_FILE: card_bytes(replace(card, golden=golden))}
    assert "no golden rows" in case.refused(NotReady).message


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"max_depth": None}, "its lineage lacks max_depth"),
        ({"bootstrap": 1}, "its lineage has, unknown to this release, bootstrap"),
        ({"n_estimators": "8"}, "n_estimators: Input should be a valid integer"),
        ({"calibration": "platt"}, "calibration: Input should be 'temperature'"),
    ],
)
def test_parameters_of_another_forest_are_a_mismatch_that_names_them(
    case: Case, change: dict[str, Any], found: str
) -> None:
    changed = {**case.lineage["parameters"], **change}
    case.lineage["parameters"] = {name: value for name, value in changed.items() if value is not None}
    assert found in case.refused(Mismatch).message


# -- the lineage itself ------------------------------------------------------------------------------------------------


def test_a_lineage_is_read_back_as_it_was_written(record: TrainingRecord) -> None:
    written = json.dumps(asdict(record.lineage))
    assert parse_lineage(version_of(written, files_of(record))) == record.lineage


def test_a_version_without_lineage_is_not_ready(record: TrainingRecord) -> None:
    with pytest.raises(NotReady, match="version 7 carries no lineage"):
        parse_lineage(version_of(None, files_of(record)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "Expecting property name"),
        ("[]", "is no lineage: Input should be an object"),
        ('{"colour": "red"}', "unknown to this release: colour"),
        ("{}", "snapshot_id: Field required"),
    ],
)
def test_a_tag_that_is_no_lineage_is_a_mismatch(record: TrainingRecord, text: str, found: str) -> None:
    with pytest.raises(Mismatch, match=found):
        parse_lineage(version_of(text, files_of(record)))


def test_a_lineage_of_wrong_types_is_a_mismatch(record: TrainingRecord) -> None:
    wrong = {**asdict(record.lineage), "horizon_days": "60"}
    assert isinstance(record.lineage, Lineage)
    with pytest.raises(Mismatch, match="horizon_days: Input should be a valid integer"):
        parse_lineage(version_of(wrong, files_of(record)))
