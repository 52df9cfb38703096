"""Stored judgements: what an engine call answered, by the hash of all that decided the answer."""

from collections.abc import Mapping, Sequence

from pydantic_core import from_json, to_json

from services.kit.store import keys
from services.kit.store.redis import CommandSender, LuaFunction
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable

Distributions = tuple[tuple[float, ...], ...]
Judged = Distributions | str
"""What a call answered: one distribution over the levels for each position asked, or a written text."""


class JudgementStore:
    """Judgements by identity, shared by replicas, duplicates and candidates. The first one stored is what counts.

    A cache: while Redis is away nothing is known and nothing is kept, and nobody is failed for it.
    """

    def __init__(self, pipe: CommandSender, circuit: CircuitBreaker, *, ttl_s: int = 86_400) -> None:
        self._pipe = pipe
        self._circuit = circuit
        self._remember = LuaFunction(pipe, "remember")
        self._ttl_s = ttl_s

    async def get(self, task: str, identities: Sequence[str]) -> dict[str, Judged]:
        """Those of `identities` that are known, in one round trip."""
        if not identities:
            return {}
        redis_keys = [keys.judgement_key(task, i) for i in identities]
        try:
            with self._circuit.guard():
                values = await self._pipe.execute_command("MGET", *redis_keys)
        except RedisUnavailable:
            return {}
        return {i: _read(str(v)) for i, v in zip(identities, values, strict=True) if v is not None}

    async def put(self, task: str, judgements: Mapping[str, Judged]) -> dict[str, Judged]:
        """Store judgements in one round trip; answers those that another replica had stored before."""
        if not judgements:
            return {}
        redis_keys = [keys.judgement_key(task, identity) for identity in judgements]
        values: list[str | bytes | int] = [self._ttl_s, *map(to_json, judgements.values())]
        try:
            with self._circuit.guard():
                stood = await self._remember(redis_keys, values)
        except RedisUnavailable:
            return {}
        return {i: _read(text) for i, text in zip(judgements, stood, strict=True) if text != ""}


def _read(text: str) -> Judged:
    value = from_json(text)
    return value if isinstance(value, str) else tuple(tuple(distribution) for distribution in value)
