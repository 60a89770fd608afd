"""Promotions under load: no failed request, and every answer is from one whole version."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from churn.core.scoring import ServedModel
from churn.domain.ledger import Kind
from churn.stores.ledger import Ledger
from tests.models import artifact_files, calibrated_forest, version_of
from tests.serving.conftest import Site, eventually
from tests.serving.test_webhooks import side_process

USERS = list(range(1, 11))


SEEDS = {"1": 1, "2": 2, "3": 3}


@dataclass
class Asked:
    """The answers that some clients got, none of them an error."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, address: httpx.URL) -> None:
        with httpx.Client(base_url=address, verify=False) as own:
            while not self.stop.is_set():
                answer = own.post("/v1/score", json={"user_ids": USERS})
                assert answer.status_code == 200, answer.text
                self.answers.append(answer.json())

    def versions(self) -> set[str]:
        return {answer["model"]["version"] for answer in self.answers}

    def check_reproducible(self, site: Site) -> None:
        """Each answer is bit-equal to what its version alone says, by scikit-learn."""
        vectors = np.array([site.online.rows[user].vector for user in USERS])
        models = {version: calibrated_forest(seed) for version, seed in SEEDS.items()}
        expected = {version: model.predict_proba(vectors)[:, 1].tolist() for version, model in models.items()}
        for answer in self.answers:
            found = [each["churn_probability"] for each in answer["predictions"]]
            assert found == expected[answer["model"]["version"]]


@contextmanager
def asking(client: httpx.Client, clients: int = 2) -> Iterator[Asked]:
    asked = Asked()
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(asked.ask, client.base_url) for _ in range(clients)]
        try:
            yield asked
        finally:
            asked.stop.set()
        for each in running:
            each.result()


def register_all(site: Site) -> None:
    site.registry.files |= {version: artifact_files(seed) for version, seed in SEEDS.items()}


def move_alias(site: Site, version: str) -> None:
    site.registry.alias = version_of(site.registry.files[version], version)


def took_up(site: Site) -> list[str]:
    entries = Ledger(site.home / "ledger.jsonl").read().entries
    return [str(entry.facts["version"]) for entry in entries if entry.kind is Kind.TOOK_UP]


def models_in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, ServedModel) for each in gc.get_objects())


@pytest.mark.fault("L7")
def test_twenty_promotions_in_eight_seconds_are_each_whole_and_the_last_one_stays(served: Site) -> None:
    """Row L7, by the side process's own loop; benchmarks/promotions.py does fifty, with MLflow."""
    register_all(served)
    before = models_in_memory()
    with served.client() as client, side_process(served, poll_seconds=0.05), asking(client) as asked:
        most = 0
        for number in range(20):
            move_alias(served, str(1 + number % 3))
            time.sleep(0.4)
            if number % 5 == 4:
                most = max(most, models_in_memory() - before)
        last = served.registry.alias.version  # type: ignore[union-attr]
        assert eventually(lambda: client.get("/v1/model").json()["version"] == last)
        settled = len(asked.answers) + 4
        assert eventually(lambda: len(asked.answers) > settled + 10)
        assert {answer["model"]["version"] for answer in asked.answers[settled:]} == {last} == {"2"}
    assert asked.versions() == {"1", "2", "3"}
    asked.check_reproducible(served)
    assert most <= 2, "one that answers and one that comes"
    assert len(list((served.home / "cache" / "models").iterdir())) <= 2


@pytest.mark.fault("M1")
def test_when_four_people_move_the_alias_at_once_the_last_move_wins_and_the_ledger_says_who_served(
    served: Site,
) -> None:
    """Row M1: two hundred moves, many within one look."""
    register_all(served)
    seed = random.randrange(10**6)

    def person(number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(50):
            move_alias(served, chance.choice(sorted(SEEDS)))
            time.sleep(chance.uniform(0, 0.06))

    with served.client() as client, side_process(served, poll_seconds=0.05), asking(client, 1) as asked:
        with ThreadPoolExecutor(4) as people:
            list(people.map(person, range(4)))
        last = served.registry.alias.version  # type: ignore[union-attr]
        assert eventually(lambda: client.get("/v1/model").json()["version"] == last), f"seed {seed}"
        assert eventually(lambda: took_up(served)[-1] == last), f"seed {seed}"
    asked.check_reproducible(served)
    history = took_up(served)
    assert asked.versions() <= set(history), f"seed {seed}"
    assert all(one != next_one for one, next_one in itertools.pairwise(history))
