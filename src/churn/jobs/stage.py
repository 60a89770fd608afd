"""Bring the champion into the local cache, again and again: the body of the service's side process.

It keeps the registry's client out of the service: whatever the registry or an artifact does, it happens here. Whoever
moves the alias, a version comes in only if it is admitted; each look judges anew, for a verdict may be added later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from threading import Event, Thread
from typing import BinaryIO

from churn.core.admission import Admit
from churn.core.backoff import Backoff
from churn.core.history import Note, Sightings
from churn.domain.artifacts import Refusal, StagingStatus
from churn.domain.ledger import Kind
from churn.domain.ports import ChampionSource, Ledger, StagedModels
from churn.domain.versions import CHAMPION, ModelVersion
from churn.errors import ChurnError, Refused, Unavailable

# An alias move is served within five seconds, also right after an outage of the registry: so pauses stay below.
_LONGEST_PAUSE_SECONDS = 3.0
_WAKE_SECONDS = 0.1
_LONGEST_REFUSAL_SECONDS = 60.0


class Staged(StrEnum):
    """How one look at the registry ended."""

    STAGED = "staged"
    UNCHANGED = "unchanged"
    NO_CHAMPION = "no_champion"
    WAITING = "waiting"
    HELD = "held"
    FAILED = "failed"


@dataclass(frozen=True)
class StageOutcome:
    """`reason` is a short word for metrics, `message` a sentence; both empty unless FAILED.

    `refused`: it failed because the version must not serve. `override`: a person's words that admitted it.
    """

    kind: Staged
    version: ModelVersion | None = None
    reason: str = ""
    message: str = ""
    refused: bool = False
    override: str = ""


@dataclass(frozen=True)
class Following:
    """What following the alias needs. `admit` says of a version whether it may serve."""

    source: ChampionSource
    cache: StagedModels
    admit: Admit
    ledger: Ledger


def refusals() -> Backoff:
    """Memory of the version refused last: a bad artifact is not downloaded at every look."""
    return Backoff(1.0, _LONGEST_REFUSAL_SECONDS)


def stage_champion(parts: Following, memory: Backoff | None = None) -> StageOutcome:
    """One look: the champion, if any and if admitted, is in the cache afterwards. Every ChurnError becomes an outcome.

    `memory` is that of earlier looks; without it a refused artifact is tried at once.
    """
    memory, version = memory or refusals(), None
    try:
        version = parts.source.champion()
        if version is None:
            return StageOutcome(Staged.NO_CHAMPION)
        return _admitted(version, parts, memory)
    except ChurnError as error:
        if version is not None and isinstance(error, Refused):
            memory.failed(version.key, time.monotonic())
        return _failed(version, error)


def run(parts: Following, poll_seconds: float, stop: Event, tell: Callable[[StageOutcome], None]) -> None:
    """Looks every `poll_seconds` until `stop` is set, slower while looks fail; `tell` hears every change.

    Whoever wakes the cache has the next look within a tenth of a second.
    """
    status, memory, situation = StagingStatus(datetime.now(UTC)), refusals(), tuple[str, ...]()
    sightings = _told_before(parts.ledger)
    while not stop.is_set():
        woken = _woken(parts.cache)  # before the look: a call that comes during it has one of its own
        outcome = _survived_look(parts, memory)
        status = _noted(status, outcome)
        # A disk that takes no status takes no model either, and that shows already; the next look writes it again.
        with suppress(Unavailable):
            parts.cache.record_status(status)
            _record(parts.ledger, sightings, outcome)
        if outcome.kind is not Staged.WAITING and _situation(outcome) != situation:
            tell(outcome)
            situation = _situation(outcome)
        _rest(parts.cache, woken, _pause(poll_seconds, status), stop)


def _rest(cache: StagedModels, woken: int, seconds: float, stop: Event) -> None:
    """Waits `seconds`, less when `stop` is set or the cache is woken."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and _woken(cache) == woken:
        if stop.wait(min(_WAKE_SECONDS, left)):
            return


def _woken(cache: StagedModels) -> int:
    with suppress(Unavailable):  # then nobody can be heard, and the poll goes on
        return cache.woken()
    return 0


def end_with_parent(pipe: BinaryIO) -> None:
    """Ends this process at once when the other end of `pipe` is closed, which the system does also for kill -9.

    Staging may hang in a download, and the registry's client takes seconds to end in order. Leaving in the middle is
    safe: a version gets its name last.
    """

    def wait() -> None:
        pipe.read()
        os._exit(0)

    Thread(target=wait, name="end-with-parent", daemon=True).start()


