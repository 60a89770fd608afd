"""Small functions are the law; how large a module is, is a choice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def functions(package: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for path in (REPOSITORY / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first, last = function.lineno, function.end_lineno or function.lineno
    documented = ast.get_docstring(function) is not None
    docstring = function.body[0]
    inside = (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1 if documented else 0
    return last - first + 1 - inside


@pytest.mark.parametrize("package", ["src/churn", "serving"])
def test_half_of_all_functions_are_under_ten_lines_and_nine_in_ten_under_twenty_five(package: str) -> None:
    sizes = [lines_without_docstring(function) for function in functions(package)]
    assert median(sizes) < 10
    assert quantiles(sizes, n=10)[-1] < 25


@pytest.mark.parametrize("package", ["src/churn", "serving"])
def test_nine_in_ten_functions_take_at_most_three_positional_arguments(package: str) -> None:
    counts = [
        len(
            [
                argument
                for argument in function.args.posonlyargs + function.args.args
                if argument.arg not in ("self", "cls")
            ]
        )
        for function in functions(package)
    ]
    assert quantiles(counts, n=10)[-1] <= 3
