"""Which code and which lock this process runs: part of every version's lineage."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMPUTING = (
    "churn",
    "dbt-core",
    "dbt-duckdb",
    "duckdb",
    "feast",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
)


@dataclass(frozen=True)
class CodeState:
    """The commit, with "+dirty" when the work tree differs from it, and the sha256 of uv.lock and of feature_repo/.

    "" = not known.
    """

    commit: str
    lock_sha256: str
    feast_sha256: str


def code_state(project: Path) -> CodeState:
    """The state of the checkout in `project`; an installed package without one has no commit."""
    lock, definitions = project / "uv.lock", (project / "feature_repo").glob("*.py")
    return CodeState(_commit(project), _sha256([lock] if lock.is_file() else []), _sha256(sorted(definitions)))


def _sha256(files: Sequence[Path]) -> str:
    """Of the files' contents one after the other; "" of none."""
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest() if files else ""


def packages() -> dict[str, str]:
    """Versions of Python, of churn and of the packages that compute its numbers."""
    found = {"python": platform.python_version(), **{name: _installed(name) for name in COMPUTING}}
    return {name: text for name, text in found.items() if text}


def _installed(name: str) -> str:
    """The version of a package, "" when it is none: from a bare checkout churn itself runs without being installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit(project: Path) -> str:
    if not _git(project, "ls-files", "--", "pyproject.toml"):
        return ""  # installed somewhere below a checkout of something else, such as into its .venv
    head = _git(project, "rev-parse", "HEAD")
    return head + "+dirty" if head and _git(project, "status", "--porcelain", "--untracked-files=no") else head


def _git(project: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
