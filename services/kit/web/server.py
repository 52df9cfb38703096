"""What all services' HTTP servers share: keys, host check, body limit, health, metrics, and shutdown."""

import gc
import hmac
import logging
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, cast

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from regrade.contracts import ErrorBody
from services.kit.errors import Forbidden, Invalid, Unauthorized, install_error_handlers
from services.kit.private_files import keep_files_private
from services.kit.settings import ServiceSettings
from services.kit.web.body_limit import BodyLimit
from services.kit.web.docs_page import docs_router
from services.kit.web.host_check import HostCheck
from services.kit.web.metrics import HttpMetrics, metrics_response
from services.kit.web.protocol import ConnectionLimits, LimitedProtocol

log = logging.getLogger(__name__)

_GC_THRESHOLD = 20_000
"""Allocations between collections; the default of some hundreds costs the slowest responses of a large batch."""

_OTHER_FILES = 256
"""Open files besides connections of callers: Redis, the judge, the spool, worker processes."""

bearer = HTTPBearer(auto_error=False, description="An API key of the service.")

Guard = Callable[[Request, HTTPAuthorizationCredentials | None], Awaitable[object]]
"""A dependency such as `require_key`: raises an error to refuse the request."""

Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


class Readiness(NamedTuple):
    """Whether each dependency answers, whether requests can be served, and what is wrong, by dependency."""

    parts: Mapping[str, bool]
    ready: bool
    problems: Mapping[str, str] = MappingProxyType({})


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


def may_operate(request: Request, credentials: HTTPAuthorizationCredentials | None) -> bool:
    """Whether the caller has an operator key, or none is needed because no key of any kind is configured."""
    settings: ServiceSettings = request.app.state.settings
    given = credentials.credentials if credentials else ""
    return not settings.caller_keys or matches_any(settings.operator_keys, given)


async def require_operator(request: Request, credentials: Credentials) -> None:
    """Require an operator key, unless no key of any kind is configured. Raises `Unauthorized`, `Forbidden`."""
    await require_key(request, credentials)
    if not may_operate(request, credentials):
        raise Forbidden("this call changes what is active; send an operator key")


async def read_json_bytes(request: Request) -> bytes:
    """The body, to be parsed as JSON. Raises `Invalid` unless its content type is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Invalid("send the body as Content-Type: application/json")
    return await request.body()


class GuardedRoute(APIRoute):
    """Runs the route's dependencies, each a `Guard`, before the body is read; FastAPI reads the body first.

    Dependencies of a router that includes this route's router do not run early.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await self.run_guards(request)
            if self.body_field is not None:
                await request.body()  # kept by the request; FastAPI would turn an error of reading into a 400
            return await handle(request)

        return guarded

    async def run_guards(self, request: Request) -> HTTPAuthorizationCredentials | None:
        """The bearer credentials, once no guard has refused them."""
        credentials = await bearer(request)
        for dependency in self.dependencies:
            await cast("Guard", dependency.dependency)(request, credentials)
        return credentials


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the error responses of a route."""
    return {status: {"model": ErrorBody} for status in statuses}


def install_common_routes(
    app: FastAPI, settings: ServiceSettings, registry: CollectorRegistry, ready: ReadinessProbe
) -> FastAPI:
    """Add error mapping, `/healthz`, `/readyz`, `/metrics`, `/docs`, body limit and host check to an app."""
    app.state.settings = settings
    router = APIRouter(tags=["operations"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Liveness: the process answers. No dependency is checked."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {}})
    async def readyz(request: Request) -> JSONResponse:
        """Readiness: each dependency, true where it answers, and `problems`; 503 unless requests can be served."""
        parts, serves, problems = await ready(request)
        content = {**parts, "problems": dict(problems)} if problems else dict(parts)
        return JSONResponse(content, status_code=200 if serves else 503)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return metrics_response(registry)

    app.include_router(router)
    app.include_router(docs_router(app.title))
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_total_bytes=settings.max_total_body_bytes)
    if not settings.caller_keys:
        names = (settings.host, *settings.allowed_hosts)
        app.add_middleware(HostCheck, names=names, prefix=settings.model_config["env_prefix"])
    app.add_middleware(HttpMetrics, registry=registry)
    return app


def server_config(app: FastAPI, settings: ServiceSettings) -> uvicorn.Config:
    """uvicorn's configuration for a service, with the limits of its connections."""
    limits = ConnectionLimits(
        connections=_connection_cap(settings.max_connections),
        head_timeout_s=min(ConnectionLimits._field_defaults["head_timeout_s"], settings.request_timeout_s),
        request_timeout_s=settings.request_timeout_s,
    )
    return uvicorn.Config(
        app,
        http=cast("type[LimitedProtocol]", partial(LimitedProtocol, limits)),
        ws="none",  # a protocol of its own, without these limits
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # client addresses are not used
        timeout_graceful_shutdown=settings.drain_s,
    )


def _connection_cap(wanted: int) -> int:
    """At most `wanted` connections; fewer where the system's limit on open files, raised if possible, leaves fewer."""
    files = wanted + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= files:
        return wanted
    soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(soft - _OTHER_FILES, soft // 2))


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket; `::` accepts IPv4 as well. Of a name's addresses it takes the first, IPv4 before IPv6.

    Raises `OSError`, where the name is unknown or the address is not this machine's or in use.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(addresses, key=lambda entry: entry[0] == socket.AF_INET6)
    is_dual = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=2_048, dualstack_ipv6=is_dual)


def listener_url(listener: socket.socket) -> str:
    """The URL of what listens, an IPv6 address in brackets."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight, for `drain_s` at most."""
    keep_files_private()
    try:
        listener = open_listener(settings.host, settings.port)
    except OSError as error:
        sys.exit(f"cannot listen on host {settings.host}, port {settings.port}: {error.strerror or error}")
    if settings.port_file:
        Path(settings.port_file).write_text(str(listener.getsockname()[1]), encoding="utf-8")
    gc.collect()
    gc.freeze()  # imported objects stay; traversing them in every collection delays the slowest responses
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    log.info("listening", extra={"url": listener_url(listener)})
    uvicorn.Server(server_config(app, settings)).run(sockets=[listener])
