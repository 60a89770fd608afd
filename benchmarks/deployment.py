"""A whole deployment on real servers, to be hurt: a shop's features in Redis, judged versions in an MLflow server.

Every part is brought there by `churn` itself. Of the service two workers answer, each with its own log segments.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import mlflow

from tests import servers

MODEL = "churn_prediction"
USERS = 1500
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Server:
    """A program that can be killed, frozen and started again where it was."""

    command: list[str]
    port: int
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; does not wait until it listens."""
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=servers.program_environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """To it and to all that it started."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def wait(self, seconds: float = 120.0) -> None:
        """Until it listens."""
        end = time.monotonic() + seconds
        while not servers.listens(self.port):
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens on {self.port}: see {self.folder}")
            time.sleep(0.05)


@dataclass
class Deployment:
    """Where everything is. `versions` have passed; the first is champion."""

    home: Path
    redis: Server
    mlflow: Server
    service: Server
    versions: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    @property
    def worker_addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{self.service.port + n}" for n in (1, 2)]

    def move_alias(self, version: str) -> None:
        """One click."""
        address = f"http://127.0.0.1:{self.mlflow.port}/api/2.0/mlflow/registered-models/alias"
        httpx.post(
            address, json={"name": MODEL, "alias": "champion", "version": version}, timeout=30
        ).raise_for_status()

    def workers(self) -> list[int]:
        """Process ids of those that answer."""
        return [pid for pid, words in self._children() if "worker" in words]

    def side_process(self) -> int:
        return next(pid for pid, words in self._children() if "stage" in words)

    def megabytes(self) -> list[float]:
        """Memory of each worker."""
        sizes = []
        for pid in self.workers():
            with suppress(FileNotFoundError):
                sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6)
        return sizes

    def _children(self) -> Iterator[tuple[int, list[str]]]:
        assert self.service.process is not None
        for tasks in Path(f"/proc/{self.service.process.pid}/task").glob("*/children"):
            for pid in tasks.read_text().split():
                with suppress(FileNotFoundError):
                    yield int(pid), Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """A running one, ready to answer; everything ends with the block."""
    made = _planned(folder)
    try:
        for server in (made.redis, made.mlflow):
            server.start()
            server.wait()
        made.versions = _filled(made)
        made.service.start()
        _wait_until_ready(made)
        yield made
    finally:
        for server in (made.service, made.mlflow, made.redis):
            if server.process is not None:
                server.signal(signal.SIGCONT)
                server.kill()


def _planned(folder: Path) -> Deployment:
    home = folder / "home"
    home.mkdir()
    redis, registry = servers.free_port(), servers.free_port()
    _write_settings(home, redis, registry)
    churn = [sys.executable, "-m", "churn"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    options = ["--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
    service = _free_ports()
    serve = [*churn, "serve", "--port", str(service), "--workers", "2"]
    return Deployment(
        home,
        Server([servers.redis_program(), *options, "--maxmemory-policy", "noeviction"], redis, folder),
        Server(_registry_command(folder, registry), registry, folder, quiet),
        Server(serve, service, folder, {"CHURN_HOME": str(home)}),
    )


def _registry_command(folder: Path, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    return [*command, "--artifacts-destination", str(folder / "artifacts")]


def _free_ports() -> int:
    """The first of three free ports in a row."""
    while True:
        port = servers.free_port()
        if not any(map(servers.listens, (port + 1, port + 2))):
            return port


def _write_settings(home: Path, redis: int, registry: int) -> None:
    # These versions are here to be told apart, not to be good: small forests of the same data must all pass.
    policy = (Path(__file__).resolve().parents[1] / "policy.yaml").read_text()
    lenient = policy.replace("superior_in: [log_loss]", "superior_in: []")
    (home / "policy.yaml").write_text(re.sub(r"(margin|ece|increase): [0-9.]+", r"\1: 0.5", lenient))
    settings = {
        "mode": "development",
        "clock": "snapshot",
        "online_store": "redis",
        "redis_address": f"127.0.0.1:{redis}",
        "mlflow_tracking_uri": f"http://127.0.0.1:{registry}",
        "policy": str(home / "policy.yaml"),
    }
    (home / "churn.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))


def _filled(made: Deployment) -> list[str]:
    """Brings a shop down the river; the versions that passed."""
    shop = made.home / "shop"
    _churn(made, "simulate", "--out", str(shop), "--users", str(USERS), "--days", "540", "--seed", "7")
    tables = {"--users": "users", "--orders": "orders", "--sessions": "user_sessions"}
    _churn(made, "ingest", *(part for flag, name in tables.items() for part in (flag, str(shop / f"{name}.parquet"))))
    _churn(made, "build-features", "--from", "2024-07-01")
    for trees in (20, 25, 30):
        _churn(made, "train", "--n-estimators", str(trees), "--shape", "free")
    versions = [found.version for found in _client(made).search_model_versions(f"name='{MODEL}'")]
    first, *others = sorted(versions, key=int)
    _churn(made, "promote", "--version", first)
    for version in others:
        _churn(made, "promote", "--judge-only", "--version", version)
    return [first, *others]


def _client(made: Deployment) -> mlflow.MlflowClient:
    address = f"http://127.0.0.1:{made.mlflow.port}"
    return mlflow.MlflowClient(address, address)


def _churn(made: Deployment, *arguments: str) -> None:
    environment = servers.program_environment({"CHURN_HOME": str(made.home)})
    done = subprocess.run(
        [sys.executable, "-m", "churn", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"churn {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def _wait_until_ready(made: Deployment, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not all(map(servers.answers, (f"{address}/readyz" for address in made.worker_addresses))):
        if time.monotonic() > end:
            raise TimeoutError(f"the service is not ready: see {made.service.folder}")
        time.sleep(0.2)
