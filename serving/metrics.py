"""What the service counts, as Prometheus reads it. One registry for each application, so that tests do not share.

A service is one process, so what it exposes is the whole of it; several are several targets (docs/operations.md).
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import cache
from typing import Literal, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from churn.core.scoring import ServedModel
from churn.domain.artifacts import StagingStatus
from churn.domain.predictions import Status
from churn.domain.records import LogState, PredictionRecord
from serving.errors import KINDS

Stage = Literal["read", "score", "log"]
Timed = Callable[[Stage], AbstractContextManager[None]]
STAGES: tuple[Stage, ...] = ("read", "score", "log")
# Flags of an answer that say how it was asked for; all others say what was amiss.
NOT_AMISS = {"explained"}

_STAGE_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_HOUR, _DAY = 3600.0, 86400.0
_AGES = (_HOUR, 6 * _HOUR, *(days * _DAY for days in (1, 2, 3, 7, 14, 21, 28, 31, 45, 60, 90)))

# When each series began would double the number of series; Prometheus finds resets by itself.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not type it


class Load(Protocol):
    """How busy some threads are: jobs that run or wait for one of them."""

    name: str
    threads: int
    limit: int

    @property
    def jobs(self) -> int: ...


class Metrics:
    """Labels are our own words only: never a user id, never a path as sent."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._of_answers()
        self._of_the_model()
        self._ledger_failures = self._counter("churn_ledger_failures", "Entries that could not be written")
        self._key_failures = self._counter("churn_api_key_failures", "Readings of the API keys that failed")
        self._staging = _StagingCollector()
        self._registry.register(self._staging)

    def _of_answers(self) -> None:
        seconds = self._histogram(
            "churn_request_seconds", "Time from the request's arrival to its answer", _SECONDS, "route", "status"
        )
        # Finding the series of its labels takes as long as the observation itself.
        self._seconds = cache(lambda route, status: seconds.labels(route, str(status)).observe)
        stages = self._histogram("churn_stage_seconds", "Time of one part of an answer", _STAGE_SECONDS, "stage")
        self._stages = {stage: stages.labels(stage).observe for stage in STAGES}
        self._problems = self._counter("churn_problems", "Errors answered, by code", "code", first=KINDS)
        predictions = self._counter("churn_predictions", "Answered items by status", "status", first=Status)
        self._predictions = {status: predictions.labels(status.value).inc for status in Status}
        self._degraded = self._counter(
            "churn_degraded_answers", "Answers given while something was amiss", "kind", first=["staging_failing"]
        )
        self._ages = self._histogram(
            "churn_feature_age_seconds", "Age of the oldest features behind an answer, by the service's clock", _AGES
        )

    def _of_the_model(self) -> None:
        self._reloads = self._counter("churn_model_reloads", "Models taken into service")
        self._reload_failures = self._counter(
            "churn_model_reload_failures", "Champions that could not be loaded", "reason"
        )
        self._loaded_at = self._gauge("churn_model_loaded_timestamp_seconds", "When it was taken into service")

    # -- what is asked at each scrape ------------------------------------------------------------------------------

    def watch_log(self, state: Callable[[], LogState]) -> None:
        """Tells how the prediction log fares."""
        self._registry.register(_LogCollector(state))

    def watch_workers(self, *loads: Load) -> None:
        """Tells how busy the threads are."""
        self._registry.register(_WorkersCollector(loads))

    def watch_model(self, in_service: Callable[[], ServedModel | None], now: Callable[[], datetime]) -> None:
        """Tells which model is in service, and its age by the service's clock, which a replayed log sets back."""
        self._registry.register(_ModelCollector(in_service, now))

    def feature_age_limit(self, limit: timedelta) -> None:
        self._gauge("churn_feature_age_limit_seconds", "Features older than that are stale").set(limit.total_seconds())

    # -- what happens ----------------------------------------------------------------------------------------------

    def request(self, route: str, status: int, seconds: float) -> None:
        self._seconds(route, status)(seconds)

    def timed(self, stage: Stage) -> AbstractContextManager[None]:
        """Observes how long the block takes, whether it ends well or not."""
        return _Timed(self._stages[stage])

    def shed(self, seconds: float) -> None:
        """A scoring request that was refused before anybody looked which route it was for."""
        self.request("shed", 503, seconds)
        self.problem("overloaded")

    def problem(self, code: str) -> None:
        self._problems.labels(code).inc()

    def answered(self, record: PredictionRecord) -> None:
        for status, count in Counts(each.status for each in record.predictions).items():
            self._predictions[status](count)
        for flag in record.flags:
            if flag not in NOT_AMISS:
                self._degraded.labels(flag).inc()
        if moments := [each.features_as_of for each in record.predictions if each.features_as_of is not None]:
            self._ages.observe((record.predicted_at - min(moments)).total_seconds())

    def loaded(self, at: float) -> None:
        self._reloads.inc()
        self._loaded_at.set(at)

    def load_failed(self, reason: str) -> None:
        self._reload_failures.labels(reason).inc()

    def staging(self, status: StagingStatus) -> None:
        self._staging.status = status

    def ledger_failed(self) -> None:
        self._ledger_failures.inc()

    def keys_failed(self) -> None:
        self._key_failures.inc()

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    # -- making them -----------------------------------------------------------------------------------------------

    def _counter(self, name: str, told: str, *labels: str, first: Iterable[str] = ()) -> Counter:
        """`first` are values of its label that are there, at 0, from the start."""
        made = Counter(name, told, labels, registry=self._registry)
        for value in first:
            made.labels(str(value))
        return made

    def _gauge(self, name: str, told: str, *labels: str) -> Gauge:
        return Gauge(name, told, labels, registry=self._registry)

    def _histogram(self, name: str, told: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, told, labels, buckets=buckets, registry=self._registry)


