"""OpenTelemetry spans: one for each request to the service, and one for each of its requests to the engine.

Imported only when a collector is configured (extra `otel`).
"""

from types import SimpleNamespace
from typing import Any

import aiohttp
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNTRACED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class Tracing:
    """The service's tracer. A caller's `traceparent` decides whether to sample; of other requests, a `share` is."""

    def __init__(self, service: str, processor: SpanProcessor, *, share: float = 1.0) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": service}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer("regrade")

    def engine_requests(self) -> aiohttp.TraceConfig:
        """Configures a session: a span around each request, sent along as `traceparent`."""
        config = aiohttp.TraceConfig()

        async def start(_: object, context: SimpleNamespace, request: aiohttp.TraceRequestStartParams) -> None:
            attributes = {"http.request.method": request.method, "server.address": request.url.host or ""}
            context.span = self.tracer.start_span(
                f"{request.method} {request.url.path}", kind=trace.SpanKind.CLIENT, attributes=attributes
            )
            propagate.inject(request.headers, trace.set_span_in_context(context.span))

        async def end(_: object, context: SimpleNamespace, answer: aiohttp.TraceRequestEndParams) -> None:
            context.span.set_attribute("http.response.status_code", answer.response.status)
            context.span.end()

        async def fail(_: object, context: SimpleNamespace, failure: aiohttp.TraceRequestExceptionParams) -> None:
            context.span.set_status(trace.StatusCode.ERROR, type(failure.exception).__name__)
            context.span.end()

        config.on_request_start.append(start)
        config.on_request_end.append(end)
        config.on_request_exception.append(fail)
        return config

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


def open_tracing(service: str, url: str, share: float) -> Tracing:
    """A tracer that exports in the background to the OTLP collector at `url` (HTTP)."""
    exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces")
    return Tracing(service, BatchSpanProcessor(exporter), share=share)


class TracedRequests:
    """ASGI middleware: a span for each request, named by its route, a child of the caller's span."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes: dict[str, Any] = {"http.request.method": scope["method"]}
        with self._tracing.tracer.start_as_current_span(
            "unmatched", context=propagate.extract(headers), kind=trace.SpanKind.SERVER, attributes=attributes
        ) as span:

            async def watch(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(trace.StatusCode.ERROR)
                await send(message)

            try:
                await self._app(scope, receive, watch)
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)
