"""Spans, where they are asked for: through `/score` to the engine under the caller's own trace; none else."""

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.reward.app import create_app
from services.reward.settings import RewardSettings
from services.reward.tracing import Tracing
from tests.support.builders import TASK, item
from tests.support.fake_engine import FakeEngine, Reply
from tests.support.servers import ServerThread
from tests.support.waiting import wait_until

BODY = {"task": TASK, "items": [item(0)]}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced_url(redis_url: str, fake_engine: FakeEngine, spans: InMemorySpanExporter) -> Iterator[str]:
    settings = RewardSettings(redis_url=redis_url, judge_url=fake_engine.url, judge_retries=0, bootstrap_tasks=(TASK,))
    server = ServerThread(create_app(settings, Tracing("test", SimpleSpanProcessor(spans), share=0.0)))
    yield server.url
    server.stop()


def test_a_callers_trace_goes_through_to_the_engine(
    traced_url: str, fake_engine: FakeEngine, spans: InMemorySpanExporter
) -> None:
    answer = httpx.post(f"{traced_url}/score", json=BODY, headers={"traceparent": CALLER}, timeout=60.0)
    assert answer.status_code == 200
    wait_until(lambda: any(span.name == "POST /score" for span in spans.get_finished_spans()), "the span to end")
    finished = spans.get_finished_spans()
    [ours] = [span for span in finished if span.name == "POST /score"]
    assert ours.parent is not None
    assert ours.attributes is not None
    assert f"{ours.parent.span_id:016x}" == "b7ad6b7169203331"
    assert ours.attributes["http.response.status_code"] == 200
    judge_spans = [span for span in finished if span.name == "POST /v1/chat/completions"]
    assert len(judge_spans) == len(fake_engine.calls) > 0
    assert {span.parent.span_id for span in judge_spans if span.parent} == {ours.context.span_id}
    traceparents = {headers["traceparent"] for headers in fake_engine.headers}
    assert traceparents == {
        f"00-0af7651916cd43dd8448eb211c80319c-{span.context.span_id:016x}-01" for span in judge_spans
    }


def test_a_failed_judge_shows_in_the_trace(
    traced_url: str, fake_engine: FakeEngine, spans: InMemorySpanExporter
) -> None:
    fake_engine.script = lambda _: Reply(status=500)
    answer = httpx.post(f"{traced_url}/score", json=BODY, headers={"traceparent": CALLER}, timeout=60.0)
    assert answer.status_code == 503
    wait_until(lambda: any(span.name == "POST /score" for span in spans.get_finished_spans()), "the span to end")
    [ours] = [span for span in spans.get_finished_spans() if span.name == "POST /score"]
    assert not ours.status.is_ok


def test_of_requests_without_a_trace_a_share_is_traced(traced_url: str, spans: InMemorySpanExporter) -> None:
    httpx.post(f"{traced_url}/score", json=BODY, timeout=60.0)
    httpx.get(f"{traced_url}/metrics", headers={"traceparent": CALLER})
    assert spans.get_finished_spans() == ()


@pytest.mark.slow
def test_without_a_collector_nothing_of_it_is_imported() -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from services.reward.app import create_app, RewardSettings;"
            "app = create_app(RewardSettings());"
            "print([n for n in sys.modules"
            " if n == 'services.reward.tracing' or n.startswith('opentelemetry.exporter')],"
            "any('Traced' in str(layer) for layer in app.user_middleware))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "[] False"
