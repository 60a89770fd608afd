"""The three dependency lists are one, and so are the settings and their page."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from churn.settings import PREFIX, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DERIVED: dict[str, str] = runpy.run_path(str(REPOSITORY / ".ci" / "derived_files.py"))["derived_files"]()


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_file_is_up_to_date(name: str) -> None:
    assert (REPOSITORY / name).read_text() == DERIVED[name], "stale: run `make fix`"


def project_table() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def locked_versions() -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for package in tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]:
        versions.setdefault(package["name"], set()).add(package["version"])
    return versions


def pins_of(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines if not line.startswith("-c ")]


def python_env_pins() -> list[Requirement]:
    return pins_of(yaml.safe_load((REPOSITORY / "python_env.yaml").read_text())["dependencies"])


def conda_pins() -> list[Requirement]:
    entries = yaml.safe_load((REPOSITORY / "conda.yaml").read_text())["dependencies"]
    return pins_of(next(entry["pip"] for entry in entries if isinstance(entry, dict)))


def test_the_three_lists_name_the_same_packages() -> None:
    ours = {(Requirement(line).name, *Requirement(line).extras) for line in project_table()["project"]["dependencies"]}
    assert {(pin.name, *pin.extras) for pin in python_env_pins()} == ours
    assert {(pin.name, *pin.extras) for pin in conda_pins()} == ours


def test_the_pins_are_the_locks_versions_and_within_the_projects_bounds() -> None:
    locked = locked_versions()
    bounds = {
        Requirement(line).name: Requirement(line).specifier for line in project_table()["project"]["dependencies"]
    }
    assert python_env_pins() == conda_pins()
    for pin in python_env_pins():
        version = str(pin.specifier).removeprefix("==")
        assert version in locked[pin.name]
        assert bounds[pin.name].contains(version), pin


def test_the_constraints_hold_every_package_of_the_lock() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = pins_of([line for line in lines if not line.startswith("#")])
    assert {pin.name for pin in pins} == set(locked_versions()) - {"churn"}


def test_every_setting_is_described_and_has_its_line_in_the_docs() -> None:
    page = (REPOSITORY / "docs" / "settings.md").read_text()
    for name, setting in Settings.model_fields.items():
        assert setting.description, name
        assert f"`{PREFIX}{name.upper()}`" in page


def test_no_document_names_a_setting_that_does_not_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {f"{PREFIX}CONFIG"}
    for path in [REPOSITORY / "README.md", *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        named = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*[A-Z]\b", path.read_text()))
        assert named <= known, f"{path.relative_to(REPOSITORY)}: {sorted(named - known)}"
