"""What is told of every answer: metrics of all, a line in the log of those that failed or took long.

A line a request would cost more than the answer and say less than the metrics do (docs/decisions/0024).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import Scope

from churn.core.rate_limit import Bucket
from churn.logs import facts
from serving.errors import Problem
from serving.metrics import Metrics

SLOW_SECONDS = 0.25
LINES_A_SECOND = 10
_LOG = logging.getLogger("churn.serving")


class Observer:
    """Hears of every answer. At most LINES_A_SECOND lines: the next one says how many were left out."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._bucket = Bucket(LINES_A_SECOND, clock())
        self._left_out = 0

    def __call__(self, scope: Scope, status: int, seconds: float) -> None:
        """`scope` is the answered request's, `status` 0 if its client went away."""
        problem: Problem | None = scope["state"].get("problem")
        self._metrics.request(route_of(scope), status, seconds)
        if problem is not None:
            self._metrics.problem(problem.code)
        if status >= 500 or seconds > SLOW_SECONDS:
            self._tell(scope, status, seconds)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        if self._bucket.take(self._clock()) > 0:
            self._left_out += 1
            return
        problem: Problem | None = scope["state"].get("problem")
        told = {"method": scope["method"], "route": route_of(scope), "status": status, "ms": round(1000 * seconds, 2)}
        if problem is not None:
            told["code"] = problem.code
        if self._left_out:
            told["left_out"], self._left_out = self._left_out, 0
        level = logging.WARNING if status >= 500 else logging.INFO
        _LOG.log(level, "%s", problem.detail if problem is not None else "slow", extra=facts(**told))


def route_of(scope: Scope) -> str:
    """The template of the route, so that ids become neither labels nor lines."""
    return str(getattr(scope.get("route"), "path", "unmatched"))
