"""A service with scripted answers, for faults as the client sees them."""

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


class Received(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    query: dict[str, str]
    key: str | None
    body: Any


class Scripted(NamedTuple):
    """Where it listens, and what it received, in order."""

    url: str
    requests: list[Received]


@contextmanager
def scripted_service(answers: Sequence[Answer]) -> Iterator[Scripted]:
    """A service that gives `answers` in order, then the last of them for ever."""
    requests: list[Received] = []
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "PUT", "POST"])
    async def respond(path: str, request: Request) -> Response:
        body = await request.body()
        content = await request.json() if body else None
        key = request.headers.get("Authorization")
        requests.append(Received(request.method, f"/{path}", dict(request.query_params), key, content))
        answer = answers[min(len(requests), len(answers)) - 1]
        if isinstance(answer.body, bytes):
            return Response(answer.body, answer.status, answer.headers)
        return JSONResponse(answer.body, answer.status, answer.headers)

    server = ServerThread(app)
    try:
        yield Scripted(server.url, requests)
    finally:
        server.stop()
