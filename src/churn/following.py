"""The service's side process and what an operator asks of a running service, on real stores.

Apart from the other verbs, because they run in the service's image, which holds neither dbt nor matplotlib.
"""

from __future__ import annotations

import getpass
import ipaddress
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from threading import Event
from typing import TYPE_CHECKING, Any

from churn import logs, wiring
from churn.core.history import Stint, served_on, stints
from churn.domain.artifacts import Pointer
from churn.domain.ledger import History
from churn.domain.records import CompactedDay
from churn.domain.versions import CHAMPION
from churn.domain.windows import parse_instant
from churn.errors import BadInput
from churn.jobs.rollback import RollbackParts, RolledBack, roll_back
from churn.jobs.stage import Following, Staged, StageOutcome, end_with_parent, run
from churn.settings import Settings

if TYPE_CHECKING:
    from churn.jobs.serve import Announce

_APP = "serving.app:create_app"
_LOG = logging.getLogger("churn.staging")


def check_access(settings: Settings) -> None:
    """Whether the service may start: somebody can open it, or nobody but this machine can reach it.

    Raises NotReady without a key, BadInput in development on any address but the loopback's, Unavailable.
    """
    wiring.keys_of_service(settings)
    if settings.mode == "development" and not _is_loopback(settings.host):
        raise BadInput(
            f"in development mode the service asks for no key, so it does not bind to {settings.host}",
            hint="Bind to 127.0.0.1; or unset CHURN_MODE, and: churn keys add NAME --scope score.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run_service(settings: Settings, announce: Announce) -> None:
    """Serves until SIGTERM or SIGINT. Raises NotReady before the first snapshot, Unavailable when a port is taken."""
    from churn.jobs.serve import serve, serve_by_workers  # only this verb needs a web server

    program = [sys.executable, "-m", "churn"]
    if settings.workers == 1:
        serve(_APP, announce=announce, side_command=[*program, "stage"], **_binding(settings))
        return
    wiring.raw_tables(settings).current()  # a mistake is told here, once, rather than by each worker again and again
    serve_by_workers(
        lambda numbers: [*program, "worker", *map(str, numbers)],
        workers=settings.workers,
        side_command=[*program, "stage"],
        announce=announce,
        **_binding(settings),
    )


def run_worker(settings: Settings, sockets: Sequence[int]) -> None:
    """Serves as one of several processes; see jobs.serve."""
    from churn.jobs.serve import serve_as_worker

    serve_as_worker(_APP, sockets, settings.drain_seconds)


def _binding(settings: Settings) -> dict[str, Any]:
    return {"host": settings.host, "port": settings.port, "drain_seconds": settings.drain_seconds}


def follow_champion(settings: Settings) -> None:
    """Stage the champion again and again, until the service that started this process is gone."""
    end_with_parent(sys.stdin.buffer)
    parts = Following(
        source=wiring.registry(settings),
        cache=wiring.model_cache(settings),
        admit=wiring.admission(settings),
        ledger=wiring.ledger(settings),
    )
    logs.adopt()  # the registry's client has made handlers of its own
    run(parts, settings.poll_seconds, Event(), _tell)


def _tell(outcome: StageOutcome) -> None:
    version = outcome.version.version if outcome.version else None
    known = logs.facts(outcome=outcome.kind, version=version, **({"reason": outcome.reason} if outcome.reason else {}))
    level = logging.WARNING if outcome.kind is Staged.FAILED else logging.INFO
    text = f"champion: {outcome.kind}{f' version {version}' if version else ''}"
    _LOG.log(level, "%s%s", text, f": {outcome.message}" if outcome.message else "", extra=known)


def roll_back_champion(settings: Settings, why: str, tell: Callable[[Pointer, Pointer], None]) -> RolledBack:
    """Serve the version before again; see jobs.rollback."""

    def move_alias(version: str) -> None:
        # Opened only now: its client takes seconds to load, and the service need not wait for it.
        wiring.hasty_registry(settings).set_alias(CHAMPION, version)

    parts = RollbackParts(wiring.model_cache(settings), wiring.ledger(settings), move_alias, tell)
    return roll_back(parts, why=why, by=_user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return ""


def compact_log(settings: Settings) -> list[CompactedDay]:
    """Past days of the prediction log into one file each. Days are those of the system's clock, as segments' names are.

    Raises Unavailable.
    """
    return wiring.logged_predictions(settings).compact(datetime.now(UTC).date())


@dataclass(frozen=True)
class Told:
    """The ledger, and who served: at all, or on `day` (UTC)."""

    history: History
    served: list[Stint]
    day: date | None


def told_history(settings: Settings, on: str) -> Told:
    """What the ledger tells. Raises BadInput when `on` is no date, Unavailable."""
    day = parse_instant(on).date() if on else None
    history = wiring.ledger(settings).read()
    return Told(history, served_on(history.entries, day) if day else stints(history.entries), day)
