"""A graded figure: a measured value, the goal it is held to, and what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """What a value should be: `at least` or `at most` a bound."""

    sense: Literal["at least", "at most"]
    bound: float

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.sense == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """One measured value. `trials` says how often it was tried, `n` on how many rows each time, `seed` the first seed.

    Without a goal a figure explains another one.
    """

    name: str
    value: float
    goal: Goal | None
    trials: int
    seed: int
    n: int
    note: str = ""

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.goal.reached(self.value)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "value": round(self.value, 6),
            "goal": None if self.goal is None else str(self.goal),
            "reached": self.reached,
            "trials": self.trials,
            "seed": self.seed,
            "n": self.n,
            "note": self.note,
        }


def table(figures: Sequence[Figure]) -> list[str]:
    """The figures as lines of a Markdown table; a goal that was missed stands out."""
    lines = ["| figure | value | goal | reached | trials | n | note |", "|---|---|---|---|---|---|---|"]
    return lines + [
        f"| {each.name} | {each.value:.4f} | {each.goal or ''} | {WORDS[each.reached]}"
        f" | {each.trials} | {each.n:,} | {each.note} |"
        for each in figures
    ]


WORDS = {True: "yes", False: "**no**", None: ""}
