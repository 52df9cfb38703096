"""Which dialect an endpoint speaks, and which model it serves: by setting, or by asking it."""

import asyncio
import logging
from typing import Literal

from services.kit.http import JsonEndpoint, UpstreamError, UpstreamMalformed
from services.reward.engine.base import Engine
from services.reward.engine.llamacpp import LlamaCppEngine
from services.reward.engine.openai import OpenAIEngine

Dialect = Literal["auto", "openai", "llamacpp"]

log = logging.getLogger(__name__)


class EngineHandle:
    """The engine, opened at its first use: a replica starts, and stays alive, while its engine is away."""

    def __init__(self, endpoint: JsonEndpoint, *, dialect: Dialect, model: str) -> None:
        self._endpoint = endpoint
        self._dialect: Dialect = dialect
        self._model = model
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()

    async def get(self) -> Engine:
        """The engine. Raises `UpstreamError` while it cannot be asked what it is."""
        async with self._opening:
            if self._engine is None:
                self._engine = await open_engine(self._endpoint, dialect=self._dialect, model=self._model)
            return self._engine

    async def ready(self) -> bool:
        """Whether the engine is there and answers."""
        try:
            return await (await self.get()).ready()
        except UpstreamError:
            return False


async def open_engine(endpoint: JsonEndpoint, *, dialect: Dialect, model: str) -> Engine:
    """The engine behind an endpoint. Raises `UpstreamError` when it has to be asked and does not answer."""
    if dialect == "auto":
        dialect = "llamacpp" if await _is_llamacpp(endpoint) else "openai"
    if not model:
        model = await _first_model(endpoint)
    log.info("judge engine", extra={"dialect": dialect, "model": model})
    return LlamaCppEngine(endpoint, model) if dialect == "llamacpp" else OpenAIEngine(endpoint, model)


async def _is_llamacpp(endpoint: JsonEndpoint) -> bool:
    try:
        properties = await endpoint.get("/props")
    except UpstreamError as error:
        if error.retryable and not isinstance(error, UpstreamMalformed):
            raise
        return False
    return isinstance(properties, dict) and "default_generation_settings" in properties


async def _first_model(endpoint: JsonEndpoint) -> str:
    answer = await endpoint.get("/v1/models")
    try:
        return str(answer["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise UpstreamMalformed("the engine lists no model; name one in REGRADE_REWARD_JUDGE_MODEL") from error
