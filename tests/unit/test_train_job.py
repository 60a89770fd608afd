"""train: what a training reads, and what it hands to the registry."""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn.core.artifact import digest_of, parse_card
from churn.core.model import ForestParameters, probabilities
from churn.core.value import Economics
from churn.domain.artifacts import TRUSTED_TYPES
from churn.domain.ports import Snapshot
from churn.domain.predictions import UserId
from churn.domain.schema import FEATURE_NAMES, JOIN_KEY, TIMESTAMP
from churn.domain.versions import CARD_FILE, MODEL_NAME, REFERENCE_FILE, ModelVersion, TrainingRecord
from churn.errors import Mismatch, NotReady, Refused
from churn.jobs.train import Trained, TrainingPlan, TrainingStores, train
from tests.exports import HORIZON, at, labelled_frame
from tests.memory import BuiltShop

CUTOFFS = [at("2011-01-01"), at("2011-03-15"), at("2011-05-01"), at("2011-06-01")]
PLAN = TrainingPlan(
    ForestParameters(n_estimators=8),
    HORIZON,
    test_cutoffs=1,
    economics=Economics(cost=1.0, margin=10.0, budget=50.0),
    commit="c" * 40,
    lock_sha256="e" * 64,
    packages={"numpy": "2.4.6"},
    feast_sha256="9" * 64,
)
NAMES = ["2011-01-01T000000Z", "2011-03-15T000000Z", "2011-06-01T000000Z"]


@dataclass
class RecordingRegistry:
    """Keeps what training hands over."""

    records: list[TrainingRecord] = field(default_factory=list)

    def record(self, training: TrainingRecord) -> ModelVersion:
        self.records.append(training)
        return ModelVersion(MODEL_NAME, str(len(self.records)), "run", "models:/m")


@dataclass(frozen=True)
class OneSnapshot:
    """Raw tables with one snapshot."""

    snapshot_id: str = "snapshot-1"
    log_end: datetime = CUTOFFS[-1] + HORIZON

    def user_labels(self, snapshot: Snapshot, column: str) -> dict[UserId, str]:
        if column == "subscription_tier":
            return {user: "pro" if user % 2 else "free" for user in range(1, 190)}
        return {user: f"2011-06-{user % 28 + 1:02} 08:00:00" for user in range(1, 190) if column == "last_login_at"}

    def current(self) -> Snapshot:
        manifest = {"tables": {"orders": {"sha256": "a" * 64}, "users": {"sha256": "b" * 64}}}
        moments = (CUTOFFS[0], CUTOFFS[-1], self.log_end)
        return Snapshot(self.snapshot_id, Path("raw"), "integer", *moments, manifest)


def stores_of(shop: BuiltShop, raw: OneSnapshot | None = None) -> TrainingStores:
    return TrainingStores(raw or OneSnapshot(), shop, shop, RecordingRegistry())  # type: ignore[arg-type]  # records only


@pytest.fixture(scope="module")
def shop() -> BuiltShop:
    return BuiltShop(labelled_frame(CUTOFFS, users=200), idle=frozenset(range(1, 31)))


@pytest.fixture(scope="module")
def trained(shop: BuiltShop) -> tuple[Trained, TrainingRecord]:
    stores = stores_of(shop)
    done = train(stores, PLAN, lambda text: None)
    return done, stores.registry.records[0]  # type: ignore[attr-defined]  # the one above


def test_the_newest_cutoff_tests_and_those_without_a_gap_are_dropped(trained: tuple[Trained, TrainingRecord]) -> None:
    split = trained[0].rows.split
    assert [f"{each:%m-%d}" for each in split.train] == ["01-01", "03-15"]
    assert [f"{each:%m-%d}" for each in split.test] == ["06-01"]
    assert [f"{each:%m-%d}" for each in split.dropped] == ["05-01"]


def test_only_eligible_users_train_and_test(trained: tuple[Trained, TrainingRecord]) -> None:
    rows = trained[0].rows
    assert (len(rows.train), len(rows.test)) == (340, 170)
    assert min(rows.train.user_id) == min(rows.test.user_id) == 31


def test_the_version_is_what_the_registry_made_of_the_record(trained: tuple[Trained, TrainingRecord]) -> None:
    assert trained[0].version.version == "1"