class _Timed:
    """A stopwatch around a block."""

    __slots__ = ("_observe", "_started")

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._observe(time.perf_counter() - self._started)


class _LogCollector(Collector):
    """The prediction log's own counts, read when they are asked for."""

    def __init__(self, state: Callable[[], LogState]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state, name = self._state(), "churn_prediction_log"
        yield GaugeMetricFamily(f"{name}_waiting", "Predictions that wait for the disk", value=state.waiting)
        yield GaugeMetricFamily(f"{name}_oldest_seconds", "How long the oldest waits", value=state.oldest_seconds)
        yield CounterMetricFamily(f"{name}_written", "Predictions on disk", value=state.written)
        yield CounterMetricFamily(f"{name}_refused", "Predictions that could not be recorded", value=state.refused)
        yield CounterMetricFamily(f"{name}_failures", "Writes that the disk did not take", value=state.failures)


class _WorkersCollector(Collector):
    """Threads by pool."""

    def __init__(self, loads: Sequence[Load]) -> None:
        self._loads = loads

    def collect(self) -> Iterator[Metric]:
        threads = {load.name: load.threads for load in self._loads}
        yield _by_label("churn_worker_threads", "Threads of the pool", "pool", threads)
        jobs = {load.name: load.jobs for load in self._loads}
        yield _by_label("churn_worker_jobs", "Jobs of the pool that run or wait", "pool", jobs)
        limits = {load.name: load.limit for load in self._loads}
        yield _by_label("churn_worker_jobs_limit", "More jobs than that are refused", "pool", limits)


class _ModelCollector(Collector):
    """The model in service, and its age where its card says it."""

    def __init__(self, in_service: Callable[[], ServedModel | None], now: Callable[[], datetime]) -> None:
        self._in_service = in_service
        self._now = now

    def collect(self) -> Iterator[Metric]:
        model = self._in_service()
        info = GaugeMetricFamily("churn_model_info", "1 for the version in service", labels=["version", "digest"])
        told = "Since the end of the newest horizon that the model in service was trained or tested on"
        age = GaugeMetricFamily("churn_model_age_seconds", told)
        if model is not None:
            info.add_metric([model.version, model.digest], 1)
        if model is not None and model.newest_label is not None:
            age.add_metric([], (self._now() - model.newest_label).total_seconds())
        yield from (info, age)


class _StagingCollector(Collector):
    """How the side process fares, by its last status.

    A reason that is over is told as 0: Prometheus would go on believing one that merely vanished.
    """

    def __init__(self) -> None:
        self.status: StagingStatus | None = None
        self._reasons: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        status, name = self.status, "churn_staging"
        failures, failing = (status.failures, status.failing) if status else (0, False)
        yield CounterMetricFamily(f"{name}_failures", "Failed looks of the side process", value=failures)
        yield GaugeMetricFamily(f"{name}_failing", "1 while its last look failed", value=failing)
        at = status.last_success_at.timestamp() if status and status.last_success_at else 0
        told = "Its last good look at the registry, 0 before the first"
        yield GaugeMetricFamily(f"{name}_last_success_timestamp_seconds", told, value=at)
        told = "1 while the alias points at a version that was rolled back from here"
        yield GaugeMetricFamily("churn_champion_held", told, value=bool(status and status.held_version))
        yield self._refused(status.refused.reason if status and status.refused else None)

    def _refused(self, reason: str | None) -> Metric:
        self._reasons |= {reason} if reason else set()
        told = "1 while the alias points at a version that must not serve, 0 afterwards"
        values = {each: float(each == reason) for each in sorted(self._reasons)}
        return _by_label("churn_champion_refused", told, "reason", values)


def _by_label(name: str, told: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, told, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
