"""Traces as a collector gets them, by OTLP over HTTP; needs the extra `otel`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.dependencies import tracing_of
from tests import servers
from tests.serving.conftest import Site


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """The address of a collector, and what it got: (path, body)."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


def test_a_collector_gets_the_spans_when_the_service_ends_at_the_latest(served: Site) -> None:
    with collector() as (address, got), served.client(tracing=tracing_of(f"{address}/")) as client:
        assert client.get("/v1/users/7/score").status_code == 200
    (path, body), *_ = got
    assert path == "/v1/traces"
    sent = MessageToDict(ExportTraceServiceRequest.FromString(body))
    (resource,) = sent["resourceSpans"]
    assert {"key": "service.name", "value": {"stringValue": "churn"}} in resource["resource"]["attributes"]
    names = [span["name"] for span in resource["scopeSpans"][0]["spans"]]
    assert names == ["read", "score", "log", "GET /v1/users/{user_id}/score"]
    assert "/v1/users/7" not in json.dumps(sent)


def test_a_collector_that_is_down_costs_neither_answers_nor_the_end(served: Site) -> None:
    address = f"http://127.0.0.1:{servers.free_port()}"
    with served.client(tracing=tracing_of(address)) as client:
        assert client.get("/v1/users/7/score").status_code == 200
        started = time.monotonic()
    assert time.monotonic() - started < 8
