"""Connections that say nothing, say it a byte at a time, or never come to an end of their headers are closed.

uvicorn itself waits for headers for ever, and keeps all that comes until then.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Connection(HttpToolsProtocol):
    """uvicorn's connection with a bound on the time and the bytes until a request's headers are complete.

    Bodies have bounds of their own (serving.body). Within these bounds, headers over the documented limit are 431.
    """

    header_seconds = 10.0
    header_bytes = 65_536
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # None until the first request
    _deadline: TimerHandle | None = None
    _before_headers = 0
    _in_body = False
    _overtaken: tuple[RequestResponseCycle, ...] = ()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        rest_of_body = self._in_body  # of one that was refused unread
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # no request is being answered: headers are to come
            self._expect_headers()
            self._before_headers += 0 if rest_of_body else len(data)
            if self._before_headers > self.header_bytes:
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._forget_deadline()
        self._before_headers, self._in_body = 0, True
        before = self.cycle
        super().on_headers_complete()
        if before is not None and not before.response_complete:
            self._overtaken = (*(each for each in self._overtaken if not each.response_complete), before)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)
        # uvicorn tells the newest request only. One that is still being answered would write to a closed socket, which
        # uvloop calls an error: ours, by the looks of it.
        for cycle in self._overtaken:
            cycle.disconnected = True

    def _expect_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