def test_the_lineage_names_everything_that_a_rebuild_needs(trained: tuple[Trained, TrainingRecord]) -> None:
    lineage = json.loads(json.dumps(asdict(trained[1].lineage)))
    data = lineage.pop("data_sha256")
    assert len(data) == 64
    assert lineage == {
        "snapshot_id": "snapshot-1",
        "snapshot_sha256": {"orders": "a" * 64, "users": "b" * 64},
        "feature_service": "churn_v1",
        "feature_sha256": dict.fromkeys(NAMES, "f" * 64),
        "label_sha256": dict.fromkeys(NAMES, "e" * 64),
        "dbt_sha256": "d" * 64,
        "train_cutoffs": ["2011-01-01T00:00:00+00:00", "2011-03-15T00:00:00+00:00"],
        "test_cutoffs": ["2011-06-01T00:00:00+00:00"],
        "horizon_days": 60,
        "parameters": {**PLAN.parameters.as_dict(), "shape": "sharp"},  # as chosen
        "commit": "c" * 40,
        "lock_sha256": "e" * 64,
        "packages": {"numpy": "2.4.6"},
        "feast_sha256": "9" * 64,
    }


def test_cutoffs_of_another_snapshot_are_not_trained_on(shop: BuiltShop) -> None:
    with pytest.raises(NotReady, match="built from the current snapshot snapshot-2"):
        train(stores_of(shop, OneSnapshot("snapshot-2")), PLAN, lambda text: None)


@dataclass(frozen=True)
class IngestedMeanwhile(OneSnapshot):
    """Raw tables of which a newer snapshot appears after the first look."""

    looks: list[str] = field(default_factory=list)

    def current(self) -> Snapshot:
        found = super().current() if not self.looks else OneSnapshot("snapshot-2").current()
        self.looks.append(found.snapshot_id)
        return found


def test_an_ingest_during_the_training_does_not_end_up_in_its_lineage(shop: BuiltShop) -> None:
    stores = stores_of(shop, IngestedMeanwhile())
    train(stores, PLAN, lambda text: None)
    assert stores.registry.records[0].lineage.snapshot_id == "snapshot-1"  # type: ignore[attr-defined]  # recording


def test_another_training_set_has_another_digest_and_the_same_one_the_same(
    shop: BuiltShop, trained: tuple[Trained, TrainingRecord]
) -> None:
    again, other = stores_of(shop), stores_of(replace(shop, idle=frozenset()))
    for stores in (again, other):
        train(stores, PLAN, lambda text: None)
    digests = [each.registry.records[0].lineage.data_sha256 for each in (again, other)]  # type: ignore[attr-defined]
    assert digests[0] == trained[1].lineage.data_sha256
    assert digests[1] != digests[0]


def test_the_card_says_what_serving_must_check(trained: tuple[Trained, TrainingRecord]) -> None:
    done, record = trained
    card = parse_card(record.files[CARD_FILE])
    assert (card.features, card.feature_service, card.horizon_days) == (FEATURE_NAMES, "churn_v1", 60)
    assert card.reference_sha256 == sha256(record.files[REFERENCE_FILE]).hexdigest()
    vectors = np.array(card.golden.vectors, dtype=np.float64)
    assert len(vectors) == 32
    assert probabilities(done.result.fitted.estimator, vectors).tolist() == list(card.golden.probabilities)


def test_the_reference_goes_beside_the_model_and_counts_in_no_digest(trained: tuple[Trained, TrainingRecord]) -> None:
    record = trained[1]
    frame = pd.read_parquet(io.BytesIO(record.files[REFERENCE_FILE]))
    assert list(frame.columns) == [*FEATURE_NAMES, "churn_probability"]
    assert len(frame) == 170
    served = {"model.skops": b"model", CARD_FILE: record.files[CARD_FILE]}
    assert digest_of({**served, REFERENCE_FILE: b"other"}) == digest_of(served)


def test_the_record_carries_parameters_figures_tables_and_datasets(trained: tuple[Trained, TrainingRecord]) -> None:
    record = trained[1]
    money = {"contact_cost": 1.0, "contact_margin": 10.0, "contact_budget": 50.0}
    assert record.parameters == {
        **PLAN.parameters.as_dict(),
        "chosen_shape": "sharp",
        "horizon_days": 60,
        "test_cutoffs": 1,
        **money,
    }
    assert set(record.figures) == {
        "roc_pr",
        "reliability",
        "lift",
        "permutation_importance",
        "reason_codes",
        "slices",
        "profit",
    }
    assert set(record.tables) == {"comparison", "by_cutoff", "search", "intervals", "slices", "contact", "staleness"}
    json.dumps(record.tables, allow_nan=False)
    assert {name: len(frame) for name, frame in record.datasets.items()} == {"train": 340, "test": 170}
    assert record.trusted_types == TRUSTED_TYPES
    assert sorted(line.split("==")[0] for line in record.requirements) == ["numpy", "scikit-learn", "skops"]


