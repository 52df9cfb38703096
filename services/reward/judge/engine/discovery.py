"""Which dialect an endpoint speaks, and which model it serves: by setting, or by probing it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from services.kit.http.client import JsonClient, UpstreamError, UpstreamMalformed, UpstreamRefused
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine.llamacpp import LlamaCppEngine
from services.reward.judge.engine.openai import OpenAIEngine, get_or_none
from services.reward.judge.engine.sglang import SglangEngine
from services.reward.judge.engine.vllm import VllmEngine

DIALECTS: dict[str, type[OpenAIEngine]] = {
    "vllm": VllmEngine,
    "sglang": SglangEngine,
    "llamacpp": LlamaCppEngine,
    "openai": OpenAIEngine,
}
"""The dialects by the name that the setting `judge_dialect` takes, in the order in which `auto` tries them."""

INPROCESS = "vllm-inprocess"
"""The dialect that loads the model in this process instead of sending requests to an endpoint."""

log = logging.getLogger(__name__)


def check_dialect(name: str) -> None:
    """Raises `ValueError` for a name that the setting `judge_dialect` does not take."""
    known = ("auto", *DIALECTS, INPROCESS)
    if name not in known:
        raise ValueError(f"unknown judge_dialect {name!r}; choose one of {', '.join(known)}")


class EngineHandle:
    """The engine, opened at its first use: a replica starts, and stays alive, while its engine is unavailable."""

    def __init__(self, open_once: Callable[[], Awaitable[Engine]]) -> None:
        """`open_once` raises `UpstreamError` while the engine is unavailable."""
        self._open_once = open_once
        self._opening: asyncio.Task[Engine] | None = None

    async def get(self) -> Engine:
        """The engine. Raises `UpstreamError` while it cannot be opened; concurrent callers share one attempt."""
        opening = self._opening
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            opening = self._opening = asyncio.ensure_future(self._open_once())
        return await asyncio.shield(opening)

    async def ready(self) -> bool:
        """Whether the engine is available and responds."""
        try:
            return await (await self.get()).ready()
        except UpstreamError:
            return False


async def open_engine(client: JsonClient, *, dialect: str, model: str, batch_size: int = 64) -> Engine:
    """The engine that `client` reaches, with up to `batch_size` conversations a request where it takes several.

    `dialect` is a key of `DIALECTS`, or `auto`; an empty `model` is the first one that the engine lists.
    Raises `UpstreamError` if it has to be probed and does not respond, `UpstreamRefused` if endpoints serve different
    models.
    """
    model = await _agree_on_model(client, model)
    if dialect == "auto":
        dialect = await _recognise(client)
    engine = await DIALECTS[dialect].open(client, model, batch_size)
    log.info("judge engine", extra={"dialect": dialect, "model": model, "batch": engine.batch_size})
    return engine


async def _recognise(client: JsonClient) -> str:
    for name, engine in DIALECTS.items():
        if engine.signature is not None:
            answer = await get_or_none(client, engine.signature.path)
            if isinstance(answer, dict) and engine.signature.key in answer:
                return name
    return "openai"


async def _agree_on_model(client: JsonClient, model: str) -> str:
    """The model to request. From then on, an endpoint that lists models without this one is ejected.

    Raises `UpstreamRefused` if endpoints serve different models. A model that no endpoint lists is accepted, for
    servers that know it by an alias; then all endpoints must list the first listed model.
    """
    answers = await client.probe_all()
    listed = [name for answer in answers for name in _model_names(answer)]
    if not model and not listed:
        raise UpstreamMalformed("the engine lists no model; name one in REGRADE_REWARD_JUDGE_MODEL")
    model = model or listed[0]
    if listed:
        accept = _requires_model(model if model in listed else listed[0])
        for answer in answers:
            accept(answer)
        client.check_probe = accept
    return model


def _requires_model(model: str) -> Callable[[Any], None]:
    def accept(answer: Any) -> None:
        names = _model_names(answer)
        if names and model not in names:
            raise UpstreamRefused(f"all endpoints must serve one model: one has {model!r}, another {', '.join(names)}")

    return accept


def _model_names(answer: Any) -> list[str]:
    """The models that a server lists; empty for an unknown format."""
    try:
        return [str(entry["id"]) for entry in answer["data"]]
    except (KeyError, TypeError):
        return []
