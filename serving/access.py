"""Who passes: a key, known by its digest, with a scope for the route and within its rate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Thread

from starlette.datastructures import Headers

from churn.core.rate_limit import Bucket
from churn.domain.access import ApiKey, Scope, key_digest
from churn.domain.ports import ApiKeys
from churn.errors import ChurnError
from serving.errors import Problem
from serving.metrics import Metrics

LOOK_SECONDS = 1.0
_LOG = logging.getLogger("churn.serving")


@dataclass(frozen=True)
class _Holder:
    """A key that holds, and what it has left of its rate in this process."""

    key: ApiKey
    bucket: Bucket | None


class Gate:
    """Lets requests pass, or raises Problem; without keys, in development, it stands open.

    The keys are read again every second, beside the requests. While they cannot be read, those known go on to hold.
    """

    def __init__(self, keys: ApiKeys | None, metrics: Metrics) -> None:
        self._keys = keys
        self._metrics = metrics
        self._holders: Mapping[str, _Holder] = {}
        self._failing = False
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="key-watch", daemon=True)

    def start(self) -> None:
        """Reads the keys once, then goes on reading them."""
        if self._keys is not None:
            self.look(self._keys)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def check(self, headers: Headers, scope: Scope | None) -> str:
        """The name of the key that passes, "" where none is needed; raises Problem unless it may have `scope`."""
        if scope is None or self._keys is None:
            return ""
        holder = self._holders.get(_presented(headers))
        if holder is None:
            raise Problem("unauthenticated")
        wait = holder.bucket.take(time.monotonic()) if holder.bucket else 0.0
        if wait > 0:
            raise Problem("rate_limited", retry_after_seconds=math.ceil(wait))
        if scope not in holder.key.scopes:
            raise Problem("forbidden")
        return holder.key.name

    def look(self, keys: ApiKeys) -> None:
        """One reading of the keys. Never raises ChurnError."""
        try:
            self._take_up(keys.read())
        except ChurnError as error:
            self._note_failure(error)
        else:
            self._failing = False

    def _watch(self) -> None:
        while self._keys is not None and not self._stop.wait(LOOK_SECONDS):
            try:
                self.look(self._keys)
            except Exception:  # the watch outlives a bug, else no key could be revoked any more
                self._metrics.keys_failed()
                _LOG.exception("the look at the API keys failed")

    def _take_up(self, keys: Sequence[ApiKey]) -> None:
        holding = {key.digest: key for key in keys if key.revoked_at is None}
        before = self._holders
        if holding != {digest: holder.key for digest, holder in before.items()}:
            kept = {digest: holder for digest, holder in before.items() if holding.get(digest) == holder.key}
            self._holders = {digest: kept.get(digest) or _holder(key) for digest, key in holding.items()}
            _LOG.info("%d API keys hold", len(holding))

    def _note_failure(self, error: ChurnError) -> None:
        self._metrics.keys_failed()
        if not self._failing:
            _LOG.warning("the API keys known so far go on to hold: %s", error.message)
        self._failing = True


def _holder(key: ApiKey) -> _Holder:
    return _Holder(key, None if key.rate is None else Bucket(key.rate, time.monotonic()))


def _presented(headers: Headers) -> str:
    """The digest of the key that a request shows; "" when it shows none, or more than one."""
    given = headers.getlist("authorization")
    scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return key_digest(key.strip()) if scheme.lower() == "bearer" else ""
