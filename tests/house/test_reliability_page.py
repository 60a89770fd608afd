"""Each row of the fault list is shown by a test or says why it is not, and the page says the same."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(REPOSITORY / ".ci" / "reliability_page.py"))
TESTS = SCRIPT["marked_tests"]()
ROWS: dict[str, dict[str, str]] = {
    name: row for group in SCRIPT["groups"]().values() for name, row in group["rows"].items()
}


def test_the_page_is_up_to_date() -> None:
    assert SCRIPT["PAGE"].read_text() == SCRIPT["page"](), "stale: run `make fix`"


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_shown_by_a_test_or_says_why_it_is_not(name: str) -> None:
    row = ROWS[name]
    assert {"fault", "behaviour"} <= set(row) <= {"fault", "behaviour", "limits", "untested"}
    assert not [text for text in row.values() if "|" in text or text.endswith(".")]
    assert (name in TESTS) != ("untested" in row)


def test_a_test_names_no_row_that_does_not_exist() -> None:
    assert set(TESTS) - set(ROWS) == set()


def test_every_mark_is_where_the_page_finds_it(request: pytest.FixtureRequest) -> None:
    """On a function of a module: a mark on a module or class would be missed."""
    listed = {(str(path), name) for tests in TESTS.values() for path, name in tests}
    collected = set[tuple[Any, str]]()
    for item in request.session.items:
        if item.get_closest_marker("fault"):
            collected.add((str(item.path.relative_to(REPOSITORY)), item.function.__name__))  # type: ignore[attr-defined]
    assert collected <= listed
