"""What this process tells the ledger: which model it took up, and that it stopped."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

from churn.core.history import unended
from churn.core.scoring import ServedModel
from churn.domain.ledger import Kind
from churn.domain.ports import Ledger
from churn.errors import ChurnError
from serving.metrics import Metrics


class TakeUps:
    """Entries of one process. A ledger that cannot be written is counted, and hinders nothing."""

    def __init__(self, ledger: Ledger, metrics: Metrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "service": secrets.token_hex(4)}
        self._serves = False

    def started(self) -> None:
        """Writes down the end of processes that could not do it themselves: killed ones, of this host."""
        try:
            for facts in unended(self._ledger.read().entries, str(self._me["host"])):
                if not _is_another_that_lives(int(facts["pid"])):
                    self._stopped({**self._me, "pid": facts["pid"], "service": facts["service"], "killed": True})
        except ChurnError:
            self._metrics.ledger_failed()

    def took_up(self, model: ServedModel) -> None:
        self._serves = True
        self._note(Kind.TOOK_UP, {"version": model.version, "digest": model.digest, **self._me})

    def stopped(self) -> None:
        if self._serves:
            self._stopped(self._me)

    def _stopped(self, facts: dict[str, Any]) -> None:
        self._note(Kind.SERVICE_STOPPED, facts)

    def _note(self, kind: Kind, facts: dict[str, Any]) -> None:
        try:
            self._ledger.note(kind, facts)
        except ChurnError:
            self._metrics.ledger_failed()


def _is_another_that_lives(pid: int) -> bool:
    """Our own number is no other's: in a container every service has the same."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and is somebody else's
        return True
    return True
