"""Bounds the bytes of request bodies, of one and of all together, from their reading to the end of their requests.

A body is not read here but where its route reads it, which is after the key was verified.
"""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.kit.errors import Overloaded, ServiceError, TooLarge, error_response


class BodyLimit:
    """Pure ASGI middleware: a declared length over a limit is answered at once, a body over it while it is read.

    413 for a body over `max_bytes`, 429 for one that would take all bodies in use over `max_total_bytes`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_total_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._in_use = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self._error(_declared_length(scope), self._in_use)
        if error is not None:
            await error_response(error)(scope, receive, send)
            return
        size = 0

        async def receive_counted() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request" and (chunk := len(message.get("body", b""))):
                size += chunk
                self._in_use += chunk
                error = self._error(size, self._in_use - size)
                if error is not None:
                    raise error
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._in_use -= size

    def _error(self, size: int, others: int) -> ServiceError | None:
        if size > self._max_bytes:
            return TooLarge(f"the body exceeds {self._max_bytes} bytes; send fewer items a request")
        if size and size + others > self._max_total_bytes:
            return Overloaded("too many bytes of requests are in use; retry later", retry_after=1)
        return None


async def read_at_most(request: Request, max_bytes: int) -> bytes:
    """The body, for routes that need less than other routes may send. Raises `TooLarge`."""
    body = bytearray()
    if _declared_length(request.scope) <= max_bytes:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise TooLarge(f"the body exceeds {max_bytes} bytes")


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
