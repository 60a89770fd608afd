"""Run the service with its side process: one command up, one command down."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from types import FrameType

import uvicorn

from churn.errors import Unavailable

# What a request in flight may take once no new ones are accepted; longer than any deadline of ours.
GRACE_SECONDS = 10.0
_RESTART_SECONDS = (0.25, 30.0)
_SOUND_SECONDS = 10.0
_FIRST_REQUEST_SECONDS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOG = logging.getLogger("churn.serve")
_CONNECTION = "serving.connections:Connection"
Announce = Callable[[Sequence[str]], None]


class SideProcess:
    """Keeps one program running beside this process: started again when it ends, ended with this process.

    The program gets a pipe as standard input and must end when the pipe closes (`jobs.stage.end_with_parent`): the
    system closes it also when this process is killed with -9. It inherits `sockets`, under the same numbers.
    """

    def __init__(
        self, command: Sequence[str], *, sockets: Sequence[socket.socket] = (), grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._command = list(command)
        self._sockets = sockets
        self._grace_seconds = grace_seconds
        self._stop = Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._keep_running, name="side-process", daemon=True)

    def start(self) -> None:
        self._child = self._started()
        self._thread.start()

    def signal(self, number: int) -> None:
        """Passes a signal on to the program, and starts it no more; waits for nothing."""
        self._stop.set()
        if self._child is not None:
            self._child.send_signal(number)

    def stop(self) -> None:
        """Ends the program: first by closing its pipe, at last by force."""
        self._stop.set()
        child = self._child
        if child is not None:
            _end(child, self._grace_seconds)
        self._thread.join(self._grace_seconds)
        if self._child is not child and self._child is not None:  # it was just being started again
            _end(self._child, self._grace_seconds)

    def _started(self) -> subprocess.Popen[bytes]:
        # Its own session: Ctrl-C in the terminal goes to the service alone, which then closes the pipe.
        numbers = [each.fileno() for each in self._sockets]
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=numbers)

    def _keep_running(self) -> None:
        shortest, longest = _RESTART_SECONDS
        pause = shortest
        while not self._stop.is_set():
            pause = shortest if self._lived() > _SOUND_SECONDS else pause
            if self._stop.wait(pause):
                return
            pause = min(2 * pause, longest)
            with suppress(OSError):  # no memory, no process slot: tried again after the next pause
                self._child = self._started()

    def _lived(self) -> float:
        """Waits for the program's end; the seconds that took."""
        assert self._child is not None and self._child.stdin is not None
        since = time.monotonic()
        code = self._child.wait()
        self._child.stdin.close()
        if not self._stop.is_set():
            _LOG.warning("a program beside ended with %d and is started again: %s", code, " ".join(self._command[1:]))
        return time.monotonic() - since


