"""Staging a version while the registry, the network and the disk break: no half version, no touched request."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from churn.core.artifact import digest_of
from churn.domain.versions import CHAMPION, ModelVersion
from churn.errors import ChurnError
from churn.jobs.stage import run
from churn.stores.model_cache import ModelCache
from churn.stores.model_registry import Registry
from tests.faults.proxy import Proxy, Toxic, proxy_to
from tests.memory import following
from tests.models import FakeRegistry, model_cache
from tests.servers import program_environment, strace_program
from tests.serving.conftest import Site, eventually
from tests.stores.test_model_registry import training

ROOT = Path(__file__).parents[2]
USERS = {"user_ids": [1, 2]}
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 27\r\n\r\n<html>please log in</html>\r\n"
JSON = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"model_v'
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
TOXICS = {
    "silent": Toxic(silent=True),
    "slow": Toxic(latency=5.0),
    "reset": Toxic(reset=True),
    "cut": Toxic(limit=40),
    "an error": Toxic(garbage=ERROR),
    "a web page": Toxic(garbage=HTML),
    "half of JSON": Toxic(garbage=JSON),
    "garbage": Toxic(garbage=b"\x00\xff\x00\r\n\r\n"),
}


@dataclass
class Remote:
    """A real MLflow server behind a proxy, with two versions, of which 1 is champion."""

    proxy: Proxy
    registry: Registry

    def promote(self, version: str) -> None:
        self.registry.set_alias(CHAMPION, version)


@pytest.fixture(scope="module")
def behind_proxy(mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    import churn.stores.feature_store  # noqa: F401  (MLflow imports Feast when it logs; see there what that does)

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    folder = tmp_path_factory.mktemp("remote")
    with proxy_to(int(mlflow_uri.rsplit(":", 1)[1])) as proxy:
        registry = Registry(f"http://127.0.0.1:{proxy.port}", "faults", "faults", folder, digest_of)
        for seed in (1, 2):
            registry.record(training(seed, figures={}, datasets={}))
        yield Remote(proxy, registry)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture
def remote(behind_proxy: Remote, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """The same, sound, with version 1 as champion and short waits."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    behind_proxy.promote("1")
    yield behind_proxy
    behind_proxy.proxy.toxic = Toxic()


