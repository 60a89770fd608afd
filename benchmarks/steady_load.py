"""Clients that ask a service without pause and remember everything, and what their answers are checked against."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import numpy as np

from benchmarks.deployment import USERS, Deployment
from churn import wiring
from churn.core.scoring import ServedModel, score_vectors
from churn.settings import load_settings

PAUSE_SECONDS = 0.02
EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Answered:
    """One user in a 200 answer."""

    request_id: str
    user_id: int
    version: str
    probability: float | None


@dataclass
class Asked:
    """What came back: `seen` is (seconds since the start, status, latency in seconds), status 0 without an answer."""

    started: float = field(default_factory=time.monotonic)
    seen: list[tuple[float, int, float]] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def statuses(self) -> dict[str, int]:
        return {str(status): count for status, count in sorted(Counter(status for _, status, _ in self.seen).items())}

    def percentile_ms(self, percent: float) -> float:
        return round(1000 * float(np.percentile([each for _, status, each in self.seen if status == 200], percent)), 2)

    def first_good_after(self, moment: float) -> float | None:
        """Seconds from that monotonic time to the next 200."""
        since = moment - self.started
        return next((at - since for at, status, _ in self.seen if at >= since and status == 200), None)

    def work(self, address: str, name: str) -> None:
        client = httpx.Client(base_url=address, timeout=10, verify=False)
        for number in itertools.count():
            if self.stop.wait(PAUSE_SECONDS):
                break
            self._ask(client, f"{name}-{number}", [1 + (number * 7 + n) % USERS for n in range(1 + number % 3)])
        client.close()

    def _ask(self, client: httpx.Client, request_id: str, users: list[int]) -> None:
        since = time.monotonic()
        try:
            answer = client.post("/v1/score", json={"user_ids": users}, headers={"X-Request-ID": request_id})
            status = answer.status_code
        except httpx.TransportError:
            status = 0
        now = time.monotonic()
        if status == 200:
            body = answer.json()
            version = body["model"]["version"]
            self.answered += [
                Answered(request_id, each["user_id"], version, each["churn_probability"])
                for each in body["predictions"]
            ]
        self.seen.append((now - self.started, status, now - since))


@contextmanager
def load(address: str, clients: int = 4) -> Iterator[Asked]:
    """`clients` clients until the block is left."""
    asked = Asked()
    threads = [threading.Thread(target=asked.work, args=(address, f"c{n}")) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        asked.stop.set()
        for thread in threads:
            thread.join()


def lost_and_wrong(made: Deployment, asked: Asked) -> tuple[int, int]:
    """How many answers have no record like them in the log, and how many records their version does not reproduce."""
    settings = load_settings({}, home=made.home)
    frame, _ = wiring.logged_predictions(settings).read(*EVER)
    logged = {
        Answered(row.request_id, row.user_id, row.model_version, _or_none(row.churn_probability))
        for row in frame.itertuples()
    }
    models = {version: _model(made, version) for version in frame["model_version"].unique()}
    wrong = sum(_wrong(models[version], rows) for version, rows in frame.groupby("model_version"))
    return len(set(asked.answered) - logged), wrong


def _model(made: Deployment, version: str) -> ServedModel:
    settings = load_settings({}, home=made.home)
    return wiring.load_version(settings)(wiring.registry(settings).get(version))


def _wrong(model: ServedModel, rows: object) -> int:
    scored = rows[rows["status"] == "ok"]  # type: ignore[index]  # a frame
    vectors = scored[list(model.features)].to_numpy(np.float64)
    expected = [prediction.probability for prediction in score_vectors(model, vectors)]
    return sum(one != other for one, other in zip(expected, scored["churn_probability"], strict=True))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
