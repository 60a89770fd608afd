"""Traces: one span a request below the caller's, one a stage below that; no people in them, and nothing when off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from churn.errors import ChurnError
from churn.settings import load_settings
from serving.tracing import Tracing
from tests import servers
from tests.serving.conftest import Site
from tests.serving.test_secrets import TellTale

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "abc-1"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider)


def parent_of(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def test_a_request_is_a_span_below_the_callers_and_its_stages_are_below_it(
    served: Site, spans: InMemorySpanExporter, tracing: Tracing
) -> None:
    with served.client(tracing=tracing) as client:
        assert client.get("/v1/users/1/score", headers=CALLER).status_code == 200
    *stages, request = spans.get_finished_spans()
    assert [span.name for span in stages] == ["read", "score", "log"]
    assert {f"{span.context.trace_id:032x}" for span in (*stages, request)} == {TRACE}
    assert parent_of(request) == PARENT
    assert {parent_of(span) for span in stages} == {f"{request.context.span_id:016x}"}
    assert (request.name, request.kind.name) == ("GET /v1/users/{user_id}/score", "SERVER")
    assert request.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/users/{user_id}/score",
        "http.response.status_code": 200,
        "churn.request_id": "abc-1",
    }


def test_without_a_caller_a_trace_of_its_own_begins_and_probes_leave_none(
    served: Site, spans: InMemorySpanExporter, tracing: Tracing
) -> None:
    with served.client(tracing=tracing) as client:
        for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live"):
            assert client.get(path).status_code == 200
        client.post("/v1/score", json={"user_ids": [1]}, headers={"traceparent": "00-garbage"})
    requests = [span for span in spans.get_finished_spans() if span.kind.name == "SERVER"]
    assert [span.name for span in requests] == ["POST /v1/score"]
    assert parent_of(requests[0]) == ""


def test_what_went_wrong_is_told_by_its_kind_and_no_person_is_named(
    served: Site, spans: InMemorySpanExporter, tracing: Tracing
) -> None:
    with served.client(tracing=tracing, online=TellTale(), user_id_type="string") as client:
        for user in ("poison.canary@example.com", "down.canary@example.com", "nobody.canary@example.com"):
            client.get(f"/v1/users/{user}/score")
    found = spans.get_finished_spans()
    told = {(span.name, span.status.status_code.name, span.attributes.get("error.type")) for span in found}
    route = "GET /v1/users/{user_id}/score"
    assert {
        ("read", "ERROR", "RuntimeError"),
        (route, "ERROR", "internal_error"),
        ("read", "ERROR", "Unavailable"),
        (route, "ERROR", "feature_store_unavailable"),
        (route, "UNSET", None),
    } <= told
    everything = "".join(span.to_json() for span in found)
    assert "canary" not in everything and "events" in everything


# -- off -------------------------------------------------------------------------------------------------------

LOOK = """
import sys, churn.wiring
from tests.serving.program import create
create()
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "serving.tracing")
print([name for name in sys.modules if name.startswith(heavy)])
"""


def test_nothing_of_it_is_loaded_unless_a_collector_is_named(served: Site) -> None:
    """But what FastAPI loads: OpenTelemetry's interfaces, which do nothing by themselves."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=servers.program_environment({"SITE_HOME": str(served.home)}),
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


MISSING = """
import sys
sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
from serving.dependencies import tracing_of
tracing_of("http://127.0.0.1:4318")
"""


def test_a_collector_without_the_extra_is_said_at_start() -> None:
    done = subprocess.run([sys.executable, "-c", MISSING], check=False, capture_output=True, text=True, cwd=ROOT)
    assert "NotReady: CHURN_OTEL_ENDPOINT is set, but what sends traces is not installed" in done.stderr


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "ftp://collector", "http://a b"])
def test_a_collector_is_an_address(endpoint: str) -> None:
    with pytest.raises(ChurnError, match="otel_endpoint"):
        load_settings({}, otel_endpoint=endpoint)
