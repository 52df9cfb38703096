"""A service that answers what a test tells it to, for the client's side of faults."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tests.support.servers import ServerThread


class Answer(NamedTuple):
    """A status, a body that becomes JSON (or bytes, sent as they are), and headers."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] | None = None


class Asked(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    query: dict[str, str]
    key: str | None
    body: Any


class Scripted(NamedTuple):
    """Where it listens, and what it was asked, in order."""

    url: str
    asked: list[Asked]


@contextmanager
def scripted_service(answers: Sequence[Answer]) -> Iterator[Scripted]:
    """A service that gives `answers` in order, then the last of them for ever."""
    asked: list[Asked] = []
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "PUT", "POST"])
    async def answer(path: str, request: Request) -> Response:
        body = await request.body()
        content = await request.json() if body else None
        key = request.headers.get("Authorization")
        asked.append(Asked(request.method, f"/{path}", dict(request.query_params), key, content))
        told = answers[min(len(asked), len(answers)) - 1]
        if isinstance(told.body, bytes):
            return Response(told.body, told.status, told.headers)
        return JSONResponse(told.body, told.status, told.headers)

    server = ServerThread(app)
    try:
        yield Scripted(server.url, asked)
    finally:
        server.stop()
