"""`/docs`: the API in Swagger UI, whose files come from an installed package, so that no other site is contacted."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Literal

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse, Response

PAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: then a browser would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every page and its files, besides its Content-Security-Policy."""

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_ASSET_HEADERS = PAGE_HEADERS | {"Cache-Control": "no-cache"}

AssetName = Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]


def docs_router(title: str) -> APIRouter:
    """The page and its files. Its links are relative, so that it works behind a path prefix, too."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # a service of another site, which would get the API's URL
    )
    html = bytes(page.body).decode()
    headers = PAGE_HEADERS | {"Content-Security-Policy": _policy(html)}
    folder = files("fastapi_offline") / "static"
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def get_docs() -> Response:
        return HTMLResponse(html, headers=headers)

    @router.get("/docs/{name}")
    async def get_docs_file(name: AssetName) -> Response:
        return FileResponse(str(folder / name), headers=_ASSET_HEADERS)

    return router


def _policy(html: str) -> str:
    """Scripts from here and those in the page; Swagger UI sets styles and draws icons from `data:` URLs."""
    digests = (hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(html))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
