"""Writes the files that say again what pyproject.toml, uv.lock and churn.settings say: `python .ci/derived_files.py`.

They exist because other tools cannot read the originals. `make lock` and `make fix` write them;
`tests/house/test_derived_files.py` fails when one is stale.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from churn.settings import PREFIX, Settings

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from serving.app import ROUTES  # noqa: E402  (of this checkout)
from serving.errors import KINDS, PROBLEM_TYPE  # noqa: E402

ORIGIN = "Written by .ci/derived_files.py from pyproject.toml and uv.lock; `make lock` writes it again."

PYTHON_ENV = f"""\
# {ORIGIN}
# For `mlflow run .`. There is no `python` key on purpose: MLflow then takes the version that it runs on itself. A key
# would be an exact patch version that most machines do not have.
build_dependencies:
  - pip
dependencies:
"""
CONDA = f"""\
# {ORIGIN}
# For those who prefer conda: `conda env create -f conda.yaml`. `mlflow run .` does not use it.
name: churn
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""
CONSTRAINTS = f"""\
# {ORIGIN}
# The version of every package in the lock, for tools that cannot read it: pip install -c constraints.txt ...
"""
SETTINGS = f"""\
# Settings

Written by `.ci/derived_files.py` from `src/churn/settings.py`; `make fix` writes it again.

Each is read from the environment, else from the file named by `{PREFIX}CONFIG` (default: `churn.toml` in the
deployment's folder; there the names are in lower case without `{PREFIX}`), else the default holds. Unknown names are
refused. `churn settings` shows what is in force.

| variable | default | meaning |
|---|---|---|
"""
API = """\
# The service's routes and errors

Written by `.ci/derived_files.py` from `serving/`; `make fix` writes it again. `serving/openapi.json` has every field.

A key with the scope goes into `Authorization: Bearer ...`; `churn keys add` makes one. In development mode none is
asked for.

| route | scope of the key | what it does | its own errors |
|---|---|---|---|
"""
ERRORS = f"""
Every error is `{PROBLEM_TYPE}` (RFC 9457): `type`, `title`, `status`, `detail`, `code`, `request_id`; below
`/v2` also `error`. Programs branch on `code`. No detail repeats what was sent.

| status | code | meaning | come back after |
|---|---|---|---|
"""


def direct_dependencies(lock: dict[str, Any]) -> list[str]:
    """The project's own dependencies as pip requirements at the lock's versions, with a marker where the lock forks."""
    versions = {package["name"]: package["version"] for package in lock["package"]}
    project = next(package for package in lock["package"] if package["name"] == "churn")
    return [_requirement(entry, versions[entry["name"]]) for entry in project["dependencies"]]


def _requirement(entry: dict[str, Any], locked: str) -> str:
    extras = f"[{','.join(entry['extra'])}]" if "extra" in entry else ""
    marker = f"; {entry['marker']}" if "marker" in entry else ""
    return f"{entry['name']}{extras}=={entry.get('version', locked)}{marker}"


def all_versions(lock: dict[str, Any]) -> list[str]:
    """Every package of the lock as a pip constraint."""
    return [
        f"{package['name']}=={package['version']}" + _marker(package.get("resolution-markers", []))
        for package in lock["package"]
        if package["name"] != "churn"
    ]


def _marker(markers: list[str]) -> str:
    return f"; {' or '.join(markers)}" if markers else ""


def settings_rows() -> list[str]:
    """One row of Markdown for each setting."""
    return [
        f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def _default(value: object) -> str:
    if isinstance(value, Path) and value.is_absolute():
        inside = value.relative_to(REPOSITORY)
        return "the repository" if inside == Path() else f"`{inside}` in the repository"
    return "none" if value in ("", None) else f"`{value}`"


def route_rows() -> list[str]:
    """One row of Markdown for each route."""
    return [
        f"| `{route.method} {route.path}` | {route.scope.value if route.scope else 'none: open'} | "
        f"{route.endpoint.__doc__.splitlines()[0]} | {' '.join(f'`{code}`' for code in route.problems)} |"
        for route in ROUTES
    ]


def error_rows() -> list[str]:
    """One row of Markdown for each code."""
    return [
        f"| {kind.status} | `{code}` | {kind.title} | {_seconds(kind.retry_after_seconds)} |"
        for code, kind in KINDS.items()
    ]


def _seconds(seconds: int | None) -> str:
    return "" if seconds is None else f"{seconds} s"


def derived_files() -> dict[str, str]:
    """Path in the repository -> text."""
    lock = tomllib.loads((REPOSITORY / "uv.lock").read_text())
    pins = ["-c constraints.txt", *direct_dependencies(lock)]
    return {
        "python_env.yaml": PYTHON_ENV + "".join(f'  - "{pin}"\n' for pin in pins),
        "conda.yaml": CONDA + "".join(f'      - "{pin}"\n' for pin in pins),
        "constraints.txt": CONSTRAINTS + "".join(f"{pin}\n" for pin in all_versions(lock)),
        "docs/api.md": API
        + "".join(f"{row}\n" for row in route_rows())
        + ERRORS
        + "".join(f"{row}\n" for row in error_rows()),
        "docs/settings.md": SETTINGS + "".join(f"{row}\n" for row in settings_rows()),
    }


if __name__ == "__main__":
    for name, text in derived_files().items():
        (REPOSITORY / name).write_text(text)
