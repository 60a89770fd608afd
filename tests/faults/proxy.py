"""A TCP proxy on the loopback between a client and a real server, with faults on the way back.

    with proxy_to(port) as proxy:
        client = connect("127.0.0.1", proxy.port)
        proxy.toxic = Toxic(latency=1.0)

A toxic counts from the next bytes on, for open connections too; `Toxic()` is a sound network.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: the connection ends with a reset


@dataclass(frozen=True)
class Toxic:
    """What happens to the server's bytes. The defaults are: nothing.

    `latency`: seconds before each piece. `trickle`: seconds before each single byte. `silent`: nothing arrives,
    nothing is closed (a half-open connection, a black hole). `reset`: a reset in place of an answer. `limit`: so many
    bytes of a connection arrive, then it is closed. `garbage`: arrives in place of the answer, then it is closed.
    `linger`: seconds until the client hears that the server has closed.
    """

    latency: float = 0.0
    trickle: float = 0.0
    silent: bool = False
    reset: bool = False
    limit: int | None = None
    garbage: bytes = b""
    linger: float = 0.0


@dataclass
class Proxy:
    """Listens on `port` and connects to `upstream`; both may be changed between two connections."""

    upstream: int
    port: int = 0
    toxic: Toxic = field(default_factory=Toxic)
    connections: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Until `stop` is set; then every connection is dropped."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(OSError, asyncio.CancelledError):  # gone, or the proxy ends
                server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
                await self._between(client, to_client, server, to_server)
        finally:
            to_client.close()
            self._tasks.discard(task)

    async def _between(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        up = asyncio.create_task(_forward(client, to_server))
        try:
            await self._back(server, to_client)
        finally:
            up.cancel()
            to_server.close()

    async def _back(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await server.read(PIECE):
            toxic = self.toxic
            if toxic.silent:
                continue
            await asyncio.sleep(toxic.latency)
            if toxic.reset:
                _reset(to_client)
                return
            piece = toxic.garbage or (data if toxic.limit is None else data[: max(toxic.limit - passed, 0)])
            await _send(to_client, piece, toxic.trickle)
            passed += len(piece)
            if toxic.garbage or (toxic.limit is not None and passed >= toxic.limit):
                return
        await asyncio.sleep(self.toxic.linger)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _send(writer: asyncio.StreamWriter, data: bytes, trickle: float) -> None:
    for start in range(0, len(data), 1 if trickle else PIECE):
        await asyncio.sleep(trickle)
        writer.write(data[start : start + (1 if trickle else PIECE)])
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextmanager
def proxy_to(upstream: int) -> Iterator[Proxy]:
    """A proxy in front of that loopback port, in a thread of its own."""
    proxy, ready, stop = Proxy(upstream), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(proxy.serve(ready, stop)), name="proxy")
    thread.start()
    try:
        assert ready.wait(5)
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
