"""Figures reach JSON and the page: one object a figure, each part at its own place; missed goals stand out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.figures import PARTS, REPOSITORY, Figure, at_least, at_most, command_of, filled, run, table

RATE = Figure("rate", 1600.0, "req/s", "plain: 100 req/s", 16.0, at_least(20), "ratio")
P99 = Figure("p99", 4.5, "ms", goal=at_most(5), histogram=((1.0, 3), (10.0, 1)))


def test_a_goal_is_held_against_the_value_or_the_ratio() -> None:
    assert P99.reached is True
    assert RATE.reached is False
    assert Figure("no goal", 1.0, "s").reached is None


def test_a_missed_goal_stands_out_in_the_table() -> None:
    assert table([RATE, P99])[2:] == [
        "| rate | 1,600 req/s | ratio at least 20 | **no** | plain: 100 req/s | 16.00 |",
        "| p99 | 4.5 ms | at most 5 | yes |  |  |",
    ]


def test_a_part_fills_its_own_place_again_and_again() -> None:
    page = "before\n<!-- a -->\nold\n<!-- end of a -->\nbetween\n<!-- b -->\n<!-- end of b -->\n"
    once = filled(page, "a", ["new"])
    assert once == "before\n<!-- a -->\nnew\n<!-- end of a -->\nbetween\n<!-- b -->\n<!-- end of b -->\n"
    assert filled(once, "a", ["new"]) == once


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for b"):
        filled("<!-- a -->\n<!-- end of a -->\n", "b", [])


@pytest.mark.parametrize("part", PARTS)
def test_the_page_has_a_place_for_every_part(part: str) -> None:
    page = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    assert page.count(f"<!-- {part} -->") == page.count(f"<!-- end of {part} -->") == 1


def test_a_run_writes_json_and_page_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    monkeypatch.setenv("BENCH_SECONDS", "1")
    run("service", lambda home: [RATE, P99])
    run("startup", lambda home: [Figure("start", 3.0, "s", goal=at_most(5))])
    found = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert [each["name"] for each in found] == ["rate", "p99", "start"]
    assert found[0] | {"machine": ""} == {
        "name": "rate",
        "value": 1600.0,
        "unit": "req/s",
        "goal": "ratio at least 20",
        "reached": False,
        "rival": "plain: 100 req/s",
        "ratio": 16.0,
        "command": "BENCH_SECONDS=1 python -m benchmarks.service",
        "machine": "",
    }
    assert found[1]["histogram"] == [[1.0, 3], [10.0, 1]]
    assert "| start | 3 s | at most 5 | yes |" in (tmp_path / "docs" / "benchmarks.md").read_text()
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == ["bench", "bench.json"]


def test_the_command_names_the_sizes_that_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_OUT", "elsewhere")
    monkeypatch.setenv("BENCH_USERS", "1000")
    assert command_of("river") == "BENCH_USERS=1000 python -m benchmarks.river"
