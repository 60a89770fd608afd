"""The real programs that tests run against, Redis, PostgreSQL, MLflow, Chromium, and helpers such as strace.

Each is started on a free loopback port as a process group of its own and ended by that group.
`python tests/servers.py` prints the Debian packages of those that are missing here; `.ci/services` installs them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class MissingProgram(Exception):
    """A program that the tests need is not installed; says which, and what to do."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(
            f"{program} is not installed. As root on Debian or Ubuntu `make services` brings it; "
            f"else: sudo apt-get install -y --no-install-recommends {package}"
        )


# -- programs --------------------------------------------------------------------------------------------------


def redis_program() -> str:
    """Path of redis-server; raises MissingProgram."""
    return _first("redis-server", "redis-server", shutil.which("redis-server"))


def postgres_programs() -> tuple[str, str]:
    """Paths of initdb and postgres, of one version; raises MissingProgram."""
    # Debian keeps them off the path, one folder for each version.
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = Path(_first("PostgreSQL", "postgresql", shutil.which("initdb"), *map(str, reversed(debian))))
    return str(initdb), str(initdb.with_name("postgres"))


def chromium_program() -> str:
    """Path of a Chromium from the system, else of the one that `playwright install chromium` brought."""
    return _first("Chromium", "chromium", *map(shutil.which, CHROMIUM_NAMES), *_playwright_builds())


def strace_program() -> str:
    """Path of strace, which shows the order of system calls and makes them fail; raises MissingProgram."""
    return _first("strace", "strace", shutil.which("strace"))


def promtool_program() -> str:
    """Path of promtool, which reads alert rules as Prometheus does and tries them; raises MissingProgram."""
    return _first("promtool", "prometheus", shutil.which("promtool"))


def faketime_library() -> str:
    """Path of the library that changes the time for a program that it is loaded into; raises MissingProgram."""
    places = [
        place for root in ("/usr/lib", "/usr/local/lib") for place in Path(root).glob("**/faketime/libfaketimeMT.so.1")
    ]
    return _first("libfaketime", "faketime", *map(str, sorted(places)))


def _playwright_builds() -> list[str]:
    root = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    return sorted(map(str, root.glob("chromium-*/chrome-linux*/chrome")))


def _first(program: str, package: str, *candidates: str | None) -> str:
    for candidate in candidates:
        if candidate:
            return candidate
    raise MissingProgram(program, package)


def missing_packages() -> list[str]:
    """Debian packages of the programs that are not here."""
    needed = {
        "redis-server": redis_program,
        "postgresql": postgres_programs,
        "chromium": chromium_program,
        "strace": strace_program,
        "prometheus": promtool_program,
        "faketime": faketime_library,
    }
    return [package for package, find in needed.items() if not _is_here(find)]


def _is_here(find: Callable[[], object]) -> bool:
    try:
        find()
    except MissingProgram:
        return False
    return True


# -- running ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Owner:
    """Whom a program runs as; PostgreSQL refuses to run as root."""

    uid: int
    gid: int

    def arguments(self) -> dict[str, object]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def free_port(following: int = 0) -> int:
    """A loopback port that nobody listens on now, nor on so many after it."""
    while True:
        with ExitStack() as probes, suppress(OSError, OverflowError):
            first = _bound(probes, 0)
            for number in range(first + 1, first + 1 + following):
                _bound(probes, number)
            return first


def _bound(probes: ExitStack, port: int) -> int:
    probe = probes.enter_context(socket.socket())
    probe.bind(("127.0.0.1", port))
    return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections on that loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Whether a GET of `url` ends with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def connects(url: str) -> bool:
    """Whether PostgreSQL takes a connection: it listens a moment before it does."""
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def program_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with compiled bytecode allowed: uncompiled, MLflow takes 15 s to start."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **(extra or {})}


@contextmanager
def running(
    command: Sequence[str],
    *,
    ready: Callable[[], bool],
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    owner: Owner | None = None,
    stop_with: signal.Signals = signal.SIGTERM,
    seconds: float = 120.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, ready, in a process group of its own; its output is in `log`. The whole group ends afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=program_environment(env),
            start_new_session=True,
            **(owner.arguments() if owner else {}),  # type: ignore[call-overload]  # Popen has an overload for each
        )
    try:
        _wait_until_ready(process, ready, log, seconds)
        yield process
    finally:
        end_group(process, stop_with)


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            state = "is not ready" if process.returncode is None else f"ended with {process.returncode}"
            raise AssertionError(f"{process.args!r} {state}:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)


def end_group(process: subprocess.Popen[bytes], stop_with: signal.Signals = signal.SIGTERM) -> None:
    """Asks the process's group to end, waits for the process, then kills what is left of the group."""
    _signal_group(process.pid, stop_with)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait(timeout=15)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


# -- the servers -----------------------------------------------------------------------------------------------


@contextmanager
def redis_server(folder: Path, port: int | None = None, *, keeps: bool = False) -> Iterator[str]:
    """host:port of a Redis; started again in the same folder it has what it `keeps`, else it is empty."""
    port = port or free_port()
    command = [redis_program(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "yes" if keeps else "no", "--maxmemory-policy", "noeviction"]
    with running(command, ready=lambda: listens(port), log=folder / "redis.log"):
        yield f"127.0.0.1:{port}"


@contextmanager
def postgres_server() -> Iterator[str]:
    """URL of an empty database, `postgresql://churn@127.0.0.1:PORT/postgres`. No fsync: as fast as it is frail."""
    initdb, postgres = postgres_programs()
    owner = _postgres_owner()
    # A folder of its own: pytest's are 0700, and the owner has to reach it.
    folder = Path(tempfile.mkdtemp(prefix="churn-postgres-"))
    try:
        _give(folder, owner)
        port = free_port()
        _initialise(initdb, folder / "data", owner)
        command = [postgres, "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
        for setting in ("fsync=off", "full_page_writes=off", "synchronous_commit=off"):
            command += ["-c", setting]
        url, log = f"postgresql://churn@127.0.0.1:{port}/postgres", folder / "postgres.log"
        with running(command, ready=lambda: connects(url), log=log, cwd=folder, owner=owner, stop_with=signal.SIGINT):
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_owner() -> Owner | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    return Owner(user.pw_uid, user.pw_gid)


def _give(folder: Path, owner: Owner | None) -> None:
    folder.chmod(0o755)
    if owner:
        os.chown(folder, owner.uid, owner.gid)


def _initialise(initdb: str, data: Path, owner: Owner | None) -> None:
    command = [initdb, "-D", str(data), "-U", "churn", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        cwd=data.parent,
        env=program_environment(),
        **(owner.arguments() if owner else {}),  # type: ignore[call-overload]  # run has an overload for each
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


@contextmanager
def mlflow_server(
    folder: Path, port: int | None = None, backend: str = "", env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """http://127.0.0.1:PORT of an MLflow server with one worker; what it keeps lies in `folder`.

    `backend` is a store URI, by default a SQLite file in `folder`: starting it again there finds everything again.
    """
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend or f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    # It may call the services of tests, which are on the loopback, and knows at once of a webhook.
    calls = {"ALLOWED_SCHEMES": "http", "ALLOW_PRIVATE_IPS": "true", "CACHE_TTL": "0"}
    quiet |= {f"MLFLOW_WEBHOOK_{name}": value for name, value in calls.items()}
    env, log = {**quiet, **(env or {})}, folder / "mlflow.log"
    with running(command, ready=lambda: answers(f"{address}/health"), log=log, cwd=folder, env=env):
        yield address


if __name__ == "__main__":
    print(*missing_packages())
