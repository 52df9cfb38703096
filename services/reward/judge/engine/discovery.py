"""Which dialect an endpoint speaks, and which model it serves: by setting, or by asking it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from services.kit.http.client import JsonEndpoint, UpstreamError, UpstreamMalformed, UpstreamRefused
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine.llamacpp import LlamaCppEngine
from services.reward.judge.engine.openai import OpenAIEngine
from services.reward.judge.engine.sglang import SglangEngine
from services.reward.judge.engine.vllm import BATCH, VllmEngine

Dialect = Literal["auto", "vllm", "sglang", "llamacpp", "openai"]

_TELLTALES: dict[Dialect, tuple[str, str]] = {
    "vllm": ("/version", "version"),
    "sglang": ("/get_model_info", "model_path"),
    "llamacpp": ("/props", "default_generation_settings"),
}
"""A path that only this kind of server has, and a key of its answer."""

log = logging.getLogger(__name__)


class EngineHandle:
    """The engine, opened at its first use: a replica starts, and stays alive, while its engine is away."""

    def __init__(self, open_one: Callable[[], Awaitable[Engine]]) -> None:
        """`open_one` raises `UpstreamError` as long as the engine is not to be had."""
        self._open_one = open_one
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._failed = 0
        self._error: UpstreamError | None = None

    async def get(self) -> Engine:
        """The engine. Raises `UpstreamError` while it cannot be asked what it is; who waits shares one attempt."""
        if self._engine is not None:
            return self._engine
        seen = self._failed
        async with self._opening:
            if self._engine is None and self._failed > seen and self._error is not None:
                raise self._error
            if self._engine is None:
                self._engine = await self._open()
            return self._engine

    async def _open(self) -> Engine:
        try:
            return await self._open_one()
        except UpstreamError as error:
            self._failed += 1
            self._error = error
            raise

    async def ready(self) -> bool:
        """Whether the engine is there and answers."""
        try:
            return await (await self.get()).ready()
        except UpstreamError:
            return False


async def open_engine(endpoint: JsonEndpoint, *, dialect: Dialect, model: str, batch: int = 64) -> Engine:
    """The engine behind an endpoint, with `batch` conversations a request where it takes several.

    Raises `UpstreamError` when it has to be asked and does not answer, and `UpstreamRefused` when
    replicas serve different models.
    """
    model = await _agree_on_model(endpoint, model)
    if dialect == "auto":
        dialect = await _dialect_of(endpoint)
    engine: Engine
    if dialect == "vllm":
        batch = batch if batch > 1 and await _has_batched_route(endpoint) else 1
        engine = VllmEngine(endpoint, model, batch=batch)
    elif dialect == "sglang":
        engine = SglangEngine(endpoint, model)
    elif dialect == "llamacpp":
        engine = LlamaCppEngine(endpoint, model, slots=await _slots(endpoint))
    else:
        engine = OpenAIEngine(endpoint, model)
    log.info("judge engine", extra={"dialect": dialect, "model": model, "batch": engine.batch})
    return engine


async def _dialect_of(endpoint: JsonEndpoint) -> Dialect:
    for dialect, (path, key) in _TELLTALES.items():
        answer = await _answer_if_there(endpoint, path)
        if isinstance(answer, dict) and key in answer:
            return dialect
    return "openai"


async def _slots(endpoint: JsonEndpoint) -> int:
    """How many slots a llama.cpp server has; 0 if it does not tell."""
    told = await _answer_if_there(endpoint, "/props")
    slots = told.get("total_slots") if isinstance(told, dict) else None
    return slots if isinstance(slots, int) and slots > 0 else 0


async def _answer_if_there(endpoint: JsonEndpoint, path: str) -> Any:
    """The answer at a path; None where there is none. Raises `UpstreamError` for a server that does not answer."""
    try:
        return await endpoint.get(path)
    except (UpstreamRefused, UpstreamMalformed):
        return None


async def _has_batched_route(endpoint: JsonEndpoint) -> bool:
    """A route for POST alone answers GET with 405, a missing one with 404."""
    try:
        await endpoint.get(BATCH)
    except UpstreamRefused as error:
        return error.status == 405
    except UpstreamMalformed:
        return False
    return False


async def _agree_on_model(endpoint: JsonEndpoint, model: str) -> str:
    """The model to ask for. From now on, an endpoint that lists its models and lacks this one is left out.

    Raises `UpstreamRefused` when endpoints serve different ones. A name that none of them lists is
    believed, for servers that go by another; then it is the first one listed that all must have.
    """
    answers = await endpoint.probe_all()
    listed = [name for answer in answers for name in _names(answer)]
    if not model and not listed:
        raise UpstreamMalformed("the engine lists no model; name one in REGRADE_REWARD_JUDGE_MODEL")
    model = model or listed[0]
    if listed:
        accept = _serves(model if model in listed else listed[0])
        for answer in answers:
            accept(answer)
        endpoint.check_probe = accept
    return model


def _serves(model: str) -> Callable[[Any], None]:
    def accept(answer: Any) -> None:
        names = _names(answer)
        if names and model not in names:
            raise UpstreamRefused(f"all endpoints must serve one model: one has {model!r}, another {', '.join(names)}")

    return accept


def _names(answer: Any) -> list[str]:
    """The models that a server lists; none if it does not."""
    try:
        return [str(entry["id"]) for entry in answer["data"]]
    except (KeyError, TypeError):
        return []
