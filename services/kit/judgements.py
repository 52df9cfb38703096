"""Stored judgements: what an engine call answered, by the hash of all that decided the answer."""

import json
from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from services.kit import keyspace as ks
from services.kit.redis import LuaFunction

Distributions = tuple[tuple[float, ...], ...]
Judged = Distributions | str
"""What a call answered: one distribution over the levels for each position asked, or a written text."""


class JudgementStore:
    """Judgements by identity, shared by replicas, duplicates and candidates. The first one stored is what counts."""

    def __init__(self, redis: Redis, *, ttl_s: int = 86_400) -> None:
        self._redis = redis
        self._remember = LuaFunction(redis, "remember")
        self._ttl_s = ttl_s

    async def get(self, task: str, identities: Sequence[str]) -> dict[str, Judged]:
        """Those of `identities` that are known, in one round trip."""
        if not identities:
            return {}
        values = await self._redis.mget([ks.judgement_key(task, i) for i in identities])
        return {i: _read(str(v)) for i, v in zip(identities, values, strict=True) if v is not None}

    async def put(self, task: str, judgements: Mapping[str, Judged]) -> dict[str, Judged]:
        """Store judgements in one round trip; answers those that another replica had stored before."""
        if not judgements:
            return {}
        keys = [ks.judgement_key(task, identity) for identity in judgements]
        stood = await self._remember(keys, [self._ttl_s, *map(json.dumps, judgements.values())])
        return {i: _read(text) for i, text in zip(judgements, stood, strict=True) if text != ""}


def _read(text: str) -> Judged:
    value = json.loads(text)
    return value if isinstance(value, str) else tuple(tuple(distribution) for distribution in value)
