"""What follows from the ledger: which version served when, what is still open, and what was told already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from churn.domain.ledger import Entry, Kind

Note = tuple[Kind, dict[str, Any]]


@dataclass(frozen=True)
class Stint:
    """A version in service in one process during [since, until), in UTC; `until` is None while no end is recorded."""

    version: str
    digest: str
    host: str
    service: str
    since: datetime
    until: datetime | None = None


def stints(entries: Iterable[Entry]) -> list[Stint]:
    """Who served when, oldest first. A take-up ends the stint before it in the same process, and so does its stop."""
    ended: list[Stint] = []
    open_ones: dict[str, Stint] = {}
    for entry in entries:
        if entry.kind not in (Kind.TOOK_UP, Kind.SERVICE_STOPPED):
            continue
        if before := open_ones.pop(str(entry.facts["service"]), None):
            ended.append(replace(before, until=entry.at))
        if entry.kind is Kind.TOOK_UP:
            started = _stint(entry)
            open_ones[started.service] = started
    return sorted([*ended, *open_ones.values()], key=lambda stint: stint.since)


def served_on(entries: Iterable[Entry], day: date) -> list[Stint]:
    """The stints that reach into the UTC day."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    return [stint for stint in stints(entries) if stint.since < end and (stint.until is None or stint.until > start)]


def unended(entries: Sequence[Entry], host: str) -> Iterator[dict[str, Any]]:
    """Facts of the last take-up of each process of `host` whose end was not recorded."""
    waiting = {stint.service for stint in stints(entries) if stint.until is None and stint.host == host}
    newest = {str(entry.facts["service"]): dict(entry.facts) for entry in entries if entry.kind is Kind.TOOK_UP}
    return (facts for service, facts in newest.items() if service in waiting)


class Sightings:
    """What following the alias told the ledger since the alias last moved: each thing once, not at each look."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._told: set[tuple[str, ...]] = set()
        for entry in entries:
            if entry.kind in (Kind.ALIAS_SEEN, Kind.REFUSED, Kind.OVERRIDE):
                self.keep((entry.kind, dict(entry.facts)))

    def is_news(self, note: Note) -> bool:
        return _gist(note) not in self._told

    def keep(self, note: Note) -> None:
        if note[0] is Kind.ALIAS_SEEN:
            self._told.clear()
        self._told.add(_gist(note))


def _gist(note: Note) -> tuple[str, ...]:
    kind, facts = note
    return kind, *(str(facts.get(name)) for name in ("version", "reason", "why"))


def _stint(entry: Entry) -> Stint:
    version, digest, host, service = (str(entry.facts[name]) for name in ("version", "digest", "host", "service"))
    return Stint(version, digest, host, service, entry.at)
