"""The service over a real model cache and a real prediction log; only the online store is a hand-written fake."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES
from churn.errors import Unavailable
from churn.stores.ledger import Ledger
from churn.stores.model_cache import ModelCache
from churn.stores.prediction_log import PredictionLog
from churn.stores.prediction_log.reading import read_predictions
from serving.app import create_app
from serving.connections import Connection
from serving.dependencies import Dependencies, Limits
from tests.models import FakeRegistry, model_cache, random_vectors

NOW = datetime(2011, 10, 11, 8, tzinfo=UTC)
CUTOFF = datetime(2011, 10, 10, tzinfo=UTC)
EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
KNOWN = 50
RECENCY = FEATURE_NAMES.index("days_since_last_activity")


@dataclass
class FakeOnline:
    """Knows the users 1 to 50 and "u1" to "u50"; `asked` remembers every read. It can be down, or frozen."""

    rows: dict[UserId, FeatureRow] = field(default_factory=dict)
    asked: list[UserId] = field(default_factory=list)
    down: bool = False
    frozen: threading.Event | None = None

    def __post_init__(self) -> None:
        for number, vector in enumerate(random_vectors(KNOWN, seed=11), start=1):
            for user_id in (number, f"u{number}"):
                self.rows[user_id] = FeatureRow(user_id, CUTOFF, tuple(vector.tolist()))

    def change(self, user_id: UserId, **features: float) -> None:
        row = self.rows[user_id]
        vector = [features.get(name, value) for name, value in zip(FEATURE_NAMES, row.vector, strict=True)]
        self.rows[user_id] = replace(row, vector=tuple(vector))

    def read(self, user_ids: Sequence[UserId]) -> list[FeatureRow | None]:
        if self.frozen is not None:
            self.frozen.wait()
        if self.down:
            raise Unavailable("the online store does not answer")
        self.asked.extend(user_ids)
        return [self.rows.get(user_id) for user_id in user_ids]


@dataclass
class Site:
    """One deployment in a folder: what the service is made of, and what it leaves."""

    home: Path
    online: FakeOnline
    registry: FakeRegistry
    cache: ModelCache[Any]
    parts: Dependencies

    def promote(self, seed: int = 1, version: str = "1") -> None:
        """Registers and stages a model, as the side process does."""
        self.cache.stage(self.registry.promote(seed, version), self.registry.fetch)

    def log(self) -> list[dict[str, Any]]:
        frame, skipped = read_predictions(self.home / "predictions", *EVER)
        assert skipped == 0
        return frame.to_dict("records")

    @contextmanager
    def client(self, **changes: Any) -> Iterator[httpx.Client]:
        """A client of the service, which runs under uvicorn in a thread of its own."""
        with serving(create_app(replace(self.parts, **changes))) as address, httpx.Client(base_url=address) as client:
            yield client


@contextmanager
def serving(app: Any, http: type[Connection] = Connection) -> Iterator[str]:
    """http://127.0.0.1:PORT of the application, until the block is left."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, http=http, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def make_site(home: Path) -> Site:
    """A deployment with integer ids and without a model."""
    online, cache = FakeOnline(), model_cache(home / "cache")
    parts = Dependencies(
        online=online,
        cache=cache,
        log=PredictionLog(home / "predictions"),
        ledger=Ledger(home / "ledger.jsonl"),
        clock=lambda: NOW,
        max_feature_age=timedelta(days=31),
        user_id_type="integer",
        keys=None,
        limits=Limits(batch=int(os.environ.get("BATCH_LIMIT", "100")), body_bytes=200_000, answer_seconds=2.0),
    )
    return Site(home, online, FakeRegistry(), cache, parts)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
def served(site: Site) -> Site:
    """The same with version 1 in service."""
    site.promote()
    return site


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One served deployment for a whole table of questions."""
    site = make_site(tmp_path_factory.mktemp("shared"))
    site.promote()
    with site.client() as client:
        yield client


@pytest.fixture
def client(served: Site) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether `holds` becomes true in time."""
    waiter = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if holds():
            return True
        waiter.wait(0.02)
    return False