def _end(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Asks by closing the pipe, then by SIGTERM, then by SIGKILL."""
    assert child.stdin is not None
    child.stdin.close()
    for insist in (child.terminate, child.kill):
        try:
            child.wait(grace_seconds / 2)
        except subprocess.TimeoutExpired:
            insist()
    child.wait()


class _Server(uvicorn.Server):
    """uvicorn's server, except for its end, which no request that was accepted notices.

    On SIGTERM it goes on as before for `drain_seconds`, so that whoever spreads requests over several services has
    the time to see that it is not ready: requests have `draining` in their state, answers close their connections.
    Then nothing more is accepted, and what was accepted is answered. SIGINT is a person who does not want to wait.
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._hurries = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._hurries = self._hurries or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        await self._accept_the_last(sockets or [])
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        self.lifespan.state["draining"] = True
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        end = time.monotonic() + self._drain_seconds
        while time.monotonic() < end and not self._hurries:
            await asyncio.sleep(0.05)

    async def _accept_the_last(self, sockets: Sequence[socket.socket]) -> None:
        """Closes the listeners. Connections that the system had accepted for us by then would be reset: they are
        taken over, and their requests get the time to arrive."""
        spare = [listener.dup() for listener in sockets]  # the servers close theirs
        for server in self.servers:
            server.close()
        for connection in [each for listener in spare for each in _waiting(listener)]:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        end = time.monotonic() + _FIRST_REQUEST_SECONDS
        await asyncio.sleep(0.05)
        while time.monotonic() < end and not self._hurries and self._has_unheard():
            await asyncio.sleep(0.05)

    def _has_unheard(self) -> bool:
        """Whether some connection has not brought its first request yet: uvicorn would close it unheard."""
        return any(getattr(connection, "cycle", self) is None for connection in self.server_state.connections)

    def _protocol(self) -> asyncio.Protocol:
        kind = self.config.http_protocol_class
        made: asyncio.Protocol = kind(  # type: ignore[call-arg]  # uvicorn calls it like this too
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait at a listener, which is closed right after the last of them."""
    with listener, suppress(OSError):
        listener.setblocking(False)
        while True:
            yield listener.accept()[0]


def serve(
    app: str, *, host: str, port: int, drain_seconds: float, side_command: Sequence[str], announce: Announce
) -> None:
    """Serves the application factory `app` ("package.module:function") until SIGTERM or SIGINT.

    `announce` hears the address once the socket is bound (port 0: the system chooses one). Raises Unavailable when
    the port is taken; ChurnErrors of the factory pass through.
    """
    side = SideProcess(side_command)
    with _listener(host, port) as listener:
        side.start()
        try:
            announce([_address(listener)])
            _LOG.info("serving on %s", _address(listener))
            _run(app, [listener], drain_seconds)
            _LOG.info("the service has ended")
        finally:
            side.stop()


def serve_by_workers(
    worker_command: Callable[[Sequence[int]], Sequence[str]],
    *,
    workers: int,
    host: str,
    port: int,
    drain_seconds: float,
    side_command: Sequence[str],
    announce: Announce,
) -> None:
    """The same by several processes that accept from one socket; one that dies is started again.

    Each also listens at an address of its own, the `workers` ports after `port`: what it says of itself, such as its
    metrics, must be asked there. `worker_command` makes the command of a worker from the numbers of its two sockets
    (see `serve_as_worker`). `announce` hears the common address and then those. Raises Unavailable.
    """
    asked = Event()
    with ExitStack() as stack:
        shared = stack.enter_context(_listener(host, port))
        own = [stack.enter_context(_listener(host, port and port + n)) for n in range(1, workers + 1)]
        kept = [
            SideProcess(
                worker_command([shared.fileno(), each.fileno()]),
                sockets=[shared, each],
                grace_seconds=2 * (drain_seconds + GRACE_SECONDS),
            )
            for each in own
        ]
        side = SideProcess(side_command)
        stack.callback(_stop_all, [*kept, side])
        numbers = stack.enter_context(_signals(asked))
        for each in (*kept, side):
            each.start()
        announce([_address(listener) for listener in (shared, *own)])
        _LOG.info("serving on %s", _address(shared))
        asked.wait()
        for each in kept:
            each.signal(numbers[0])
        for listener in (shared, *own):  # else connections would wait here for nobody once the workers leave
            listener.close()
    _LOG.info("the service has ended")


def serve_as_worker(app: str, numbers: Sequence[int], drain_seconds: float) -> None:
    """What each worker runs: serves at the sockets that it inherited, until a signal or the end of its parent."""
    Thread(target=_drain_with_parent, name="drain-with-parent", daemon=True).start()
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket(fileno=number)) for number in numbers]
        _run(app, listeners, drain_seconds)


def _drain_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _stop_all(programs: Sequence[SideProcess]) -> None:
    for each in programs:
        each.stop()


@contextmanager
def _signals(asked: Event) -> Iterator[list[int]]:
    """Sets `asked` at SIGTERM or SIGINT instead of ending the process; which ones came is in the list."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        asked.set()

    with _handling(note):
        yield came


def _run(app: str, listeners: list[socket.socket], drain_seconds: float) -> None:
    """uvicorn raises the signal that ended it once more, which would skip the clean-up: ours takes it instead.

    A signal that arrives before uvicorn listens ends the start.
    """
    server = _Server(_config(app), drain_seconds)

    def note(number: int, _frame: FrameType | None) -> None:
        server.should_exit = True
        if not server.started:
            sys.exit(128 + number)

    with _handling(note):
        server.run(sockets=listeners)


@contextmanager
def _handling(note: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config(app: str) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=True,
        log_config=None,  # its messages go where ours do
        http=_CONNECTION,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing depends on who a caller says to be
        timeout_graceful_shutdown=int(GRACE_SECONDS),
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
