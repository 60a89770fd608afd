"""Dockerfile and compose.yaml, as far as they can be judged without an engine."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = re.sub(r"\\\n\s*", "", (REPOSITORY / "Dockerfile").read_text())
COMPOSE_TEXT = (REPOSITORY / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GROUPS: dict[str, list[str]] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]


def stages() -> dict[str, list[str]]:
    """Name of each build stage -> its instructions."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.splitlines():
        if begin := re.match(r"FROM \S+ AS (\S+)", line):
            found[begin[1]] = []
        if found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def copied_from_the_repository() -> list[str]:
    lines = [line for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line]
    return [source for line in lines for source in line.split()[1:-1]]


@pytest.mark.parametrize("source", copied_from_the_repository())
def test_the_dockerfile_copies_what_exists_and_what_the_builder_is_sent(source: str) -> None:
    assert (REPOSITORY / source).exists()
    assert f"!{source}" in (REPOSITORY / ".dockerignore").read_text().splitlines()


def test_the_builder_is_sent_nothing_else() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert sent - {".ci"} == set(copied_from_the_repository())


def test_each_image_installs_one_group_of_the_lock_and_no_more() -> None:
    installs = {
        name: [line for line in lines if "install" in line or "sync" in line] for name, lines in stages().items()
    }
    sync = "RUN uv sync --frozen --no-default-groups --only-group {} --no-install-project"
    assert installs["build-registry"] == [sync.format("registry")]
    assert installs["build-service"] == [
        sync.format("serving"),
        "RUN uv pip install --python /opt/venv/bin/python --no-deps .",
    ]
    assert installs["service"] == installs["registry"] == []


def test_the_service_image_holds_no_dbt_evidently_or_whole_mlflow() -> None:
    names = {re.split(r"[\[<>= ]", line)[0] for line in GROUPS["serving"]}
    assert not names & {"mlflow", "evidently", "dbt-core", "dbt-duckdb", "matplotlib"}


@pytest.mark.fault("S13")
def test_the_last_stage_is_the_service_and_runs_as_nobody_in_particular() -> None:
    assert list(stages())[-1] == "service"
    users = [line for line in stages()["base"] if line.startswith("USER ")]
    assert users == ["USER churn"]
    assert any(line.startswith("FROM base ") for line in stages()["service"])
    assert not any(line.startswith("USER ") for line in stages()["service"])


@pytest.mark.parametrize("name", ["service", "registry"])
def test_an_image_has_a_health_check_a_port_and_a_command(name: str) -> None:
    instructions = {line.split()[0] for line in stages()[name]}
    assert {"HEALTHCHECK", "EXPOSE", "CMD"} <= instructions


def test_base_images_name_their_patch_version() -> None:
    images = [re.search(r"^ARG PYTHON=(\S+)", DOCKERFILE, re.MULTILINE)[1]]  # type: ignore[index]  # no match fails
    images += [service["image"] for service in SERVICES.values() if "build" not in service]
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-[a-z-]+", image), image


@pytest.mark.fault("S9")
def test_compose_runs_the_service_mlflow_redis_and_postgresql_each_with_a_health_check() -> None:
    assert set(SERVICES) == {"service", "mlflow", "redis", "postgres"}
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"], name
        for wanted in service.get("depends_on", {}).values():
            assert wanted == {"condition": "service_healthy"}


def test_compose_builds_stages_that_exist() -> None:
    for service in SERVICES.values():
        assert service.get("build", {}).get("target", "service") in stages()


def test_compose_has_no_default_for_any_variable_and_the_example_gives_no_value() -> None:
    variables = re.findall(r"(?<!\$)\$\{(\w+)(:\?)?", COMPOSE_TEXT)
    assert all(required for _, required in variables)
    example = (REPOSITORY / ".env.example").read_text()
    assigned = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert set(assigned) == {name for name, _ in variables}
    assert not any(assigned.values())


@pytest.mark.fault("S8")
def test_compose_publishes_ports_on_the_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.fault("F5", "S8")
def test_redis_never_evicts_and_mlflow_runs_no_jobs_and_answers_to_its_own_names_only() -> None:
    assert "--maxmemory-policy noeviction" in json.dumps(SERVICES["redis"]["command"])
    assert "--appendonly yes" in json.dumps(SERVICES["redis"]["command"])
    environment = SERVICES["mlflow"]["environment"]
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "mlflow:5000" in environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "*" not in environment["MLFLOW_SERVER_ALLOWED_HOSTS"]
