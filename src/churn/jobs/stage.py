"""Bring the champion into the local cache, again and again: the body of the service's side process.

It keeps the registry's client out of the service: whatever the registry or an artifact does, it happens here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from threading import Event, Thread
from typing import BinaryIO

from churn.core.backoff import Backoff
from churn.domain.artifacts import StagingStatus
from churn.domain.ports import ChampionSource, StagedModels
from churn.domain.versions import ModelVersion
from churn.errors import ChurnError, Refused, Unavailable

# An alias move is served within five seconds, also right after an outage of the registry: so pauses stay below.
_LONGEST_PAUSE_SECONDS = 3.0
_LONGEST_REFUSAL_SECONDS = 60.0


class Staged(StrEnum):
    """How one look at the registry ended."""

    STAGED = "staged"
    UNCHANGED = "unchanged"
    NO_CHAMPION = "no_champion"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True)
class StageOutcome:
    """`reason` is a short word for metrics, `message` a sentence; both empty unless FAILED."""

    kind: Staged
    version: ModelVersion | None = None
    reason: str = ""
    message: str = ""


def refusals() -> Backoff:
    """Memory of the version refused last: a bad artifact is not downloaded at every look."""
    return Backoff(1.0, _LONGEST_REFUSAL_SECONDS)


def stage_champion(source: ChampionSource, cache: StagedModels, memory: Backoff | None = None) -> StageOutcome:
    """One look: the champion, if any, is in the cache afterwards. Every ChurnError becomes an outcome.

    `memory` is that of earlier looks; without it a refused version is tried at once.
    """
    memory, version = memory or refusals(), None
    try:
        version = source.champion()
        if version is None:
            return StageOutcome(Staged.NO_CHAMPION)
        if memory.waits(_key(version), time.monotonic()):
            return StageOutcome(Staged.WAITING, version)
        return _stage(version, source, cache)
    except ChurnError as error:
        if version is not None and isinstance(error, Refused):
            memory.failed(_key(version), time.monotonic())
        return _failed(version, error)


def run(
    source: ChampionSource,
    cache: StagedModels,
    poll_seconds: float,
    stop: Event,
    tell: Callable[[StageOutcome], None],
) -> None:
    """Looks every `poll_seconds` until `stop` is set, slower while looks fail; `tell` hears every change."""
    status, memory, situation = StagingStatus(datetime.now(UTC)), refusals(), tuple[str, ...]()
    while not stop.is_set():
        outcome = _survived_look(source, cache, memory)
        status = _noted(status, outcome)
        # A disk that takes no status takes no model either, and that shows already; the next look writes it again.
        with suppress(Unavailable):
            cache.record_status(status)
        if outcome.kind is not Staged.WAITING and _situation(outcome) != situation:
            tell(outcome)
            situation = _situation(outcome)
        stop.wait(_pause(poll_seconds, status))


def end_with_parent(pipe: BinaryIO) -> None:
    """Ends this process at once when the other end of `pipe` is closed, which the system does also for kill -9.

    Staging may hang in a download, and the registry's client takes seconds to end in order. Leaving in the middle is
    safe: a version gets its name last.
    """

    def wait() -> None:
        pipe.read()
        os._exit(0)

    Thread(target=wait, name="end-with-parent", daemon=True).start()


def _stage(version: ModelVersion, source: ChampionSource, cache: StagedModels) -> StageOutcome:
    before = _champion_key(cache)
    after = cache.stage(version, source.fetch)
    return StageOutcome(Staged.UNCHANGED if before == after.key else Staged.STAGED, version)


def _key(version: ModelVersion) -> tuple[str, str]:
    return version.version, version.digest


def _champion_key(cache: StagedModels) -> tuple[str, str] | None:
    # A garbled pointer is written anew by staging.
    with suppress(Refused):
        champion = cache.champion()
        return champion.key if champion else None
    return None


def _survived_look(source: ChampionSource, cache: StagedModels, memory: Backoff) -> StageOutcome:
    try:
        return stage_champion(source, cache, memory)
    except Exception as error:  # the loop outlives a bug in a client library; what happened is told and counted
        return StageOutcome(Staged.FAILED, None, "unexpected", f"{type(error).__name__}: {error}")


def _failed(version: ModelVersion | None, error: ChurnError) -> StageOutcome:
    default = "refused" if isinstance(error, Refused) else "unavailable"
    return StageOutcome(Staged.FAILED, version, str(error.facts.get("reason", default)), error.message)


def _noted(status: StagingStatus, outcome: StageOutcome) -> StagingStatus:
    now = datetime.now(UTC)
    if outcome.kind is Staged.WAITING:
        return replace(status, last_look_at=now)
    if outcome.kind is Staged.FAILED:
        failed = replace(status, last_failure_at=now, last_failure_reason=outcome.reason, failures=status.failures + 1)
        return replace(failed, last_look_at=now, failing=True)
    champion = outcome.version.version if outcome.version else None
    return replace(status, last_look_at=now, last_success_at=now, champion_version=champion, failing=False)


def _situation(outcome: StageOutcome) -> tuple[str, ...]:
    """What is worth telling when it changes: that a version just staged is still the champion is not."""
    kind = Staged.UNCHANGED if outcome.kind is Staged.STAGED else outcome.kind
    return kind, outcome.version.version if outcome.version else "", outcome.reason


def _pause(poll_seconds: float, status: StagingStatus) -> float:
    return min(2 * poll_seconds, max(poll_seconds, _LONGEST_PAUSE_SECONDS)) if status.failing else poll_seconds
