"""Renders templates into responses: escaping, filters, links, error pages and security headers."""

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
from services.kit.errors import Invalid, ServiceError, Unauthorized, describe_validation, redis_problem
from services.kit.store.keys import LineageKey
from services.kit.web.docs_page import PAGE_HEADERS
from services.meta_reward.console.descriptions import alarm_advice, alarm_state, alarm_title, feature_title, raised_at
from services.meta_reward.console.plots import share_of
from services.meta_reward.console.session import PATH

_HEADERS = PAGE_HEADERS | {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}


class PageLinks(NamedTuple):
    """Makes the links of pages about one lineage."""

    lineage: LineageKey

    def __call__(self, page: str = "", **query: object) -> str:
        """The path of a page of this lineage; parameters that are None or empty are left out."""
        parameters = {name: str(value) for name, value in query.items() if value not in (None, "")}
        if self.lineage.name != MAIN_LINEAGE:
            parameters["lineage"] = self.lineage.name
        if self.lineage.scope is not None:
            parameters["scope"] = self.lineage.scope
        path = f"{PATH}/{self.lineage.task}{f'/{page}' if page else ''}"
        return f"{path}?{urlencode(parameters)}" if parameters else path


def render(name: str, values: Mapping[str, object], *, status: int = 200) -> HTMLResponse:
    """A page from a template."""
    return HTMLResponse(_environment().get_template(name).render(values), status_code=status, headers=_HEADERS)


def redirect(address: str) -> RedirectResponse:
    """See other, after a form was posted."""
    return RedirectResponse(address, status_code=303, headers=_HEADERS)


def asset(text: str, kind: str) -> Response:
    """A static file; browsers may store it but ask whether it has changed."""
    return Response(text, media_type=kind, headers=_HEADERS | {"Cache-Control": "no-cache"})


class ConsoleRoute(APIRoute):
    """Turns errors into pages, and sends viewers without a session to the sign-in form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthorized:
                target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                query = f"?{urlencode({'next': target})}" if request.method == "GET" else ""
                return redirect(f"{PATH}/login{query}")
            except ServiceError as error:
                return _error_page(error)
            except (RequestValidationError, ValidationError) as error:
                return _error_page(Invalid(describe_validation(error.errors())))
            except RedisError as error:
                return _error_page(redis_problem(error))

        return handled


def _error_page(error: ServiceError) -> Response:
    return render("error.html", {"error": error, "title": "Error"}, status=error.status)


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=PackageLoader("services.meta_reward", "console/templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ago": _ago,
        "alarm_advice": alarm_advice,
        "alarm_state": alarm_state,
        "alarm_title": alarm_title,
        "feature_title": feature_title,
        "raised_at": raised_at,
        "clock": lambda seconds: time.strftime("%b %d, %H:%M:%S", time.localtime(seconds)),
        "iso": lambda seconds: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
        "plain": lambda name: name.replace("_", " "),
        "pct": lambda share: f"{100.0 * share:.0f} %",
        "signed": _signed,
        "text": as_text,
        "short": lambda digest: digest[:8],
        "share_of": share_of,
        "snippet": _snippet,
    }
    return environment


def _ago(seconds: float) -> str:
    age_s = max(0.0, time.time() - seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= length:
            return f"{age_s / length:.0f} {unit} ago"
    return "just now"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")  # noqa: RUF001 - a minus, as wide as a plus


def _snippet(text: str, length: int = 140) -> str:
    start = " ".join(text[: 4 * length].split())
    return start if len(start) <= length else f"{start[:length]}…"
