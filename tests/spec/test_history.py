"""Which version served when, told from the ledger: small tables that an analyst can read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from churn.core.history import Stint, served_on, stints, unended
from churn.domain.ledger import Entry, Kind


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ledger(*lines: tuple[str, Kind, str, str]) -> list[Entry]:
    """Entries from (time, kind, service, version)."""
    entries = []
    for number, (moment, kind, service, version) in enumerate(lines, start=1):
        facts: dict[str, Any] = {"service": service, "host": "shop", "pid": 100 + number}
        if version:
            facts |= {"version": version, "digest": f"digest of {version}"}
        entries.append(Entry(number, at(moment), kind, facts))
    return entries


LEDGER = ledger(
    ("2026-11-18 09:00", Kind.TOOK_UP, "a", "7"),
    ("2026-11-20 12:00", Kind.TOOK_UP, "a", "8"),
    ("2026-11-20 15:00", Kind.TOOK_UP, "a", "7"),  # rolled back
    ("2026-11-22 00:00", Kind.SERVICE_STOPPED, "a", ""),
    ("2026-11-24 00:00", Kind.TOOK_UP, "b", "9"),
)


def test_a_version_serves_until_the_same_process_takes_up_another_or_stops() -> None:
    assert [(each.version, each.since, each.until) for each in stints(LEDGER)] == [
        ("7", at("2026-11-18 09:00"), at("2026-11-20 12:00")),
        ("8", at("2026-11-20 12:00"), at("2026-11-20 15:00")),
        ("7", at("2026-11-20 15:00"), at("2026-11-22 00:00")),
        ("9", at("2026-11-24 00:00"), None),
    ]


@pytest.mark.parametrize(
    ("day", "versions"),
    [
        ("2026-11-17", []),
        ("2026-11-18", ["7"]),
        ("2026-11-19", ["7"]),
        ("2026-11-20", ["7", "8", "7"]),
        ("2026-11-21", ["7"]),
        ("2026-11-22", []),  # it stopped at midnight, which belongs to the next day
        ("2026-11-23", []),
        ("2026-11-24", ["9"]),
        ("2027-06-01", ["9"]),  # nobody wrote an end
    ],
)
def test_which_versions_served_on_a_day_in_utc(day: str, versions: list[str]) -> None:
    assert [stint.version for stint in served_on(LEDGER, date.fromisoformat(day))] == versions


def test_two_processes_serve_side_by_side() -> None:
    both = ledger(
        ("2026-11-20 09:00", Kind.TOOK_UP, "a", "7"),
        ("2026-11-20 10:00", Kind.TOOK_UP, "b", "8"),
        ("2026-11-20 11:00", Kind.SERVICE_STOPPED, "a", ""),
    )
    assert [(each.service, each.version, each.until) for each in stints(both)] == [
        ("a", "7", at("2026-11-20 11:00")),
        ("b", "8", None),
    ]


def test_other_entries_start_and_end_nothing() -> None:
    entries = [*ledger(("2026-11-20 09:00", Kind.TOOK_UP, "a", "7")), Entry(2, at("2026-11-21"), Kind.ROLLBACK, {})]
    assert stints(entries) == [Stint("7", "digest of 7", "shop", "a", at("2026-11-20 09:00"))]


def test_processes_without_an_end_are_found_for_their_own_host_alone() -> None:
    assert [facts["pid"] for facts in unended(LEDGER, "shop")] == [105]
    assert list(unended(LEDGER, "another")) == []