@contextmanager
def side_process(site: Site, remote: Remote) -> Iterator[None]:
    """The body of the side process, in a thread."""
    stop = threading.Event()
    parts = following(remote.registry, site.cache)
    thread = threading.Thread(target=run, args=(parts, 0.05, stop, lambda outcome: None))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def staging(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/model").json()["staging"]
    return found


# -- the registry ----------------------------------------------------------------------------------------------


@pytest.mark.fault("L5")
@pytest.mark.parametrize("toxic", TOXICS)
def test_whatever_the_registry_says_no_request_is_touched_and_its_return_is_noticed(
    toxic: str, remote: Remote, site: Site
) -> None:
    with site.client() as client, side_process(site, remote):
        assert eventually(lambda: client.get("/readyz").status_code == 200)
        remote.promote("2")
        assert eventually(lambda: client.get("/v1/model").json()["version"] == "2")
        remote.proxy.toxic = TOXICS[toxic]
        assert eventually(lambda: staging(client)["status"] == "failing")
        seconds = [seconds_of(client) for _ in range(30)]
        assert sorted(seconds)[27] < 0.25
        told = staging(client)
        assert (told["champion_version"], told["last_failure_reason"]) == ("2", "unavailable")
        assert told["last_success_at"] < told["last_failure_at"]
        assert told["refused"] is None, "a broken answer is no verdict on a version"
        remote.proxy.toxic = Toxic()
        remote.promote("1")
        assert eventually(lambda: client.get("/v1/model").json()["version"] == "1")
        assert eventually(lambda: staging(client)["status"] == "ok")


def seconds_of(client: httpx.Client) -> float:
    started = time.monotonic()
    assert client.post("/v1/score", json=USERS).status_code == 200
    return time.monotonic() - started


# -- a download ------------------------------------------------------------------------------------------------


def names_in(cache_root: Path) -> list[str]:
    return sorted(str(path.relative_to(cache_root)) for path in cache_root.rglob("*"))


@pytest.mark.fault("L12")
@pytest.mark.parametrize("toxic", [Toxic(limit=10_000), Toxic(limit=0), Toxic(reset=True), Toxic(silent=True)], ids=str)
def test_a_download_that_is_cut_leaves_the_cache_as_it_was_and_the_next_one_is_whole(
    toxic: Toxic, remote: Remote, tmp_path: Path
) -> None:
    cache = model_cache(tmp_path)
    champion = cache.stage(remote.registry.get("1"), remote.registry.fetch)
    before, second = names_in(tmp_path), remote.registry.get("2")

    def cut(version: ModelVersion, folder: Path) -> None:
        remote.proxy.toxic = toxic
        remote.registry.fetch(version, folder)

    with pytest.raises(ChurnError):
        cache.stage(second, cut)
    assert (cache.champion(), names_in(tmp_path)) == (champion, before)
    remote.proxy.toxic = Toxic()
    assert cache.load(cache.stage(second, remote.registry.fetch)).version == "2"


@pytest.mark.fault("S7")
@pytest.mark.parametrize(
    "form", ["http://127.0.0.1:{port}/model", "https://127.0.0.1:{port}/m", "ftp://127.0.0.1:{port}/m"]
)
def test_a_version_that_lies_elsewhere_is_refused_and_nobody_is_called(
    form: str, remote: Remote, tmp_path: Path
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        version = remote.registry.get("1")
        elsewhere = ModelVersion(
            version.name, "1", version.run_id, form.format(port=listener.getsockname()[1]), version.tags, ()
        )
        with pytest.raises(ChurnError):
            model_cache(tmp_path).stage(elsewhere, remote.registry.fetch)
        with pytest.raises(TimeoutError):
            listener.accept()


# -- the disk --------------------------------------------------------------------------------------------------


CALLS = {"fsync": 6, "rename": 2}  # of staging one version
COPIES = [f"{call}-{number}" for call, calls in CALLS.items() for number in range(1, calls + 2)]


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A cache with version 1 in service."""
    registry = FakeRegistry()
    model_cache(tmp_path / "cache").stage(registry.promote(1, "1"), registry.fetch)
    return tmp_path / "cache"


@pytest.mark.fault("L12")
def test_killed_before_any_call_that_brings_it_to_the_disk_the_cache_holds_one_whole_version_or_the_other(
    staged: Path,
) -> None:
    for name in COPIES:
        shutil.copytree(staged, staged.parent / name)
    last = {call: calls + 1 for call, calls in CALLS.items()}
    inject = [part for call in CALLS for part in ("-e", f"inject={call}:signal=KILL:when={last[call]}")]
    command = ["-m", "tests.faults.crash_points", str(staged.parent), *(f"{call}:{last[call]}" for call in CALLS)]
    strace = [strace_program(), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={','.join(CALLS)}", *inject]
    done = subprocess.run(
        [*strace, sys.executable, *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=program_environment(),
    )
    ends = [["killed"] * calls + ["whole"] for calls in CALLS.values()]
    assert done.stdout.split() == [*ends[0], *ends[1]], done.stderr[-2000:]
    served = {name: serves(model_cache(staged.parent / name)) for name in COPIES}
    assert (served["fsync-1"], served["rename-2"], served["fsync-7"]) == ("1", "1", "2")
    registry = FakeRegistry()
    third = registry.promote(3, "3")
    for name, before in served.items():
        cache = model_cache(staged.parent / name)
        cache.stage(third, registry.fetch)
        assert serves(cache) == "3"
        assert cache.roll_back()[1].version == before


def serves(cache: ModelCache[Any]) -> str:
    """The version that a service would load, which loads."""
    champion = cache.champion()
    assert champion is not None
    return str(cache.load(champion).version)


FULL = """
import resource, signal, sys
from pathlib import Path
from churn.errors import Unavailable
from tests.models import FakeRegistry, model_cache
registry = FakeRegistry()
version = registry.promote(2, "2")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    model_cache(Path(sys.argv[1])).stage(version, registry.fetch)
except Unavailable as error:
    print(error.facts["reason"])
"""


@pytest.mark.fault("L12")
def test_a_disk_that_fills_up_in_the_middle_of_a_model_leaves_the_champion_and_no_half_version(staged: Path) -> None:
    """RLIMIT_FSIZE stops a write in the middle, as a full disk does."""
    before = names_in(staged)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(staged), "20000"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=program_environment(),
    )
    assert done.stdout == "disk\n"
    assert names_in(staged) == before
    assert serves(model_cache(staged)) == "1"
