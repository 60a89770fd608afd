"""What a broken rule of the contract looks like: a rule's words, and what was found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SAMPLES = 5
LONGEST_SAMPLE = 60
EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


class Severity(StrEnum):
    """FATAL stops; QUARANTINED sets rows aside; WARNING and NOTE only tell."""

    FATAL = "fatal"
    QUARANTINED = "quarantined"
    WARNING = "warning"
    NOTE = "note"


SEVERITIES = tuple(Severity)


@dataclass(frozen=True)
class Rule:
    """One rule in words. `hint` is the way out, for rules that have one."""

    name: str
    severity: Severity
    meaning: str
    hint: str = ""


@dataclass(frozen=True)
class Breach:
    """A rule that `count` rows (or columns) of a table break. `samples` are keys or names, never personal data."""

    table: str
    rule: str
    severity: Severity
    count: int
    samples: tuple[str, ...]
    meaning: str
    column: str = ""
    hint: str = ""

    @property
    def place(self) -> str:
        return ".".join(part for part in (self.table, self.column) if part)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "severity": self.severity.value, "samples": list(self.samples)}

    def __str__(self) -> str:
        shown = f" (for example {', '.join(self.samples)})" if self.samples else ""
        hint = f" {self.hint}" if self.hint else ""
        return f"{self.place}: {self.rule}, {self.count:,} x: {self.meaning}{shown}.{hint}"


def breach(
    rule: Rule, table: str, count: int = 1, *, column: str = "", samples: Iterable[str] = (), hint: str = ""
) -> Breach:
    """The breach of `rule`; of `samples` a few are kept, e-mail addresses masked. `hint` replaces the rule's own."""
    shown = tuple(masked(sample) for _, sample in zip(range(SAMPLES), samples, strict=False))
    return Breach(table, rule.name, rule.severity, count, shown, rule.meaning, column, hint or rule.hint)


def masked(text: str) -> str:
    """`ann@shop.org` as `a***@***`; control characters as `?`; long texts are cut."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    hidden = EMAIL.sub(lambda found: f"{found[0][0]}***@***", printable)
    return hidden if len(hidden) <= LONGEST_SAMPLE else f"{hidden[:LONGEST_SAMPLE]}…"


def worst_first(breaches: Iterable[Breach]) -> tuple[Breach, ...]:
    """Fatal ones first; within a severity the order of the rules is kept."""
    return tuple(sorted(breaches, key=lambda item: SEVERITIES.index(item.severity)))


def breach_rows(breaches: Iterable[Breach]) -> list[tuple[str, ...]]:
    """Rows for a table on the terminal: place, rule, severity, count, samples, meaning."""
    return [
        (item.place, item.rule, item.severity.value, f"{item.count:,}", ", ".join(item.samples), item.meaning)
        for item in breaches
    ]
