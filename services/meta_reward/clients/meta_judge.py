"""Client of the meta-judge: fills a prompt template and parses the answer by a JSON schema.

Answers are cached by cycle for as long as the cycle can be resumed, so a resumed cycle pays for no analysis twice.
"""

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis

from regrade.contracts import sha256_of
from services.kit.http.client import JsonClient, UpstreamMalformed
from services.kit.store import keys
from services.kit.store.redis import shared_fence_key
from services.kit.templates import fill, load_template

_SAMPLING = {"temperature": 0.7, "top_p": 0.95}
"""Analyses of several traces are merged, so they should differ; at temperature 0 they repeat each other."""

Schema = TypeVar("Schema", bound=BaseModel)


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
        cache: MetaJudgeCache | None = None,
    ) -> None:
        self._cache = cache
        self._client = client
        self._model = model
        self._max_tokens = max_tokens
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
        payload: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": template, "strict": True, "schema": schema.model_json_schema()},
            },
            **_SAMPLING,
        }
        request_hash = sha256_of(payload)
        cached = await self._cache.get(cycle, request_hash) if self._cache else None
        if cached is not None:
            return schema.model_validate_json(cached)
        async with self._slots:
            reply = await self._client.post("/v1/chat/completions", payload)
        try:
            answer = schema.model_validate_json(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError, ValidationError) as error:
            raise UpstreamMalformed(f"{template}: the answer does not fit its schema") from error
        if self._cache:
            await self._cache.put(cycle, request_hash, answer.model_dump_json())
        return answer
