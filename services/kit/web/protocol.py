"""What one connection may cost before anybody knows who it is: uvicorn's HTTP protocol with limits.

uvicorn with httptools bounds neither a request's head nor the time in which a request arrives, and answers what it
cannot parse in plain text. Here a head, trailers or chunk extensions over a cap are answered 431 (a URL: 414), a
request that does not arrive in time 408, a connection over the cap on connections 503, and a request whose `Host` is
ambiguous 400, all as `{error, detail}`. No timer runs for a request that arrives in one piece.
"""

import asyncio
from http import HTTPStatus
from typing import Any, NamedTuple

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from services.kit.errors import (
    BadRequest,
    HeadTooLarge,
    RequestTimeout,
    ServiceError,
    Unavailable,
    UrlTooLong,
    error_response,
)

_FIELD_BYTES = 32
"""Counted for each header field besides its text, as HTTP/2 does: an empty one takes memory as well."""
_MAX_PIPELINED = 16
"""Requests that wait behind the one that is answered; clients that pipeline at all send fewer."""
_LINGER_S = 2.0
_LINGER_BYTES = 1 << 20
"""What a refused client may still send, so that it reads the answer rather than a reset connection."""
_RESERVED_CONNECTIONS = 64
"""Connections over the cap that get an answer; further ones are closed without."""


class ConnectionLimits(NamedTuple):
    """Limits of one connection, and the number of connections."""

    connections: int
    head_bytes: int = 16_384
    """URL, header fields and what frames them."""
    url_bytes: int = 8_192
    head_timeout_s: float = 10.0
    """From the first byte of a request, or from the connection, to the end of the head."""
    request_timeout_s: float = 60.0
    """From the end of the head to the end of the body; also how long a client may not read its response."""
    unread_bytes: int = 16 << 20
    """Body bytes that are discarded after a refusal, until the connection is closed."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection of a server; `limits` come first, so that `partial` makes the class that uvicorn expects."""

    def __init__(
        self,
        limits: ConnectionLimits,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False
        self._unparsed = 0
        """Bytes since the parser last finished something: the head, trailers or chunk extension being read."""
        self._discarded = 0
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        over = len(self.connections) - self._limits.connections
        if over > _RESERVED_CONNECTIONS:
            self.transport.abort()
        elif over > 0:
            self._refuse(Unavailable("too many connections", code="too_many_connections", retry_after=1))
        else:
            self._set_deadline(self._limits.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        self._clear_write_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._discard(len(data))
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if self._unparsed > self._limits.head_bytes:
            self._refuse(self._too_large())
        elif self._in_head or self._in_body or not self._is_answering:
            if self._deadline is None:
                self._set_deadline(self._limits.request_timeout_s if self._in_body else self._limits.head_timeout_s)
        else:
            self._clear_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._unparsed = 0

    def on_headers_complete(self) -> None:
        error = self._head_error()
        if error is not None:
            self._refuse(error)
            raise ValueError(error.code)  # ends the parsing of this read
        self._in_head, self._in_body = False, True
        self._unparsed = self._discarded = 0
        self._clear_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > self._limits.unread_bytes:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._unparsed = 0
        self._clear_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(BadRequest("the request is not HTTP/1.1"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self._limits.request_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._clear_write_deadline()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # the client does not read: to close would wait for it
        super().timeout_keep_alive_handler()

    @property
    def _is_answering(self) -> bool:
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _head_error(self) -> ServiceError | None:
        if len(self.url) > self._limits.url_bytes:
            return self._too_large()
        size = len(self.url) + sum(len(name) + len(value) + _FIELD_BYTES for name, value in self.headers)
        if size > self._limits.head_bytes:
            return self._too_large()
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1:
            return BadRequest("the request has more than one Host header")
        if not self.url.startswith((b"/", b"*")) and hosts != [_authority(self.url)]:
            return BadRequest("the request's target names another host than its Host header")
        if len(self.pipeline) >= _MAX_PIPELINED:
            return BadRequest(f"more than {_MAX_PIPELINED} requests wait on one connection")
        return None

    def _too_large(self) -> ServiceError:
        limits = self._limits
        if self._in_head and len(self.url) > limits.url_bytes:
            return UrlTooLong(f"the URL exceeds {limits.url_bytes} bytes")
        return HeadTooLarge(f"the request's head exceeds {limits.head_bytes} bytes")

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._on_deadline)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _clear_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.pipeline or (self._is_answering and not self._in_body):
            self._set_deadline(self._limits.head_timeout_s)  # what is incomplete is not the request being answered
        elif self._in_head or self._in_body:
            self._refuse(RequestTimeout("the request did not arrive in time"))
        else:
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error, unless a response has begun, and end the connection once the client has read it."""
        self._refused = True
        self._clear_deadline()
        self._unset_keepalive_if_required()
        if not self._may_answer_with_error():
            self.transport.close()
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_as_http(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.abort)

    def _may_answer_with_error(self) -> bool:
        """Whether the next response that the client expects is that of the refused request."""
        if self.cycle is None or self.transport.is_closing():
            return self.cycle is None
        if self._in_body:
            return not (self.pipeline or self.cycle.response_started)
        return not self._is_answering

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > _LINGER_BYTES:
            self.transport.abort()


def _authority(url: bytes) -> bytes:
    return url.partition(b"://")[2].partition(b"/")[0]


def _as_http(error: ServiceError) -> bytes:
    """The error's response as bytes, for connections without an application."""
    response = error_response(error)
    fields = b"".join(b"%s: %s\r\n" % field for field in response.raw_headers)
    start = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
    return start + fields + b"connection: close\r\n\r\n" + bytes(response.body)
