"""The service's side process on real stores: it follows the alias champion.

Apart from the other verbs, because it runs in the service's image, which holds neither dbt nor matplotlib.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Event

from churn import wiring
from churn.jobs.stage import StageOutcome, end_with_parent, run
from churn.settings import Settings


def follow_champion(settings: Settings, tell: Callable[[str], None]) -> None:
    """Stage the champion again and again, until the service that started this process is gone."""
    end_with_parent(sys.stdin.buffer)
    registry, cache = wiring.registry(settings), wiring.model_cache(settings)
    run(registry, cache, settings.poll_seconds, Event(), lambda outcome: tell(_staged(outcome)))


def _staged(outcome: StageOutcome) -> str:
    version = f" version {outcome.version.version}" if outcome.version else ""
    return f"champion: {outcome.kind}{version}{': ' if outcome.message else ''}{outcome.message}"