def test_the_record_carries_a_model_card_in_both_forms_with_the_runs_own_figures(
    trained: tuple[Trained, TrainingRecord],
) -> None:
    record = trained[1]
    text, html = record.texts["card/model_card.md"], record.texts["card/model_card.html"]
    auc = f"{record.metrics['auc_score']:.4f}"
    for card in (text, html, record.description):
        assert auc in card
    assert "| 2011-01-01 | 170 |" in text
    assert record.lineage.data_sha256 in text
    assert "Retraining interval: not measured" in text
    drawn = re.findall(r"!\[[^]]*]\(\.\./plots/(\w+)\.png\)", text)
    assert set(drawn) <= set(record.figures)
    assert html.count("data:image/png;base64,") == len(drawn) == 5
    assert len(html) < 1_500_000
    assert "card/model_card.html" in record.description


def test_the_plan_of_contacts_stands_in_card_table_and_metrics_alike(trained: tuple[Trained, TrainingRecord]) -> None:
    record = trained[1]
    plan = parse_card(record.files[CARD_FILE]).contact
    assert plan.economics == PLAN.economics
    assert record.tables["contact"] == asdict(plan)
    assert record.metrics["value.threshold"] == plan.threshold
    assert record.metrics["value.per_user_validation"] == plan.value_per_user_validation
    assert record.metrics["value.per_user_test"] == plan.value_per_user_test


def test_a_log_too_short_to_age_the_model_says_so_in_its_table(trained: tuple[Trained, TrainingRecord]) -> None:
    record = trained[1]
    assert record.tables["staleness"]["ages"] == []
    assert record.tables["staleness"]["reason"].startswith("not measured: of 2 training cutoffs only the newest")
    assert "staleness.advised_weeks" not in record.metrics


def test_without_a_budget_the_parameter_says_none(shop: BuiltShop) -> None:
    stores = stores_of(shop)
    train(stores, replace(PLAN, economics=Economics(1.0, 10.0)), lambda text: None)
    assert stores.registry.records[0].parameters["contact_budget"] == "none"  # type: ignore[attr-defined]  # recording


def test_the_figures_of_slices_stay_with_the_run(trained: tuple[Trained, TrainingRecord]) -> None:
    record = trained[1]
    table = json.loads(json.dumps(record.tables["slices"]))
    sizes = {each["name"]: each["n"] for each in table["slices"]}
    # Users 31 to 200 are tested: 79 with an even number have the tier free, 80 with an odd one pro, 11 none at all.
    assert (sizes["subscription_tier.free"], sizes["subscription_tier.pro"]) == (79, 80)
    assert sizes["subscription_tier.unknown"] == 11
    assert table["fairness"] is None
    judged = [each["name"] for each in table["slices"] if not each["too_small"]]
    assert {name.rsplit(".", 1)[0] for name in record.metrics if name.startswith("slice.")} == {
        f"slice.{name}" for name in judged
    }


def test_fairness_is_told_where_a_column_is_named_for_it(shop: BuiltShop) -> None:
    stores = stores_of(shop)
    done = train(stores, replace(PLAN, fairness_column="subscription_tier"), lambda text: None)
    record = stores.registry.records[0]  # type: ignore[attr-defined]  # the recording one
    assert record.tables["slices"]["fairness"]["column"] == "subscription_tier"
    assert record.tables["slices"]["fairness"]["threshold"] == 0.7
    assert done.version.version == "1"


def test_the_intervals_hold_the_figures_and_what_they_are_ahead_of_each_baseline(
    trained: tuple[Trained, TrainingRecord],
) -> None:
    record = trained[1]
    table = json.loads(json.dumps(record.tables["intervals"]))
    ours, base = record.metrics["auc_score"], record.metrics["baseline.recency.auc_score"]
    assert table["shipped"]["auc_score"]["estimate"] == pytest.approx(ours)
    less = table["less"]["recency"]["auc_score"]
    assert less["estimate"] == pytest.approx(ours - base)
    assert less["low"] < less["estimate"] < less["high"]
    assert set(table["less"]) == {"recency", "logistic_seed", "logistic_rich", "hist_gradient_boosting", "bg_nbd"}


