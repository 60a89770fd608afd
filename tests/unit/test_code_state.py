"""Which code and which lock a process runs, read off a real checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy
import pytest

from churn.stores.code_state import CodeState, code_state, packages

IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], check=True, capture_output=True, text=True, cwd=folder, env={**os.environ, **IDENTITY}
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with one commit."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "uv.lock").write_text("version = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_clean_checkout_has_its_commit_and_the_digest_of_its_lock(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert len(head) == 40
    assert code_state(checkout) == CodeState(head, sha256(b"version = 1\n").hexdigest(), "")


def test_a_changed_file_makes_the_commit_dirty(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert code_state(checkout).commit == git(checkout, "rev-parse", "HEAD") + "+dirty"


def test_a_file_that_git_does_not_know_does_not(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("mine")
    assert code_state(checkout).commit == git(checkout, "rev-parse", "HEAD")


def test_another_lock_is_another_digest(checkout: Path) -> None:
    before = code_state(checkout).lock_sha256
    (checkout / "uv.lock").write_text("version = 2\n")
    assert code_state(checkout).lock_sha256 != before


def test_other_feature_definitions_are_another_digest_and_other_files_beside_them_are_not(checkout: Path) -> None:
    repo = checkout / "feature_repo"
    repo.mkdir()
    (repo / "features.py").write_text("x = 1\n")
    before = code_state(checkout).feast_sha256
    (repo / "README.md").write_text("about")
    assert code_state(checkout).feast_sha256 == before != ""
    (repo / "features.py").write_text("x = 2\n")
    assert code_state(checkout).feast_sha256 != before


def test_a_folder_outside_any_checkout_has_neither(tmp_path: Path) -> None:
    assert code_state(tmp_path) == CodeState("", "", "")


def test_a_checkout_without_a_commit_has_none(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    git(tmp_path, "init", "--quiet")
    assert code_state(tmp_path).commit == ""


def test_a_package_installed_below_somebody_elses_checkout_does_not_take_their_commit(checkout: Path) -> None:
    installed = checkout / ".venv" / "lib" / "python3.11"
    installed.mkdir(parents=True)
    assert code_state(installed) == CodeState("", "", "")


def test_a_project_in_a_folder_of_a_larger_checkout_has_that_ones_commit(checkout: Path) -> None:
    project = checkout / "services" / "churn"
    project.mkdir(parents=True)
    (project / "pyproject.toml").write_text("[project]\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "second")
    assert code_state(project) == CodeState(git(checkout, "rev-parse", "HEAD"), "", "")


def test_where_git_is_not_installed_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert code_state(checkout) == CodeState("", sha256(b"version = 1\n").hexdigest(), "")


def test_the_packages_are_those_that_compute_and_python_itself() -> None:
    found = packages()
    assert (found["python"], found["numpy"]) == (platform.python_version(), numpy.__version__)
    assert {"duckdb", "dbt-duckdb", "feast", "pandas", "scikit-learn", "scipy"} <= set(found)


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("churn.stores.code_state.COMPUTING", ("numpy", "no-such-package"))
    assert set(packages()) == {"python", "numpy"}
