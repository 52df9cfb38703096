"""Client of the meta-judge: fills a prompt template and parses the answer by a JSON schema.

Answers are cached by cycle for as long as the cycle can be resumed, so a resumed cycle pays for no analysis twice.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis

from regrade.contracts import sha256_of
from services.kit.http.chat import answer_text, json_in, read_message
from services.kit.http.client import JsonClient
from services.kit.http.errors import UpstreamMalformed
from services.kit.http.params import with_params
from services.kit.http.refusals import ErrorInside
from services.kit.store import keys
from services.kit.store.redis import shared_fence_key
from services.kit.templates import fill, load_template

_SAMPLING = {"temperature": 0.7, "top_p": 0.95}
"""Analyses of several traces are merged, so they should differ; at temperature 0 they repeat each other."""

_PARAMS_SETTING = "REGRADE_META_META_JUDGE_PARAMS"

Schema = TypeVar("Schema", bound=BaseModel)


class _Choice(msgspec.Struct):
    message: msgspec.Raw
    finish_reason: str | None = None
    error: Any = None


class _Reply(msgspec.Struct):
    choices: list[_Choice]


class MetaJudgeCache:
    """The meta-judge's answers in Redis, by cycle and hash of the request; a cycle's answers expire after `ttl_s`."""

    def __init__(self, redis: Redis, *, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s

    async def get(self, cycle: str, request_hash: str) -> str | None:
        """The cached answer as JSON."""
        text = await self._redis.hget(keys.meta_judge_answers_key(cycle), request_hash)
        return None if text is None else str(text)

    async def put(self, cycle: str, request_hash: str, answer: str) -> None:
        """Cache an answer."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.meta_judge_answers_key(cycle), request_hash, answer)
            pipe.expire(keys.meta_judge_answers_key(cycle), self._ttl_s)
            await pipe.execute()


class MetaJudge:
    """Requests JSON of a given schema from an OpenAI-compatible endpoint, `in_flight` requests at a time."""

    def __init__(
        self,
        client: JsonClient,
        *,
        model: str,
        max_tokens: int,
        in_flight: int,
        redis: Redis,
        params: Mapping[str, Any] | None = None,
        cache: MetaJudgeCache | None = None,
    ) -> None:
        """`params` are merged into every request; null removes a field."""
        self._cache = cache
        self._client = client
        self._model = model
        self._max_tokens = max_tokens
        self._params = params or {}
        self._slots = asyncio.Semaphore(in_flight)
        self._redis = redis
        self._fence_key: bytes | None = None

    async def fence_key(self) -> bytes:
        """The shared key of the prompt fences, read when first needed. Raises `RedisError`."""
        if self._fence_key is None:
            self._fence_key = await shared_fence_key(self._redis)
        return self._fence_key

    async def ask(self, template: str, schema: type[Schema], *, cycle: str, **values: str) -> Schema:
        """Fill the prompt template with `values` and parse the answer as `schema`.

        Raises `UpstreamMalformed` for an answer that does not fit the schema, `UpstreamError` when there is none.
        """
        prompt = fill(load_template("services.meta_reward.propose", template), **values)
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": template, "strict": True, "schema": schema.model_json_schema()},
            },
            **_SAMPLING,
        }
        payload = with_params(request, self._params)
        request_hash = sha256_of(payload)
        cached = await self._cache.get(cycle, request_hash) if self._cache else None
        if cached is not None:
            return schema.model_validate_json(cached)
        async with self._slots:
            reply: _Reply = await self._client.post("/v1/chat/completions", payload, read=_read_reply)
        answer = _parsed(reply, schema, template)
        if self._cache:
            await self._cache.put(cycle, request_hash, answer.model_dump_json())
        return answer


def _read_reply(body: bytes) -> _Reply:
    """Decode a reply. Raises `ValueError`, `ErrorInside` where the choice is an error."""
    reply = _REPLY.decode(body)
    for choice in reply.choices:
        if choice.error:
            raise ErrorInside(choice.error)
    return reply


def _parsed(reply: _Reply, schema: type[Schema], template: str) -> Schema:
    """The only choice's text as `schema`. Raises `UpstreamMalformed`."""
    problem = f"{template}: the answer does not fit its schema"
    if len(reply.choices) != 1:
        raise UpstreamMalformed(f"{problem}: {len(reply.choices)} choices instead of one")
    choice = reply.choices[0]
    try:
        return schema.model_validate_json(json_in(answer_text(read_message(choice.message), _PARAMS_SETTING)))
    except UpstreamMalformed as error:
        raise UpstreamMalformed(f"{problem}: {error}") from error
    except ValidationError as error:
        cut = ": it was cut off, raise REGRADE_META_META_JUDGE_MAX_TOKENS" if choice.finish_reason == "length" else ""
        raise UpstreamMalformed(f"{problem}{cut}") from error


_REPLY = msgspec.json.Decoder(_Reply)
