"""A proxy between the service and the engine that forwards every request unchanged and records its conversations."""

import asyncio
import json
import threading
from typing import Any, Self

import aiohttp
from aiohttp import web

Conversation = list[dict[str, str]]
_MAX_BODY = 64_000_000


class RecordingProxy:
    """A context with a proxy server in a thread of its own; `url` is the address to use as the engine's."""

    def __init__(self, engine_url: str) -> None:
        self._engine_url = engine_url
        self._bodies: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def take(self) -> list[Conversation]:
        """The conversations since the last call of `take`."""
        bodies, self._bodies = self._bodies, []
        return [conversation for body in bodies for conversation in _conversations(json.loads(body))]

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.method == "POST":
            self._bodies.append(body)
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        async with self._session.request(
            request.method, self._engine_url + request.path_qs, data=body or None, headers=headers
        ) as response:
            return web.Response(status=response.status, body=await response.read(), content_type=response.content_type)

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _conversations(payload: Any) -> list[Conversation]:
    messages = payload.get("messages") if isinstance(payload, dict) else None
    if not messages:
        return []
    return list(messages) if isinstance(messages[0], list) else [messages]