def test_labels_without_features_are_a_mismatch_and_nothing_is_recorded(shop: BuiltShop) -> None:
    class Forgetful(BuiltShop):
        def training_frame(self, entities: pd.DataFrame) -> pd.DataFrame:
            joined = super().training_frame(entities)
            joined.loc[joined[JOIN_KEY] == 50, list(FEATURE_NAMES)] = np.nan
            return joined

    stores = stores_of(Forgetful(shop.frame, shop.idle))
    with pytest.raises(Mismatch, match="3 of 510 labelled rows have no features at their cutoff"):
        train(stores, PLAN, lambda text: None)
    assert stores.registry.records == []  # type: ignore[attr-defined]  # the recording one


@pytest.mark.parametrize(
    ("cutoffs", "horizon", "sentence"),
    [
        (CUTOFFS[3:], HORIZON, "no training cutoff ends its 60-day horizon"),
        (CUTOFFS, timedelta(days=30), "no cutoff with labels for 30 days was built"),  # labels were made for 60 days
    ],
)
def test_a_log_that_cannot_be_split_is_refused_before_anything_is_joined(
    shop: BuiltShop, cutoffs: list[datetime], horizon: timedelta, sentence: str
) -> None:
    stamps = [moment.replace(tzinfo=None) for moment in cutoffs]
    small = BuiltShop(shop.frame[shop.frame[TIMESTAMP].isin(stamps)])
    with pytest.raises(NotReady, match=sentence):
        train(stores_of(small), replace(PLAN, horizon=horizon), lambda text: None)


def test_progress_names_each_step(shop: BuiltShop) -> None:
    told: list[str] = []
    train(stores_of(shop), PLAN, told.append)
    assert told == [
        "joining features and labels",
        "fitting the forest and its baselines",
        "choosing whom to contact, and ageing the model",
        "recording the run",
    ]


# -- leaks, planted where the job reads ------------------------------------------------------------------------------


def stopped(frame: pd.DataFrame, raw: OneSnapshot | None = None) -> list[str]:
    """The names of the alarms that stop a training on `frame`; nothing is recorded."""
    stores = stores_of(BuiltShop(frame), raw)
    with pytest.raises(Refused, match="leak alarm") as caught:
        train(stores, PLAN, lambda text: None)
    assert stores.registry.records == []  # type: ignore[attr-defined]  # the recording one
    names: list[str] = caught.value.facts["alarms"]
    return sorted(set(names))


def test_a_label_among_the_features_stops_the_training() -> None:
    frame = labelled_frame(CUTOFFS, users=200)
    assert stopped(frame.assign(refund_share=frame["churned"].astype(float))) == ["single_feature_auc"]


def test_features_that_only_together_tell_the_label_stop_the_training() -> None:
    frame = labelled_frame(CUTOFFS, users=600)
    names = ("avg_session_duration", "total_spent", "avg_order_value", "last_order_amount", "spent_7d", "spent_30d")
    noise = np.random.default_rng(1).normal(10.0, 1.0, (len(names), len(frame)))  # each alone: ROC-AUC .92
    leaks = {name: noise[place] + 2.0 * frame["churned"] for place, name in enumerate(names)}
    assert stopped(frame.assign(**leaks)) == ["test_auc"]


def test_an_event_at_the_cutoff_stops_the_training() -> None:
    frame = labelled_frame(CUTOFFS, users=200)
    frame.loc[frame.index[-1], "days_since_last_order"] = 0.0
    assert stopped(frame) == ["event_at_or_after_cutoff"]


def test_a_feature_made_of_the_last_login_stops_the_training() -> None:
    frame = labelled_frame(CUTOFFS, users=200)
    login = pd.to_datetime([f"2011-06-{user % 28 + 1:02} 08:00:00" for user in frame[JOIN_KEY]])
    since = (frame[TIMESTAMP] - login).dt.total_seconds() / 86400 + 400
    assert stopped(frame.assign(avg_session_duration=since)) == ["mutable_column"]


def test_labels_whose_window_reaches_past_the_log_stop_the_training() -> None:
    """The manifest says that the labels have matured; the snapshot says that they have not."""
    raw = OneSnapshot(log_end=CUTOFFS[-1] + HORIZON / 2)
    assert stopped(labelled_frame(CUTOFFS, users=200), raw) == ["cutoff_too_late", "label_not_matured"]