def _admitted(version: ModelVersion, parts: Following, memory: Backoff) -> StageOutcome:
    admission = parts.admit(version)
    if not admission.admitted:
        return StageOutcome(Staged.FAILED, version, admission.reason, admission.found, refused=True)
    if memory.waits(version.key, time.monotonic()):
        return StageOutcome(Staged.WAITING, version)
    return replace(_stage(version, parts.source, parts.cache), override=admission.override)


def _stage(version: ModelVersion, source: ChampionSource, cache: StagedModels) -> StageOutcome:
    before = _champion_key(cache)
    after = cache.stage(version, source.fetch)
    if after.key != version.key:
        return StageOutcome(Staged.HELD, version)
    return StageOutcome(Staged.UNCHANGED if before == after.key else Staged.STAGED, version)


def _champion_key(cache: StagedModels) -> tuple[str, str] | None:
    # A garbled pointer is written anew by staging.
    with suppress(Refused):
        champion = cache.champion()
        return champion.key if champion else None
    return None


def _survived_look(parts: Following, memory: Backoff) -> StageOutcome:
    try:
        return stage_champion(parts, memory)
    except Exception as error:  # the loop outlives a bug in a client library; what happened is told and counted
        return StageOutcome(Staged.FAILED, None, "unexpected", f"{type(error).__name__}: {error}")


def _failed(version: ModelVersion | None, error: ChurnError) -> StageOutcome:
    refused = version is not None and isinstance(error, Refused)
    reason = str(error.facts.get("reason", "refused" if refused else "unavailable"))
    return StageOutcome(Staged.FAILED, version, reason, error.message, refused=refused)


def _noted(status: StagingStatus, outcome: StageOutcome) -> StagingStatus:
    now = datetime.now(UTC)
    if outcome.kind is Staged.WAITING:
        return replace(status, last_look_at=now)
    if outcome.kind is Staged.FAILED:
        return _noted_failure(replace(status, last_look_at=now, last_failure_at=now), outcome)
    champion = outcome.version.version if outcome.version else None
    held = champion if outcome.kind is Staged.HELD else None
    seen = replace(status, champion_version=champion, refused=None, held_version=held)
    return replace(seen, last_look_at=now, last_success_at=now, failing=False)


def _noted_failure(status: StagingStatus, outcome: StageOutcome) -> StagingStatus:
    failed = replace(status, last_failure_reason=outcome.reason, failures=status.failures + 1, failing=True)
    if not outcome.refused or outcome.version is None:
        return failed
    version = outcome.version.version
    refusal = Refusal(version, outcome.reason, outcome.message)
    return replace(failed, champion_version=version, refused=refusal, held_version=None)


def _told_before(ledger: Ledger) -> Sightings:
    """What earlier processes told: after a restart the same is not told again."""
    with suppress(Unavailable):
        return Sightings(ledger.read().entries)
    return Sightings()


def _record(ledger: Ledger, sightings: Sightings, outcome: StageOutcome) -> None:
    """Tells the ledger what is news. Raises Unavailable; then it is still news at the next look."""
    for note in _notes(outcome):
        if sightings.is_news(note):
            ledger.note(*note)
            sightings.keep(note)


def _notes(outcome: StageOutcome) -> Iterator[Note]:
    version = outcome.version.version if outcome.version else None
    if version is not None or outcome.kind is Staged.NO_CHAMPION:
        yield Kind.ALIAS_SEEN, {"alias": CHAMPION, "version": version}
    if outcome.refused:
        yield Kind.REFUSED, {"version": version, "reason": outcome.reason, "found": outcome.message}
    if outcome.override:
        yield Kind.OVERRIDE, {"version": version, "why": outcome.override}


def _situation(outcome: StageOutcome) -> tuple[str, ...]:
    """What is worth telling when it changes: that a version just staged is still the champion is not."""
    kind = Staged.UNCHANGED if outcome.kind is Staged.STAGED else outcome.kind
    return kind, outcome.version.version if outcome.version else "", outcome.reason


def _pause(poll_seconds: float, status: StagingStatus) -> float:
    return min(2 * poll_seconds, max(poll_seconds, _LONGEST_PAUSE_SECONDS)) if status.failing else poll_seconds
