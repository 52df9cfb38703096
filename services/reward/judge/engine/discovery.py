"""Which dialect an endpoint speaks, and which model it serves: by setting, or by probing it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from services.kit.http.client import JsonClient
from services.kit.http.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine.control import CONTROL
from services.reward.judge.engine.llamacpp import LlamaCppEngine
from services.reward.judge.engine.openai import NO_PARAMS, OpenAIEngine
from services.reward.judge.engine.sglang import SglangEngine
from services.reward.judge.engine.vllm import VllmEngine

PLAIN = "openai"
DIALECTS: dict[str, type[OpenAIEngine]] = {
    "vllm": VllmEngine,
    "sglang": SglangEngine,
    "llamacpp": LlamaCppEngine,
    PLAIN: OpenAIEngine,
}
"""The dialects by the name that the setting `judge_dialect` takes, in the order in which `auto` tries them."""

INPROCESS = "vllm-inprocess"
"""The dialect that loads the model in this process instead of sending requests to an endpoint."""

_LEVELS = ("0", "1", "2", "3", "4", "5")
_FAULTY_REQUEST = frozenset({400, 422})

log = logging.getLogger(__name__)


def check_dialect(name: str) -> None:
    """Raises `ValueError` for a name that the setting `judge_dialect` does not take."""
    known = ("auto", *DIALECTS, INPROCESS)
    if name not in known:
        raise ValueError(f"unknown judge_dialect {name!r}; choose one of {', '.join(known)}")


class OpenOnce(Protocol):
    """Opens an engine; with `verify` it must answer a question, too. Raises `UpstreamError`."""

    def __call__(self, *, verify: bool = False) -> Awaitable[Engine]: ...


class EngineHandle:
    """The engine, opened at its first use: a replica starts, and stays alive, while its engine is unavailable.

    An engine that refuses every conversation is opened again, at most once in `denied_for_s`, until it answers one.
    """

    def __init__(self, open_once: OpenOnce, *, denied_for_s: float = 1.0) -> None:
        """`open_once` raises `UpstreamError` while the engine is unavailable."""
        self._open_once = open_once
        self._denied_for_s = denied_for_s
        self._opening: asyncio.Future[Engine] | None = None
        self._denied = False
        self._next_attempt = 0.0
        self._examination: asyncio.Future[bool] | None = None
        self._examined_at = 0.0

    async def get(self) -> Engine:
        """The engine. Raises `UpstreamError` while it cannot be opened; concurrent callers share one attempt."""
        opening = self._opening
        now = asyncio.get_running_loop().time()
        if opening is None or (opening.done() and _has_failed(opening) and now >= self._next_attempt):
            opening = self._opening = asyncio.ensure_future(self._open(opening))
        engine = await asyncio.shield(opening)
        if engine.denial is not None:
            raise engine.denial
        return engine

    async def ready(self, *, max_age_s: float = 0.0) -> bool:
        """Whether the engine is available and responds; callers share an examination that is at most so old."""
        now = asyncio.get_running_loop().time()
        examined = self._examination
        if examined is None or (examined.done() and (examined.cancelled() or now > self._examined_at + max_age_s)):
            examined = self._examination = asyncio.ensure_future(self._is_ready())
            examined.add_done_callback(self._note_examined)
        return await asyncio.shield(examined)

    def _note_examined(self, _: asyncio.Future[bool]) -> None:
        self._examined_at = asyncio.get_running_loop().time()

    async def _is_ready(self) -> bool:
        try:
            return await (await self.get()).ready()
        except UpstreamError:
            return False

    async def _open(self, earlier: asyncio.Future[Engine] | None) -> Engine:
        self._denied = self._denied or (earlier is not None and not _ended_badly(earlier))
        try:
            engine = await self._open_once(verify=self._denied)
        except UpstreamDenied:
            self._denied = True
            self._next_attempt = asyncio.get_running_loop().time() + self._denied_for_s
            raise
        self._denied = False
        return engine


def _has_failed(opening: asyncio.Future[Engine]) -> bool:
    return _ended_badly(opening) or opening.result().denial is not None


def _ended_badly(opening: asyncio.Future[Engine]) -> bool:
    return opening.cancelled() or opening.exception() is not None


async def open_engine(
    client: JsonClient,
    *,
    dialect: str,
    model: str,
    batch_size: int = 64,
    params: Mapping[str, Any] = NO_PARAMS,
    verify: bool = False,
) -> Engine:
    """The engine that `client` reaches, with up to `batch_size` conversations a request where it takes several.

    `dialect` is a key of `DIALECTS`, or `auto`; an empty `model` is the first one that the engine lists. A server
    that resembles a dialect, and refuses its parameters, is taken for plain OpenAI. Raises `UpstreamError` if it has
    to be probed and does not respond, `UpstreamDenied` if it refuses a question, which is put to it where there is
    doubt and with `verify`; `UpstreamRefused` if endpoints serve different models.
    """
    client.check_probe = _accept_anything
    answers = await client.probe_all()
    model = _agree_on_model(client, answers, model)
    auto, doubtful = dialect == "auto", any(isinstance(answer, UpstreamError) for answer in answers)
    if auto:
        owner = _dialect_of_owner(answers)
        dialect = owner or await _recognise(client)
        doubtful = doubtful or (owner is None and dialect != PLAIN)
    engine = await DIALECTS[dialect].open(client, model, batch_size, params)
    if verify or doubtful:
        plain = await OpenAIEngine.open(client, model, batch_size, params) if auto and dialect != PLAIN else None
        engine = await _verified(engine, plain)
    log.info("judge engine", extra={"dialect": type(engine).__name__, "model": model, "batch": engine.batch_size})
    return engine


async def _verified(engine: OpenAIEngine, plain: OpenAIEngine | None) -> OpenAIEngine:
    """The engine, or `plain` if that alone answers a question. Raises `UpstreamUnavailable` if none responds."""
    (answer,) = await engine.choose([CONTROL], _LEVELS)
    unusable = isinstance(answer, UpstreamMalformed) or (
        isinstance(answer, UpstreamDenied) and answer.status in _FAULTY_REQUEST
    )
    if plain is not None and unusable:
        (without_extras,) = await plain.choose([CONTROL], _LEVELS)
        if not isinstance(without_extras, UpstreamError):
            log.warning("the engine does not take its dialect's parameters", extra={"detail": str(answer)})
            return plain
    if isinstance(answer, UpstreamUnavailable):
        raise answer
    return engine


def _dialect_of_owner(answers: Sequence[Any]) -> str | None:
    """The dialect named as the owner of the models: vLLM, SGLang and llama.cpp each list themselves there."""
    owners = {entry.get("owned_by") for answer in answers for entry in _models(answer)}
    return next((name for name in DIALECTS if name in owners and name != PLAIN), None)


async def _recognise(client: JsonClient) -> str:
    for name, engine in DIALECTS.items():
        if engine.signature is not None:
            answer = await client.find(engine.signature.path)
            if isinstance(answer, dict) and engine.signature.key in answer:
                return name
    return PLAIN


def _agree_on_model(client: JsonClient, answers: Sequence[Any], model: str) -> str:
    """The model to request. From then on, an endpoint that lists models without this one is ejected.

    Raises `UpstreamRefused` if endpoints serve different models. A model that no endpoint lists is accepted, for
    servers that know it by an alias; then all endpoints must list the first listed model.
    """
    listed = [name for answer in answers for name in _model_names(answer)]
    if not model and not listed:
        refusal = next((f" ({answer})" for answer in answers if isinstance(answer, UpstreamError)), "")
        raise UpstreamMalformed(
            f"the engine lists no model{refusal}; check REGRADE_REWARD_JUDGE_URL, or name a model in "
            "REGRADE_REWARD_JUDGE_MODEL"
        )
    model = model or listed[0]
    if listed:
        accept = _requires_model(model if model in listed else listed[0])
        for answer in answers:
            accept(answer)
        client.check_probe = accept
    return model


def _accept_anything(_: Any) -> None:
    """Accept every answer to a probe."""


def _requires_model(model: str) -> Callable[[Any], None]:
    def accept(answer: Any) -> None:
        names = _model_names(answer)
        if names and model not in names:
            raise UpstreamRefused(f"all endpoints must serve one model: one has {model!r}, another {', '.join(names)}")

    return accept


def _model_names(answer: Any) -> list[str]:
    """The models that a server lists; empty for an unknown format."""
    return [str(entry["id"]) for entry in _models(answer) if "id" in entry]


def _models(answer: Any) -> list[dict[str, Any]]:
    entries = answer.get("data") if isinstance(answer, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
