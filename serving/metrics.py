"""What the service counts, as Prometheus reads it. One registry for each application, so that tests do not share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from churn.core.scoring import ServedModel
from churn.domain.artifacts import StagingStatus
from churn.domain.predictions import Prediction, Status
from churn.domain.records import LogState

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Labels are our own words only: never a user id, never a path as sent."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._seconds = Histogram(
            "churn_request_seconds",
            "Time from the request's arrival to its answer",
            ["route", "status"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._predictions = Counter(
            "churn_predictions", "Answered items by status", ["status"], registry=self._registry
        )
        self._reloads = Counter("churn_model_reloads", "Models taken into service", registry=self._registry)
        self._reload_failures = Counter(
            "churn_model_reload_failures", "Champions that could not be loaded", ["reason"], registry=self._registry
        )
        self._model = Gauge(
            "churn_model_info", "1 for the version in service", ["version", "digest"], registry=self._registry
        )
        self._loaded_at = Gauge(
            "churn_model_loaded_timestamp_seconds", "When it was taken into service", registry=self._registry
        )
        self._staging_failures = Gauge(
            "churn_staging_failures", "Failed looks of the side process since its start", registry=self._registry
        )
        self._staged_at = Gauge(
            "churn_staging_last_success_timestamp_seconds",
            "Its last good look at the registry",
            registry=self._registry,
        )
        self._refused = Gauge(
            "churn_champion_refused",
            "1 while the alias points at a version that must not serve, 0 afterwards",
            ["reason"],
            registry=self._registry,
        )
        self._refused_for: str | None = None
        self._ledger_failures = Counter(
            "churn_ledger_failures", "Entries that could not be written", registry=self._registry
        )
        self._key_failures = Counter(
            "churn_api_key_failures", "Readings of the API keys that failed", registry=self._registry
        )
        for status in Status:
            self._predictions.labels(status.value)

    def watch_log(self, state: Callable[[], LogState]) -> None:
        """Tells at each scrape how the prediction log fares."""
        self._registry.register(_LogCollector(state))

    def request(self, route: str, status: int, seconds: float) -> None:
        self._seconds.labels(route, str(status)).observe(seconds)

    def answered(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            self._predictions.labels(prediction.status.value).inc()

    def loaded(self, model: ServedModel, at: float) -> None:
        self._reloads.inc()
        self._model.clear()
        self._model.labels(model.version, model.digest).set(1)
        self._loaded_at.set(at)

    def load_failed(self, reason: str) -> None:
        self._reload_failures.labels(reason).inc()

    def staging(self, status: StagingStatus) -> None:
        self._staging_failures.set(status.failures)
        if status.last_success_at is not None:
            self._staged_at.set(status.last_success_at.timestamp())
        self._refuses(status.refused.reason if status.refused else None)

    def _refuses(self, reason: str | None) -> None:
        # A reason that is over is set to 0: Prometheus would go on believing one that merely vanished.
        if self._refused_for not in (None, reason):
            self._refused.labels(self._refused_for).set(0)
        if reason is not None:
            self._refused.labels(reason).set(1)
        self._refused_for = reason

    def ledger_failed(self) -> None:
        self._ledger_failures.inc()

    def keys_failed(self) -> None:
        self._key_failures.inc()

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)


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
