"""lineage: the chain behind a version; what nobody recorded is told as such, and never left out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from churn import river
from churn.cli import app
from churn.domain.ports import Snapshot
from churn.domain.versions import (
    MODEL_NAME,
    TAG_DIGEST,
    TAG_FEATURE_SERVICE,
    TAG_LINEAGE,
    TAG_VERDICT,
    Lineage,
    ModelVersion,
)
from churn.errors import Mismatch, NotReady
from churn.jobs.lineage import Chain, trace
from churn.settings import Settings
from tests.exports import at

LINEAGE = Lineage(
    snapshot_id="snapshot-1",
    snapshot_sha256={"orders": "a" * 64},
    feature_service="churn_v1",
    feature_sha256={"2011-08-01T000000Z": "f" * 64},
    dbt_sha256="d" * 64,
    train_cutoffs=("2011-08-01T00:00:00+00:00",),
    test_cutoffs=("2011-10-10T00:00:00+00:00",),
    horizon_days=60,
    parameters={"n_estimators": 15},
    commit="c" * 40,
    lock_sha256="e" * 64,
    feast_sha256="9" * 64,
    data_sha256="b" * 64,
    label_sha256={"2011-08-01T000000Z": "0" * 64},
    packages={"numpy": "2.4.6"},
)
MANIFEST = {
    "tables": {"orders": {"rows": 540, "quarantined": 3}},
    "log_end": "2011-12-10T00:00:00+00:00",
    "breaches": [{"table": "orders", "rule": "refunds", "count": 12}],
    "source": {"files": {"orders": "orders.csv"}, "mapping": ["orders.user_id=customer"], "tz": "Europe/London"},
}
VERDICT = {"passed": True, "champion": "6", "reasons": [{"rule": "auc", "passed": True, "found": "0.80 against 0.79"}]}
WHOLE = {
    TAG_DIGEST: "1" * 64,
    TAG_FEATURE_SERVICE: "churn_v1",
    TAG_LINEAGE: json.dumps(asdict(LINEAGE)),
    TAG_VERDICT: json.dumps(VERDICT),
}
CHAIN: dict[str, dict[str, Any]] = {
    "raw snapshot": {"snapshot_id": "snapshot-1", "snapshot_sha256": {"orders": "a" * 64}, "still here": True},
    "contract": {
        "rows": {"orders": 540},
        "set aside": {"orders": 3},
        "breaches": ["orders: refunds (12)"],
        "log_end": "2011-12-10T00:00:00+00:00",
        "files": {"orders": "orders.csv"},
        "mapping": ["orders.user_id=customer"],
        "tz": "Europe/London",
    },
    "cutoffs": {
        "train_cutoffs": ("2011-08-01T00:00:00+00:00",),
        "test_cutoffs": ("2011-10-10T00:00:00+00:00",),
        "horizon_days": 60,
    },
    "features": {
        "feature_service": "churn_v1",
        "feature_view": "user_analytics",
        "feast_sha256": "9" * 64,
        "dbt_sha256": "d" * 64,
        "feature_sha256": {"2011-08-01T000000Z": "f" * 64},
    },
    "training set": {"data_sha256": "b" * 64, "label_sha256": {"2011-08-01T000000Z": "0" * 64}},
    "code": {
        "commit": "c" * 40,
        "lock_sha256": "e" * 64,
        "packages": {"numpy": "2.4.6"},
        "parameters": {"n_estimators": 15},
    },
    "model": {"digest": "1" * 64, "source": "models:/m-7"},
    "run": {"run_id": "run-7"},
    "verdict": {"passed": True, "against": "6", "reasons": ["auc: 0.80 against 0.79"]},
    "aliases": {"names": ["champion"]},
}


@dataclass(frozen=True)
class OneSnapshot:
    def get(self, snapshot_id: str) -> Snapshot:
        if snapshot_id != "snapshot-1":
            raise NotReady(f"there is no snapshot {snapshot_id!r}")
        return Snapshot(
            snapshot_id, Path("raw"), "integer", at("2010-12-01"), at("2011-12-09"), at("2011-12-10"), MANIFEST
        )


def chain_of(tags: dict[str, str], run_id: str = "run-7", aliases: tuple[str, ...] = ("champion",)) -> Chain:
    return trace(ModelVersion(MODEL_NAME, "7", run_id, "models:/m-7", tags, aliases), OneSnapshot())


def facts_of(chain: Chain) -> dict[str, dict[str, Any]]:
    return {step.name: dict(step.facts) for step in chain.steps}


def test_the_chain_leads_from_the_raw_snapshot_to_the_aliases() -> None:
    chain = chain_of(WHOLE)
    assert facts_of(chain) == CHAIN
    assert list(facts_of(chain)) == list(CHAIN)


def test_of_a_version_without_tags_every_fact_is_still_named() -> None:
    facts = facts_of(chain_of({}, run_id="", aliases=()))
    assert {step: set(found) for step, found in facts.items()} == {step: set(found) for step, found in CHAIN.items()}
    told = {(step, name): fact for step, found in facts.items() for name, fact in found.items() if fact is not None}
    assert told == {
        ("raw snapshot", "still here"): False,
        ("model", "source"): "models:/m-7",
        ("aliases", "names"): [],
    }


def test_the_feature_service_is_known_even_without_a_lineage() -> None:
    assert facts_of(chain_of({TAG_FEATURE_SERVICE: "churn_v1"}))["features"]["feature_service"] == "churn_v1"


def test_a_snapshot_that_is_gone_takes_what_the_contract_found_with_it() -> None:
    gone = {**WHOLE, TAG_LINEAGE: json.dumps({**asdict(LINEAGE), "snapshot_id": "snapshot-0"})}
    facts = facts_of(chain_of(gone))
    assert facts["raw snapshot"] == {**CHAIN["raw snapshot"], "snapshot_id": "snapshot-0", "still here": False}
    assert facts["contract"] == dict.fromkeys(CHAIN["contract"])


@pytest.mark.parametrize("text", ["passed by hand", '"passed"'])
def test_a_verdict_that_is_none_is_shown_as_it_is(text: str) -> None:
    verdict = facts_of(chain_of({**WHOLE, TAG_VERDICT: text}))["verdict"]
    assert verdict == {"passed": None, "against": None, "reasons": text}


def test_a_lineage_that_is_none_of_ours_is_a_mismatch() -> None:
    with pytest.raises(Mismatch, match="is no lineage"):
        chain_of({**WHOLE, TAG_LINEAGE: "{}"})


# -- shown -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that the command line asked for; it is answered with the whole chain."""
    asked: list[str] = []

    def answer(settings: Settings, version: str) -> Chain:
        asked.append(version)
        return chain_of({**WHOLE, TAG_VERDICT: "{}"})

    monkeypatch.setattr(river, "lineage_of", answer)
    return asked


def test_the_tree_shortens_digests_and_says_what_was_not_recorded(shown: list[str]) -> None:
    done = CliRunner().invoke(app, ["lineage", "@champion"], env={"COLUMNS": "100"})
    lines = [line.lstrip("│├└─ ") for line in done.stdout.splitlines()]
    assert lines[0] == "churn_prediction version 7"
    assert [name for name in CHAIN if name in lines] == list(CHAIN)
    expected = ["orders: aaaaaaaaaaaa", "train_cutoffs: 2011-08-01", "commit: cccccccccccc", "passed: not recorded"]
    assert set(expected) <= set(lines)
    assert shown == ["@champion"]


def test_json_has_every_digest_in_full(shown: list[str]) -> None:
    done = CliRunner().invoke(app, ["lineage", "7", "--json"])
    told = json.loads(done.stdout)
    assert (told["name"], told["version"], list(told["chain"])) == ("churn_prediction", "7", list(CHAIN))
    assert told["chain"]["features"] == CHAIN["features"]
    assert shown == ["7"]
