"""From questions to acknowledged answers: read, score, log. Knows no HTTP; runs in a worker thread.

Questions that are asked together share one read, one walk through the trees and one write to the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

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

ToMatrix = Callable[[Sequence[str]], NDArray[np.float64]]


@dataclass(frozen=True)
class Question:
    """Which request asks, when it arrived (`time.perf_counter`), for whom or what, and how.

    `user_ids`, else `to_matrix`, which gives (n, f) values in the order of the model's features. It may want reasons,
    or one version only; `idempotency_key` names its caller too.
    """

    request_id: str
    arrived: float
    user_ids: Sequence[UserId] = ()
    to_matrix: ToMatrix | None = None
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

    def users(self, questions: Sequence[Question]) -> list[Answer]:
        """One prediction for each user id of each question. One unknown user never fails the others."""
        model = self._model_for(questions)
        user_ids = [user_id for question in questions for user_id in question.user_ids]
        rows = self.read(user_ids)
        now = self._parts.clock()
        with self._timed("score"):
            predictions = score(model, user_ids, rows, now=now, max_age=self._parts.max_feature_age)
            shares = _shares(predictions, [len(question.user_ids) for question in questions])
            answers = _answers(model, questions, shares)
        return self._acknowledged("id", now, questions, answers)

    def vectors(self, questions: Sequence[Question]) -> list[Answer]:
        """One prediction for each vector of each question."""
        model = self._model_for(questions)
        parts = [question.to_matrix(model.features) for question in questions if question.to_matrix]
        with self._timed("score"):
            predictions = score_vectors(model, np.concatenate(parts))
            answers = _answers(model, questions, _shares(predictions, [len(part) for part in parts]))
        return self._acknowledged("vector", self._parts.clock(), questions, answers)

    def _model_for(self, questions: Sequence[Question]) -> ServedModel:
        """One model for all of them; raises Problem as `model` does."""
        versions = {question.version for question in questions} - {None}
        model = self.model()
        if not versions <= {model.version}:
            raise Problem("no_such_model")
        return model

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        """The users' features, None for unknown ones; raises Problem when the store does not answer."""
        try:
            with self._timed("read"):
                return self._parts.online.read(user_ids)
        except ChurnError as error:
            raise Problem("feature_store_unavailable", _read_failure(error)) from error

    def _acknowledged(
        self, source: Source, now: datetime, questions: Sequence[Question], answers: list[Answer]
    ) -> list[Answer]:
        """The answers once the log has all of them."""
        records = [self._record(source, now, *each) for each in zip(questions, answers, strict=True)]
        try:
            with self._timed("log"):
                self._parts.log.append(records)
        except ChurnError as error:
            raise Problem("prediction_log_unavailable") from error
        for record in records:
            self._metrics.answered(record)
        return answers

    def _record(self, source: Source, now: datetime, question: Question, answer: Answer) -> PredictionRecord:
        model = answer.model
        return PredictionRecord(
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

    def _flags(self, question: Question) -> tuple[str, ...]:
        staging = self._watch.staging
        failing = staging is not None and staging.failing
        return ("explained",) * question.explain + ("staging_failing",) * failing


def _read_failure(error: ChurnError) -> str:
    """The kind of fault by its name, such as redis_timeout or feature_store_empty; the rest is for the log."""
    title = KINDS["feature_store_unavailable"].title
    return f"{title}: {error.facts['reason']}" if "reason" in error.facts else title


def _shares(predictions: Sequence[Prediction], sizes: Sequence[int]) -> Iterator[Sequence[Prediction]]:
    rest = iter(predictions)
    return (list(islice(rest, size)) for size in sizes)


def _answers(model: ServedModel, questions: Sequence[Question], shares: Iterator[Sequence[Prediction]]) -> list[Answer]:
    return [_answer(model, predictions, question) for question, predictions in zip(questions, shares, strict=True)]


def _answer(model: ServedModel, predictions: Sequence[Prediction], question: Question) -> Answer:
    told = explanations(model, predictions) if question.explain else [None] * len(predictions)
    return Answer(model, predictions, told)
