"""A scripted engine behind a real port: it speaks any of the dialects, and fails on demand.

What it answers is a function of the conversation; by default a distribution that is fixed by the
conversation's text. With a `model` the whole request counts. It can be held, stopped while it answers, and
started again on its port.
"""

import asyncio
import hashlib
import json
import math
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from aiohttp import web

from services.local.valkey import free_port
from tests.support.waiting import wait_until

Messages = Sequence[Mapping[str, str]]

MODEL = "fake-judge"
_LEVELS = 6


@dataclass(frozen=True)
class Reply:
    """An answer: its HTTP status and body, as bytes or as what becomes JSON. With `hang` it never comes."""

    body: Any = None
    status: int = 200
    hang: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


Script = Callable[[Messages], Reply]
Model = Callable[[Messages, Mapping[str, Any]], Reply]
Dialect = Literal["vllm", "sglang", "llamacpp", "openai"]

_IDENTITY: dict[Dialect, tuple[str, dict[str, Any]]] = {
    "vllm": ("/version", {"version": "0.32.0"}),
    "sglang": ("/get_model_info", {"model_path": "models/fake", "is_generation": True}),
    "llamacpp": ("/props", {"default_generation_settings": {}, "total_slots": 4}),
}


def distribution(*lines: Sequence[float], dialect: Dialect = "llamacpp") -> Reply:
    """A judge's answer: the probability of each level, in one line of text or several."""
    levels = [_position(probabilities, dialect) for probabilities in lines]
    breaks = {"token": "\n", "prob": 1.0, "logprob": 0.0, "top_probs": [], "top_logprobs": []}
    positions = [levels[0], *(entry for position in levels[1:] for entry in (breaks, position))]
    return chat("\n".join(str(position["token"]) for position in levels), *positions)


def _position(probabilities: Sequence[float], dialect: str) -> dict[str, Any]:
    best = str(max(range(len(probabilities)), key=lambda level: probabilities[level]))
    if dialect == "llamacpp":
        top = [{"token": str(level), "prob": p} for level, p in enumerate(probabilities)]
        return {"token": best, "prob": max(probabilities), "top_probs": top}
    logs = [{"token": str(n), "logprob": math.log(p) if p > 0 else -9999.0} for n, p in enumerate(probabilities)]
    return {"token": best, "logprob": 0.0, "top_logprobs": logs}


def certain(*levels: int) -> Reply:
    """All mass on one level, in each line."""
    return distribution(*([float(n == level) for n in range(_LEVELS)] for level in levels))


