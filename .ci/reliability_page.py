"""Writes docs/reliability.md from tests/faults/rows.yaml and the tests' marks: `python .ci/reliability_page.py`.

`make fix` runs it; `tests/house/test_reliability_page.py` fails when the page is stale. Tests are read, not imported.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reliability.md"
MARK = "fault"
HEAD = """\
# What can go wrong, and what happens then

Written by `.ci/reliability_page.py` from `tests/faults/rows.yaml` and from the tests that name a row
(`@pytest.mark.fault("F1")`); `make fix` writes it again. Every test named here runs in `make test`, against real
parts wherever the fault is one of theirs: Redis, MLflow and the service as processes that are killed and frozen, a TCP
proxy that delays, cuts and garbles, system calls that fail or kill (`strace`), a clock that jumps (`faketime`).

"""

COLUMNS = ["| row | fault | what happens | shown by |", "|---|---|---|---|"]
Tests = Mapping[str, list[tuple[Path, str]]]


def marked_tests() -> Tests:
    """Row id -> the tests that are marked with it, as (file, name of the function), in the order of the files."""
    found: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for row in _rows_of(node):
                    found[row].append((path.relative_to(REPOSITORY), node.name))
    return found


def _rows_of(function: ast.FunctionDef) -> Iterator[str]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"pytest.mark.{MARK}":
            yield from (str(ast.literal_eval(argument)) for argument in decorator.args)


def groups() -> dict[str, Any]:
    """The table of rows, by group."""
    table: dict[str, Any] = yaml.safe_load((REPOSITORY / "tests" / "faults" / "rows.yaml").read_text())
    return table


def page() -> str:
    """The whole page."""
    tests = marked_tests()
    return HEAD + "\n".join(_section(letter, group, tests) for letter, group in groups().items())


def _section(letter: str, group: Mapping[str, Any], tests: Tests) -> str:
    rows = group["rows"]
    shown = [_line(name, row, tests[name]) for name, row in rows.items() if "untested" not in row]
    lines = [f"## {letter}: {group['title']}", "", *COLUMNS, *shown]
    left = [f"- **{name}** {row['fault']}. {row['untested']}." for name, row in rows.items() if "untested" in row]
    return "\n".join([*lines, *(["", "Without a test:", "", *left] if left else []), ""])


def _line(name: str, row: Mapping[str, str], tests: list[tuple[Path, str]]) -> str:
    happens = row["behaviour"] + (f". *{row['limits']}.*" if "limits" in row else "")
    return f"| {name} | {row['fault']} | {happens} | {'<br>'.join(_link(*test) for test in tests)} |"


def _link(path: Path, name: str) -> str:
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})"


if __name__ == "__main__":
    PAGE.write_text(page())
