"""A version rebuilt from nothing but its raw snapshot and the registry, and what a rebuild says when those changed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.river.conftest import River, succeeded

LINKS = [
    "model files",
    "raw snapshot",
    "dbt definitions",
    "feature service",
    "commit",
    "lock file",
    "packages",
    "features",
    "labels",
    "training set",
]


@pytest.fixture
def elsewhere(river: River, tmp_path: Path) -> River:
    """The same registry and a home that holds a copy of the raw tables and nothing else."""
    shutil.copytree(river.home / "raw", tmp_path / "home" / "raw")
    return replace(river, home=tmp_path / "home", said={})


@pytest.fixture
def project(repository: Path, tmp_path: Path) -> Path:
    """A copy of the project's dbt models and Feast definitions."""
    for name in ("warehouse", "feature_repo"):
        shutil.copytree(repository / name, tmp_path / "project" / name)
    return tmp_path / "project"


def snapshot_of(river: River) -> Path:
    return river.home / "raw" / (river.home / "raw" / "CURRENT").read_text().strip()


def states(text: str) -> dict[str, str]:
    """{link: state} as a rebuild prints them."""
    line = re.compile(rf"^(ok|differs|missing|not recorded) +({'|'.join(LINKS)}) ", re.MULTILINE)
    return {name: state for state, name in line.findall(text)}


def test_a_version_is_rebuilt_bit_equal_from_its_raw_tables_alone(elsewhere: River) -> None:
    succeeded(elsewhere.mlflow_run("rebuild", version="@champion"))
    said = elsewhere.said["rebuild"]
    assert "rebuilt, answers its 32 golden rows bit for bit" in said
    # Tests run on a checkout that somebody works on, too: then the commit is "+dirty", and told as such.
    assert {**states(said), "commit": "told"} == {**dict.fromkeys(LINKS, "ok"), "commit": "told"}
    left = [path.relative_to(elsewhere.home) for path in elsewhere.home.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in left} == {"raw"}


def test_another_dbt_model_is_named_before_anything_is_built(elsewhere: River, project: Path) -> None:
    model = project / "warehouse" / "models" / "marts" / "user_analytics.sql"
    model.write_text(model.read_text() + "-- another definition\n")
    done = replace(elsewhere, settings={"CHURN_PROJECT_DIR": str(project)}).churn("rebuild")
    assert done.returncode == 9, done.stdout + done.stderr
    assert states(done.stderr)["dbt definitions"] == "differs"
    assert states(done.stderr)["raw snapshot"] == "ok"
    assert "cannot be rebuilt here: dbt definitions differs" in done.stderr
    assert "git checkout " in done.stderr
    assert [path.name for path in elsewhere.home.iterdir()] == ["raw"]


def test_a_raw_table_with_one_byte_changed_is_named(elsewhere: River) -> None:
    table = snapshot_of(elsewhere) / "orders.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.chmod(0o644)
    table.write_bytes(content)
    done = elsewhere.churn("rebuild", "champion")
    assert done.returncode == 9, done.stdout + done.stderr
    assert states(done.stderr)["raw snapshot"] == "differs"
    assert "raw snapshot differs: orders " in done.stderr


def test_a_snapshot_that_is_gone_leaves_with_the_code_of_a_missing_step(elsewhere: River) -> None:
    shutil.rmtree(snapshot_of(elsewhere))
    done = elsewhere.churn("rebuild")
    assert done.returncode == 4, done.stdout + done.stderr
    assert states(done.stderr)["raw snapshot"] == "missing"
    assert "from a backup" in done.stderr


def test_the_lineage_of_the_champion_leads_to_its_snapshot_and_its_verdict(river: River) -> None:
    chain = json.loads(succeeded(river.churn("lineage", "@champion", "--json")).stdout)["chain"]
    assert chain["raw snapshot"]["snapshot_id"] == snapshot_of(river).name
    assert chain["raw snapshot"]["still here"] is True
    assert chain["contract"]["rows"]["users"] == 1500
    assert chain["verdict"]["passed"] is True
    assert "champion" in chain["aliases"]["names"]
    assert len(chain["features"]["feature_sha256"]) == len(chain["training set"]["label_sha256"]) == 8
    assert chain["code"]["packages"]["scikit-learn"]