def chat(text: str, *positions: Mapping[str, Any]) -> Reply:
    """A chat completion of `text`, with the probabilities of its tokens where given."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if positions:
        choice["logprobs"] = {"content": [dict(position) for position in positions]}
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 60}}
    return Reply({"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})


def by_text(messages: Messages) -> Reply:
    """A distribution that depends on the whole conversation, and on nothing else."""
    seed = hashlib.sha256(json.dumps(list(messages)).encode()).digest()
    weights = [1 + byte for byte in seed[:_LEVELS]]
    return distribution([weight / sum(weights) for weight in weights])


class FakeEngine:
    """Runs in a thread from construction to `close`. `url` stays the same over `stop` and `start`."""

    def __init__(
        self, *, dialect: Dialect = "llamacpp", served: str = MODEL, batched: bool = True, model: Model | None = None
    ) -> None:
        self._dialect = dialect
        self.served = served
        self.owner: str | None = dialect if dialect in _IDENTITY else None
        """Who owns the model, as the list of models says; None for a server that does not say it."""
        self.special: frozenset[str] = frozenset()
        """Special tokens of the tokenizer, which the route `/tokenize` of llama.cpp tells."""
        self.models_status = 200
        """Status of the list of models."""
        self._batched = batched
        self._model = model
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-engine", daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self._released = asyncio.Event()
        self._released.set()
        self._port = 0
        self.script: Script = by_text
        self.together: Callable[[Sequence[Reply]], Reply] = together
        self.calls: list[Messages] = []
        self.payloads: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.probes = 0
        self.peak = 0
        self._in_flight = 0
        self.start()

    @property
    def url(self) -> str:
        """Base URL, without /v1."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the port of the first time."""
        self._run(self._start())

    def stop(self) -> None:
        """Drop every connection, answered or not, and refuse new ones."""
        self._run(self._stop())

    def hold(self) -> None:
        """Let chat calls come in, and answer none until `release`."""
        self._loop.call_soon_threadsafe(self._released.clear)

    def release(self) -> None:
        """Answer those held, and the ones to come."""
        self._loop.call_soon_threadsafe(self._released.set)

    def wait_for_calls(self, count: int) -> None:
        """Return once `count` chat calls have come in since construction or `forget`."""
        wait_until(lambda: len(self.calls) >= count, f"{count} judge calls")

    def forget(self) -> None:
        """Forget the calls so far."""
        self.calls.clear()
        self.payloads.clear()
        self.headers.clear()

    def close(self) -> None:
        """Stop and end the thread."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60.0)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self._dialect in _IDENTITY:
            path, answer = _IDENTITY[self._dialect]
            app.router.add_get(path, partial(_identify, answer))
        if self._dialect == "llamacpp":
            app.router.add_post("/tokenize", self._tokenize)
        if self._dialect == "vllm" and self._batched:
            app.router.add_post("/v1/chat/completions/batch", self._batch)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        self._port = self._port or free_port()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()

    async def _stop(self) -> None:
        if self._runner is not None:
            with suppress(asyncio.CancelledError):
                await self._runner.cleanup()
            self._runner = None

    async def _models(self, _: web.Request) -> web.Response:
        self.probes += 1
        if not self.served:
            raise web.HTTPNotFound
        if self.models_status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.models_status)
        model = {"id": self.served, "object": "model"} | ({"owned_by": self.owner} if self.owner else {})
        return web.json_response({"object": "list", "data": [model]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        words = body["content"].split("\n")
        pieces = [[word] if body["parse_special"] and word in self.special else list(word) for word in words]
        return web.json_response({"tokens": [{"id": 1, "piece": piece} for word in pieces for piece in word]})

    async def _chat(self, request: web.Request) -> web.Response:
        payload = await self._note(request)
        return _response(await self._answer([payload["messages"]], payload))

    async def _batch(self, request: web.Request) -> web.Response:
        payload = await self._note(request)
        return _response(await self._answer(payload["messages"], payload))

    async def _note(self, request: web.Request) -> dict[str, Any]:
        payload: dict[str, Any] = await request.json()
        self.payloads.append(payload)
        self.headers.append(dict(request.headers))
        return payload

    async def _answer(self, conversations: Sequence[Messages], payload: Mapping[str, Any]) -> Reply:
        self.calls += conversations
        self._in_flight += len(conversations)
        self.peak = max(self.peak, self._in_flight)
        try:
            await self._released.wait()
            replies = [self._model(m, payload) if self._model else self.script(m) for m in conversations]
            if any(reply.hang for reply in replies):
                await asyncio.Event().wait()
        finally:
            self._in_flight -= len(conversations)
        return replies[0] if conversations == [payload["messages"]] else self.together(replies)


async def _identify(answer: dict[str, Any], _: web.Request) -> web.Response:
    return web.json_response(answer)


def together(replies: Sequence[Reply]) -> Reply:
    """As vLLM's batched route answers: sums alone in the usage, and one failure is the failure of all."""
    failed = next((reply for reply in replies if reply.status != 200 or not isinstance(reply.body, dict)), None)
    if failed is not None:
        return failed
    choices = [reply.body["choices"][0] | {"index": n} for n, reply in enumerate(replies)]
    usage = {
        kind: sum(reply.body["usage"][kind] for reply in replies) for kind in ("prompt_tokens", "completion_tokens")
    }
    return Reply(replies[0].body | {"choices": choices, "usage": usage})


def _response(reply: Reply) -> web.Response:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    return web.Response(body=body, status=reply.status, content_type="application/json", headers=reply.headers)
