"""Protection of a service without keys against DNS rebinding: requests for foreign host names are refused.

Without keys, everybody who reaches the port may do everything, and a browser on the same machine reaches loopback.
Browsers separate sites by name: the owner of `evil.example` can point that name at 127.0.0.1, and the pages of that
site then have the same origin as this service. The `Host` header carries the name, so a name that somebody could own
and point here is refused. Browsers always send `Host`; HTTP/1.0 probes do not, and are served.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from starlette.types import ASGIApp, Receive, Scope, Send

from services.kit.errors import Misdirected, error_response

_UNREGISTRABLE = (".localhost", ".local", ".internal", ".svc", ".lan", ".home.arpa", ".test")
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_PORT = r"(?::[0-9]{0,5})?"
_BRACKETED = re.compile(rf"\[([0-9a-f:.]+)\]{_PORT}", re.ASCII)
_NAMED = re.compile(rf"([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?{_PORT}", re.ASCII)


@lru_cache(maxsize=64)
def is_allowed_host(host: bytes, names: frozenset[str]) -> bool:
    """Whether a `Host` is one of `names`, an IP address, or a name that nobody can own: without a dot, `.local` etc.

    Anything else than `name[:port]` or `[IPv6 address][:port]` is not; an empty `Host` is, and no browser sends it.
    """
    text = host.decode("latin-1").strip().lower()
    if bracketed := _BRACKETED.fullmatch(text):
        return _is_address(IPv6Address, bracketed[1])
    if not (named := _NAMED.fullmatch(text)):
        return not text
    name = named[1]
    return "." not in name or name in names or name.endswith(_UNREGISTRABLE) or _is_address(IPv4Address, name)


def _is_address(kind: type[IPv4Address] | type[IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


class HostCheck:
    """ASGI middleware: a foreign host name is answered 421 before the body is read, except for probes and metrics."""

    def __init__(self, app: ASGIApp, names: Iterable[str], prefix: str) -> None:
        self._app = app
        self._names = frozenset(name.lower().removesuffix(".") for name in names)
        self._refusal = error_response(
            Misdirected(
                "this service needs no key, so it serves only host names that nobody else can point at it; "
                f"add the name in Host to {prefix}ALLOWED_HOSTS (JSON list), or set {prefix}API_KEYS"
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = (value for name, value in scope["headers"] if name == b"host")
            if scope["path"] not in _OPEN_PATHS and not all(is_allowed_host(host, self._names) for host in hosts):
                await self._refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
