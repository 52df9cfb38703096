"""The meta-judge: one question, one answer bound to a schema. A model that can't produce it raises, nothing more.

What it has answered to a cycle is kept until the cycle can no longer be gone on with: a worker that takes
the cycle over has no trace analysed a second time.
"""

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis

from regrade.contracts import sha256_of
from services.kit.http.client import JsonEndpoint, UpstreamMalformed
from services.kit.store import keys
from services.kit.templates import fill, load_template

_SAMPLING = {"temperature": 0.7, "top_p": 0.95}

Schema = TypeVar("Schema", bound=BaseModel)


class MetaJudgeCache:
    """Answers by cycle and question, kept in Redis for `ttl_s`."""

    def __init__(self, redis: Redis, *, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s

    async def get(self, cycle: str, question: str) -> str | None:
        """What was answered to this question, if it was."""
        found = await self._redis.hget(keys.meta_judge_answers_key(cycle), question)
        return None if found is None else str(found)

    async def put(self, cycle: str, question: str, answer: str) -> None:
        """Keep an answer."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.meta_judge_answers_key(cycle), question, answer)
            pipe.expire(keys.meta_judge_answers_key(cycle), self._ttl_s)
            await pipe.execute()


class MetaJudge:
    """Asks an OpenAI-compatible endpoint for JSON of a given schema, `in_flight` questions at once."""

    def __init__(
        self,
        endpoint: JsonEndpoint,
        *,
        model: str,
        max_tokens: int,
        in_flight: int,
        fence_key: bytes,
        cache: MetaJudgeCache | None = None,
    ) -> None:
        self._cache = cache
        self._endpoint = endpoint
        self._model = model
        self._max_tokens = max_tokens
        self._slots = asyncio.Semaphore(in_flight)
        self.fence_key = fence_key

    async def ask(self, question: str, answer: type[Schema], *, cycle: str, **values: str) -> Schema:
        """Fill the prompt file `question` and parse the reply as `answer`; a cycle asks the same thing once.

        Raises `UpstreamMalformed` for a reply that does not fit the schema, `UpstreamError` for none.
        """
        prompt = fill(load_template("services.meta_reward.propose", question), **values)
        payload: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": question, "strict": True, "schema": answer.model_json_schema()},
            },
            **_SAMPLING,
        }
        identity = sha256_of(payload)
        known = await self._cache.get(cycle, identity) if self._cache else None
        if known is not None:
            return answer.model_validate_json(known)
        async with self._slots:
            reply = await self._endpoint.post("/v1/chat/completions", payload)
        try:
            found = answer.model_validate_json(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError, ValidationError) as error:
            raise UpstreamMalformed(f"{question}: the reply does not fit its schema") from error
        if self._cache:
            await self._cache.put(cycle, identity, found.model_dump_json())
        return found
