"""`make graded`: what is promised of shops with known truth, measured -> docs/graded.md, build/graded.json.

To grade something else, add a Measurement to MEASUREMENTS. `python -m benchmarks.graded --trials 4 --users 20000` is a
short run; it writes only where --out says.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.graded_figures import Figure, table
from benchmarks.graded_model import answers, model_figures
from benchmarks.graded_shops import KnownShop, known_shop
from benchmarks.graded_verdicts import verdict_figures

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    shops: int
    users: int
    trials: int
    rows: int


@dataclass
class Bench:
    """What measurements share: the shops, made once when first asked for, processes, and the progress bar."""

    size: Size
    pool: ProcessPoolExecutor
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def shops(self) -> list[KnownShop]:
        done = self.steps("shops", self.size.shops)
        return [
            _and(done, shop)
            for shop in self.pool.map(partial(known_shop, self.size.users), range(1, self.size.shops + 1))
        ]

    def steps(self, name: str, total: int) -> Callable[[], None]:
        """A line of the progress bar; call what is returned after each step."""
        task = self.progress.add_task(name, total=total)
        return partial(self.progress.advance, task)


@dataclass(frozen=True)
class Measurement:
    """A part of the page: what was measured in words, and the figures."""

    title: str
    told: str
    figures: Callable[[Bench], list[Figure]]


def _and(done: Callable[[], None], shop: KnownShop) -> KnownShop:
    done()
    return shop


def attainable(bench: Bench) -> list[Figure]:
    shops, done = bench.shops, bench.steps("attainable", bench.size.shops)
    found: list[Figure] = []
    for each in bench.pool.map(answers, shops):
        found += model_figures(each)
        done()
    return found


def verdicts(bench: Bench) -> list[Figure]:
    shops, size = bench.shops, bench.size
    return verdict_figures(shops, size.trials, size.rows, bench.pool, bench.steps("verdicts", size.trials))


MEASUREMENTS = (
    Measurement(
        "How near the model comes to what can be known",
        "Each shop goes through the river: simulate, ingest, build-features, training rows. The shipped forest is"
        " fitted on the monthly cutoffs of January to August 2025 and asked at 2025-10-01. `attainable` is the"
        " probability given all that could be known at a cutoff. AUC is taken over the probability of each"
        " outcome, not over one draw of them; ECE over what happened, so that even the attainable probability has"
        " one.",
        attainable,
    ),
    Measurement(
        "How often the verdict is right",
        "A trial is a sample of a shop's users: their real feature rows, with every outcome drawn anew from its"
        " attainable probability, for training and for test. That gives independent futures without building"
        " features again, though samples of one shop share users. The shipped forest is fitted on two cutoffs"
        " whose horizons do not overlap and tested on a third. The other model is the shipped one with noise in"
        " its log-odds, scaled until its expected log loss is worse by exactly the stated gap, or logistic"
        " regression on the first eleven features; which of two is truly better is told by their expected log"
        " loss. Both are judged under the committed `policy.yaml`, in both roles. `equal`: two models with"
        " different noise of the same worth; the policy's 95 % intervals let at most 2.5 % of such through. The"
        " smaller gap has no goal in the better role: it shows how much a verdict on so many rows can still see.",
        verdicts,
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    size = Size(options.shops, options.users, options.trials, options.rows)
    started, console = time.monotonic(), Console(stderr=True)
    parts = measure(size, options.workers, console)
    minutes = (time.monotonic() - started) / 60
    write(options.out, parts, _how(size, options.workers, minutes))
    console.print(f"docs/graded.md and build/graded.json in {options.out}, in {minutes:.0f} minutes")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="graded", description="Graded trials on shops with known truth.")
    parser.add_argument("--shops", type=int, default=2, help="how many shops go through the river")
    parser.add_argument("--users", type=int, default=88_000, help="of each shop; a quarter of them is eligible")
    parser.add_argument("--trials", type=int, default=50, help="of the verdict")
    parser.add_argument("--rows", type=int, default=8_000, help="test rows of a trial, at most those of a shop")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--out", type=Path, default=REPOSITORY, help="the folder that docs/ and build/ lie in")
    return parser.parse_args(arguments)


def measure(size: Size, workers: int, console: Console) -> list[tuple[Measurement, list[Figure]]]:
    """Every measurement with its figures; each figure is printed as it is there."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("spawn")
    found = []
    with Progress(*columns, console=console) as progress, ProcessPoolExecutor(workers, context) as pool:
        bench = Bench(size, pool, progress)
        for measurement in MEASUREMENTS:
            figures = measurement.figures(bench)
            console.print(*(f"{each.name}: {each.value:.4f} ({each.note})" for each in figures), sep="\n")
            found.append((measurement, figures))
    return found


def write(out: Path, parts: Sequence[tuple[Measurement, list[Figure]]], how: str) -> None:
    """docs/graded.md and build/graded.json below `out`."""
    figures = [each.as_dict() for each in chain.from_iterable(figures for _, figures in parts)]
    texts = {"build/graded.json": json.dumps(figures, indent=1), "docs/graded.md": page(parts, how)}
    for name, text in texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text.rstrip("\n") + "\n")


def page(parts: Sequence[tuple[Measurement, list[Figure]]], how: str) -> str:
    """docs/graded.md: what was missed first, then each measurement."""
    figures = [each for _, found in parts for each in found]
    graded, missed = [f for f in figures if f.goal], [f for f in figures if f.reached is False]
    lines = ["# Graded trials on shops with known truth", "", f"Written by `make graded`: {how}", ""]
    lines += [f"Of {len(graded)} goals {len(graded) - len(missed)} are reached."]
    lines += [f"- missed: {each.name} is {each.value:.4f}, the goal {each.goal}" for each in missed]
    for measurement, found in parts:
        lines += ["", f"## {measurement.title}", "", measurement.told, "", *table(found)]
    return "\n".join(lines)


def _how(size: Size, workers: int, minutes: float) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{size.shops} shops of {size.users:,} users, {size.trials} trials of about {size.rows:,} test rows;"
        f" {minutes:.0f} minutes with {workers} processes on {os.cpu_count()} cores and {memory:.0f} GB"
        f" ({platform.machine()})."
    )


if __name__ == "__main__":
    main()
