"""From a question to an acknowledged answer: read, score, log. Knows no HTTP; runs in a worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from churn.core.reasons import explanations
from churn.core.scoring import ServedModel, score, score_vectors
from churn.domain.predictions import FeatureRow, Prediction, UserId
from churn.domain.reasons import Explanation
from churn.domain.records import PredictionRecord, Source
from churn.errors import ChurnError
from serving.dependencies import Dependencies
from serving.errors import KINDS, Problem
from serving.metrics import Metrics, Timed
from serving.state import ModelWatch


@dataclass(frozen=True)
class Question:
    """Which request asks, when it arrived (`time.perf_counter`), and how.

    It may want reasons, or one version only; `idempotency_key` names its caller too.
    """

    request_id: str
    arrived: float
    explain: bool = False
    version: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Answer:
    """Predictions of one model, in the order of the question, each with its explanation or None. They are logged."""

    model: ServedModel
    predictions: Sequence[Prediction]
    explanations: Sequence[Explanation | None]


class Scorer:
    """Answers questions. Raises Problem when a part that it needs does not work; then nothing is acknowledged."""

    def __init__(self, dependencies: Dependencies, watch: ModelWatch, metrics: Metrics, *, timed: Timed) -> None:
        self._parts = dependencies
        self._watch = watch
        self._metrics = metrics
        self._timed = timed

    def model(self, version: str | None = None) -> ServedModel:
        """The model in service; raises Problem when there is none, or when it is not the version asked for."""
        loaded = self._watch.loaded
        if loaded is None:
            raise Problem("no_model")
        if version not in (None, loaded.model.version):
            raise Problem("no_such_model")
        return loaded.model

    def users(self, user_ids: Sequence[UserId], question: Question) -> Answer:
        """One prediction for each user id. One unknown user never fails the others."""
        model = self.model(question.version)
        rows = self.read(user_ids)
        now = self._parts.clock()
        with self._timed("score"):
            predictions = score(model, user_ids, rows, now=now, max_age=self._parts.max_feature_age)
            answer = _answer(model, predictions, question)
        return self._acknowledged(answer, "id", question, now)

    def vectors(self, to_matrix: Callable[[Sequence[str]], NDArray[np.float64]], question: Question) -> Answer:
        """One prediction for each vector; `to_matrix` gives (n, f) values in the order of the model's features."""
        model = self.model(question.version)
        with self._timed("score"):
            answer = _answer(model, score_vectors(model, to_matrix(model.features)), question)
        return self._acknowledged(answer, "vector", question, self._parts.clock())

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """The users' features, None for unknown ones; raises Problem when the store does not answer."""
        try:
            with self._timed("read"):
                return self._parts.online.read(user_ids)
        except ChurnError as error:
            raise Problem("feature_store_unavailable", _read_failure(error)) from error

    def _acknowledged(self, answer: Answer, source: Source, question: Question, now: datetime) -> Answer:
        model = answer.model
        record = PredictionRecord(
            request_id=question.request_id,
            predicted_at=now,
            source=source,
            predictions=answer.predictions,
            model_version=model.version,
            model_digest=model.digest,
            feature_service=model.feature_service,
            features=model.features,
            latency_ms=1000 * (time.perf_counter() - question.arrived),
            flags=self._flags(question),
            idempotency_key=question.idempotency_key,
        )
        try:
            with self._timed("log"):
                self._parts.log.append([record])
        except ChurnError as error:
            raise Problem("prediction_log_unavailable") from error
        self._metrics.answered(answer.predictions, record.flags, now)
        return answer

    def _flags(self, question: Question) -> tuple[str, ...]:
        staging = self._watch.staging
        failing = staging is not None and staging.failing
        return ("explained",) * question.explain + ("staging_failing",) * failing


def _read_failure(error: ChurnError) -> str:
    """The kind of fault by its name, such as redis_timeout or feature_store_empty; the rest is for the log."""
    title = KINDS["feature_store_unavailable"].title
    return f"{title}: {error.facts['reason']}" if "reason" in error.facts else title


def _answer(model: ServedModel, predictions: Sequence[Prediction], question: Question) -> Answer:
    told = explanations(model, predictions) if question.explain else [None] * len(predictions)
    return Answer(model, predictions, told)
