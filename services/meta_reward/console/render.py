"""From a template to an answer: escaping, filters, and the headers that keep a page in its place."""

import time
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlencode

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from redis.exceptions import RedisError
from starlette.responses import HTMLResponse, RedirectResponse, Response

from regrade.contracts import MAIN_LINEAGE, as_text
from services.kit.errors import Invalid, ServiceError, Unauthorized, Unavailable, describe_validation
from services.kit.store.keys import LineageKey
from services.meta_reward.console.plots import share_of
from services.meta_reward.console.session import PATH

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: then a browser would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageLinks(NamedTuple):
    """Where the links of a page about one line lead."""

    lineage: LineageKey

    def __call__(self, page: str = "", **query: object) -> str:
        """The address of a page of this line; what is None is left out."""
        told = {name: str(value) for name, value in query.items() if value not in (None, "")}
        if self.lineage.name != MAIN_LINEAGE:
            told["lineage"] = self.lineage.name
        if self.lineage.scope is not None:
            told["scope"] = self.lineage.scope
        path = f"{PATH}/{self.lineage.task}{f'/{page}' if page else ''}"
        return f"{path}?{urlencode(told)}" if told else path


def page(name: str, values: Mapping[str, Any], *, status: int = 200) -> HTMLResponse:
    """A template's page."""
    return HTMLResponse(_environment().get_template(name).render(values), status_code=status, headers=_HEADERS)


def redirect(address: str) -> RedirectResponse:
    """Go and see there, after a form."""
    return RedirectResponse(address, status_code=303, headers=_HEADERS)


def asset(text: str, kind: str) -> Response:
    """A style sheet or a script of ours."""
    return Response(text, media_type=kind, headers=_HEADERS | {"Cache-Control": "no-cache"})


class ConsoleRoute(APIRoute):
    """Errors become pages; who is not signed in is led to the form for it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthorized:
                back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                there = f"?{urlencode({'next': back})}" if request.method == "GET" else ""
                return redirect(f"{PATH}/login{there}")
            except ServiceError as error:
                return _trouble(error)
            except (RequestValidationError, ValidationError) as error:
                return _trouble(Invalid(describe_validation(error.errors())))
            except RedisError:
                return _trouble(Unavailable("Redis is not reachable; what is shown here is all in it"))

        return handled


def _trouble(error: ServiceError) -> Response:
    return page("error.html", {"error": error, "title": "Trouble"}, status=error.status)


@cache
def _environment() -> Environment:
    made = Environment(
        autoescape=True,
        loader=PackageLoader("services.meta_reward", "console/templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ago": _ago,
        "clock": _clock,
        "iso": _iso,
        "plain": _plain,
        "pct": _pct,
        "signed": _signed,
        "text": as_text,
        "short": _short,
        "share_of": share_of,
        "snippet": _snippet,
    }
    return made


def _ago(seconds: float) -> str:
    passed = max(0.0, time.time() - seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= length:
            return f"{passed / length:.0f} {unit} ago"
    return "just now"


def _clock(seconds: float) -> str:
    return time.strftime("%b %d, %H:%M:%S", time.localtime(seconds))


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _pct(share: float) -> str:
    return f"{100.0 * share:.0f} %"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")  # noqa: RUF001 - a minus, as wide as a plus


def _short(digest: str) -> str:
    return digest[:8]


def _snippet(text: str, length: int = 140) -> str:
    start = " ".join(text[: 4 * length].split())
    return start if len(start) <= length else f"{start[:length]}…"
