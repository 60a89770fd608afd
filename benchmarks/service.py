"""One service worker on one core beside its rivals on the same core; the load comes from another process and core.

    python -m benchmarks.service     # BENCH_SECONDS, BENCH_SERVED_USERS and BENCH_TREES make it smaller

Closed loop with 8 connections, then an open loop at shares of the rate that this found. Redis runs on the load's core.
Stages are timed in a process without HTTP, with the deployment's own parts, on the service's core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import feast_rival, rivals
from benchmarks.figures import Figure, at_least, at_most, run, seconds, size
from benchmarks.forest import fitted
from benchmarks.latency_plot import draw
from benchmarks.load import Plan, Run, asked, get, post
from benchmarks.planted import Files, eligible, export_of, model_files, plant, service
from benchmarks.steps import SERVICE_CORE, measured, processor_seconds
from churn.domain.schema import FEATURE_NAMES
from churn.domain.versions import MODEL_FILE
from churn.settings import Settings, load_settings

USERS = size("SERVED_USERS", 10_000)
SECONDS = seconds("SECONDS", 6.0)
STAGED = size("STAGED", 2_000)
CONNECTIONS = 8
OPEN_CONNECTIONS = 32
SHARES = (0.25, 0.5, 0.75, 0.9)
BATCHES = {100: at_most(6), 1_000: at_most(45)}
STORES = ("SQLite", "Redis")
PLAIN, FEAST, MLFLOW, EMPTY = "plain FastAPI + Feast", "feast serve", "mlflow models serve", "an empty route"


@dataclass
class Site:
    """The deployments and what they are compared with; `runs` fills up as rivals are measured."""

    home: Path
    model: Any
    files: Files
    redis_addresses: Mapping[str, str]
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)

    def deployment(self, store: str, log: str) -> Settings:
        """The deployment with that online store, its log in that mode; planted at the first call."""
        home, address = self.home / store, self.redis_addresses[store]
        options = {"online_store": store.lower(), **({"redis_address": address} if address else {})}
        if not home.exists():
            plant(home, USERS, self.files, options)
        lines = [line for line in (home / "churn.toml").read_text().splitlines() if "prediction_log" not in line]
        (home / "churn.toml").write_text("\n".join([*lines, f'prediction_log = "{log}"']) + "\n")
        return load_settings({}, home=home)


def measure(home: Path) -> Iterator[Figure]:
    from tests.servers import redis_server

    model = fitted()
    with ExitStack() as stack:
        # Two: the rival's keys and ours would else be counted together.
        folders = [_made(home / name) for name in ("redis-ours", "redis-plain")]
        ours, plain = (stack.enter_context(redis_server(folder)) for folder in folders)
        site = Site(home, model, model_files(model), {"SQLite": "", "Redis": ours})
        yield from _empty(site)
        yield from _vectors(site)
        for store in STORES:
            site.deployment(store, "sync")
        for store, address in (("SQLite", ""), ("Redis", plain)):
            yield from _rivals(site, store, address)
        for store in STORES:
            yield from _ours(site, store)
    draw(site.runs)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# -- plans -------------------------------------------------------------------------------------------------------------


def closed(port: int, requests: Sequence[bytes], connections: int = CONNECTIONS) -> Run:
    return asked(Plan(port, requests, SECONDS, connections, warm_seconds=SECONDS / 4))


def charged(port: int, pid: int, requests: Sequence[bytes]) -> tuple[Run, float]:
    """A closed loop, and the milliseconds of processor that the service took for each answer."""
    before = processor_seconds(pid)
    found = closed(port, requests)
    return found, (processor_seconds(pid) - before) / found.answers * 1000


def open_loop(port: int, requests: Sequence[bytes], rate: float) -> Run:
    return asked(Plan(port, requests, SECONDS, OPEN_CONNECTIONS, warm_seconds=SECONDS / 4, rate=rate))


def single(path: str) -> list[bytes]:
    """One user a request, all of them in turn."""
    return [get(path.format(user)) for user in range(USERS)]


def batches(users: int, body: Callable[[list[int]], bytes]) -> list[bytes]:
    """20 requests for so many users each, others every time."""
    return [body([(start * users + place) % USERS for place in range(users)]) for start in range(20)]


def _ours_batch(user_ids: list[int]) -> bytes:
    return post("/v1/score", {"user_ids": user_ids})


def _plain_batch(user_ids: list[int]) -> bytes:
    return post("/score", {"user_ids": user_ids})


def _feast_batch(user_ids: list[int]) -> bytes:
    return post("/get-online-features", {"feature_service": feast_rival.SERVICE, "entities": {"user_id": user_ids}})


# -- what is measured --------------------------------------------------------------------------------------------------


def _empty(site: Site) -> Iterator[Figure]:
    with rivals.empty_service(site.home) as port:
        found = site.runs[EMPTY, ""] = closed(port, [get("/")])
        site.runs[EMPTY, "one"] = closed(port, [get("/")], connections=1)
    yield Figure("an empty FastAPI route", found.rate, "req/s")
    yield Figure("the load generator meanwhile, of its core", found.busy, "share", goal=at_most(0.8))


def _vectors(site: Site) -> Iterator[Figure]:
    vector = [0.0 if value != value else value for value in eligible(1, seed=5)[0].tolist()]  # noqa: PLR0124  (nan)
    saved = site.home / "mlflow-model"
    measured(rivals.save_for_mlflow, site.model, saved)
    with rivals.mlflow_serve(saved) as port:
        columns = {"columns": list(FEATURE_NAMES), "data": [vector]}
        theirs = closed(port, [post("/invocations", {"dataframe_split": columns})])
    yield Figure("one vector, mlflow models serve", theirs.rate, "req/s")
    yield Figure("one vector, mlflow models serve, p50", theirs.ms(0.5), "ms")
    request = post("/v1/score/features", {"vectors": [dict(zip(FEATURE_NAMES, vector, strict=True))]})
    for log in ("buffered", "sync"):
        with service(site.deployment("SQLite", log).home) as (port, pid):
            found, spent = charged(port, pid, [request])
        told, empty = _rated(theirs, MLFLOW), site.runs[EMPTY, ""]
        yield Figure(
            f"one vector, log {log}", found.rate, "req/s", told, found.rate / theirs.rate, at_least(30), "ratio"
        )
        yield Figure(
            f"one vector, log {log}, p50", found.ms(0.5), "ms", _halved(theirs), theirs.ms(0.5) / found.ms(0.5)
        )
        yield Figure(f"one vector, log {log}, p99", found.ms(0.99), "ms")
        yield Figure(f"one vector, log {log}, processor time a request", spent, "ms")
        share = found.rate / empty.rate
        yield Figure(
            f"one vector, log {log}, of an empty route", share, "share", _rated(empty, EMPTY), share, at_least(0.5)
        )


def _rivals(site: Site, store: str, address: str) -> Iterator[Figure]:
    repository = feast_rival.write_repository(site.home / f"feast-{store}", address)
    measured(feast_rival.materialize, repository, export_of(site.home / "SQLite"))
    (repository / MODEL_FILE).write_bytes(site.files[MODEL_FILE])
    with rivals.plain_service(repository, repository / MODEL_FILE) as port:
        ways = [(closed(port, single(path)), path) for path in ("/users/{}/score", "/inline/users/{}/score")]
        site.runs[PLAIN, store], path = max(ways, key=lambda way: way[0].rate)
        for users in BATCHES:
            site.runs[PLAIN, f"{store} {users}"] = closed(port, batches(users, _plain_batch), connections=1)
        half = site.runs[PLAIN, store].rate / 2
        site.runs[PLAIN, f"{store} open 0.5"] = open_loop(port, single(path), half)
    with rivals.feast_serve(repository) as port:
        site.runs[FEAST, store] = closed(port, [_feast_batch([user]) for user in range(USERS)])
        for users in BATCHES:
            site.runs[FEAST, f"{store} {users}"] = closed(port, batches(users, _feast_batch), connections=1)
    for rival in (PLAIN, FEAST):
        found = site.runs[rival, store]
        yield Figure(f"one user, {store}, {rival}", found.rate, "req/s")
        yield Figure(f"one user, {store}, {rival}, p50", found.ms(0.5), "ms")
        yield Figure(f"one user, {store}, {rival}, p99", found.ms(0.99), "ms", histogram=found.histogram())


def _ours(site: Site, store: str) -> Iterator[Figure]:
    requests = single("/v1/users/{}/score")
    with service(site.deployment(store, "buffered").home) as (port, pid):
        yield from _one_user(site, f"one user, {store}, log buffered", store, *charged(port, pid, requests))
    with service(site.deployment(store, "sync").home) as (port, pid):
        found, spent = charged(port, pid, requests)
        site.runs["ours", store] = found
        yield from _one_user(site, f"one user, {store}, log sync", store, found, spent)
        alone = closed(port, requests, connections=1)
        yield from _batches(site, store, port)
        for share in SHARES:
            yield from _open(site, f"{store} open {share}", open_loop(port, requests, share * found.rate), share)
    stages = measured(staged, site.home / store, core=SERVICE_CORE).result
    yield from _stages(site, store, {**stages, "whole": alone.ms(0.5)})


def _one_user(site: Site, name: str, store: str, found: Run, spent: float) -> Iterator[Figure]:
    plain, feast = site.runs[PLAIN, store], site.runs[FEAST, store]
    yield Figure(name, found.rate, "req/s", goal=at_least(1_500))
    yield Figure(
        f"{name}, against plain",
        found.rate,
        "req/s",
        _rated(plain, PLAIN),
        found.rate / plain.rate,
        at_least(10),
        "ratio",
    )
    told = f"{_rated(feast, FEAST)}, the read alone"
    yield Figure(
        f"{name}, against Feast's server", found.rate, "req/s", told, found.rate / feast.rate, at_least(8), "ratio"
    )
    yield Figure(f"{name}, p50", found.ms(0.5), "ms", _halved(plain), plain.ms(0.5) / found.ms(0.5))
    yield Figure(f"{name}, p99", found.ms(0.99), "ms", goal=at_most(5), histogram=found.histogram())
    yield Figure(f"{name}, processor time a request", spent, "ms")
    yield Figure(f"{name}, answers that were not 200", sum(found.others.values()), "answers", goal=at_most(0))


def _batches(site: Site, store: str, port: int) -> Iterator[Figure]:
    for users, goal in BATCHES.items():
        found = closed(port, batches(users, _ours_batch), connections=1)
        feast, plain = (site.runs[rival, f"{store} {users}"] for rival in (FEAST, PLAIN))
        told = f"{FEAST}, the read alone: {feast.ms(0.5):,.0f} ms"
        name = f"{users:,} users in a request, {store}"
        yield Figure(f"{name}, p50", found.ms(0.5), "ms", told, feast.ms(0.5) / found.ms(0.5), goal)
        told = f"{PLAIN}: {plain.ms(0.99):,.0f} ms"
        yield Figure(f"{name}, p99", found.ms(0.99), "ms", told, plain.ms(0.99) / found.ms(0.99))


def _open(site: Site, name: str, found: Run, share: float) -> Iterator[Figure]:
    site.runs["ours", name] = found
    store = name.partition(" ")[0]
    title = f"open loop, {store}, log sync, {found.rate:,.0f} req/s ({share:.0%} of closed)"
    for words, quantile in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        histogram = found.histogram() if words == "p99" else ()
        yield Figure(f"{title}, {words}", found.ms(quantile), "ms", histogram=histogram)


def _stages(site: Site, store: str, stages: Mapping[str, float]) -> Iterator[Figure]:
    empty = site.runs[EMPTY, "one"].ms(0.5)
    known = sum(stages[stage] for stage in ("read", "score", "log"))
    told = {
        "HTTP (an empty route)": empty,
        "online read": stages["read"],
        "score": stages["score"],
        "log": stages["log"],
        "the rest: checks, JSON, hand-over between threads": stages["whole"] - known - empty,
        "whole, as the client sees it": stages["whole"],
    }
    for stage, milliseconds in told.items():
        share = f"{milliseconds / stages['whole']:.0%} of the whole"
        yield Figure(f"where the time goes, {store}, one request at a time: {stage}", milliseconds, "ms", share)


def staged(home: Path) -> dict[str, float]:
    """Median milliseconds of read, score and log for one user, with the parts of the deployment's own service."""
    from churn import wiring

    settings = load_settings({}, home=home)
    parts = wiring.service_parts(settings)
    pointer = parts.cache.champion()
    assert pointer is not None
    model, now = parts.cache.load(pointer), parts.clock()
    taken: dict[str, list[float]] = {"read": [], "score": [], "log": []}
    for number in range(STAGED):
        for stage, spent in _timed(parts, model, number % USERS, settings.max_feature_age, now).items():
            taken[stage].append(spent)
    parts.log.close()
    return {stage: median(times) * 1000 for stage, times in taken.items()}


def _timed(parts: Any, model: Any, user: int, max_age: Any, now: Any) -> dict[str, float]:
    from churn.core.scoring import score
    from churn.domain.records import PredictionRecord

    begun = time.perf_counter()
    rows = parts.online.read([user])
    read = time.perf_counter()
    predictions = score(model, [user], rows, now=now, max_age=max_age)
    scored = time.perf_counter()
    lineage = (model.version, model.digest, model.feature_service, model.features)
    parts.log.append([PredictionRecord(f"{user:032x}", now, "id", predictions, *lineage, 0.5)])
    return {"read": read - begun, "score": scored - read, "log": time.perf_counter() - scored}


def _rated(found: Run, name: str) -> str:
    return f"{name}: {found.rate:,.0f} req/s"


def _halved(found: Run) -> str:
    return f"p50 {found.ms(0.5):,.1f} ms"


def main() -> None:
    run("service", measure)


if __name__ == "__main__":
    main()
