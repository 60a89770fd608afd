"""Run the service with its side process: one command up, one command down."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from types import FrameType

import uvicorn

from churn.errors import Unavailable

_GRACE_SECONDS = 10
_RESTART_SECONDS = (1.0, 30.0)
_CONNECTION = "serving.connections:Connection"


class SideProcess:
    """Keeps one program running beside this process: started again when it ends, ended with this process.

    The program gets a pipe as standard input and must end when the pipe closes (`jobs.stage.end_with_parent`): the
    system closes it also when this process is killed with -9.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._stop = Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._keep_running, name="side-process", daemon=True)

    def start(self) -> None:
        self._child = self._started()
        self._thread.start()

    def stop(self) -> None:
        """Ends the program: first by closing its pipe, at last by force."""
        self._stop.set()
        child = self._child
        if child is not None:
            _end(child)
        self._thread.join(_GRACE_SECONDS)
        if self._child is not child and self._child is not None:  # it was just being started again
            _end(self._child)

    def _started(self) -> subprocess.Popen[bytes]:
        # Its own session: Ctrl-C in the terminal goes to the service alone, which then closes the pipe.
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)

    def _keep_running(self) -> None:
        pause, longest = _RESTART_SECONDS
        while not self._stop.is_set():
            assert self._child is not None and self._child.stdin is not None
            self._child.wait()
            self._child.stdin.close()
            if self._stop.wait(pause):
                return
            pause = min(2 * pause, longest)
            with suppress(OSError):  # no memory, no process slot: tried again after the next pause
                self._child = self._started()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Asks by closing the pipe, then by SIGTERM, then by SIGKILL."""
    assert child.stdin is not None
    child.stdin.close()
    for insist in (child.terminate, child.kill):
        try:
            child.wait(_GRACE_SECONDS / 2)
        except subprocess.TimeoutExpired:
            insist()
    child.wait()


def serve(app: str, *, host: str, port: int, side_command: Sequence[str], announce: Callable[[str], None]) -> None:
    """Serves the application factory `app` ("package.module:function") until SIGTERM or SIGINT.

    `announce` hears the address once the socket is bound (port 0: the system chooses one). Raises Unavailable when
    the port is taken; ChurnErrors of the factory pass through.
    """
    listener = _listener(host, port)
    side = SideProcess(side_command)
    server = uvicorn.Server(_config(app))
    with listener, _quiet_end(server):
        side.start()
        try:
            announce(f"http://{host}:{listener.getsockname()[1]}")
            server.run(sockets=[listener])
        finally:
            side.stop()


def _config(app: str) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=True,
        http=_CONNECTION,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing depends on who a caller says to be
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="Choose another with --port, or 0 for any free one.",
        ) from error
    return listener


@contextmanager
def _quiet_end(server: uvicorn.Server) -> Iterator[None]:
    """uvicorn raises the signal that ended it once more, which would skip the clean-up: ours takes it instead.

    A signal that arrives before uvicorn listens ends the start.
    """

    def note(number: int, _frame: FrameType | None) -> None:
        server.should_exit = True
        if not server.started:
            sys.exit(128 + number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
