"""The model in service: watched for, loaded and checked beside the requests, then swapped as one reference."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Thread

from churn.core.backoff import Backoff
from churn.core.scoring import ServedModel
from churn.domain.artifacts import Pointer, StagingStatus
from churn.errors import ChurnError, Refused
from churn.logs import facts
from churn.stores.model_cache import ModelCache
from serving.metrics import Metrics
from serving.takeups import TakeUps

WATCH_SECONDS = 0.25
_RETRY_SECONDS = (1.0, 60.0)
_LOG = logging.getLogger("churn.serving")


@dataclass(frozen=True)
class Loaded:
    """A model that answers, and since when (the machine's time)."""

    model: ServedModel
    loaded_at: datetime


class ModelWatch:
    """Holds the model in service. A champion that fails to load changes nothing but a counter."""

    def __init__(self, cache: ModelCache[ServedModel], metrics: Metrics, takeups: TakeUps) -> None:
        self._cache = cache
        self._metrics = metrics
        self._takeups = takeups
        self._backoff = Backoff(*_RETRY_SECONDS)
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="model-watch", daemon=True)
        self.loaded: Loaded | None = None
        self.staging: StagingStatus | None = None

    def in_service(self) -> ServedModel | None:
        """The model that answers, if there is one."""
        return self.loaded.model if self.loaded else None

    def start(self) -> None:
        """Looks once, so that a cached model answers the first request, then goes on watching."""
        self._takeups.started()
        self.look()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        self._takeups.stopped()

    def look(self) -> None:
        """One look at the cache's pointer; loads when it is new. Never raises ChurnError."""
        self._look_at_staging()
        try:
            pointer = self._cache.champion()
        except ChurnError as error:
            self._note_failure(None, error)
            return
        if pointer is not None and not self._serves(pointer):
            self._take_up(pointer)

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            try:
                self.look()
            except Exception:  # the watch outlives a bug, else no promotion would ever be taken up again
                self._metrics.load_failed("unexpected")
                _LOG.exception("the look at the model cache failed")

    def _serves(self, pointer: Pointer) -> bool:
        model = self.loaded.model if self.loaded else None
        return model is not None and (model.version, model.digest) == pointer.key

    def _take_up(self, pointer: Pointer) -> None:
        if self._backoff.waits(pointer.key, time.monotonic()):
            return
        try:
            self._swap(self._cache.load(pointer))
        except ChurnError as error:
            self._note_failure(pointer, error)
            self._fall_back(pointer.previous)

    def _fall_back(self, previous: Pointer | None) -> None:
        """At a cold start the version before a broken champion answers, rather than none."""
        if self.loaded is not None or previous is None:
            return
        with suppress(ChurnError):  # both are broken: the champion's failure is counted already
            self._swap(self._cache.load(previous))

    def _swap(self, model: ServedModel) -> None:
        now = datetime.now(UTC)
        self.loaded = Loaded(model, now)
        self._metrics.loaded(now.timestamp())
        self._takeups.took_up(model)
        _LOG.info("model version %s is in service", model.version, extra=facts(version=model.version))

    def _note_failure(self, pointer: Pointer | None, error: ChurnError) -> None:
        key, now = pointer.key if pointer else None, time.monotonic()
        if self._backoff.waits(key, now):
            return
        self._backoff.failed(key, now)
        default = "refused" if isinstance(error, Refused) else "unavailable"
        reason = str(error.facts.get("reason", default))
        self._metrics.load_failed(reason)
        _LOG.warning("the champion could not be loaded: %s", error.message, extra=facts(reason=reason))

    def _look_at_staging(self) -> None:
        try:
            self.staging = self._cache.status()
        except ChurnError:  # a status that cannot be read is an unknown status
            self.staging = None
        if self.staging is not None:
            self._metrics.staging(self.staging)
