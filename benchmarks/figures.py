"""Figures of the benchmarks: printed as they are measured, kept in build/bench.json, shown in docs/benchmarks.md.

Each part of the benchmarks has a place of its own in the page, between two marks; what stands around them is written
by hand. BENCH_OUT names another folder for both files; sizes are variables BENCH_… too, and stand in the command.
"""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from benchmarks.graded_figures import WORDS, Goal

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = ("service", "forest", "scoring", "online_store", "prediction_log", "startup", "river")
Measure = Callable[[Path], Iterable["Figure"]]


@dataclass(frozen=True)
class Figure:
    """One measured figure. `ratio` is ours over the rival's in the sense that more is better, None without a rival.

    `goal` is one of the value or, with `goal_of`, of the ratio. `histogram`: (upper bound in ms, answers) a bucket.
    """

    name: str
    value: float
    unit: str
    rival: str = ""
    ratio: float | None = None
    goal: Goal | None = None
    goal_of: Literal["value", "ratio"] = "value"
    histogram: Sequence[tuple[float, int]] = ()

    @property
    def reached(self) -> bool | None:
        held = self.value if self.goal_of == "value" else self.ratio
        return None if self.goal is None or held is None else self.goal.reached(held)

    @property
    def goal_text(self) -> str:
        return "" if self.goal is None else f"{'ratio ' if self.goal_of == 'ratio' else ''}{self.goal}"

    def as_dict(self, command: str) -> dict[str, Any]:
        """For JSON."""
        told = {
            "name": self.name,
            "value": float(f"{self.value:.6g}"),
            "unit": self.unit,
            "goal": self.goal_text or None,
            "reached": self.reached,
            "rival": self.rival or None,
            "ratio": None if self.ratio is None else float(f"{self.ratio:.6g}"),
            "command": command,
            "machine": machine(),
        }
        return {**told, "histogram": self.histogram} if self.histogram else told


def at_least(bound: float) -> Goal:
    return Goal("at least", bound)


def at_most(bound: float) -> Goal:
    return Goal("at most", bound)


def size(name: str, default: int) -> int:
    """A size of the run: BENCH_`name` of the environment, else the default."""
    return int(os.environ.get(f"BENCH_{name}", default))


def seconds(name: str, default: float) -> float:
    """The same for a duration."""
    return float(os.environ.get(f"BENCH_{name}", default))


def out_folder() -> Path:
    """Where docs/ and build/ are written."""
    return Path(os.environ.get("BENCH_OUT", REPOSITORY))


def run(part: str, measure: Measure) -> None:
    """Measures in a scratch folder on the same disk as the repository: that of the system is often memory."""
    console = Console(stderr=True)
    build = out_folder() / "build"
    build.mkdir(parents=True, exist_ok=True)
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as scratch:
        for figure in measure(Path(scratch)):
            console.print(f"  {_line(figure)}", soft_wrap=True, markup=False)
            found.append(figure)
    keep(part, found)


def keep(part: str, found: Sequence[Figure]) -> None:
    """The figures in build/bench/<part>.json, build/bench.json and their place in docs/benchmarks.md."""
    out, command = out_folder(), command_of(part)
    told = [figure.as_dict(command) for figure in found]
    _write(out / "build" / "bench" / f"{part}.json", json.dumps(told, indent=1))
    parts = [out / "build" / "bench" / f"{name}.json" for name in PARTS]
    every = [figure for path in parts if path.is_file() for figure in json.loads(path.read_text())]
    _write(out / "build" / "bench.json", json.dumps(every, indent=1))
    page = out / "docs" / "benchmarks.md"
    text = (page if page.is_file() else REPOSITORY / "docs" / "benchmarks.md").read_text()
    _write(page, filled(text, part, [f"`{command}` · {machine()}", "", *table(found)]))


def filled(page: str, part: str, lines: Sequence[str]) -> str:
    """The page with these lines at the part's place; raises ValueError when it has none."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no place for {part}: {begin} … {end}")
    before, _, rest = page.partition(begin)
    return "".join([before, begin, "\n", "\n".join(lines), "\n", end, rest.partition(end)[2]])


def table(found: Sequence[Figure]) -> list[str]:
    """The figures as lines of a Markdown table; a goal that was missed stands out."""
    rows = [
        (f.name, f"{f.value:,.4g} {f.unit}", f.goal_text, WORDS[f.reached], f.rival, _number(f.ratio)) for f in found
    ]
    lines = ["| figure | value | goal | reached | rival | ratio |", "|---|---|---|---|---|---|"]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def command_of(part: str) -> str:
    """What measures the part again, with the sizes that are set."""
    sizes = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("BENCH_")]
    return " ".join([*(each for each in sizes if not each.startswith("BENCH_OUT=")), "python -m", f"benchmarks.{part}"])


def machine() -> str:
    """Processor, cores, memory and Python of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = re.search(r"^model name\s*:\s*(.+)$", _cpu_info(), re.MULTILINE)
    processor = found[1] if found else platform.machine()
    return f"{os.cpu_count()} cores {processor}, {memory:.0f} GB, Python {platform.python_version()}"


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""


def _line(figure: Figure) -> str:
    ratio = "" if figure.ratio is None else f" = {figure.ratio:,.2f} times {figure.rival}"
    goal = {True: f" (goal: {figure.goal_text})", False: f" MISSED (goal: {figure.goal_text})", None: ""}
    return f"{figure.name}: {figure.value:,.4g} {figure.unit}{ratio}{goal[figure.reached]}"


def _number(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.2f}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip("\n") + "\n")
