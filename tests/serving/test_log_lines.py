"""`churn serve` itself: whatever its processes say, from the start to the end, is one JSON line an event."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from churn.domain.access import Scope
from churn.stores.api_keys import KeyFile
from tests import servers
from tests.serving.conftest import eventually
from tests.stores.test_raw_tables import SnapshotStore, written

REGISTRY = "http://jane:s3cret@127.0.0.1:9"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A deployment with raw tables and a key, and with neither features nor a registry that answers."""
    written(SnapshotStore(tmp_path / "raw"), 1, 2)
    return tmp_path


def started(home: Path, mode: str, **streams: Any) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHURN_")}
    own = {"CHURN_HOME": str(home), "CHURN_MODE": mode, "CHURN_MLFLOW_TRACKING_URI": REGISTRY}
    own |= {"CHURN_DRAIN_SECONDS": "0"}
    command = [sys.executable, "-m", "churn", "serve", "--port", "0"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=servers.program_environment(environment | own), **streams
    )


def address_of(service: subprocess.Popen[str]) -> str:
    assert service.stdout is not None
    said = service.stdout.readline()
    return next(word for word in said.split() if word.startswith("http://"))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def stopping(service: subprocess.Popen[str], how: signal.Signals) -> Iterator[str]:
    """The service's address; it is stopped at the end."""
    with service:
        try:
            address = address_of(service)
            assert eventually(lambda: servers.answers(f"{address}/healthz"), seconds=60)
            yield address
        finally:
            service.send_signal(how)
            assert service.wait(20) == 0


def send_garbage(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"jane\n{\x00}\r\n\r\n")
        connection.recv(1000)


def test_a_service_in_production_says_lines_only(home: Path) -> None:
    key = KeyFile(home / "keys.json").add("shop", frozenset({Scope.SCORE}))
    said = home / "said"
    with said.open("w") as errors, stopping(started(home, "production", stderr=errors), signal.SIGTERM) as address:
        headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "abc-1"}
        assert httpx.post(f"{address}/v1/score", json={"user_ids": [7]}, headers=headers).status_code == 503
        send_garbage(address)
        assert eventually(lambda: "churn.staging" in said.read_text(), seconds=60)
    text = said.read_text()
    found = lines(text)
    assert {line["logger"] for line in found} == {"churn.serve", "churn.serving", "churn.staging", "uvicorn.error"}
    (failed,) = [line for line in found if line.get("request_id") == "abc-1"]
    assert (failed["level"], failed["status"], failed["code"]) == ("warning", 503, "no_model")
    (staging,) = [line for line in found if line["logger"] == "churn.staging"]
    assert (staging["level"], staging["outcome"]) == ("warning", "failed")
    assert [line["message"] for line in found if line["logger"] == "churn.serve"] == [
        f"serving on {address}",
        "the service has ended",
    ]
    assert not [secret for secret in (key, "s3cret", "jane") if secret in text]


def test_a_developer_at_a_terminal_reads_text(home: Path) -> None:
    ours, theirs = pty.openpty()
    service = started(home, "development", stderr=theirs)
    os.close(theirs)
    with stopping(service, signal.SIGINT):
        first = os.read(ours, 4096).decode()
    os.close(ours)
    assert " warning churn.serve: development mode: no API key is asked for" in first
