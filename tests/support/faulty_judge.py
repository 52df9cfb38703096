"""A real engine behind a door that can be shut, made slow, made to refuse, or to garble the answers about one text."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from services.local.valkey import free_port


class FaultyJudge:
    """Passes requests on to `engine_url`. `url` stays the same over `stop` and `start`. Counts chat calls."""

    def __init__(self, engine_url: str) -> None:
        self._engine_url = engine_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-judge", daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self.calls = 0
        self.behave()
        self.start()

    @property
    def url(self) -> str:
        """Base URL, without /v1."""
        return f"http://127.0.0.1:{self._port}"

    def behave(self) -> None:
        """Be as good as the engine from now on."""
        self.delay_s = 0.0
        self.busy_for = 0
        """So many chat calls are answered 429."""
        self.garbled = ""
        """Chat calls that hold this text get an answer that is none."""

    def start(self) -> None:
        """Listen, on the port of the first time."""
        self._run(self._start())

    def stop(self) -> None:
        """Drop every connection and refuse new ones."""
        self._run(self._stop())

    def close(self) -> None:
        """Stop, and end the thread."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60.0)

    async def _start(self) -> None:
        if self._runner is not None:
            return
        app = web.Application(client_max_size=8_000_000)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        self._port = self._port or free_port()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.method == "POST":
            self.calls += 1
            await asyncio.sleep(self.delay_s)
            if self.busy_for > 0:
                self.busy_for -= 1
                return web.Response(status=429)
            if self.garbled and self.garbled.encode() in body:
                return web.json_response({"choices": "none"})
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, self._engine_url + request.path_qs, data=body, headers=_JSON) as answer,
        ):
            return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)


_JSON = {"Content-Type": "application/json"}
