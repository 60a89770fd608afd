"""Every command in the documents is one that exists, with options that exist; those that cost nothing are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.projects._project_spec import load_project

from tests.house.command_line import verbs

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = {"bash", "sh", "shell", "console"}
INDENTED = re.compile(r"^(?: {4}|\t)((?:churn|make|mlflow run) .*)$", re.MULTILINE)
MLFLOW_OPTIONS = {"-e", "--entry-point", "-P", "--param-list", "--env-manager", "--experiment-name", "--run-name"}


@dataclass(frozen=True)
class Command:
    """Words of one command, and the document it stands in."""

    document: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def shell_lines(text: str) -> Iterator[str]:
    """Command lines of the fenced shell blocks and of the indented ones, continued lines joined."""
    for language, block in FENCE.findall(text):
        if language in SHELLS:
            lines = block.replace("\\\n", " ").splitlines()
            prompted = [line[2:] for line in lines if line.startswith("$ ")]
            yield from prompted if language == "console" or prompted else lines
    yield from INDENTED.findall(FENCE.sub("", text).replace("\\\n", " "))


def commands_of(line: str) -> Iterator[tuple[str, ...]]:
    """The simple commands of one line: comments, assignments before the program and pipes' ends are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            yield from _simple(words)
            words = []
        else:
            words.append(word)


def _simple(words: list[str]) -> Iterator[tuple[str, ...]]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words:
        end = next((place for place, word in enumerate(words) if set(word) <= set("<>")), len(words))
        yield (words[0].removeprefix(".venv/bin/"), *words[1:end])


def documented(program: str) -> list[Command]:
    found = {
        Command(str(path.relative_to(REPOSITORY)), words): None
        for path in DOCUMENTS
        for line in shell_lines(path.read_text())
        for words in commands_of(line)
        if words[0] == program
    }
    return list(found)


def test_the_readme_shows_the_two_commands() -> None:
    shown = {command.words for command in documented("make") if command.document == "README.md"}
    assert {("make", "demo"), ("make", "test")} <= shown


@pytest.mark.parametrize("command", documented("churn"), ids=str)
def test_a_documented_churn_command_is_one_that_the_command_line_takes(command: Command) -> None:
    verb, *arguments = command.words[1:]
    if verb != "--help":
        assert verb in verbs()
        verbs()[verb].parse([argument for argument in arguments if argument != "--help"])


@pytest.mark.parametrize("command", documented("make"), ids=str)
def test_a_documented_make_command_names_targets_and_variables_that_exist(command: Command) -> None:
    for word in command.words[1:]:
        name, is_variable, _ = word.partition("=")
        assert (name in MAKEFILE) if is_variable else (name in TARGETS), word
    dry_run = ["make", "--dry-run", *command.words[1:]]
    done = subprocess.run(dry_run, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in documented("mlflow") if c.words[1] == "run"], ids=str)
def test_a_documented_mlflow_run_names_an_entry_point_and_parameters_that_exist(command: Command) -> None:
    options = list(zip(command.words[3::2], command.words[4::2], strict=True))
    assert {name for name, _ in options} <= MLFLOW_OPTIONS
    entry_point = next((value for name, value in options if name in ("-e", "--entry-point")), "main")
    parameters = load_project(REPOSITORY).get_entry_point(entry_point).parameters
    assert {value.partition("=")[0] for name, value in options if name == "-P"} <= set(parameters)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_and_targets_named_in_running_text_exist(path: Path) -> None:
    text = FENCE.sub("", path.read_text())
    assert set(re.findall(r"`churn ([a-z][a-z-]*)", text)) <= set(verbs())
    assert set(re.findall(r"`make ([a-z]+)", text)) <= TARGETS


@pytest.mark.parametrize("verb", sorted({command.words[1] for command in documented("churn")} - {"--help"}))
def test_a_documented_verb_explains_itself(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "churn", verb, "--help"], check=False, capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert all(flag in done.stdout for flag in verbs()[verb].flags())


@pytest.mark.parametrize("command", [["make", "help"], [sys.executable, "-m", "churn", "settings"]], ids=" ".join)
def test_what_costs_nothing_is_run(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", FENCE.sub("", path.read_text()))
    assert not [link for link in links if not (path.parent / link).exists()]
