"""Real processes, killed: what was answered is logged, what was started ends, what may not be imported is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest

from tests import servers
from tests.serving.conftest import Site, eventually

ROOT = Path(__file__).parents[2]


@contextmanager
def program(
    site: Site, *arguments: str, before: Sequence[str] = (), env: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A started service of `site` and its address; `before` is the program that it is started by."""
    port = servers.free_port(following=4)
    address = f"http://127.0.0.1:{port}"
    command = [*before, sys.executable, *arguments, str(port)]
    with servers.running(
        command,
        ready=lambda: servers.answers(f"{address}/readyz"),
        log=site.home / "program.log",
        cwd=ROOT,
        env={"SITE_HOME": str(site.home), **env},
    ) as process:
        yield process, address


def uvicorn(site: Site) -> AbstractContextManager[tuple[subprocess.Popen[bytes], str]]:
    return program(site, "-m", "uvicorn", "--factory", "tests.serving.program:create", "--log-level", "error", "--port")


def serve_command(site: Site, **env: str) -> AbstractContextManager[tuple[subprocess.Popen[bytes], str]]:
    return program(site, "-m", "tests.serving.program", env=env)


# -- durability ------------------------------------------------------------------------------------------------


def ask_until_it_dies(address: str, name: str, answered: set[tuple[str, int]]) -> None:
    """Asks for one to five users at a time; adds what was answered with 200."""
    with httpx.Client(base_url=address) as client:
        for number in range(1_000_000):
            request_id, users = f"{name}-{number}", list(range(1, 2 + number % 5))
            try:
                answer = client.post("/v1/score", json={"user_ids": users}, headers={"X-Request-ID": request_id})
            except httpx.TransportError:
                return
            assert answer.status_code == 200
            answered.update((request_id, user) for user in users)


@pytest.mark.fault("P1")
def test_no_answered_prediction_is_lost_by_kill_9(served: Site) -> None:
    seed = random.randrange(10**6)
    chance, answered = random.Random(seed), set[tuple[str, int]]()
    for round_number in range(int(os.environ.get("PREDICTION_LOG_ROUNDS", "3"))):
        with uvicorn(served) as (process, address):
            threads = [
                threading.Thread(target=ask_until_it_dies, args=(address, f"r{round_number}-{n}", answered))
                for n in range(4)
            ]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.2, 0.8))
            os.kill(process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
    from churn.stores.prediction_log.reading import read_predictions
    from tests.serving.conftest import EVER

    frame, skipped = read_predictions(served.home / "predictions", *EVER)
    logged = set(zip(frame["request_id"], frame["user_id"], strict=True))
    assert len(answered) > 100
    assert answered - logged == set(), f"seed {seed}"
    assert skipped <= round_number + 1, "at most one torn record a kill"


# -- one command up, one command down --------------------------------------------------------------------------


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def side_pid(site: Site) -> int:
    path = site.home / "side.pid"
    assert eventually(lambda: path.exists() and path.read_text() != "", seconds=10)
    return int(path.read_text())


@pytest.mark.fault("L8", "R5")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_the_service_and_its_side_process_cleanly(how: signal.Signals, served: Site) -> None:
    with serve_command(served) as (process, address):
        side = side_pid(served)
        assert httpx.post(f"{address}/v1/score", json={"user_ids": [1]}).status_code == 200
        process.send_signal(how)
        assert process.wait(timeout=10) == 0
        assert not is_running(side)
    assert len(served.log()) == 1


@pytest.mark.fault("R6")
def test_a_side_process_is_started_again_when_it_dies_and_dies_with_a_service_killed_by_9(served: Site) -> None:
    with serve_command(served) as (process, address):
        first = side_pid(served)
        (served.home / "side.pid").unlink()
        os.kill(first, signal.SIGKILL)
        assert httpx.get(f"{address}/readyz").status_code == 200
        second = side_pid(served)
        assert is_running(second) and second != first
        process.kill()
        process.wait()
        assert eventually(lambda: not is_running(second))


def test_a_taken_port_is_said_before_anything_is_started(tmp_path: Path) -> None:
    import socket

    from churn.errors import Unavailable
    from churn.jobs.serve import serve

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}"):
            serve("no.such:app", host="127.0.0.1", port=port, drain_seconds=0, side_command=["false"], announce=print)


# -- what the service is made of -------------------------------------------------------------------------------

IMPORTS = """
import sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append(arguments) if event == "pickle.find_class" else None)
import churn.wiring
from tests.serving.program import create
seen.clear()
app = create()
app.state.service.watch.look()
assert app.state.service.watch.loaded is not None
assert seen == [], seen
print([name for name in ("mlflow", "evidently", "dbt") if name in sys.modules])
"""


@pytest.mark.fault("S5")
def test_the_service_imports_neither_mlflow_nor_evidently_nor_dbt_and_unpickles_nothing(served: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=servers.program_environment({"SITE_HOME": str(served.home)}),
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
