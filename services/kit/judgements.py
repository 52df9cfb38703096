"""Stored judgements: what an engine call answered, by the hash of all that decided the answer."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from redis.asyncio import Redis

from services.kit import keyspace as ks
from services.kit.circuit import Circuit, RedisAway


class JudgementStore:
    """Probabilities over the levels by judgement identity, shared by replicas, duplicates and candidates.

    A cache: while Redis is away nothing is known and nothing is kept, and nobody is failed for it.
    """

    def __init__(self, redis: Redis, circuit: Circuit, *, ttl_s: int = 86_400) -> None:
        self._redis = redis
        self._circuit = circuit
        self._ttl_s = ttl_s

    async def get(self, task: str, identities: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """Those of `identities` that are known, in one round trip."""
        if not identities:
            return {}
        keys = [ks.judgement_key(task, i) for i in identities]
        try:
            values = await self._circuit.call(lambda: self._redis.mget(keys))
        except RedisAway:
            return {}
        return {i: tuple(json.loads(v)) for i, v in zip(identities, values, strict=True) if v is not None}

    async def put(self, task: str, judgements: Mapping[str, Sequence[float]]) -> None:
        """Store judgements, in one round trip."""
        if not judgements:
            return
        with suppress(RedisAway):
            await self._circuit.call(lambda: self._put(task, judgements))

    async def _put(self, task: str, judgements: Mapping[str, Sequence[float]]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for identity, probabilities in judgements.items():
                pipe.set(ks.judgement_key(task, identity), json.dumps(list(probabilities)), ex=self._ttl_s)
            await pipe.execute()
