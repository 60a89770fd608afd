"""MLproject says what the command line says: the same verbs, names and defaults. MLflow itself parses the file here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow.projects._project_spec import EntryPoint, Project, load_project

from tests.house.command_line import Verb, verbs

REPOSITORY = Path(__file__).resolve().parents[2]
# Commands that are no step of the river: a show of all steps, a list of settings, keys, and parts of `serve`.
NOT_ENTRY_POINTS = {"demo", "keys", "settings", "stage", "worker"}
LAUNCH = 'PATH="${{VIRTUAL_ENV:-.venv}}/bin:$PATH" PYTHONPATH=src:. python -m churn '
MAIN_FLAG = "--sample-if-empty"


@pytest.fixture(scope="module")
def project() -> Project:
    return load_project(REPOSITORY)


def entry_points(project: Project) -> dict[str, EntryPoint]:
    return {name: project.get_entry_point(name) for name in project._entry_points}


def test_there_is_one_entry_point_per_verb_and_main(project: Project) -> None:
    assert set(entry_points(project)) == set(verbs()) - NOT_ENTRY_POINTS | {"main"}


def river_verbs() -> list[Verb]:
    return [verb for name, verb in verbs().items() if name not in NOT_ENTRY_POINTS]


@pytest.mark.parametrize("verb", river_verbs(), ids=lambda verb: verb.name)
def test_an_entry_point_has_the_names_and_defaults_of_its_verb(project: Project, verb: Verb) -> None:
    entry = entry_points(project)[verb.name]
    found = {name: parameter.default for name, parameter in entry.parameters.items()}
    assert found == {option.name: option.default for option in verb.valued_options()}


@pytest.mark.parametrize("verb", river_verbs(), ids=lambda verb: verb.name)
def test_an_entry_points_command_hands_every_option_to_its_verb(project: Project, verb: Verb) -> None:
    entry = entry_points(project)[verb.name]
    options = " ".join(f"{option.flag} {{{option.name}}}".lstrip() for option in verb.valued_options())
    assert entry.command == f"{LAUNCH}{verb.name} {options}".rstrip()


def test_main_is_train_on_the_bundled_sample_when_nothing_was_ingested(project: Project) -> None:
    main, train = entry_points(project)["main"], entry_points(project)["train"]
    assert main.command == train.command.replace("churn train", f"churn train {MAIN_FLAG}")
    assert {name: parameter.default for name, parameter in main.parameters.items()} == {
        name: parameter.default for name, parameter in train.parameters.items()
    }
    assert MAIN_FLAG in verbs()["train"].flags()


@pytest.mark.parametrize("verb", river_verbs(), ids=lambda verb: verb.name)
def test_the_command_that_mlflow_makes_is_one_that_the_command_line_takes(project: Project, verb: Verb) -> None:
    command = entry_points(project)[verb.name].compute_command({}, None)
    words = re.split(r"-m churn \S+ ?", command)[1]
    verb.parse([word.strip("'") for word in words.split()])


def test_the_project_names_one_environment_and_no_python_version(project: Project) -> None:
    # A version would be asked of pyenv to the patch, and most machines have another: docs/decisions/0006.
    assert project.env_type == "python_env"
    assert Path(project.env_config_path).name == "python_env.yaml"
    assert not re.search(r"^python:", Path(project.env_config_path).read_text(), re.MULTILINE)
