"""What all services' HTTP servers share: keys, host check, body limit, health, metrics, and shutdown."""

import gc
import hmac
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regrade.contracts import ErrorBody
from services.kit.errors import Forbidden, Invalid, TooLarge, Unauthorized, error_response, install_error_handlers
from services.kit.settings import ServiceSettings
from services.kit.web.host_check import HostCheck
from services.kit.web.metrics import HttpMetrics, metrics_response

_GC_THRESHOLD = 20_000
"""Allocations between collections; the default of some hundreds costs the slowest responses of a large batch."""

bearer = HTTPBearer(auto_error=False, description="An API key of the service.")
M = TypeVar("M", bound=BaseModel)

Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


class Readiness(NamedTuple):
    """Whether each dependency answers, and whether requests can be served."""

    parts: dict[str, bool]
    ready: bool


ReadinessProbe = Callable[[Request], Awaitable[Readiness]]


def matches_any(keys: Sequence[SecretStr], given: str) -> bool:
    """Whether `given` is one of the keys, in constant time: neither value nor position leaks."""
    matches = [hmac.compare_digest(key.get_secret_value().encode(), given.encode()) for key in keys]
    return any(matches)


async def require_key(request: Request, credentials: Credentials) -> None:
    """Require any known key, unless none is configured. Raises `Unauthorized`."""
    settings: ServiceSettings = request.app.state.settings
    keys = settings.caller_keys
    if keys and not matches_any(keys, credentials.credentials if credentials else ""):
        raise Unauthorized("send a valid key as 'Authorization: Bearer <key>'")


async def require_operator(request: Request, credentials: Credentials) -> None:
    """Require an operator key, unless no key of any kind is configured. Raises `Unauthorized`, `Forbidden`."""
    await require_key(request, credentials)
    settings: ServiceSettings = request.app.state.settings
    if settings.caller_keys and not matches_any(settings.operator_keys, credentials.credentials if credentials else ""):
        raise Forbidden("this call changes what is active; send an operator key")


async def read_json_bytes(request: Request) -> bytes:
    """The body, to be parsed as JSON. Raises `Invalid` unless its content type is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Invalid("send the body as Content-Type: application/json")
    return await request.body()


class BodyLimit:
    """Pure ASGI middleware: a body over the limit is answered 413 before it is parsed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        more = scope["method"] in ("POST", "PUT", "PATCH")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                error = TooLarge(f"the body exceeds {self._max_bytes} bytes; send fewer items a request")
                await error_response(error)(scope, receive, send)
                return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the error responses of a route."""
    return {status: {"model": ErrorBody} for status in statuses}


def install_common_routes(
    app: FastAPI, settings: ServiceSettings, registry: CollectorRegistry, ready: ReadinessProbe
) -> FastAPI:
    """Add error mapping, `/healthz`, `/readyz`, `/metrics`, body limit and host check to an app."""
    app.state.settings = settings
    router = APIRouter(tags=["operations"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Liveness: the process answers. No dependency is checked."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {}})
    async def readyz(request: Request) -> JSONResponse:
        """Readiness: each dependency, true where it answers; status 503 unless requests can be served."""
        parts, serves = await ready(request)
        return JSONResponse(parts, status_code=200 if serves else 503)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return metrics_response(registry)

    app.include_router(router)
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if not settings.caller_keys:
        names = (settings.host, *settings.allowed_hosts)
        app.add_middleware(HostCheck, names=names, prefix=settings.model_config["env_prefix"])
    app.add_middleware(HttpMetrics, registry=registry)
    return app


def serve(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight, for `drain_s` at most."""
    listener = socket.create_server((settings.host, settings.port), backlog=2_048)
    if settings.port_file:
        Path(settings.port_file).write_text(str(listener.getsockname()[1]), encoding="utf-8")
    gc.collect()
    gc.freeze()  # imported objects stay; traversing them in every collection delays the slowest responses
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # client addresses are not used
        timeout_graceful_shutdown=settings.drain_s,
    )
    uvicorn.Server(config).run(sockets=[listener])
