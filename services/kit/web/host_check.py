"""Which names a service without keys answers to, so that no page can have a browser take it for its own site.

Without keys, whoever reaches the port may do everything, and a browser on this machine reaches loopback. It keeps
other sites' pages out, but tells sites apart by name: a page of `evil.example`, whose owner then points that name at
127.0.0.1, is of one origin with whatever answers there (DNS rebinding). `Host` carries the name. So what somebody could
own and point here is refused. No browser leaves `Host` out; probes that speak HTTP/1.0 do, and are let in.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from services.kit.errors import Misdirected, error_response

_UNREGISTRABLE = (".localhost", ".local", ".internal", ".svc", ".lan", ".home.arpa", ".test")
_FOR_ALL = frozenset({"/healthz", "/readyz", "/metrics"})


@lru_cache(maxsize=64)
def is_allowed_host(host: bytes, names: frozenset[str]) -> bool:
    """Whether a `Host` is one of `names`, an address, or what nobody can own: `.local` and its like, no dot at all."""
    text = host.decode("latin-1").strip().lower()
    bracketed = text.startswith("[")
    name = text[1:].partition("]")[0] if bracketed else text.partition(":")[0].removesuffix(".")
    if "." not in name or name in names or name.endswith(_UNREGISTRABLE):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class HostCheck:
    """Pure ASGI middleware: a foreign name is answered 421, the body unread; probes and metrics are for all."""

    def __init__(self, app: ASGIApp, names: Iterable[str], prefix: str) -> None:
        self._app = app
        self._names = frozenset(name.lower().removesuffix(".") for name in names)
        self._refusal = error_response(
            Misdirected(
                "this service asks for no key, so it answers only to names that nobody else can point at it; "
                f"add the name in Host to {prefix}ALLOWED_HOSTS (JSON list), or set {prefix}API_KEYS"
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"host":
                    if not is_allowed_host(value, self._names) and scope["path"] not in _FOR_ALL:
                        await self._refusal(scope, receive, send)
                        return
                    break
        await self._app(scope, receive, send)
